//! The end of a process, and what comes before it may be known.

use std::sync::Arc;

use super::{Actor, Done, Sweep, Who};
use crate::error::Error;
use crate::lifecycle::State;
use crate::plumbing::Io;
use crate::process::Process;
use crate::signal;
use crate::words::{Exit, Fact};

// === impl Actor ===

impl Actor {
    /// A process has ended and its output is passed on.
    pub(super) fn ended(&mut self, who: Who, exit: Exit) {
        if who.is_none() {
            self.init.ended = Some(exit);
            self.init.io.close_input();
            self.body.keep_counters();
        }
        self.pass_kills(who, exit);
        self.settle();
    }

    /// Nothing is left of what init left behind.
    pub(super) fn swept(&mut self) {
        self.sweep = Sweep::Done;
        self.tell_what_waited();
    }

    /// Start is over, or the sweep: kills that were seen meanwhile are told, and after them init's end.
    pub(super) fn tell_what_waited(&mut self) {
        match self.init.ended {
            Some(exit) => {
                self.concluded = false;
                self.pass_kills(None, exit);
            }
            None => self.tell_ooms(),
        }
    }

    /// Kills come first, also for who waits instead of listening: the end is known when they were passed on.
    fn pass_kills(&mut self, who: Who, exit: Exit) {
        self.tell_ooms();
        match self.ooms.passing() {
            None => self.conclude(who, exit),
            Some(passing) => {
                self.jobs.spawn(async move {
                    passing.over().await;
                    Done::Passed(who, exit)
                });
            }
        }
    }

    /// Everything that comes before the end of a process is told.
    pub(super) fn conclude(&mut self, who: Who, exit: Exit) {
        match who {
            None => self.concluded = true,
            Some(exec) => self.exec_ended(&exec, exit),
        }
    }

    /// Publishes init's exit as soon as it may be known, and goes on with a deletion that waits
    /// for it.
    pub(super) fn settle(&mut self) {
        if let Some(exit) = self.init.ended
            && self.concluded
            && self.init.state != State::Stopped
            && self.init.state != State::Starting
        {
            if self.sweep == Sweep::NotYet {
                self.sweep();
            }
            if self.sweep == Sweep::Done && !self.execs.values().any(Process::is_active) {
                self.publish(None, self.init.pid, exit);
                self.init.stop(exit);
            }
        }
        if self.init.state == State::Stopped && !self.removing && !self.deleting.is_empty() {
            self.removing = true;
            let body = Arc::clone(&self.body);
            let processes = std::iter::once(&mut self.init).chain(self.execs.values_mut());
            let ios: Vec<Io> = processes
                .map(|process| std::mem::take(&mut process.io))
                .collect();
            // Who has asked for the end of an exec waits for the same.
            let mut ends = std::mem::take(&mut self.farewells);
            for io in ios {
                ends.spawn(io.finish());
            }
            self.jobs.spawn(async move {
                while let Some(end) = ends.join_next().await {
                    if let Err(error) = end {
                        tracing::error!(%error, "the last output of a process is lost");
                    }
                }
                let destroyed = tokio::task::spawn_blocking(move || body.destroy()).await;
                let destroyed = destroyed.unwrap_or_else(|error| {
                    Err(Error::Host {
                        step: "remove the container",
                        source: error.into(),
                    })
                });
                Done::Destroyed(destroyed)
            });
        }
    }

    /// Kills whatever init left behind.
    pub(crate) fn sweep(&mut self) {
        self.sweep = Sweep::Running;
        let body = Arc::clone(&self.body);
        self.jobs
            .spawn_blocking(move || Done::Swept(body.signal_all(signal::KILL)));
    }

    /// Whether an exec that appears now has missed the killing of what init left behind.
    pub(crate) fn is_over(&self) -> bool {
        self.init.ended.is_some()
    }

    /// Publishes the exit of a process.
    pub(crate) fn publish(&mut self, exec: Option<&str>, pid: i32, exit: Exit) {
        self.body.ended(exec, pid, exit);
        let process = exec.unwrap_or(&self.id).to_owned();
        self.tell(Fact::Exited {
            id: self.id.clone(),
            process,
            pid,
            exit,
        });
    }
}
