//! Where a process's output goes: opened before the process exists.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::fs::{Mode, OFlags, open};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::Error;
use crate::helper::Served;
use crate::logger::Logger;
use crate::stdio::{Owner, READER_LIMIT, await_reader, give, is_fifo};
use crate::target::{Target, means_both};
use crate::words::Stdio;

/// Names of `apparmorProfile` under which every file may be opened: none, and that of containerd's CRI, which says
/// `file,` (its `contrib/apparmor/template.go`).
const OPEN: [&str; 2] = ["unconfined", "cri-containerd.apparmor.d"];

/// The outputs of a process, and who reads them.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    pub(crate) stdout: Option<Sink>,
    pub(crate) stderr: Option<Sink>,
    pub(crate) loggers: Vec<Logger>,
    /// Where a complaint goes that is written before anything is copied, if stderr is.
    pub(crate) complaints: Option<OwnedFd>,
}

/// The writing side of an output.
#[derive(Debug)]
pub(crate) struct Sink {
    /// A description of its own, so that nobody else's flags matter.
    pub(crate) file: OwnedFd,
    /// The FIFO, open both ways; `None` for a file and for a logger's pipe.
    pub(crate) hold: Option<OwnedFd>,
    /// What passes it on.
    pub(crate) relay: Option<Relay>,
}

/// A pipe that a process writes, and where the shim copies it to: what the process may not have itself, or could not
/// open again by its name.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Not blocking.
    pub(crate) from: OwnedFd,
    /// Not blocking either.
    pub(crate) to: OwnedFd,
}

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    /// The process, to a FIFO itself. A file is a log of the host's: it would be read, rewritten and truncated through
    /// `/dev/stdout`, and not opened by who is not root.
    Process,
    /// A process that a security module looks after: it has a pipe, which those tell from files. A FIFO's place is not
    /// one that its profile knows.
    Confined,
    /// A copy in the shim's own event loop.
    Copy,
}

// === impl Writes ===

impl Writes {
    /// For a process that has the labels of one of these.
    pub(crate) fn of(processes: &[&duet_spec::Process]) -> Self {
        let is_confined = |process: &&duet_spec::Process| {
            let profile = process.apparmor_profile.as_deref();
            process.selinux_label.is_some() || profile.is_some_and(|name| !OPEN.contains(&name))
        };
        match processes.iter().any(is_confined) {
            true => Writes::Confined,
            false => Writes::Process,
        }
    }
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
        // For both: who never reads costs us this once.
        let deadline = Instant::now() + READER_LIMIT;
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
                outputs.stdout = outputs.one("stdout", out, stdout, writes, deadline, served)?;
                let failed = |source| self::stdio("duplicate", "stderr", err, source);
                let shared = outputs.stdout.as_ref().filter(|_| out == err);
                outputs.stderr = match shared.and_then(Sink::again) {
                    // In the order in which they were written.
                    Some(again) => Some(again.map_err(failed)?),
                    None => outputs.one("stderr", err, stderr, writes, deadline, served)?,
                };
                let own = outputs.stderr.as_ref().and_then(|sink| sink.relay.as_ref());
                let relay = own.or(outputs.stdout.as_ref().and_then(|sink| sink.relay.as_ref()));
                if let Some(relay) = relay.filter(|_| own.is_some() || out == err) {
                    outputs.complaints = Some(relay.to.try_clone().map_err(failed)?);
                }
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
        deadline: Instant,
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
            Some(target) => Sink::open(stream, &target, writes, deadline).map(Some),
        }
    }
}

// === impl Sink ===

impl Sink {
    /// Opens a FIFO or a file. For the reader of a FIFO it waits until `deadline`.
    pub(crate) fn open(
        stream: &'static str,
        target: &Target,
        writes: Writes,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let path = target.path();
        let failed = |step| move |source: io::Error| stdio(step, stream, path, source);
        let wait = match writes {
            Writes::Process => OFlags::empty(),
            Writes::Confined | Writes::Copy => OFlags::NONBLOCK,
        };
        let write = OFlags::WRONLY | OFlags::CLOEXEC | wait;
        let open = |step, flags, mode| open(path, flags, mode).map_err(|e| failed(step)(e.into()));
        if matches!(target, Target::File(_)) {
            if let Some(parent) = Path::new(path).parent() {
                fs::create_dir_all(parent).map_err(failed("make the directory of"))?;
            }
            // What is said to be a file may be a FIFO or a terminal, for which nobody but its program may wait.
            let flags = write | OFlags::APPEND | OFlags::CREATE | OFlags::NOCTTY | OFlags::NONBLOCK;
            let file = open("open", flags, Mode::from_raw_mode(0o644))?;
            return Sink::to(file, None, writes != Writes::Copy).map_err(failed("make a pipe for"));
        }
        if !is_fifo(path).map_err(failed("open"))? {
            let flags = write | OFlags::APPEND | OFlags::NOCTTY | OFlags::NONBLOCK;
            let file = open("open", flags, Mode::empty())?;
            return Sink::to(file, None, writes != Writes::Copy).map_err(failed("make a pipe for"));
        }
        // Kept until the hold is there: the reader must not see an end between the two.
        let _writer = await_reader(path, deadline);
        // Both ways: Linux opens such a FIFO at once, whoever is on the other side.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let hold = open("open", flags, Mode::empty())?;
        let file = open("open", write, Mode::empty())?;
        Sink::to(file, Some(hold), writes == Writes::Confined).map_err(failed("make a pipe for"))
    }

    /// Writes to `to`, by a relay if that `is_relayed`.
    fn to(to: OwnedFd, hold: Option<OwnedFd>, is_relayed: bool) -> io::Result<Self> {
        if !is_relayed {
            return Ok(Sink {
                file: to,
                hold,
                relay: None,
            });
        }
        let (from, file) = pipe_with(PipeFlags::CLOEXEC)?;
        // The flag belongs to the description: the process's end stays blocking.
        rustix::fs::fcntl_setfl(&from, OFlags::NONBLOCK)?;
        Ok(Sink {
            file,
            hold,
            relay: Some(Relay { from, to }),
        })
    }

    /// The same once more, if it is relayed: what has one place has one order.
    fn again(&self) -> Option<io::Result<Self>> {
        self.relay.as_ref()?;
        let again = self.file.try_clone().map(|file| Sink {
            file,
            hold: None,
            relay: None,
        });
        Some(again)
    }

    fn pipe(stream: &'static str, uri: &str, file: OwnedFd, writes: Writes) -> Result<Self, Error> {
        if writes == Writes::Copy {
            rustix::fs::fcntl_setfl(&file, OFlags::NONBLOCK)
                .map_err(|errno| stdio("set O_NONBLOCK on", stream, uri, errno.into()))?;
        }
        Ok(Sink {
            file,
            hold: None,
            relay: None,
        })
    }

    /// Lets the process's user reopen it.
    pub(crate) fn give(&self, stream: &'static str, name: &str, owner: Owner) -> Result<(), Error> {
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
