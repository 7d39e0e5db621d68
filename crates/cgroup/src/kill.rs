//! Lists and kills every process of a cgroup.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::control::{read, read_optional, write};
use crate::freeze::await_event;
use crate::{Cgroup, Error, Mode};

/// How long killed processes may take to leave: 4 s.
///
/// Exiting takes a millisecond or so, more on a processor that others keep busy; what takes longer
/// is stuck in the kernel, and no waiting here helps. containerd gives `delete` 5 s.
const KILL_LIMIT: Duration = Duration::from_secs(4);

/// How long a round on v1 waits for the freeze before it kills what it has found anyway: 100 ms.
const ROUND_FREEZE_LIMIT: Duration = Duration::from_millis(100);

/// The first pause before v1 is looked at again, which tells nobody that a cgroup is empty: the dead
/// leave it a moment after they are dead. They double up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_micros(200);

/// The longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

// === impl Cgroup ===

impl Cgroup {
    /// The pids of every process in the cgroup and in those below it, as seen from the caller's pid
    /// namespace. Zombies are not among them.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] if the cgroup was removed.
    pub fn pids(&self) -> Result<Vec<u32>, Error> {
        let mut pids = Vec::new();
        collect(self.dir(), &mut pids)?;
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Kills every process of the cgroup and of those below it, and waits until they have left.
    ///
    /// On v2 the kernel does it at once (`cgroup.kill`). On v1 the cgroup is frozen first, so that
    /// nothing is born behind the list's back, and processes are killed by pidfd, so that no number
    /// that was given to someone else meanwhile is hit. Nothing is moved, nothing is removed; an empty
    /// or missing cgroup is success. Someone still has to reap the processes. A share of the
    /// processor that is less than the usual one is raised to it: dying is work, too.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] if some have not left after four seconds: they sleep in the kernel, and go
    /// when they wake.
    ///
    /// # References
    ///
    /// [v2, `cgroup.kill`](https://docs.kernel.org/admin-guide/cgroup-v2.html), Linux 5.14.
    pub fn kill(&self) -> Result<(), Error> {
        self.kill_within(KILL_LIMIT)
    }

    /// As [`Cgroup::kill`], but waits no longer than that: with no time at all they are killed, and it is looked once
    /// whether they have left.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] if some have not left by then.
    pub fn kill_within(&self, limit: Duration) -> Result<(), Error> {
        self.hasten();
        let result = match self.mode() {
            Mode::V1 | Mode::Hybrid => self.kill_v1(limit),
            Mode::V2 => kill_v2(self.dir())
                .and_then(|()| await_event(self.dir(), "populated 0", "empty", limit)),
        };
        unless_gone(result)
    }

    /// Sends `SIGKILL` to every process of the cgroup and of those below it, and waits for nobody: for who has
    /// several to end, of which one may not let go of its processes.
    ///
    /// On v1 who is born meanwhile is missed, so that [`Cgroup::kill`] is to follow.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] or [`Error::Call`] if the kernel refuses.
    pub fn condemn(&self) -> Result<(), Error> {
        self.hasten();
        let result = match self.mode() {
            Mode::V1 | Mode::Hybrid => self.kill_listed().and_then(|_| self.thaw_if_possible()),
            Mode::V2 => kill_v2(self.dir()),
        };
        unless_gone(result)
    }

    /// Gives what is to die the time for it.
    ///
    /// A pod that asked for no processor has 2 shares of 1024 (weight 1 of 100 on v2): on a busy
    /// machine its killed processes would wait for seconds until they may run once more, and end.
    /// Where it cannot be done, they take their time.
    fn hasten(&self) {
        let (file, usual) = match self.mode() {
            Mode::V1 | Mode::Hybrid => ("cpu.shares", 1024_u64),
            Mode::V2 => ("cpu.weight", 100),
        };
        let Some(dir) = self.controller("cpu") else {
            return;
        };
        let share = read_optional(dir, file).ok().flatten();
        let share: Option<u64> = share.and_then(|share| share.trim().parse().ok());
        if share.is_some_and(|share| share < usual) {
            // An idle one takes no share.
            write(dir, "cpu.idle", "0").ok();
            write(dir, file, &usual.to_string()).ok();
        }
    }

    fn kill_v1(&self, limit: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + limit;
        let mut pause = FIRST_PAUSE;
        let mut is_first = true;
        loop {
            let pids = self.pids()?;
            if pids.is_empty() {
                // A container may be deleted while it is paused: it must not stay frozen for the next.
                return self.thaw_if_possible();
            }
            // Once all are killed, however little time there is.
            if !is_first && Instant::now() >= deadline {
                let path = self.dir().to_owned();
                return Err(Error::Timeout {
                    path,
                    state: "empty",
                    after: limit,
                });
            }
            is_first = false;
            match self.freeze_within(ROUND_FREEZE_LIMIT) {
                // Where it does not freeze, killing in rounds is still the best there is.
                Ok(()) | Err(Error::Timeout { .. } | Error::Unsupported { .. }) => {}
                Err(error) => return Err(error),
            }
            let killed = self.kill_listed();
            // The signal acts when they thaw, whatever became of the list.
            self.thaw_if_possible()?;
            // Not before they are dead is it frozen again: who waits for the processor would meet
            // the next freeze before the signal, round after round.
            await_deaths(&killed?, deadline);
            std::thread::sleep(pause.min(deadline.saturating_duration_since(Instant::now())));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Kills what is listed; returns whom.
    fn kill_listed(&self) -> Result<Vec<OwnedFd>, Error> {
        let found: Vec<(u32, _)> = self
            .pids()?
            .into_iter()
            .filter_map(|pid| {
                let raw = Pid::from_raw(i32::try_from(pid).ok()?)?;
                Some((pid, pidfd_open(raw, PidfdFlags::empty()).ok()?))
            })
            .collect();
        // A pid that is listed after its pidfd was opened is the process the pidfd names.
        let listed = self.pids()?;
        let killed = found.into_iter().filter_map(|(pid, pidfd)| {
            listed.binary_search(&pid).ok()?;
            // ESRCH: it has ended by itself.
            pidfd_send_signal(&pidfd, Signal::KILL).ok()?;
            Some(pidfd)
        });
        Ok(killed.collect())
    }

    fn thaw_if_possible(&self) -> Result<(), Error> {
        match self.thaw() {
            Err(Error::Unsupported { .. }) => Ok(()),
            other => other,
        }
    }
}

/// Waits until all of them are dead, or it is `deadline`.
fn await_deaths(killed: &[OwnedFd], deadline: Instant) {
    for pidfd in killed {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else {
            return;
        };
        // A signal to the shim cuts it short: the caller looks again anyway.
        poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)).ok();
    }
}

fn kill_v2(dir: &Path) -> Result<(), Error> {
    match write(dir, "cgroup.kill", "1") {
        Err(Error::Refused {
            source: Errno::ENOENT | Errno::ENODEV,
            ..
        }) if !dir.is_dir() => Err(Error::Gone {
            path: dir.to_owned(),
        }),
        // A frozen process dies of it without being thawed.
        killed => killed,
    }
}

/// The result; that there is no cgroup any more is what was wanted.
fn unless_gone(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::Gone { .. }) => Ok(()),
        other => other,
    }
}

/// Adds the processes of `dir` and of the cgroups below it.
fn collect(dir: &Path, pids: &mut Vec<u32>) -> Result<(), Error> {
    let text = match read(dir, "cgroup.procs") {
        // A threaded cgroup of v2 has no processes of its own: its domain lists them.
        Err(Error::Call {
            source: Errno::EOPNOTSUPP,
            ..
        }) => String::new(),
        other => other?,
    };
    // A process of a pid namespace that the caller cannot see is shown as 0.
    pids.extend(
        text.lines()
            .filter_map(|pid| pid.parse().ok())
            .filter(|pid: &u32| *pid != 0),
    );
    for child in children(dir)? {
        match collect(&child, pids) {
            // It went while we looked.
            Err(Error::Gone { .. }) | Ok(()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The cgroups right below `dir`.
pub(crate) fn children(dir: &Path) -> Result<Vec<std::path::PathBuf>, Error> {
    let entries = fs::read_dir(dir).map_err(|error| Error::on("read", dir, &error))?;
    Ok(entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect())
}
