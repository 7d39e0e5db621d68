//! A program of the host's that serves a container, as a process of the shim's.
//!
//! It is born like a container, so that nothing forks beside threads, and stands at its gate
//! until it is on record: a shim that dies at any moment leaves nobody who is not listed.

use std::fs;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use duet_launch::{Newborn, Supplies, spawn};
use duet_linux::channel;
use duet_plan::Plan;

use crate::children::{Child, Children};
use crate::error::Error;
use crate::exec::bury;
use crate::exit::reap;
use crate::ledger::Ledger;
use crate::signal;
use crate::words::Exit;

/// The process is on its way out: a flag in `/proc/PID/stat` (`include/linux/sched.h`), set by `do_exit` before it
/// comes to `exit_files`.
const PF_EXITING: u32 = 0x4;

/// Whom a helper serves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Served<'a> {
    /// The container, or the exec.
    pub(crate) name: &'a str,
    /// containerd's namespace.
    pub(crate) namespace: &'a str,
    /// The shim's children, of whom the helper will be one.
    pub(crate) children: &'a Arc<Children>,
    /// Where it is written down.
    pub(crate) ledger: &'a Arc<dyn Ledger>,
}

/// A helper that runs. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Helper {
    pid: i32,
    process: Arc<Child>,
    ledger: Arc<dyn Ledger>,
    ended: Option<Exit>,
}

// === impl Helper ===

impl Helper {
    /// Runs a helper. On an error nothing of it is left.
    pub(crate) fn start(
        served: Served<'_>,
        plan: &Plan,
        supplies: Supplies<'_>,
    ) -> Result<Self, Error> {
        let _labour = served.children.labour();
        let Newborn {
            pid, pidfd, gate, ..
        } = spawn(plan, supplies)?;
        let helper = Helper {
            pid,
            process: Arc::new(served.children.own(pid, pidfd)),
            ledger: Arc::clone(served.ledger),
            ended: None,
        };
        helper.ledger.enter(pid).map_err(|source| Error::Host {
            step: "write down a helper",
            source,
        })?;
        gate.open()?;
        Ok(helper)
    }

    /// The process, to be waited for.
    pub(crate) fn process(&self) -> &Arc<Child> {
        &self.process
    }

    /// Reaps it if it has ended.
    pub(crate) fn ended(&mut self) -> Option<Exit> {
        if self.ended.is_none() {
            self.ended = reap(self.process.as_fd());
        }
        self.ended
    }

    /// Whether it has begun to exit, or has ended: the kernel says so of a process before it closes its descriptors.
    pub(crate) fn is_exiting(&self) -> bool {
        // It is not reaped here, so the number is its own.
        let stat = fs::read(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The kernel cuts names, also within a letter.
        let stat = String::from_utf8_lossy(&stat);
        // `pid (name) state ppid pgrp session tty tpgid flags …`: the name may hold anything, a bracket too.
        let flags = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(6)?.parse::<u32>().ok());
        flags.is_some_and(|flags| flags & PF_EXITING != 0)
    }

    /// Waits for its end until `deadline`. Blocks.
    pub(crate) fn ended_by(&mut self, deadline: Instant) -> Option<Exit> {
        // What cannot be waited for is asked once.
        channel::readable(self.process.as_fd(), deadline).unwrap_or(true);
        self.ended()
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        // Fails for what has ended.
        drop(signal::send(&self.process, signal::TERM));
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // What it has started goes with it; it is not reaped, so the number is its own.
            drop(duet_linux::process::kill_group(self.pid));
            bury(&self.process);
        }
        self.ledger.strike(self.pid);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A container's place in a shim that keeps no record.
    #[derive(Debug)]
    pub(crate) struct Household {
        children: Arc<Children>,
        ledger: Arc<dyn Ledger>,
    }

    /// A record that nobody reads.
    #[derive(Debug)]
    struct Forgetful;

    impl Ledger for Forgetful {
        fn begin(&self, _: i32) -> std::io::Result<()> {
            Ok(())
        }

        fn enter(&self, _: i32) -> std::io::Result<()> {
            Ok(())
        }

        fn strike(&self, _: i32) {}

        fn close(&self) {}
    }

    impl Default for Household {
        fn default() -> Self {
            Household {
                children: Arc::default(),
                ledger: Arc::new(Forgetful),
            }
        }
    }

    impl Household {
        pub(crate) fn served(&self) -> Served<'_> {
            Served {
                name: "web",
                namespace: "test",
                children: &self.children,
                ledger: &self.ledger,
            }
        }
    }
}
