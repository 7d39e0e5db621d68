//! Whose child is whose: processes with an owner are waited for by pidfd, strangers are reaped.
//!
//! The shim is a subreaper, so what a container leaves behind outside of a pid namespace of its
//! own becomes the shim's child. Nobody waits for it but the reaper here, which asks for each
//! child by number and never for "any": an owner's exit code cannot get lost.
//!
//! A birth has no owner before its parent has heard of it, and may hang until then. The reaper need not wait for
//! that: who has executed no program yet ends without `SIGCHLD`, and the kernel keeps it from who does not ask for
//! such children (decision 60).

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use duet_linux::clone::WAIT_FOR_ALL;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// The shim's children.
#[derive(Debug, Default)]
pub struct Children(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    births: usize,
    programs: usize,
    /// How many owners each number has. A process that was reaped may still have its own when the
    /// kernel gives the number to the next.
    owned: HashMap<i32, usize>,
}

/// While it lives, a birth may be there that has no owner yet, and executes nothing before it has.
#[derive(Debug)]
pub(crate) struct Labour(Arc<Children>);

/// While it lives, a process may be there that executes a program before it has an owner.
#[derive(Debug)]
pub(crate) struct Launch {
    children: Arc<Children>,
    /// Its number, once that is known: it is not taken for a stranger any more.
    pid: Option<i32>,
}

/// A process with an owner. While it lives, the process is not taken for a stranger.
#[derive(Debug)]
pub(crate) struct Child {
    children: Arc<Children>,
    pid: i32,
    pidfd: OwnedFd,
}

/// What a round of the reaper came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Every stranger that had ended is reaped.
    Done,
    /// A program may run that nobody owns yet: try again.
    Busy,
}

// === impl Children ===

impl Children {
    pub(crate) fn labour(self: &Arc<Self>) -> Labour {
        self.known().births += 1;
        Labour(Arc::clone(self))
    }

    pub(crate) fn launch(self: &Arc<Self>) -> Launch {
        self.known().programs += 1;
        Launch {
            children: Arc::clone(self),
            pid: None,
        }
    }

    pub(crate) fn own(self: &Arc<Self>, pid: i32, pidfd: OwnedFd) -> Child {
        *self.known().owned.entry(pid).or_default() += 1;
        Child {
            children: Arc::clone(self),
            pid,
            pidfd,
        }
    }

    /// Takes one owner of a number away.
    fn disown(&self, pid: i32) {
        let mut known = self.known();
        if let Some(owners) = known.owned.get_mut(&pid) {
            *owners -= 1;
            if *owners == 0 {
                known.owned.remove(&pid);
            }
        }
    }

    /// Reaps children that have ended and belong to nobody.
    pub fn reap(&self) -> Round {
        let known = self.known();
        if known.programs > 0 {
            return Round::Busy;
        }
        let mut options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        if known.births == 0 {
            // A birth that was killed and given up before it had ended is a stranger like others.
            options |= WAIT_FOR_ALL;
        }
        if !any_ended(options) {
            return Round::Done;
        }
        // The lock is kept: no birth begins until we are through.
        for pid in children() {
            if known.owned.contains_key(&pid) {
                continue;
            }
            let Some(pid) = Pid::from_raw(pid) else {
                continue;
            };
            if let Ok(Some(_)) = waitid(WaitId::Pid(pid), options) {
                tracing::debug!(pid = pid.as_raw_pid(), "stranger reaped");
            }
        }
        Round::Done
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A count and a set: true after every single step, so also after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Labour {
    fn drop(&mut self) {
        self.0.known().births -= 1;
    }
}

impl Launch {
    /// Its process has this number.
    pub(crate) fn known(&mut self, pid: i32) {
        if self.pid.replace(pid).is_none() {
            let mut known = self.children.known();
            known.programs -= 1;
            *known.owned.entry(pid).or_default() += 1;
        }
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        match self.pid {
            Some(pid) => self.children.disown(pid),
            None => self.children.known().programs -= 1,
        }
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl AsRawFd for Child {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.children.disown(self.pid);
    }
}

/// Whether a child has ended and was not reaped. Nearly every one has an owner, who was faster.
fn any_ended(options: WaitIdOptions) -> bool {
    // `ECHILD`: there is none.
    waitid(WaitId::All, options | WaitIdOptions::NOWAIT).is_ok_and(|ended| ended.is_some())
}

/// The pids of this process's children, ended ones included.
fn children() -> Vec<i32> {
    listed().unwrap_or_else(searched)
}

/// As the kernel lists them for each thread, where it does (`CONFIG_PROC_CHILDREN`).
fn listed() -> Option<Vec<i32>> {
    let mut pids = Vec::new();
    for thread in fs::read_dir("/proc/self/task").ok()?.filter_map(Result::ok) {
        let text = match fs::read_to_string(thread.path().join("children")) {
            Ok(text) => text,
            // The thread may have ended; the file is there for our own or for none.
            Err(_) if fs::exists("/proc/thread-self/children").unwrap_or(false) => continue,
            Err(_) => return None,
        };
        pids.extend(
            text.split_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    Some(pids)
}

/// By looking at every process.
fn searched() -> Vec<i32> {
    let own = std::process::id().to_string();
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = processes
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // `pid (name) state parent …`: the name may hold anything, a bracket too.
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1));
        parent == Some(own.as_str())
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    #[expect(
        clippy::zombie_processes,
        reason = "who reaps it, and when, is what the test is about"
    )]
    fn a_number_that_is_given_again_keeps_its_second_owner() {
        let children = Arc::new(Children::default());
        let mut command = Command::new("true");
        let process = command.stdin(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(process.id()).unwrap();
        let pidfd = || duet_linux::process::pidfd_open(pid).unwrap();
        let (first, second) = (children.own(pid, pidfd()), children.own(pid, pidfd()));
        drop(first);
        assert!(children.known().owned.contains_key(&pid));
        assert!(duet_linux::process::wait(&second).is_ok());
        drop(second);
        assert!(children.known().owned.is_empty());
    }

    #[test]
    fn a_birth_is_not_found_by_who_asks_for_strangers() {
        let plan = duet_plan::placeholder().unwrap();
        let born = duet_launch::spawn(&plan, duet_launch::Supplies::default()).unwrap();
        let (pid, pidfd) = (Pid::from_raw(born.pid).unwrap(), &born.pidfd);
        drop(born.gate);
        let soon = Instant::now() + Duration::from_secs(60);
        assert!(duet_linux::channel::readable(pidfd, soon).unwrap());
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let found = waitid(WaitId::Pid(pid), options);
        assert_eq!(found.unwrap_err(), rustix::io::Errno::CHILD);
        assert!(duet_linux::process::wait(pidfd).is_ok());
    }

    #[test]
    fn a_program_without_an_owner_is_waited_for_until_its_number_is_known() {
        let children = Arc::new(Children::default());
        let mut launch = children.launch();
        assert_eq!(children.reap(), Round::Busy);
        launch.known(-1);
        assert!(children.known().owned.contains_key(&-1));
        assert_eq!(children.known().programs, 0);
        drop(launch);
        assert!(children.known().owned.is_empty());
        drop(children.launch());
        assert_eq!(children.known().programs, 0);
    }
}
