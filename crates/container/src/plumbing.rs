//! A process's stdio from the shim's side: opened before the birth, connected after it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::error::Error;
use crate::given;
use crate::helper::Served;
use crate::logger::{Attended, Logger};
use crate::outputs::{Outputs, Writes};
use crate::stdio::{Ends, Input, Owner, Pipes, release};
use crate::terminal::{self, Connected, Terminal};
use crate::words::{IoOwner, Stdio};

/// How long the exit of a process may wait for the rest of its terminal's output: 2 s.
///
/// The kernel hangs up the terminal when its session's leader ends, so that the rest is there
/// at once; only a reader that does not read makes us wait. The copy goes on after that, until
/// the process is deleted.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// What is open before there is a process.
#[derive(Debug)]
pub(crate) enum Plumbing {
    /// Pipes and FIFOs.
    Pipes(Pipes),
    /// A terminal, whose master comes with the birth.
    Terminal(terminal::Ends),
    /// One whose master somebody else wants.
    Console(Arc<OwnedFd>),
}

/// What is open while there is one.
#[derive(Debug, Default)]
pub(crate) struct Io {
    /// Dropped when the process has ended: its readers see the end.
    holds: Vec<OwnedFd>,
    /// Dropped by CloseIO.
    input: Option<OwnedFd>,
    terminal: Option<Terminal>,
    /// Ends with us.
    copies: JoinSet<()>,
    /// They end with us too, and badly unless [`Io::finish`] is called.
    loggers: Vec<Attended>,
}

/// Tells when everything that a process wrote has been passed on.
#[derive(Debug)]
pub(crate) struct Drain(Option<watch::Receiver<bool>>);

// === impl Plumbing ===

impl Plumbing {
    /// Opens what `stdio` names for a process of `user`, and starts its loggers. Waits for
    /// readers of the outputs, but not for long.
    ///
    /// The second half is the process's own: close it once the process is born.
    pub(crate) fn open(
        stdio: &Stdio,
        user: u32,
        owner: Option<IoOwner>,
        served: Served<'_>,
    ) -> Result<(Self, Ends), Error> {
        if let Some(given) = &stdio.given {
            return given.open();
        }
        if stdio.terminal {
            let outputs = Outputs::open(stdio, Writes::Poll, served)?;
            return Ok((
                Plumbing::Terminal(terminal::Ends::open(stdio, outputs)?),
                Ends::default(),
            ));
        }
        let outputs = Outputs::open(stdio, Writes::Block, served)?;
        let mut pipes = Pipes::open(stdio, outputs, Owner::of(user, owner))?;
        let ends = std::mem::take(&mut pipes.ends);
        Ok((Plumbing::Pipes(pipes), ends))
    }

    /// Connects a process that was just born; needs the runtime.
    pub(crate) fn connect(self, console: Option<OwnedFd>) -> Result<(Io, Drain), Error> {
        let mut io = Io::default();
        match (self, console) {
            (Plumbing::Pipes(pipes), _) => {
                io.loggers = attend(pipes.loggers)?;
                io.holds = pipes.holds;
                if let Some(Input { source, pipe }) = pipes.input {
                    io.input = Some(source.hold);
                    io.copies.spawn(async move {
                        if let Err(error) = Input::copy(source.fifo, pipe).await {
                            tracing::warn!(%error, "input ended early");
                        }
                    });
                }
                Ok((io, Drain(None)))
            }
            (Plumbing::Terminal(mut ends), Some(console)) => {
                io.loggers = attend(std::mem::take(&mut ends.loggers))?;
                let Connected {
                    terminal,
                    input,
                    holds,
                    complete,
                } = ends.connect(console, &mut io.copies)?;
                io.terminal = Some(terminal);
                io.input = input;
                io.holds = holds;
                Ok((io, Drain(Some(complete))))
            }
            (Plumbing::Console(socket), Some(console)) => {
                given::send(&socket, &console).map_err(|source| Error::Terminal {
                    step: "send the master",
                    source,
                })?;
                Ok((io, Drain(None)))
            }
            (Plumbing::Terminal(_) | Plumbing::Console(_), None) => Err(Error::NoTerminal),
        }
    }
}

// === impl Io ===

impl Io {
    /// Lets the input end once its writers are gone and it is empty.
    pub(crate) fn close_input(&mut self) {
        self.input = None;
    }

    /// The process has ended: readers of its output may see the end. Needs the runtime.
    pub(crate) fn release(&mut self) {
        self.holds.drain(..).for_each(release);
        self.input = None;
    }

    /// Whether [`Io::finish`] may take its time.
    pub(crate) fn has_loggers(&self) -> bool {
        !self.loggers.is_empty()
    }

    /// The process is deleted: lets go of everything, and lets its loggers finish.
    pub(crate) async fn finish(self) {
        let Io { loggers, .. } = self;
        for logger in loggers {
            logger.end().await;
        }
    }

    /// Sets the terminal's size; without one there is nothing to do, as with runc's shim.
    pub(crate) fn resize(&self, width: u16, height: u16) -> Result<(), Error> {
        match &self.terminal {
            Some(terminal) => terminal.resize(width, height),
            None => Ok(()),
        }
    }
}

fn attend(loggers: Vec<Logger>) -> Result<Vec<Attended>, Error> {
    loggers.into_iter().map(Logger::attend).collect()
}

// === impl Drain ===

impl Drain {
    /// Waits until the output is complete, within [`DRAIN_LIMIT`].
    pub(crate) async fn done(&mut self) {
        let Some(complete) = &mut self.0 else { return };
        let waited = tokio::time::timeout(DRAIN_LIMIT, complete.wait_for(|done| *done)).await;
        if waited.is_err() {
            tracing::warn!("output of a terminal is still unread after its process ended");
        }
    }
}
