//! What the actor drives: the kernel's half of a container, behind one seam, so that the
//! rules of the actor can be tested with processes that need no root.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use duet_cgroup::{OomWatch, Stats};
use duet_spec::{LinuxResources, Process};
use tokio::io::Interest;
use tokio::time::timeout_at;

use crate::children::Child;
use crate::error::Error;
use crate::plumbing::Plumbing;
use crate::polled::polled;
use crate::words::{Exit, Stdio};

/// Lets a process run its program; dropped unopened, it ends the process.
pub(crate) enum Gate {
    /// The process alone is waited for.
    Plain(duet_launch::Gate),
    /// Somebody else answers for it too: an agent. Blocks.
    Attended(Box<dyn FnOnce() -> Result<(), Error> + Send>),
    /// Hooks run before and after it opens. Blocks.
    Hooked(Box<Gate>, Box<dyn FnOnce(Gate) -> Result<(), Error> + Send>),
}

/// A process that stands at its gate.
pub(crate) struct Born {
    /// Its number in the shim's pid namespace.
    pub(crate) pid: i32,
    /// The process itself, whatever becomes of the number.
    pub(crate) pidfd: Child,
    /// The master of its terminal.
    pub(crate) console: Option<OwnedFd>,
    /// The shim's side of its stdio.
    pub(crate) plumbing: Plumbing,
    /// Lets it go.
    pub(crate) gate: Gate,
}

/// Whether the kernel ends everything else when init ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PidNamespace {
    /// Init is process 1 of its own namespace: nothing in there survives it.
    Own,
    /// The host's or another container's: what init leaves behind must be killed.
    Shared,
}

// === impl Gate ===

impl Gate {
    /// Returns once the process runs its program, or with the reason why it does not. Blocks.
    pub(crate) fn open(self) -> Result<(), Error> {
        match self {
            Self::Plain(gate) => Ok(gate.open()?),
            Self::Attended(open) => open(),
            Self::Hooked(gate, open) => open(*gate),
        }
    }

    /// As [`Gate::open`], in the event loop: a thread is woken only for who needs one.
    pub(crate) async fn opened(self) -> Result<(), Error> {
        let gate = match self {
            Self::Plain(gate) => gate,
            attended @ (Self::Attended(_) | Self::Hooked(..)) => {
                let opened = tokio::task::spawn_blocking(|| attended.open()).await;
                return opened.unwrap_or_else(|error| Err(failed(error.into())));
            }
        };
        let opening = polled(gate.begin()?, Interest::READABLE).map_err(failed)?;
        let deadline = opening.get_ref().deadline().into();
        // Late or not, its end says what it came to.
        drop(timeout_at(deadline, opening.readable()).await);
        Ok(opening.into_inner().end()?)
    }

    /// Why the process could not stay at its gate, if it has said so.
    pub(crate) fn last_words(&self) -> Option<Error> {
        match self {
            Self::Plain(gate) => gate.last_words().map(Error::from),
            Self::Hooked(gate, _) => gate.last_words(),
            // Its filter comes when the gate opens.
            Self::Attended(_) => None,
        }
    }
}

fn failed(source: io::Error) -> Error {
    Error::Host {
        step: "open the gate",
        source,
    }
}

/// The kernel's half of a container. Every method may block, for a bounded time.
pub(crate) trait Body: Send + Sync + 'static {
    /// Whether init is process 1 of its own namespace.
    fn pid_namespace(&self) -> PidNamespace;

    /// Makes the process of the exec of this name. On an error nothing of it is left.
    fn bear(&self, exec: &str, process: &Process, stdio: &Stdio) -> Result<Born, Error>;

    /// Hears that a process ended: the exec of this name, or init.
    fn ended(&self, _exec: Option<&str>, _pid: i32, _exit: Exit) {}

    /// Sends a signal to every process; `SIGKILL` returns when they have left.
    fn signal_all(&self, signal: i32) -> Result<(), Error>;

    /// Stops every process, or none.
    fn freeze(&self) -> Result<(), Error>;

    /// Resumes them; no error if they were not stopped.
    fn thaw(&self) -> Result<(), Error>;

    /// Changes limits.
    fn update(&self, resources: &LinuxResources) -> Result<(), Error>;

    /// Every process.
    fn pids(&self) -> Result<Vec<i32>, Error>;

    /// What was used, also when that can be read nowhere any more.
    fn stats(&self) -> Result<Stats, Error>;

    /// Reads what was used if it may soon be read nowhere any more.
    fn keep_counters(&self) {}

    /// Hears of OOM kills; `None` where the kernel offers nothing.
    fn oom(&self) -> Option<Arc<OomWatch>>;

    /// Removes everything that the container had. May be called again after an error.
    fn destroy(&self) -> Result<(), Error>;
}
