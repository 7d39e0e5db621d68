//! A command that lasts as long as a process of the container: what asks it to end, asks that.

use std::thread;

use nix::sys::signal::{SigSet, Signal};

use crate::error::Error;
use crate::message::{Answer, Request, ask};
use crate::place::Place;

/// The signals that are handed on.
const HANDED_ON: [Signal; 6] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Signals that are held back until there is somebody to hand them to. Blocked before a program
/// runs, for it may ask for them at once, and after the keeper was started, which would inherit
/// that.
#[derive(Debug)]
pub(crate) struct HeldBack(SigSet);

/// Holds the signals back from now on.
pub(crate) fn hold_back() -> Result<HeldBack, Error> {
    let signals: SigSet = HANDED_ON.into_iter().collect();
    let blocked = signals.thread_block();
    blocked.map_err(|errno| Error::host("block signals")(errno.into()))?;
    Ok(HeldBack(signals))
}

/// Waits for the end of the first process, or of an exec; returns its code.
pub(crate) fn wait(
    place: &Place,
    exec: Option<String>,
    HeldBack(signals): HeldBack,
) -> Result<u8, Error> {
    let whole = Place {
        id: place.id.clone(),
        dir: place.dir.clone(),
    };
    let about = exec.clone();
    // Nobody joins it: it ends with the program.
    thread::spawn(move || hand_on(&whole, about.as_ref(), signals));
    let answer = ask(place, &Request::Wait { exec }, &[])?;
    let Answer::Ended(code) = answer else {
        return Err(answer.unexpected());
    };
    Ok(code)
}

fn hand_on(place: &Place, exec: Option<&String>, signals: SigSet) {
    while let Ok(signal) = signals.wait() {
        let request = Request::Kill {
            exec: exec.cloned(),
            signal: (signal as i32).unsigned_abs(),
            all: false,
        };
        // It has ended meanwhile: the answer to the other question is on its way.
        drop(ask(place, &request, &[]));
    }
}
