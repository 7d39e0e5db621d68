//! What the child says, and the gate it stands at.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use duet_linux::channel::{self, Heard, Received};
use duet_linux::process;
use duet_plan::Plan;
use duet_step::{Message, Step};

use crate::supplies::{Slots, lift};
use crate::{Error, Supplies, birth};

/// How long a birth may take between two messages: 60 s.
///
/// It takes a millisecond; a mount that waits for a dead server takes for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that stands at the gate: everything is done but its program. Without a gate in its plan
/// it goes on, and to open the gate is to hear what that came to.
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
    process: OwnedFd,
    /// Kept for the words of a failure.
    plan: Plan,
}

/// A gate that opens: readable when the process runs its program, or says why it cannot.
#[derive(Debug)]
pub struct Opening {
    gate: Gate,
    deadline: Instant,
}

/// Makes a process and waits until it stands at the gate.
///
/// Blocks for about a millisecond, longer when a file system is slow to mount.
///
/// # Errors
///
/// [`Error`]; the process, if there was one, is dead and reaped.
pub fn spawn(plan: &Plan, supplies: Supplies<'_>) -> Result<Newborn, Error> {
    spawn_with(plan, supplies, |stop| match stop {
        Stop::Born { .. } => Ok(()),
        Stop::Pause { .. } | Stop::Listener { .. } => Err(Error::Plan("it stops for nobody")),
    })
}

/// What a birth waits for until somebody has acted on it.
#[derive(Debug)]
pub enum Stop<'a> {
    /// It is there, and goes on meanwhile: what must be done about it costs no time of its own. It
    /// comes no further than [`Step::Await`] until that is done.
    Born {
        /// Its number in the caller's PID namespace.
        pid: i32,
    },
    /// The hooks that run before the pivot.
    Pause {
        /// The process's number in the caller's PID namespace.
        pid: i32,
        /// The process.
        pidfd: BorrowedFd<'a>,
    },
    /// The listener of its seccomp filter, without which the process cannot go on for long.
    Listener {
        /// The process's number in the caller's PID namespace.
        pid: i32,
        /// The listener.
        listener: OwnedFd,
    },
}

/// As [`spawn`]; `stop` is called as soon as the process is there and where the plan says so.
///
/// # Errors
///
/// As [`spawn`], and what `stop` says.
pub fn spawn_with<E: From<Error>>(
    plan: &Plan,
    supplies: Supplies<'_>,
    stop: impl FnMut(Stop<'_>) -> Result<(), E>,
) -> Result<Newborn, E> {
    let slots = Slots::open(plan, supplies)?;
    let (ours, theirs) = channel::pair().map_err(Error::call("socketpair"))?;
    let theirs = lift(theirs).map_err(Error::call("fcntl"))?;
    let (pid, pidfd) = birth::give(plan, &slots, supplies.cgroup, &theirs)?;
    drop(theirs);
    let forks = plan.steps.iter().any(|step| matches!(step, Step::Fork(_)));
    let mut told = Told::default();
    let first = (pid, pidfd.as_fd());
    let ready = until_ready(plan, forks, &ours, first, &mut told, stop);
    let Told {
        console, second, ..
    } = told;
    let (pid, pidfd) = second.unwrap_or((pid, pidfd));
    let end = ready.and_then(|()| {
        let process = pidfd.try_clone().map_err(Error::call("fcntl"));
        process.map_err(|error| End::Error(E::from(error)))
    });
    match end {
        Ok(process) => Ok(Newborn {
            pid,
            pidfd,
            gate: Gate {
                channel: ours,
                process,
                plan: plan.clone(),
            },
            console,
        }),
        Err(end) => Err(end.reaped(&pidfd)),
    }
}

/// What the child has sent so far.
#[derive(Default)]
struct Told {
    console: Option<OwnedFd>,
    /// The process that goes on with the plan, when the first one has forked.
    second: Option<(i32, OwnedFd)>,
    /// The caller knows of the process.
    known: bool,
}

/// Why there will be no newborn.
enum End<E> {
    Error(E),
    /// The channel closed; how the process ended says why.
    Silently,
}

/// Listens until the process stands at its gate; when it forks, both halves send, and the second
/// one may be the faster.
fn until_ready<E: From<Error>>(
    plan: &Plan,
    forks: bool,
    channel: &OwnedFd,
    first: (i32, BorrowedFd<'_>),
    told: &mut Told,
    mut stop: impl FnMut(Stop<'_>) -> Result<(), E>,
) -> Result<(), End<E>> {
    let failure = |error: Error| End::Error(E::from(error));
    let mut unanswered: Option<Message> = None;
    loop {
        // Who has sent it is known as soon as the first half has told of the second.
        if !forks || told.second.is_some() {
            let second = told.second.as_ref();
            let (pid, pidfd) = second.map_or(first, |(pid, pidfd)| (*pid, pidfd.as_fd()));
            if !std::mem::replace(&mut told.known, true) {
                stop(Stop::Born { pid }).map_err(End::Error)?;
                if plan.steps.contains(&Step::Await) {
                    go_on(channel).map_err(failure)?;
                }
            }
            match unanswered.take().map(|message| (message.kind, message)) {
                None => {}
                Some((Message::READY, _)) => return Ok(()),
                Some((Message::PAUSED, _)) => {
                    stop(Stop::Pause { pid, pidfd }).map_err(End::Error)?;
                    go_on(channel).map_err(failure)?;
                }
                Some((Message::LISTENER, message)) => {
                    let listener = taken(pidfd, message).map_err(failure)?;
                    stop(Stop::Listener { pid, listener }).map_err(End::Error)?;
                    go_on(channel).map_err(failure)?;
                }
                Some((_, message)) => return Err(failure(failed(plan, message))),
            }
        }
        // Whoever it forked has the channel too, and nobody else knows of it.
        let alone = (forks && told.second.is_none()).then_some(first.1);
        let Some(received) = listen(channel, alone).map_err(failure)? else {
            // The first half ends without a fork when one of its steps has failed.
            let last = unanswered.filter(|message| message.kind == Message::FAILED);
            return Err(last.map_or(End::Silently, |last| failure(failed(plan, last))));
        };
        let message = decode(&received);
        match message.kind {
            Message::CONSOLE => told.console = received.descriptor,
            Message::BORN => {
                // The message has it as the first half sees it, which may be in the container.
                let pidfd = received.descriptor;
                let pid = pidfd.as_ref().map_or(Ok(0), process::number);
                told.second = pidfd.map(|pidfd| (*pid.as_ref().unwrap_or(&0), pidfd));
                // It has ended, or is about to: the message was its last word. Reaped here, so
                // that nobody takes it for a stranger while something else is waited for.
                process::wait(first.1).map_err(|error| failure(Error::call("waitid")(error)))?;
                pid.map_err(|error| failure(Error::call("fdinfo")(error)))?;
            }
            // A first half that failed with its last words has lost the second, which may speak
            // until it is killed.
            _ if unanswered.is_some_and(|told| told.kind == Message::FAILED) => {}
            _ => unanswered = Some(message),
        }
    }
}

/// Lets the process go on; that it was killed meanwhile, the channel will say.
fn go_on(channel: &OwnedFd) -> Result<(), Error> {
    match channel::send_byte(channel, 1) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        sent => sent.map_err(Error::call("send")),
    }
}

/// The descriptor of the process that its message is about.
fn taken(pidfd: BorrowedFd<'_>, message: Message) -> Result<OwnedFd, Error> {
    let number = i32::try_from(message.step).unwrap_or(-1);
    process::take_descriptor(pidfd, number).map_err(Error::call("pidfd_getfd"))
}

/// The next message, or nothing when the channel has closed, or when the process `alone` has ended
/// without another word: killed between its fork and its message, it has left behind a process
/// that only the channel's end will tell to end.
fn listen(
    channel: impl AsFd,
    alone: Option<BorrowedFd<'_>>,
) -> Result<Option<Received<{ size_of::<Message>() }>>, Error> {
    listen_until(channel, alone, Instant::now() + PATIENCE)
}

fn listen_until(
    channel: impl AsFd,
    alone: Option<BorrowedFd<'_>>,
    deadline: Instant,
) -> Result<Option<Received<{ size_of::<Message>() }>>, Error> {
    if let Some(process) = alone {
        let spoke = channel::readable_before(&channel, process, deadline);
        if spoke.map_err(Error::call("poll"))? == Some(false) {
            return Ok(None);
        }
    }
    let heard = channel::receive(channel, deadline);
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
        self.open_with(|_| Err(Error::Plan("nobody answers its seccomp listener")))
    }

    /// As [`Gate::open`]; `listener` is called with the listener of a seccomp filter that comes
    /// into force only now.
    ///
    /// # Errors
    ///
    /// As [`Gate::open`], [`Error::Unheard`], and what `listener` says; then the process ends.
    pub fn open_with<E: From<Error>>(
        self,
        listener: impl FnOnce(OwnedFd) -> Result<(), E>,
    ) -> Result<(), E> {
        let Opening { gate, deadline } = self.begin()?;
        let mut expected = gate.plan.listens_late().then_some(listener);
        loop {
            let heard = listen_until(&gate.channel, None, deadline)?;
            let message = match (heard, &expected) {
                (Some(received), _) => decode(&received),
                // The channel closes on exec; but who could not speak has not come so far.
                (None, Some(_)) => return Err(Error::Unheard.into()),
                (None, None) => return Ok(()),
            };
            match (message.kind, expected.take()) {
                (Message::LISTENER, Some(listener)) => {
                    listener(taken(gate.process.as_fd(), message)?)?;
                    go_on(&gate.channel)?;
                }
                _ => return Err(failed(&gate.plan, message).into()),
            }
        }
    }

    /// Why the process could not stay at the gate, if it has said so: at the gate it says nothing else.
    #[must_use]
    pub fn last_words(&self) -> Option<Error> {
        match listen_until(&self.channel, None, Instant::now()) {
            Ok(Some(received)) => Some(failed(&self.plan, decode(&received))),
            Ok(None) | Err(_) => None,
        }
    }

    /// Whether somebody must answer the listener of a seccomp filter while it opens.
    #[must_use]
    pub fn needs_answer(&self) -> bool {
        self.plan.listens_late()
    }

    /// Lets the process run its program, and waits for nothing: for who has an event loop.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] when it had failed before, [`Error::Call`] with `EPIPE` when it was dead.
    pub fn begin(self) -> Result<Opening, Error> {
        let deadline = Instant::now() + PATIENCE;
        if self.plan.waits()
            && let Err(error) = channel::send_byte(&self.channel, 1)
        {
            // It has ended; perhaps it could still say why.
            return Err(self.last_words().unwrap_or(Error::call("gate")(error)));
        }
        Ok(Opening {
            gate: self,
            deadline,
        })
    }
}

// === impl Opening ===

impl Opening {
    /// When it must have come to something.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What it came to. Does not block once its descriptor is readable, or the deadline has passed.
    ///
    /// # Errors
    ///
    /// As [`Gate::open`].
    pub fn end(self) -> Result<(), Error> {
        match listen_until(&self.gate.channel, None, self.deadline)? {
            // The channel closes on exec.
            None => Ok(()),
            Some(received) => Err(failed(&self.gate.plan, decode(&received))),
        }
    }
}

impl AsFd for Opening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.gate.channel.as_fd()
    }
}

impl AsRawFd for Opening {
    fn as_raw_fd(&self) -> RawFd {
        self.gate.channel.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::process::Command;

    use super::*;

    fn plan() -> Plan {
        let helper = duet_plan::Helper {
            path: "/bin/true",
            args: &[],
            env: &[],
            cwd: "/",
            descriptors: &[],
        };
        helper.plan().unwrap()
    }

    #[test]
    fn a_failure_to_tell_of_the_second_half_is_not_forgotten_for_what_that_says() {
        let plan = plan();
        let (ours, theirs) = channel::pair().unwrap();
        let mut theirs = File::from(theirs);
        for kind in [Message::PAUSED, Message::FAILED, Message::READY] {
            let words = [kind, 0, 0, 0].map(u32::to_ne_bytes);
            theirs.write_all(words.as_flattened()).unwrap();
        }
        drop(theirs);
        let own = i32::try_from(std::process::id()).unwrap();
        let process = process::pidfd_open(own).unwrap();
        let first = (own, process.as_fd());
        let never = |stop: Stop<'_>| -> Result<(), Error> { unreachable!("{stop:?}") };
        let ended = until_ready(&plan, true, &ours, first, &mut Told::default(), never);
        assert!(matches!(ended, Err(End::Error(Error::Step { .. }))));
    }

    #[test]
    fn a_first_half_that_was_killed_before_it_told_of_the_second_is_not_waited_for() {
        let plan = plan();
        // The second half, of which nobody knows, holds the channel.
        let (ours, _second) = channel::pair().unwrap();
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let pidfd = process::pidfd_open(pid).unwrap();
        child.kill().unwrap();
        let never = |_: Stop<'_>| Err(Error::Plan("it stops for nobody"));
        let mut told = Told::default();
        let first = (pid, pidfd.as_fd());
        let ready = until_ready(&plan, true, &ours, first, &mut told, never);
        let Err(end @ End::Silently) = ready else {
            panic!("it was heard of");
        };
        let why = end.reaped(&pidfd).to_string();
        assert!(why.contains("with code 137"), "{why}");
        // Reaped above.
        assert!(child.try_wait().is_err());
    }
}
