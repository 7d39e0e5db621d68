//! A process's stdin, stdout and stderr.
//!
//! Output to a FIFO is not copied. The process gets a description of containerd's FIFO of its own, and
//! the shim holds the FIFO open in both directions until the process has ended:
//!
//! ```text
//!   containerd  <---- FIFO <---- process        the hold is a reader too, so a restarting
//!                      ^                        containerd means neither SIGPIPE nor EOF; the
//!                      +-- hold (O_RDWR)        process merely waits when the FIFO is full
//! ```
//!
//! Input is copied into a pipe, so that CloseIO can end it. The shim holds a writer of the FIFO
//! until then, as runc's shim does: a restarting containerd must not look like the end of input.
//! The end comes when CloseIO was called *and* the client has closed its end, so that nothing
//! that was written is lost.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Gid, Mode, OFlags, Uid, open};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::copy::copy;
use crate::drain::copying;
use crate::error::Error;
use crate::logger::Logger;
use crate::outputs::{Outputs, Relay};
use crate::target::Target;
use crate::words::{IoOwner, Stdio};

/// How long the outputs of a process wait for their readers: 500 ms.
///
/// Clients open their end before they ask, but in a thread that may come late. A process that
/// has written and ended by then would have written for nobody, and the reader would wait for a
/// writer for ever. runc's shim waits without a limit; who never reads costs us this once, and
/// who comes later still finds it for ten seconds after the process has ended (decision 44).
pub(crate) const READER_LIMIT: Duration = Duration::from_millis(500);

/// What a process without a terminal is given, and what the shim keeps.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    /// For the process; closed here once it is born.
    pub(crate) ends: Ends,
    /// Held until the process has ended: dropping them is what its readers see as EOF.
    pub(crate) holds: Vec<OwnedFd>,
    /// Where its input comes from.
    pub(crate) input: Option<Input>,
    /// What passes its output on.
    pub(crate) relays: Vec<Relay>,
    /// Who reads its output, where that is a program.
    pub(crate) loggers: Vec<Logger>,
}

/// The process's three descriptors; `None` is `/dev/null`.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// Read end of a pipe.
    pub(crate) stdin: Option<OwnedFd>,
    /// A FIFO or a pipe, write only.
    pub(crate) stdout: Option<OwnedFd>,
    /// A FIFO or a pipe, write only.
    pub(crate) stderr: Option<OwnedFd>,
    /// Where what is written to a pipe will be copied, for a process that will not be.
    pub(crate) complaints: Option<OwnedFd>,
}

// === impl Ends ===

impl Ends {
    /// Says on the process's stderr why there will be no process: who reads its log finds it there.
    pub(crate) fn complain(&self, why: &(dyn std::error::Error + 'static)) {
        let Some(stderr) = self.complaints.as_ref().or(self.stderr.as_ref()) else {
            return;
        };
        let mut text = String::new();
        let mut next = Some(why);
        while let Some(error) = next {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&error.to_string());
            next = error.source();
        }
        text.push('\n');
        // The output is new and empty: what a pipe takes at once does not wait for its reader.
        let line = text.as_bytes().get(..LINE_MAX).unwrap_or(text.as_bytes());
        // Nobody is told if nobody listens.
        rustix::io::write(stderr, line).unwrap_or(0);
    }
}

/// The longest complaint, in bytes: `PIPE_BUF`.
const LINE_MAX: usize = 4096;

/// containerd's FIFO for stdin, and the pipe it is copied into.
#[derive(Debug)]
pub(crate) struct Input {
    /// The reader and the hold.
    pub(crate) source: Source,
    /// The write end of the process's stdin; not blocking.
    pub(crate) pipe: OwnedFd,
}

/// The reading side of containerd's FIFO for stdin.
#[derive(Debug)]
pub(crate) struct Source {
    /// Reads; not blocking.
    pub(crate) fifo: OwnedFd,
    /// A writer that writes nothing. While it exists, input does not end.
    pub(crate) hold: OwnedFd,
}

/// Who may reopen the pipes of a process by their `/dev/stdout` links.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    uid: u32,
    gid: Option<u32>,
}

// === impl Pipes ===

impl Pipes {
    /// Opens the input that `stdio` names, beside outputs that are open.
    pub(crate) fn open(stdio: &Stdio, outputs: Outputs, owner: Owner) -> Result<Self, Error> {
        let Outputs {
            stdout,
            stderr,
            loggers,
            complaints,
        } = outputs;
        let mut pipes = Pipes {
            loggers,
            ..Pipes::default()
        };
        pipes.ends.complaints = complaints;
        if let Some(sink) = stdout {
            sink.give("stdout", &stdio.stdout, owner)?;
            pipes.holds.extend(sink.hold);
            pipes.relays.extend(sink.relay);
            pipes.ends.stdout = Some(sink.file);
        }
        if let Some(sink) = stderr {
            sink.give("stderr", &stdio.stderr, owner)?;
            pipes.holds.extend(sink.hold);
            pipes.relays.extend(sink.relay);
            pipes.ends.stderr = Some(sink.file);
        }
        if let Some(source) = Source::open(&stdio.stdin)? {
            let failed = |step| {
                let path = stdio.stdin.clone();
                move |errno: rustix::io::Errno| Error::Stdio {
                    step,
                    stream: "stdin",
                    path,
                    source: errno.into(),
                }
            };
            let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("make a pipe for"))?;
            // The flag belongs to the description: the process's end stays blocking.
            rustix::fs::fcntl_setfl(&write, OFlags::NONBLOCK)
                .map_err(failed("set O_NONBLOCK on"))?;
            give(read.as_fd(), owner).map_err(failed("fchown"))?;
            pipes.ends.stdin = Some(read);
            pipes.input = Some(Input {
                source,
                pipe: write,
            });
        }
        Ok(pipes)
    }
}

// === impl Input ===

impl Input {
    /// Copies until the FIFO has no writer left or the process no longer reads; then the
    /// process sees the end of its input.
    pub(crate) async fn copy(fifo: OwnedFd, pipe: OwnedFd) -> io::Result<()> {
        // Nobody waits for its end.
        copy(fifo, pipe, &copying(None).0).await
    }
}

// === impl Source ===

impl Source {
    /// Opens the FIFO at `path`; `None` if it is empty.
    pub(crate) fn open(path: &str) -> Result<Option<Self>, Error> {
        let path = match Target::read("stdin", path)? {
            None => return Ok(None),
            Some(Target::Path(path)) => path,
            Some(Target::File(_) | Target::Logger(_)) => {
                return Err(Error::Unsupported {
                    field: "stdin",
                    value: path.to_owned(),
                });
            }
        };
        let path = path.as_str();
        let failed = |step| {
            let path = path.to_owned();
            move |source: io::Error| Error::Stdio {
                step,
                stream: "stdin",
                path,
                source,
            }
        };
        if !is_fifo(path).map_err(failed("open"))? {
            return Err(Error::Invalid {
                field: "stdin",
                value: path.to_owned(),
                why: "is not a FIFO",
            });
        }
        // Without O_NONBLOCK this would wait for a writer. The hold comes second: a FIFO without
        // a reader refuses a writer that does not want to wait.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fifo = open(path, flags, Mode::empty()).map_err(|e| failed("open")(e.into()))?;
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let hold = open(path, flags, Mode::empty()).map_err(|e| failed("hold")(e.into()))?;
        Ok(Some(Source { fifo, hold }))
    }
}

// === impl Owner ===

impl Owner {
    /// A process's own user, unless containerd names somebody else.
    pub(crate) fn of(user: u32, instead: Option<IoOwner>) -> Self {
        match instead {
            Some(IoOwner { uid, gid }) => Owner {
                uid,
                gid: Some(gid),
            },
            None => Owner {
                uid: user,
                gid: None,
            },
        }
    }
}

/// Changes the owner so that a process may reopen the pipe by its `/proc/self/fd` link, which
/// checks the inode's permissions anew.
pub(crate) fn give(fd: BorrowedFd<'_>, owner: Owner) -> rustix::io::Result<()> {
    let Owner { uid, gid } = owner;
    if uid == 0 && gid.is_none() {
        return Ok(());
    }
    match rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), gid.map(Gid::from_raw)) {
        // A file system that knows no owners: the process keeps the descriptor it was given.
        Err(rustix::io::Errno::PERM | rustix::io::Errno::INVAL | rustix::io::Errno::ROFS) => Ok(()),
        done => done,
    }
}

/// Opens a FIFO for writing as soon as somebody reads it, or not at all if nobody does at the `deadline`: who comes
/// later is served by the hold, while it lasts.
pub(crate) fn await_reader(path: &str, deadline: Instant) -> Option<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    loop {
        match open(path, flags, Mode::empty()) {
            Ok(writer) => return Some(writer),
            Err(rustix::io::Errno::NXIO) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => {
                // What is wrong with it otherwise, the hold will say.
                if error == rustix::io::Errno::NXIO {
                    tracing::warn!(path, "output FIFO has no reader yet");
                }
                return None;
            }
        }
    }
}

pub(crate) fn is_fifo(path: &str) -> io::Result<bool> {
    Ok(fs::metadata(path)?.file_type().is_fifo())
}

#[cfg(test)]
#[path = "stdio/tests.rs"]
mod tests;
