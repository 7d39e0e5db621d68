//! A process's stdio from the shim's side: opened before the birth, connected after it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::copy::{copy, discard};
use crate::drain::{Copied, Drain, copying};
use crate::error::Error;
use crate::given;
use crate::helper::Served;
use crate::logger::{Attended, Logger};
use crate::outputs::{Outputs, Relay, Writes};
use crate::stdio::{Ends, Input, Owner, Pipes};
use crate::terminal::{self, Connected, Terminal};
use crate::words::{IoOwner, Stdio};

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
    /// Dropped by CloseIO.
    input: Option<OwnedFd>,
    terminal: Option<Terminal>,
    /// End with us.
    copies: JoinSet<()>,
    /// Those that somebody may still read.
    copied: Vec<Copied>,
    /// They end with us too, and badly unless [`Io::finish`] is called.
    loggers: Vec<Attended>,
}

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
        writes: Writes,
        served: Served<'_>,
    ) -> Result<(Self, Ends), Error> {
        if let Some(given) = &stdio.given {
            return given.open();
        }
        if stdio.terminal {
            let outputs = Outputs::open(stdio, Writes::Copy, served)?;
            return Ok((
                Plumbing::Terminal(terminal::Ends::open(stdio, outputs)?),
                Ends::default(),
            ));
        }
        let outputs = Outputs::open(stdio, writes, served)?;
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
                let mut drain = Drain {
                    holds: pipes.holds,
                    ..Drain::default()
                };
                for relay in pipes.relays {
                    drain.copied.push(pass_on(relay, &mut io.copies));
                }
                io.copied.clone_from(&drain.copied);
                if let Some(Input { source, pipe }) = pipes.input {
                    io.input = Some(source.hold);
                    io.copies.spawn(async move {
                        if let Err(error) = Input::copy(source.fifo, pipe).await {
                            tracing::warn!(%error, "input ended early");
                        }
                    });
                }
                Ok((io, drain))
            }
            (Plumbing::Terminal(mut ends), Some(console)) => {
                io.loggers = attend(std::mem::take(&mut ends.loggers))?;
                let Connected {
                    terminal,
                    input,
                    drain,
                } = ends.connect(console, &mut io.copies)?;
                io.terminal = Some(terminal);
                io.input = input;
                io.copied.clone_from(&drain.copied);
                Ok((io, drain))
            }
            (Plumbing::Console(socket), Some(console)) => {
                given::send(&socket, &console).map_err(|source| Error::Terminal {
                    step: "send the master",
                    source,
                })?;
                Ok((io, Drain::default()))
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

    /// Whether [`Io::finish`] has nothing to wait for.
    pub(crate) fn is_finished(&self) -> bool {
        self.loggers.is_empty() && self.copied.iter().all(Copied::is_over)
    }

    /// The process is deleted: waits for who still reads what it wrote, lets go of everything, and lets its loggers finish.
    pub(crate) async fn finish(self) {
        let Io {
            input,
            terminal,
            copies,
            copied,
            loggers,
        } = self;
        drop((input, terminal));
        for mut output in copied {
            output.finish().await;
        }
        // Loggers see the end now.
        drop(copies);
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

/// Copies what a process writes into its pipe to where it is to go.
pub(crate) fn pass_on(relay: Relay, copies: &mut JoinSet<()>) -> Copied {
    let Relay { from, to } = relay;
    let from = Arc::new(from);
    let (told, copied) = copying(Some(Arc::clone(&from)));
    copies.spawn(async move {
        if let Err(error) = copy(Arc::clone(&from), to, &told).await {
            tracing::warn!(%error, "output ended early");
        }
        drop(told);
        // The pipe has a reader as long as its process is known: whoever writes on must not wait for it.
        drop(discard(from).await);
    });
    copied
}

fn attend(loggers: Vec<Logger>) -> Result<Vec<Attended>, Error> {
    loggers.into_iter().map(Logger::attend).collect()
}
