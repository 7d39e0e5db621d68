//! A process's stdin, stdout and stderr.
//!
//! Output is not copied. The process gets a description of containerd's FIFO of its own, and
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
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Gid, Mode, OFlags, Uid, open};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::copy::copy;
use crate::error::Error;
use crate::words::{IoOwner, Stdio};

/// How long an output waits for its reader: 500 ms.
///
/// Clients open their end before they ask, but in a thread that may come late. A process that
/// has written and ended by then would have written for nobody, and the reader would wait for a
/// writer for ever. runc's shim waits without a limit; who never reads costs us this once.
const READER_LIMIT: Duration = Duration::from_millis(500);

/// What a process without a terminal is given, and what the shim keeps.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    /// For the process; closed here once it is born.
    pub(crate) ends: Ends,
    /// Held until the process has ended: dropping them is what its readers see as EOF.
    pub(crate) holds: Vec<OwnedFd>,
    /// Where its input comes from.
    pub(crate) input: Option<Input>,
}

/// The process's three descriptors; `None` is `/dev/null`.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// Read end of a pipe.
    pub(crate) stdin: Option<OwnedFd>,
    /// A FIFO or a file, write only.
    pub(crate) stdout: Option<OwnedFd>,
    /// A FIFO or a file, write only.
    pub(crate) stderr: Option<OwnedFd>,
}

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

/// The writing side of an output.
#[derive(Debug)]
pub(crate) struct Sink {
    /// A description of its own, so that nobody else's flags matter.
    pub(crate) file: OwnedFd,
    /// The FIFO, open both ways; `None` for a file.
    pub(crate) hold: Option<OwnedFd>,
}

/// Whether a writer may be made to wait by its descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    /// As a program expects its stdout.
    Block,
    /// For a copy in the shim's own event loop.
    Poll,
}

// === impl Pipes ===

impl Pipes {
    /// Opens what `stdio` names. Waits for a reader of the outputs, within [`READER_LIMIT`].
    ///
    /// `user` is who must be able to reopen them (`/dev/stdout`); `owner` overrides it.
    pub(crate) fn open(stdio: &Stdio, user: u32, owner: Option<IoOwner>) -> Result<Self, Error> {
        let mut pipes = Pipes::default();
        if let Some(sink) = Sink::open("stdout", &stdio.stdout, Writes::Block)? {
            sink.give("stdout", &stdio.stdout, user, owner)?;
            pipes.holds.extend(sink.hold);
            pipes.ends.stdout = Some(sink.file);
        }
        if let Some(sink) = Sink::open("stderr", &stdio.stderr, Writes::Block)? {
            sink.give("stderr", &stdio.stderr, user, owner)?;
            pipes.holds.extend(sink.hold);
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
            give(read.as_fd(), user, owner).map_err(failed("fchown"))?;
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
        copy(fifo, pipe).await
    }
}

// === impl Source ===

impl Source {
    /// Opens the FIFO at `path`; `None` if it is empty.
    pub(crate) fn open(path: &str) -> Result<Option<Self>, Error> {
        let Some(path) = local("stdin", path)? else {
            return Ok(None);
        };
        let Target::Path(path) = path else {
            return Err(Error::Unsupported {
                field: "stdin",
                value: path.text().to_owned(),
            });
        };
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

// === impl Sink ===

impl Sink {
    /// Opens `value` of the field `stream`; `None` if it is empty.
    pub(crate) fn open(
        stream: &'static str,
        value: &str,
        writes: Writes,
    ) -> Result<Option<Self>, Error> {
        let Some(target) = local(stream, value)? else {
            return Ok(None);
        };
        let failed = |step| {
            let path = target.text().to_owned();
            move |source: io::Error| Error::Stdio {
                step,
                stream,
                path,
                source,
            }
        };
        let wait = match writes {
            Writes::Block => OFlags::empty(),
            Writes::Poll => OFlags::NONBLOCK,
        };
        let write = OFlags::WRONLY | OFlags::CLOEXEC | wait;
        match target {
            Target::Path(path) if is_fifo(path).map_err(failed("open"))? => {
                // Kept until the hold is there: the reader must not see an end between the two.
                let _writer = await_reader(path);
                // Both ways: Linux opens such a FIFO at once, whoever is on the other side.
                let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let hold =
                    open(path, flags, Mode::empty()).map_err(|e| failed("open")(e.into()))?;
                let file =
                    open(path, write, Mode::empty()).map_err(|e| failed("open")(e.into()))?;
                Ok(Some(Sink {
                    file,
                    hold: Some(hold),
                }))
            }
            Target::Path(path) => {
                let flags = write | OFlags::APPEND | OFlags::NOCTTY;
                let file =
                    open(path, flags, Mode::empty()).map_err(|e| failed("open")(e.into()))?;
                Ok(Some(Sink { file, hold: None }))
            }
            Target::File(path) => {
                if let Some(parent) = Path::new(path).parent() {
                    fs::create_dir_all(parent).map_err(failed("make the directory of"))?;
                }
                let flags = write | OFlags::APPEND | OFlags::CREATE;
                let mode = Mode::from_raw_mode(0o644);
                let file = open(path, flags, mode).map_err(|e| failed("open")(e.into()))?;
                Ok(Some(Sink { file, hold: None }))
            }
        }
    }

    /// Lets the process's user reopen the FIFO. A file keeps its owner: it is a log of the
    /// host's.
    fn give(
        &self,
        stream: &'static str,
        path: &str,
        user: u32,
        owner: Option<IoOwner>,
    ) -> Result<(), Error> {
        if self.hold.is_none() {
            return Ok(());
        }
        give(self.file.as_fd(), user, owner).map_err(|errno| Error::Stdio {
            step: "fchown",
            stream,
            path: path.to_owned(),
            source: errno.into(),
        })
    }
}

/// Changes the owner so that a process of `user` may reopen the pipe by its `/proc/self/fd`
/// link, which checks the inode's permissions anew.
fn give(fd: BorrowedFd<'_>, user: u32, owner: Option<IoOwner>) -> rustix::io::Result<()> {
    let (uid, gid) = match owner {
        Some(owner) => (owner.uid, Some(Gid::from_raw(owner.gid))),
        None => (user, None),
    };
    if uid == 0 && gid.is_none() {
        return Ok(());
    }
    match rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), gid) {
        // A file system that knows no owners: the process keeps the descriptor it was given.
        Err(rustix::io::Errno::PERM | rustix::io::Errno::INVAL | rustix::io::Errno::ROFS) => Ok(()),
        done => done,
    }
}

/// What a stdio field names.
#[derive(Debug, Clone, Copy)]
enum Target<'a> {
    /// A FIFO, usually.
    Path(&'a str),
    /// A file to append to, made if it is missing.
    File(&'a str),
}

impl<'a> Target<'a> {
    fn text(self) -> &'a str {
        match self {
            Target::Path(path) | Target::File(path) => path,
        }
    }
}

fn local<'a>(field: &'static str, value: &'a str) -> Result<Option<Target<'a>>, Error> {
    let relative = |path: &str| (!path.starts_with('/')).then_some("is not an absolute path");
    let target = match value.split_once("://") {
        None if value.is_empty() => return Ok(None),
        None => Target::Path(value),
        Some(("fifo", path)) => Target::Path(path),
        Some(("file", path)) => Target::File(path),
        Some(_) => {
            return Err(Error::Unsupported {
                field,
                value: value.to_owned(),
            });
        }
    };
    match relative(target.text()) {
        None => Ok(Some(target)),
        Some(why) => Err(Error::Invalid {
            field,
            value: value.to_owned(),
            why,
        }),
    }
}

/// Opens a FIFO for writing as soon as somebody reads it, or not at all: who comes later is
/// served by the hold, while it lasts.
fn await_reader(path: &str) -> Option<OwnedFd> {
    let deadline = Instant::now() + READER_LIMIT;
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    loop {
        match open(path, flags, Mode::empty()) {
            Ok(writer) => return Some(writer),
            Err(rustix::io::Errno::NXIO) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            // What is wrong with it, the hold will say.
            Err(_) => return None,
        }
    }
}

fn is_fifo(path: &str) -> io::Result<bool> {
    Ok(fs::metadata(path)?.file_type().is_fifo())
}

#[cfg(test)]
#[path = "stdio/tests.rs"]
mod tests;
