//! Stops and resumes every process of a cgroup.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use cgroups_rs::FreezerState;
use cgroups_rs::fs::freezer::FreezerController;
use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::control;
use crate::{Cgroup, Error, Mode};

/// How long every process may take to stop: 2 s.
///
/// Usually it is well under a millisecond; a process in uninterruptible sleep (a dead NFS mount) may
/// take for ever, and then the caller must hear of it.
pub(crate) const FREEZE_LIMIT: Duration = Duration::from_secs(2);

/// The first pause between two looks at a v1 freezer, which tells nobody when it is done; they
/// double up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_micros(50);

/// The longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

// === impl Cgroup ===

impl Cgroup {
    /// Stops every process of the cgroup and of those below it.
    ///
    /// Returns once the kernel confirms. An empty cgroup freezes too, and so will what enters it.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] after two seconds (the freeze is withdrawn), [`Error::Gone`] if the cgroup
    /// was removed, [`Error::Unsupported`] if v1's freezer is not mounted.
    pub fn freeze(&self) -> Result<(), Error> {
        self.freeze_within(FREEZE_LIMIT)
    }

    /// Resumes what [`Cgroup::freeze`] stopped; nothing happens if it was not frozen.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::freeze`].
    pub fn thaw(&self) -> Result<(), Error> {
        let dir = self.freezer_dir()?;
        let freezer = self.freezer(dir);
        let result = match self.mode() {
            Mode::V1 | Mode::Hybrid => {
                control::set(dir, "freezer.state", "THAWED", || freezer.thaw())
            }
            Mode::V2 => control::set(dir, "cgroup.freeze", "0", || freezer.thaw())
                .and_then(|()| await_event(dir, "frozen 0", "thawed", FREEZE_LIMIT)),
        };
        unless_gone(result, dir)
    }

    pub(crate) fn freeze_within(&self, limit: Duration) -> Result<(), Error> {
        let dir = self.freezer_dir()?;
        let freezer = self.freezer(dir);
        let result = match self.mode() {
            Mode::V1 | Mode::Hybrid => freeze_v1(&freezer, dir, limit),
            Mode::V2 => control::set(dir, "cgroup.freeze", "1", || freezer.freeze())
                .and_then(|()| await_event(dir, "frozen 1", "frozen", limit)),
        };
        if matches!(result, Err(Error::Timeout { .. })) {
            self.thaw()?;
        }
        unless_gone(result, dir)
    }

    fn freezer_dir(&self) -> Result<&Path, Error> {
        let dir = self.controller("freezer").ok_or_else(|| {
            let path = self.path().display();
            Error::unsupported("pause", path, "the cgroup v1 freezer is not mounted")
        })?;
        // cgroups-rs opens with O_CREAT, which hides that the directory is gone.
        if dir.is_dir() {
            Ok(dir)
        } else {
            Err(Error::Gone {
                path: dir.to_owned(),
            })
        }
    }

    fn freezer(&self, dir: &Path) -> FreezerController {
        FreezerController::new(dir.to_owned(), dir.to_owned(), self.mode() == Mode::V2)
    }
}

/// The result, but a refusal because the cgroup was removed meanwhile says just that: the container
/// may be deleted while it is killed.
fn unless_gone(result: Result<(), Error>, dir: &Path) -> Result<(), Error> {
    match result {
        Err(Error::Refused {
            source: Errno::ENOENT | Errno::ENODEV,
            ..
        }) if !dir.is_dir() => Err(Error::Gone {
            path: dir.to_owned(),
        }),
        other => other,
    }
}

/// Freezes a v1 cgroup, asking again as long as the kernel says `FREEZING`: a task that is born while
/// it goes over the list is only found the next time.
fn freeze_v1(freezer: &FreezerController, dir: &Path, limit: Duration) -> Result<(), Error> {
    let deadline = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        control::set(dir, "freezer.state", "FROZEN", || freezer.freeze())?;
        match freezer.state() {
            Ok(FreezerState::Frozen) => return Ok(()),
            Ok(FreezerState::Freezing | FreezerState::Thawed) => {}
            Err(_) => {
                return Err(Error::Gone {
                    path: dir.to_owned(),
                });
            }
        }
        if Instant::now() >= deadline {
            return Err(Error::Timeout {
                path: dir.to_owned(),
                state: "frozen",
                after: limit,
            });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Waits until `cgroup.events` of a v2 cgroup has the line `wanted`.
///
/// The kernel wakes a poller for `POLLPRI` whenever the file changes.
pub(crate) fn await_event(
    dir: &Path,
    wanted: &str,
    state: &'static str,
    limit: Duration,
) -> Result<(), Error> {
    let path = dir.join("cgroup.events");
    let events = File::open(&path).map_err(|error| Error::on("open", &path, &error))?;
    let deadline = Instant::now() + limit;
    loop {
        // Reading arms the next wake-up, so nothing is missed between here and the poll.
        let mut text = [0; 128];
        let read = events
            .read_at(&mut text, 0)
            .map_err(|e| Error::on("read", &path, &e))?;
        let text = std::str::from_utf8(&text[..read]).unwrap_or_default();
        if text.lines().any(|line| line == wanted) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Timeout {
                path: dir.to_owned(),
                state,
                after: limit,
            });
        }
        let timeout = Timespec::try_from(left).ok();
        let mut fds = [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::PRI)];
        // An interrupted wait is looked at like a wake-up; anything else shows in the next read.
        poll(&mut fds, timeout.as_ref()).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_by_what_was_removed_meanwhile_is_no_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |source| {
            Err(Error::Refused {
                file: "freezer.state".to_owned(),
                value: "FROZEN".to_owned(),
                source,
            })
        };
        let gone = dir.path().join("gone");
        assert!(
            unless_gone(refused(Errno::ENOENT), &gone)
                .unwrap_err()
                .is_gone()
        );
        assert!(
            unless_gone(refused(Errno::ENODEV), &gone)
                .unwrap_err()
                .is_gone()
        );
        // A file that this kernel does not have.
        assert!(
            !unless_gone(refused(Errno::ENOENT), dir.path())
                .unwrap_err()
                .is_gone()
        );
        assert!(
            !unless_gone(refused(Errno::EINVAL), &gone)
                .unwrap_err()
                .is_gone()
        );
    }
}
