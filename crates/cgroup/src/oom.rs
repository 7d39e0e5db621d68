//! Hears of OOM kills: an eventfd on v1, inotify on v2.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use rustix::io::Errno as RawErrno;

use crate::stats::Flat;
use crate::{Cgroup, Error, Mode};

/// A descriptor that becomes readable when the cgroup runs out of memory, and the count of kills.
///
/// Register it with the reactor, and on readiness [`drain`](Self::drain) it and compare
/// [`kills`](Self::kills) with what it was: the v1 event comes *before* the kill, for the OOM of a
/// cgroup above this one too, and when the cgroup is removed. For the same reason ask once more when
/// a process has ended, before its exit is told to anyone.
#[derive(Debug)]
pub struct OomWatch {
    events: OwnedFd,
    /// `memory.oom_control` or `memory.events`, open since the start.
    counter: File,
    /// What was last read: the answer once the cgroup is gone.
    last: AtomicU64,
}

// === impl Cgroup ===

impl Cgroup {
    /// Starts to watch for OOM.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if no memory controller is mounted, [`Error::Gone`] if the cgroup was
    /// removed, [`Error::Watch`] or [`Error::Refused`] if the kernel refuses.
    ///
    /// # References
    ///
    /// [v1, section 10 "OOM Control"](https://docs.kernel.org/admin-guide/cgroup-v1/memory.html),
    /// [v2, `memory.events`](https://docs.kernel.org/admin-guide/cgroup-v2.html).
    pub fn oom(&self) -> Result<OomWatch, Error> {
        let Some(dir) = self.controller("memory") else {
            return Err(Error::unsupported(
                "OOM events",
                self.path().display(),
                "no memory controller is mounted",
            ));
        };
        let name = match self.mode() {
            Mode::V1 | Mode::Hybrid => "memory.oom_control",
            Mode::V2 => "memory.events",
        };
        let path = dir.join(name);
        let counter = File::open(&path).map_err(|error| Error::on("open", &path, &error))?;
        let events = match self.mode() {
            Mode::V1 | Mode::Hybrid => {
                let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
                let events = eventfd(0, flags).map_err(watch)?;
                let request = format!("{} {}", events.as_raw_fd(), counter.as_raw_fd());
                let control = dir.join("cgroup.event_control");
                OpenOptions::new()
                    .write(true)
                    .open(&control)
                    .and_then(|mut control| control.write_all(request.as_bytes()))
                    .map_err(|error| Error::on("register with", &control, &error))?;
                events
            }
            Mode::V2 => {
                let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
                let events = inotify::init(flags).map_err(watch)?;
                inotify::add_watch(&events, &path, inotify::WatchFlags::MODIFY).map_err(watch)?;
                events
            }
        };
        let watch = OomWatch {
            events,
            counter,
            last: AtomicU64::new(0),
        };
        watch.kills();
        Ok(watch)
    }
}

fn watch(error: RawErrno) -> Error {
    Error::Watch {
        source: Errno::from_raw(error.raw_os_error()),
    }
}

// === impl OomWatch ===

impl OomWatch {
    /// How many processes of the cgroup were killed for want of memory since it was made.
    ///
    /// On v1 those of cgroups below it, which only a container that makes some can have, are not
    /// counted by the kernel. Once the cgroup is gone the answer is the last one.
    pub fn kills(&self) -> u64 {
        let mut buffer = [0; 512];
        let read = self.counter.read_at(&mut buffer, 0).unwrap_or(0);
        let text = std::str::from_utf8(&buffer[..read]).unwrap_or_default();
        let kills = Flat::parse(text).get("oom_kill");
        // Two threads may read at the same time: the later one must not take a kill back.
        self.last.fetch_max(kills, Ordering::AcqRel).max(kills)
    }

    /// Takes the events that made the descriptor readable, so that it waits for the next.
    pub fn drain(&self) {
        let mut buffer = [0; 1024];
        while let Ok(read) = rustix::io::read(&self.events, &mut buffer) {
            // An eventfd empties in one read of eight bytes.
            if read < buffer.len() {
                break;
            }
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl std::os::fd::AsRawFd for OomWatch {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.events.as_raw_fd()
    }
}
