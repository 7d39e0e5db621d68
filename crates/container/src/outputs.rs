//! Where a process's output goes: opened before the process exists.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

use crate::error::Error;
use crate::helper::Served;
use crate::logger::Logger;
use crate::stdio::{Owner, await_reader, give, is_fifo};
use crate::target::{Target, means_both};
use crate::words::Stdio;

/// The outputs of a process, and who reads them.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    pub(crate) stdout: Option<Sink>,
    pub(crate) stderr: Option<Sink>,
    pub(crate) loggers: Vec<Logger>,
}

/// The writing side of an output.
#[derive(Debug)]
pub(crate) struct Sink {
    /// A description of its own, so that nobody else's flags matter.
    pub(crate) file: OwnedFd,
    /// The FIFO, open both ways; `None` for a file and for a logger's pipe.
    pub(crate) hold: Option<OwnedFd>,
    /// Whether the process's user may have it: a file is a log of the host's.
    pipe: bool,
}

/// Whether a writer may be made to wait by its descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    /// As a program expects its stdout.
    Block,
    /// For a copy in the shim's own event loop.
    Poll,
}

// === impl Outputs ===

impl Outputs {
    /// Opens what `stdio` names, and starts loggers. Waits for readers of FIFOs, but not for
    /// long. A terminal has one output.
    pub(crate) fn open(stdio: &Stdio, writes: Writes, served: Served<'_>) -> Result<Self, Error> {
        let out = stdio.stdout.as_str();
        let err = match stdio.stderr.as_str() {
            _ if stdio.terminal => "",
            "" if means_both(out) => out,
            err => err,
        };
        let mut outputs = Outputs::default();
        let stdout = Target::read("stdout", out)?;
        let stderr = Target::read("stderr", err)?;
        match (&stdout, &stderr) {
            // One logger reads both.
            (Some(Target::Logger(program)), _) if out == err => {
                let (logger, writers) = Logger::start("stdout", out, program, served)?;
                outputs.loggers.push(logger);
                outputs.stdout = Some(Sink::pipe("stdout", out, writers.stdout, writes)?);
                outputs.stderr = Some(Sink::pipe("stderr", err, writers.stderr, writes)?);
            }
            _ => {
                outputs.stdout = outputs.one("stdout", out, stdout, writes, served)?;
                outputs.stderr = outputs.one("stderr", err, stderr, writes, served)?;
            }
        }
        Ok(outputs)
    }

    fn one(
        &mut self,
        stream: &'static str,
        value: &str,
        target: Option<Target>,
        writes: Writes,
        served: Served<'_>,
    ) -> Result<Option<Sink>, Error> {
        match target {
            None => Ok(None),
            Some(Target::Logger(program)) => {
                let (logger, writers) = Logger::start(stream, value, &program, served)?;
                self.loggers.push(logger);
                // The other pipe is at its end from the beginning.
                let file = match stream {
                    "stderr" => writers.stderr,
                    _ => writers.stdout,
                };
                Sink::pipe(stream, value, file, writes).map(Some)
            }
            Some(target) => Sink::open(stream, &target, writes).map(Some),
        }
    }
}

// === impl Sink ===

impl Sink {
    /// Opens a FIFO or a file.
    pub(crate) fn open(
        stream: &'static str,
        target: &Target,
        writes: Writes,
    ) -> Result<Self, Error> {
        let path = target.path();
        let failed = |step| move |source: io::Error| stdio(step, stream, path, source);
        let wait = match writes {
            Writes::Block => OFlags::empty(),
            Writes::Poll => OFlags::NONBLOCK,
        };
        let write = OFlags::WRONLY | OFlags::CLOEXEC | wait;
        let open = |step, flags, mode| open(path, flags, mode).map_err(|e| failed(step)(e.into()));
        if matches!(target, Target::File(_)) {
            if let Some(parent) = Path::new(path).parent() {
                fs::create_dir_all(parent).map_err(failed("make the directory of"))?;
            }
            let flags = write | OFlags::APPEND | OFlags::CREATE;
            let file = open("open", flags, Mode::from_raw_mode(0o644))?;
            return Ok(Sink {
                file,
                hold: None,
                pipe: false,
            });
        }
        if !is_fifo(path).map_err(failed("open"))? {
            let flags = write | OFlags::APPEND | OFlags::NOCTTY;
            return Ok(Sink {
                file: open("open", flags, Mode::empty())?,
                hold: None,
                pipe: false,
            });
        }
        // Kept until the hold is there: the reader must not see an end between the two.
        let _writer = await_reader(path);
        // Both ways: Linux opens such a FIFO at once, whoever is on the other side.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let hold = open("open", flags, Mode::empty())?;
        Ok(Sink {
            file: open("open", write, Mode::empty())?,
            hold: Some(hold),
            pipe: true,
        })
    }

    fn pipe(stream: &'static str, uri: &str, file: OwnedFd, writes: Writes) -> Result<Self, Error> {
        if writes == Writes::Poll {
            rustix::fs::fcntl_setfl(&file, OFlags::NONBLOCK)
                .map_err(|errno| stdio("set O_NONBLOCK on", stream, uri, errno.into()))?;
        }
        Ok(Sink {
            file,
            hold: None,
            pipe: true,
        })
    }

    /// Lets the process's user reopen a pipe. A file keeps its owner.
    pub(crate) fn give(&self, stream: &'static str, name: &str, owner: Owner) -> Result<(), Error> {
        if !self.pipe {
            return Ok(());
        }
        give(self.file.as_fd(), owner).map_err(|errno| stdio("fchown", stream, name, errno.into()))
    }
}

fn stdio(step: &'static str, stream: &'static str, path: &str, source: io::Error) -> Error {
    Error::Stdio {
        step,
        stream,
        path: path.to_owned(),
        source,
    }
}
