//! The actor's execs: added without a process, born at their start, on a thread of their own.

use std::sync::Arc;

use crate::actor::{Actor, Done};
use crate::body::Born;
use crate::children::Child;
use crate::error::Error;
use crate::exit::{Watch, reap};
use crate::lifecycle::{Denied, State, Verb};
use crate::plumbing::Plumbing;
use crate::process::{Process, Reply, answer};
use crate::signal;
use crate::words::{Deleted, Exit, Fact, Stdio};

/// What became of the start of an exec.
pub(crate) struct Start {
    exec: String,
    result: Result<Running, Error>,
    reply: Reply<i32>,
}

/// An exec that runs its program.
struct Running {
    pid: i32,
    pidfd: Child,
    console: Option<std::os::fd::OwnedFd>,
    plumbing: Plumbing,
}

// === impl Actor ===

impl Actor {
    /// Remembers an exec.
    pub(crate) fn add(
        &mut self,
        exec: String,
        asked: Box<duet_spec::Process>,
        stdio: Stdio,
    ) -> Result<(), Error> {
        if self.is_over() && self.init.state != State::Stopped {
            // Init has ended; it is only not known yet.
            return Err(Denied::WrongState {
                verb: Verb::Exec,
                state: State::Stopped,
            }
            .into());
        }
        self.init.state.allow(Verb::Exec)?;
        if self.execs.contains_key(&exec) {
            return Err(Error::ExecExists { exec });
        }
        self.execs
            .insert(exec.clone(), Process::added(asked, stdio));
        self.tell(Fact::ExecAdded {
            id: self.id.clone(),
            exec,
        });
        Ok(())
    }

    /// Starts an exec; the answer comes with its birth.
    pub(crate) fn bear(&mut self, exec: String, reply: Reply<i32>) {
        let over = self.is_over();
        let container = if over {
            State::Stopped
        } else {
            self.init.state
        };
        let Some(process) = self.execs.get_mut(&exec) else {
            return answer(reply, Err(Error::UnknownExec { exec }));
        };
        let allowed = process.state.allow_exec(Verb::Start).and_then(|state| {
            // The exec may start where it could be added: in a container that runs.
            container
                .allow(Verb::Exec)
                .map_err(|_| Denied::WrongState {
                    verb: Verb::Exec,
                    state: container,
                })?;
            Ok(state)
        });
        let (state, asked) = match (allowed, process.asked.take()) {
            (Ok(state), Some(asked)) => (state, asked),
            (Ok(_), None) => return answer(reply, Err(Denied::NotStarted.into())),
            (Err(why), asked) => {
                process.asked = asked;
                return answer(reply, Err(why.into()));
            }
        };
        process.state = state;
        let (stdio, body) = (process.stdio.clone(), Arc::clone(&self.body));
        // What was given is the process's: whoever reads it must see its end.
        process.stdio.given = None;
        self.jobs.spawn_blocking(move || {
            let result = body.bear(&exec, &asked, &stdio).and_then(|born| {
                let Born {
                    pid,
                    pidfd,
                    console,
                    plumbing,
                    gate,
                } = born;
                match gate.open() {
                    Ok(()) => Ok(Running {
                        pid,
                        pidfd,
                        console,
                        plumbing,
                    }),
                    Err(error) => {
                        bury(&pidfd);
                        body.ended(Some(&exec), pid, Exit::unseen());
                        Err(error)
                    }
                }
            });
            Done::Born(Box::new(Start {
                exec,
                result,
                reply,
            }))
        });
    }

    /// The birth of an exec is over: it runs, or it never will.
    pub(crate) fn born(&mut self, start: Start) {
        let Start {
            exec,
            result,
            reply,
        } = start;
        let over = self.is_over();
        let Some(process) = self.execs.get_mut(&exec) else {
            return;
        };
        let running = result.and_then(
            |Running {
                 pid,
                 pidfd,
                 console,
                 plumbing,
             }| {
                let pidfd = Arc::new(pidfd);
                let connected = plumbing
                    .connect(console)
                    .and_then(|(io, drain)| Ok((io, Watch::new(Arc::clone(&pidfd), drain)?)));
                match connected {
                    Ok((io, watch)) => Ok((pid, pidfd, io, watch)),
                    Err(error) => {
                        bury(&pidfd);
                        self.body.ended(Some(&exec), pid, Exit::unseen());
                        Err(error)
                    }
                }
            },
        );
        match running {
            Ok((pid, pidfd, io, watch)) => {
                process.pid = pid;
                process.state = State::Running;
                process.connect(io);
                if over {
                    drop(signal::send(&pidfd, signal::KILL));
                }
                process.pidfd = Some(pidfd);
                let name = exec.clone();
                self.exits
                    .spawn(async move { (Some(name), watch.ended().await) });
                self.tell(Fact::ExecStarted {
                    id: self.id.clone(),
                    exec,
                    pid,
                });
                answer(reply, Ok(pid));
            }
            Err(error) => {
                // Who waits for it must not wait for ever. No fact: it never was.
                process.stop(Exit::unseen());
                answer(reply, Err(error));
            }
        }
    }

    /// An exec has ended and its output is passed on.
    pub(crate) fn exec_ended(&mut self, exec: &str, exit: Exit) {
        let Some(mut process) = self.execs.remove(exec) else {
            return;
        };
        process.io.close_input();
        self.publish(Some(exec), process.pid, exit);
        process.stop(exit);
        self.execs.insert(exec.to_owned(), process);
    }

    /// Forgets an exec that ended or never started, and answers when its readers and loggers have finished.
    pub(crate) fn forget(&mut self, exec: &str, reply: Reply<Deleted>) {
        let forgotten = match self.execs.get(exec) {
            None => Err(Error::UnknownExec {
                exec: exec.to_owned(),
            }),
            Some(process) => process.state.allow_exec(Verb::Delete).map_err(Error::from),
        };
        if let Err(error) = forgotten {
            return answer(reply, Err(error));
        }
        let Some(process) = self.execs.remove(exec) else {
            return;
        };
        let deleted = Deleted {
            pid: process.pid,
            exit: process.exit().unwrap_or_else(Exit::never),
        };
        if process.io.is_finished() {
            return answer(reply, Ok(deleted));
        }
        // Those that are over make room.
        while self.farewells.try_join_next().is_some() {}
        self.farewells.spawn(async move {
            process.io.finish().await;
            answer(reply, Ok(deleted));
        });
    }
}

/// Kills and reaps a process that must not run.
pub(crate) fn bury(pidfd: &Child) {
    drop(signal::send(pidfd, signal::KILL));
    let mut fds = [rustix::event::PollFd::new(
        pidfd,
        rustix::event::PollFlags::IN,
    )];
    // A killed process ends; should the kernel hold it longer, it is reaped as an orphan is.
    let limit = rustix::event::Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut fds, Some(&limit)).unwrap_or(0);
    reap(pidfd);
}
