//! What the child says, and the gate it stands at.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use duet_linux::channel::{self, Heard, Received};
use duet_linux::process;
use duet_plan::Plan;
use duet_step::Message;

use crate::supplies::{Slots, lift};
use crate::{Attach, Error, Supplies, birth};

/// How long a birth may take between two messages: 60 s.
///
/// It takes a millisecond; a mount that waits for a dead server takes for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that stands at the gate: everything is done but its program.
#[derive(Debug)]
pub struct Newborn {
    /// Its number in the caller's PID namespace.
    pub pid: i32,
    /// The process; whoever holds this reaps it ([`process::wait`]).
    pub pidfd: OwnedFd,
    /// What it waits for. Dropping this ends the process.
    pub gate: Gate,
    /// The master of its console, if the plan has one.
    pub console: Option<OwnedFd>,
}

/// Keeps a process from running its program.
#[derive(Debug)]
pub struct Gate {
    channel: OwnedFd,
    /// Kept for the words of a failure.
    plan: Plan,
}

/// Makes a process and waits until it stands at the gate.
///
/// Blocks for about a millisecond, longer when a file system is slow to mount.
///
/// # Errors
///
/// [`Error`]; the process, if there was one, is dead and reaped.
pub fn spawn(plan: &Plan, supplies: Supplies<'_>, attach: Attach<'_>) -> Result<Newborn, Error> {
    let never = |_: i32, _: BorrowedFd<'_>| Err(Error::Plan("it pauses for nobody"));
    spawn_with(plan, supplies, attach, never)
}

/// As [`spawn`]; `pause` is called with the process when the plan says so, and the process goes
/// on when it is done.
///
/// # Errors
///
/// As [`spawn`], and what `pause` says.
pub fn spawn_with<E: From<Error>>(
    plan: &Plan,
    supplies: Supplies<'_>,
    attach: Attach<'_>,
    mut pause: impl FnMut(i32, BorrowedFd<'_>) -> Result<(), E>,
) -> Result<Newborn, E> {
    let slots = Slots::open(plan, supplies, attach)?;
    let (ours, theirs) = channel::pair().map_err(Error::call("socketpair"))?;
    let theirs = lift(theirs).map_err(Error::call("fcntl"))?;
    let (pid, pidfd) = birth::give(plan, &slots, attach.unified, &theirs)?;
    drop(theirs);
    match until_ready(plan, &ours, || pause(pid, pidfd.as_fd())) {
        Ok(console) => Ok(Newborn {
            pid,
            pidfd,
            gate: Gate {
                channel: ours,
                plan: plan.clone(),
            },
            console,
        }),
        Err(end) => Err(end.reaped(&pidfd)),
    }
}

/// Why there will be no newborn.
enum End<E> {
    Error(E),
    /// The channel closed; how the process ended says why.
    Silently,
}

fn until_ready<E: From<Error>>(
    plan: &Plan,
    channel: &OwnedFd,
    mut pause: impl FnMut() -> Result<(), E>,
) -> Result<Option<OwnedFd>, End<E>> {
    let failure = |error: Error| End::Error(E::from(error));
    let mut console = None;
    loop {
        let received = match listen(channel).map_err(failure)? {
            Some(received) => received,
            None => return Err(End::Silently),
        };
        let message = decode(&received);
        match message.kind {
            Message::READY => return Ok(console),
            Message::CONSOLE => console = received.descriptor,
            Message::PAUSED => {
                pause().map_err(End::Error)?;
                match channel::send_byte(channel, 1) {
                    // It was killed meanwhile.
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
                    sent => sent.map_err(Error::call("send")).map_err(failure)?,
                }
            }
            _ => return Err(failure(failed(plan, message))),
        }
    }
}

/// The next message, or nothing when the channel has closed.
fn listen(channel: impl AsFd) -> Result<Option<Received<{ size_of::<Message>() }>>, Error> {
    let heard = channel::receive(channel, Instant::now() + PATIENCE);
    match heard.map_err(Error::call("recvmsg"))? {
        Heard::Message(received) => Ok(Some(received)),
        Heard::Closed => Ok(None),
        Heard::Silence => Err(Error::Silent(PATIENCE)),
    }
}

fn failed(plan: &Plan, message: Message) -> Error {
    let text = plan.describe(message.step, message.op, message.errno);
    Error::Step { text }
}

fn decode(received: &Received<{ size_of::<Message>() }>) -> Message {
    let (words, _) = received.bytes.as_chunks::<4>();
    let word = |at: usize| words.get(at).map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    Message {
        kind: word(0),
        step: word(1),
        op: word(2),
        errno: word(3).cast_signed(),
    }
}

// === impl End ===

impl<E: From<Error>> End<E> {
    /// Makes sure that the process is dead, reaps it, and says why it had to be.
    fn reaped(self, pidfd: &OwnedFd) -> E {
        let end = match &self {
            // It is dead or dying; a kill would only blur why.
            Self::Silently => process::wait(pidfd),
            Self::Error(_) => {
                // Fails only for what is dead already.
                process::send_signal(pidfd, KILL).unwrap_or(());
                process::wait(pidfd)
            }
        };
        match (self, end) {
            (Self::Error(error), _) => error,
            (Self::Silently, Ok(exit)) => Error::Died(exit).into(),
            (Self::Silently, Err(error)) => Error::call("waitid")(error).into(),
        }
    }
}

/// `SIGKILL`.
const KILL: i32 = 9;

// === impl Gate ===

impl Gate {
    /// Lets the process run its program, and returns when it does.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] when the program could not be run; then the process has ended, and the
    /// holder of its pidfd reaps it as usual. [`Error::Call`] with `EPIPE` when it was dead before.
    pub fn open(self) -> Result<(), Error> {
        channel::send_byte(&self.channel, 1).map_err(Error::call("gate"))?;
        match listen(&self.channel)? {
            // The channel closes on exec.
            None => Ok(()),
            Some(received) => Err(failed(&self.plan, decode(&received))),
        }
    }
}
