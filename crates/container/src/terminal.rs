//! A process's terminal: the shim keeps the master and copies both ways.
//!
//! ```text
//!   FIFO stdin  --> copy --> master ==== user's end: 0, 1, 2 and /dev/console of the process
//!   FIFO stdout <-- copy <-- master
//! ```
//!
//! The kernel answers `EIO` on the master when nobody has the user's end open any more and
//! everything was read: that is how the copy knows that the output is complete.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::termios::{SpecialCodeIndex, Winsize, tcgetattr, tcsetwinsize};
use tokio::task::JoinSet;

use crate::copy::{Writer, copy};
use crate::drain::{Drain, copying};
use crate::error::Error;
use crate::logger::Logger;
use crate::outputs::{Outputs, Sink};
use crate::stdio::Source;
use crate::words::Stdio;

/// What a terminal is connected to, before there is a process.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    input: Option<Source>,
    output: Option<Sink>,
    /// Who reads its output, where that is a program.
    pub(crate) loggers: Vec<Logger>,
}

/// The master's side of a terminal in use.
#[derive(Debug)]
pub(crate) struct Terminal {
    master: OwnedFd,
}

/// A terminal whose copies run.
#[derive(Debug)]
pub(crate) struct Connected {
    /// For changes of its size.
    pub(crate) terminal: Terminal,
    /// Dropping it is CloseIO.
    pub(crate) input: Option<OwnedFd>,
    /// Its output.
    pub(crate) drain: Drain,
}

// === impl Ends ===

impl Ends {
    /// Opens the input that `stdio` names, beside an output that is open.
    pub(crate) fn open(stdio: &Stdio, outputs: Outputs) -> Result<Self, Error> {
        Ok(Ends {
            output: outputs.stdout,
            loggers: outputs.loggers,
            input: Source::open(&stdio.stdin)?,
        })
    }

    /// Starts both copies in `tasks`.
    pub(crate) fn connect(
        self,
        master: OwnedFd,
        tasks: &mut JoinSet<()>,
    ) -> Result<Connected, Error> {
        let failed = |step| move |source: io::Error| Error::Terminal { step, source };
        rustix::fs::fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK)
            .map_err(|e| failed("set O_NONBLOCK")(e.into()))?;
        let clone = || master.try_clone().map_err(failed("duplicate"));
        let mut input_hold = None;
        if let Some(Source { fifo, hold }) = self.input {
            input_hold = Some(hold);
            let (to, end) = (clone()?, clone()?);
            tasks.spawn(async move {
                let copied = async {
                    copy(fifo, to, &copying(None).0).await?;
                    end_of_file(end).await
                };
                if let Err(error) = copied.await {
                    tracing::warn!(%error, "input of a terminal ended early");
                }
            });
        }
        let mut drain = Drain::default();
        if let Some(Sink { file, hold, .. }) = self.output {
            let from = clone()?;
            let (told, copied) = copying(None);
            drain.holds.extend(hold);
            drain.copied.push(copied);
            tasks.spawn(async move {
                if let Err(error) = copy(from, file, &told).await {
                    tracing::warn!(%error, "output of a terminal ended early");
                }
            });
        }
        Ok(Connected {
            terminal: Terminal { master },
            input: input_hold,
            drain,
        })
    }
}

// === impl Terminal ===

impl Terminal {
    /// Sets the size in characters; the foreground process group gets `SIGWINCH`.
    pub(crate) fn resize(&self, width: u16, height: u16) -> Result<(), Error> {
        let size = Winsize {
            ws_row: height,
            ws_col: width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(self.master.as_fd(), size).map_err(|errno| Error::Terminal {
            step: "resize",
            source: errno.into(),
        })
    }
}

/// Types the end-of-file character, which is all that a terminal has for a closed input: its
/// other half is still wanted for the output.
async fn end_of_file(master: OwnedFd) -> io::Result<()> {
    let modes = tcgetattr(&master)?;
    let eof = modes.special_codes[SpecialCodeIndex::VEOF];
    match Writer::new(master)?
        .write_all(&[eof], &copying(None).0)
        .await
    {
        Err(error) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::IO) => {
            Ok(())
        }
        done => done,
    }
}

#[cfg(test)]
#[path = "terminal/tests.rs"]
mod tests;
