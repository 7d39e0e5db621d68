//! The daemon as a process: started, watched and ended by descriptor.

use crate::error::Error;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How long containerd may take to end after TERM: 10 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// How much of the log is shown when containerd does not come up.
const LAST_WORDS: usize = 3;

/// A containerd that this process has started.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    log: PathBuf,
}

// === impl Daemon ===

impl Daemon {
    /// Starts `containerd` with `config`; its id is kept in `state` for those who come later.
    pub(super) fn start(
        containerd: &Path,
        config: &Path,
        log: &Path,
        path: &OsStr,
        state: &Path,
    ) -> Result<Self, Error> {
        let output = File::create(log).map_err(Error::at("could not create", log))?;
        let errors = output.try_clone();
        let errors = errors.map_err(Error::at("could not use the log", log))?;
        // A group of its own: Ctrl-C is for Duet to handle.
        let child = Command::new(containerd)
            .arg("--config")
            .arg(config)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(Error::at("could not start", containerd))?;
        let file = pid_file(state);
        fs::write(&file, child.id().to_string()).map_err(Error::at("could not write", &file))?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    /// Whether it has ended, and how.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.child.try_wait().map_err(|source| Error::System {
            action: "could not ask for containerd's state",
            source,
        })
    }

    /// The last lines of its log, and where the rest is.
    pub(super) fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(LAST_WORDS).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        format!("{} says: {}", self.log.display(), lines.join(" / "))
    }

    /// Ends it and reaps it.
    pub(super) fn end(mut self) -> Result<(), Error> {
        if self.ended()?.is_none() {
            let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
            if let Some(pidfd) = pid.map(open).transpose()?.flatten() {
                end(&pidfd)?;
            }
        }
        self.child.wait().map(drop).map_err(|source| Error::System {
            action: "could not wait for containerd",
            source,
        })
    }
}

/// Ends a containerd that another `duet` started in `state` and could not end.
pub(super) fn end_stale(state: &Path) -> Result<(), Error> {
    match running(state)? {
        Some(pidfd) => end(&pidfd),
        None => Ok(()),
    }
}

/// The containerd that some `duet` started in `state`, if it runs.
pub(super) fn running(state: &Path) -> Result<Option<OwnedFd>, Error> {
    let text = fs::read_to_string(pid_file(state)).unwrap_or_default();
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else {
        return Ok(None);
    };
    let Some(pidfd) = open(pid)? else {
        return Ok(None);
    };
    // The number may belong to somebody else by now; asked after the descriptor is held.
    let ours = state.join("config.toml");
    let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let mut words = command.split(|byte| *byte == 0);
    let ours = words.any(|word| word == ours.as_os_str().as_encoded_bytes());
    Ok(ours.then_some(pidfd))
}

fn pid_file(state: &Path) -> PathBuf {
    state.join("containerd.pid")
}

/// A descriptor of the process, if there is one.
fn open(pid: Pid) -> Result<Option<OwnedFd>, Error> {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Some(pidfd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(errno) => Err(Error::System {
            action: "could not open the process of containerd",
            source: errno.into(),
        }),
    }
}

/// TERM, then KILL; returns when the process has ended.
fn end(pidfd: &OwnedFd) -> Result<(), Error> {
    for (signal, patience) in [(Signal::TERM, PATIENCE), (Signal::KILL, PATIENCE)] {
        match pidfd_send_signal(pidfd, signal) {
            Ok(()) => {}
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(errno) => {
                return Err(Error::System {
                    action: "could not signal containerd",
                    source: errno.into(),
                });
            }
        }
        if ended_within(pidfd, patience)? {
            return Ok(());
        }
    }
    Err(Error::Containerd {
        why: "it does not end, not even after KILL".to_owned(),
    })
}

fn ended_within(pidfd: &OwnedFd, patience: Duration) -> Result<bool, Error> {
    let deadline = std::time::Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let left = rustix::time::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                return Err(Error::System {
                    action: "could not wait for containerd",
                    source: errno.into(),
                });
            }
        }
    }
}
