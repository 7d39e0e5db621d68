//! Whose child is whose: processes with an owner are waited for by pidfd, strangers are reaped.
//!
//! The shim is a subreaper, so what a container leaves behind outside of a pid namespace of its
//! own becomes the shim's child. Nobody waits for it but the reaper here, which asks for each
//! child by number and never for "any": an owner's exit code cannot get lost. A process that is
//! being born has no owner yet; while there is one, nothing is reaped.

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// The shim's children.
#[derive(Debug, Default)]
pub struct Children(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    births: usize,
    /// How many owners each number has. A process that was reaped may still have its own when the
    /// kernel gives the number to the next.
    owned: HashMap<i32, usize>,
}

/// While it lives, a process may be there that has no owner yet.
#[derive(Debug)]
pub(crate) struct Labour(Arc<Children>);

/// While it lives, a birth stands still, and its process is not taken for a stranger.
#[derive(Debug)]
pub(crate) struct Stopped {
    children: Arc<Children>,
    pid: i32,
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
    /// Something is being born: try again.
    Busy,
}

// === impl Children ===

impl Children {
    pub(crate) fn labour(self: &Arc<Self>) -> Labour {
        self.known().births += 1;
        Labour(Arc::clone(self))
    }

    pub(crate) fn own(self: &Arc<Self>, pid: i32, pidfd: OwnedFd) -> Child {
        *self.known().owned.entry(pid).or_default() += 1;
        Child {
            children: Arc::clone(self),
            pid,
            pidfd,
        }
    }

    /// Lets strangers be reaped while a birth stops for a long time, in which `pid` is its only
    /// process. For who holds a [`Labour`].
    pub(crate) fn stop(self: &Arc<Self>, pid: i32) -> Stopped {
        let mut known = self.known();
        known.births -= 1;
        *known.owned.entry(pid).or_default() += 1;
        Stopped {
            children: Arc::clone(self),
            pid,
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
        if known.births > 0 {
            return Round::Busy;
        }
        if !any_ended() {
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
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
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

impl Drop for Stopped {
    fn drop(&mut self) {
        // In this order: in between it is neither reaped nor forgotten.
        self.children.known().births += 1;
        self.children.disown(self.pid);
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
fn any_ended() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // `ECHILD`: there is none.
    waitid(WaitId::All, options).is_ok_and(|ended| ended.is_some())
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
    fn a_birth_that_stops_keeps_its_process_and_no_stranger() {
        let children = Arc::new(Children::default());
        let labour = children.labour();
        assert_eq!(children.reap(), Round::Busy);
        let stopped = children.stop(-1);
        assert!(children.known().owned.contains_key(&-1));
        assert_eq!(children.known().births, 0);
        drop(stopped);
        assert!(children.known().owned.is_empty());
        assert_eq!(children.reap(), Round::Busy);
        drop(labour);
        assert_eq!(children.known().births, 0);
    }
}
