//! `duet pause`: the first process of a sandbox; it sleeps, reaps and leaves on TERM.
//!
//! Duet is one static file, so it is its own pause image and needs no registry.

use crate::error::Error;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// Sleeps until TERM or INT.
pub(crate) fn run() -> Result<u8, Error> {
    let failed = |errno: nix::Error| Error::System {
        action: "could not wait for signals",
        source: errno.into(),
    };
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals.thread_block().map_err(failed)?;
    loop {
        if signals.wait().map_err(failed)? != Signal::SIGCHLD {
            return Ok(0);
        }
        // In a shared PID namespace orphans of all containers come here; nobody else in this
        // process waits for anybody.
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
    }
}
