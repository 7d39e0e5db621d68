//! One task owns one container. Requests, finished work and exits come through one loop, so
//! their order is the order of the facts, and no lock is held while anything is waited for.
//!
//! Work that blocks (a birth, the freezer, the removal of a cgroup) runs on blocking threads
//! and comes back as [`Done`]; meanwhile the container answers.
//!
//! *Started before exited*: an exit of init, or a kill for want of memory, that is seen while the gate is
//! opening is kept until the answer of the gate was published. *Init's exit is the last*: it is published when no exec is
//! left, and in a shared pid namespace nothing else either.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use duet_spec::LinuxResources;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;

use crate::body::{Body, PidNamespace};
use crate::error::Error;
use crate::exec::Start;
use crate::exit::Watch;
use crate::lifecycle::{Denied, State, Verb};
use crate::oom::Ooms;
use crate::process::{Process, Reply, answer};
use crate::signal;
use crate::words::{Deleted, Exit, Fact, Phase, Status, Stdio, Told};

mod end;

/// Which process a request is about: init, or the exec of that name.
pub(crate) type Who = Option<String>;

/// What a caller asks of the container.
pub(crate) enum Request {
    Start(Who, Reply<i32>),
    Exec(String, Box<duet_spec::Process>, Stdio, Reply<()>),
    Delete(Who, Reply<Deleted>),
    Kill {
        who: Who,
        signal: i32,
        scope: Scope,
        reply: Reply<()>,
    },
    Wait(Who, Reply<Exit>),
    State(Who, Reply<Status>),
    /// The first processes of the execs that run.
    Execs(Reply<Vec<(i32, String)>>),
    Pause(Reply<()>),
    Resume(Reply<()>),
    Update(Box<LinuxResources>, Reply<()>),
    Resize {
        who: Who,
        width: u16,
        height: u16,
        reply: Reply<()>,
    },
    CloseIo(Who, Reply<()>),
}

/// How far a signal goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The process alone.
    Process,
    /// Every process of the container.
    Container,
}

/// Work that has been finished beside the loop.
pub(crate) enum Done {
    /// Init's gate.
    Opened(Result<(), Error>, Reply<i32>),
    /// An exec's birth and gate.
    Born(Box<Start>),
    /// Pause.
    Frozen(Result<(), Error>, Reply<()>),
    /// Resume.
    Thawed(Result<(), Error>, Reply<()>),
    /// What init left behind is killed.
    Swept(Result<(), Error>),
    /// Kills for want of memory were passed on: the end that waited for that may be known.
    Passed(Who, Exit),
    /// Everything is removed.
    Destroyed(Result<(), Error>),
    /// The caller has the answer already.
    Answered,
}

/// Killing what init leaves behind in a pid namespace that is not its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sweep {
    NotYet,
    Running,
    Done,
}

/// The owner of one container.
pub(crate) struct Actor {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) body: Arc<dyn Body>,
    pub(crate) facts: UnboundedSender<Told>,
    pub(crate) init: Process,
    pub(crate) execs: BTreeMap<String, Process>,
    pub(crate) jobs: JoinSet<Done>,
    pub(crate) exits: JoinSet<(Who, Exit)>,
    pub(crate) ooms: Ooms,
    sweep: Sweep,
    /// `SIGKILL` was sent to init.
    killed: bool,
    /// What comes before init's end is told.
    concluded: bool,
    /// Execs that are forgotten when what they wrote is with its readers and loggers.
    pub(crate) farewells: JoinSet<()>,
    /// Who wants it removed. There is one removal at a time, and what it comes to is for all of them.
    deleting: VecDeque<Reply<Deleted>>,
    /// It is being removed.
    removing: bool,
}

// === impl Actor ===

impl Actor {
    /// An actor for a container whose init stands at the gate.
    pub(crate) fn new(
        id: String,
        bundle: PathBuf,
        body: Arc<dyn Body>,
        facts: UnboundedSender<Told>,
        init: Process,
        watch: Watch,
    ) -> Self {
        let ooms = Ooms::watch(&body);
        let settled = ooms.settled();
        let mut exits = JoinSet::new();
        exits.spawn(async move {
            let exit = watch.ended().await;
            settled.await;
            (None, exit)
        });
        Actor {
            ooms,
            sweep: match body.pid_namespace() {
                PidNamespace::Own => Sweep::Done,
                PidNamespace::Shared => Sweep::NotYet,
            },
            id,
            bundle,
            body,
            facts,
            init,
            execs: BTreeMap::new(),
            jobs: JoinSet::new(),
            exits,
            killed: false,
            concluded: false,
            farewells: JoinSet::new(),
            deleting: VecDeque::new(),
            removing: false,
        }
    }

    /// Owns the container until it is deleted, or until nobody can ask for anything any more.
    pub(crate) async fn run(mut self, mut inbox: UnboundedReceiver<Request>) {
        loop {
            let next = tokio::select! {
                biased; // what was asked or done already happened before the exit was seen
                request = inbox.recv() => match request {
                    Some(request) => self.serve(request),
                    None => return self.abandon().await,
                },
                Some(done) = self.jobs.join_next() => match done {
                    Ok(done) => self.finish(done),
                    Err(error) => {
                        tracing::error!(%error, "a thread of the container panicked");
                        ControlFlow::Continue(())
                    }
                },
                () = self.ooms.stirred() => {
                    self.tell_ooms();
                    ControlFlow::Continue(())
                }
                Some(ended) = self.exits.join_next() => {
                    match ended {
                        Ok((who, exit)) => self.ended(who, exit),
                        Err(error) => tracing::error!(%error, "exit of a process could not be observed"),
                    }
                    ControlFlow::Continue(())
                }
            };
            if next.is_break() {
                return;
            }
        }
    }

    fn serve(&mut self, request: Request) -> ControlFlow<()> {
        match request {
            Request::Start(None, reply) => self.open(reply),
            Request::Start(Some(exec), reply) => self.bear(exec, reply),
            Request::Exec(exec, asked, stdio, reply) => {
                answer(reply, self.add(exec, asked, stdio));
            }
            Request::Delete(None, reply) => self.delete(reply),
            Request::Delete(Some(exec), reply) => self.forget(&exec, reply),
            Request::Kill {
                who,
                signal,
                scope,
                reply,
            } => self.kill(who, signal, scope, reply),
            Request::Wait(who, reply) => match self.process(&who) {
                Ok(process) => match process.exit() {
                    Some(exit) => answer(reply, Ok(exit)),
                    None => process.waiters.push(reply),
                },
                Err(error) => answer(reply, Err(error)),
            },
            Request::State(who, reply) => answer(reply, self.status(who)),
            Request::Execs(reply) => {
                let running = self.execs.iter().filter(|(_, process)| process.is_active());
                let pids = running.map(|(exec, process)| (process.pid, exec.clone()));
                answer(reply, Ok(pids.collect()));
            }
            Request::Pause(reply) => self.change(Verb::Pause, reply),
            Request::Resume(reply) => self.change(Verb::Resume, reply),
            Request::Update(resources, reply) => match self.init.state.allow(Verb::Update) {
                Ok(_) => {
                    let body = Arc::clone(&self.body);
                    self.jobs.spawn_blocking(move || {
                        answer(reply, body.update(&resources));
                        Done::Answered
                    });
                }
                Err(why) => answer(reply, Err(why.into())),
            },
            Request::Resize {
                who,
                width,
                height,
                reply,
            } => {
                answer(reply, self.resize(&who, width, height));
            }
            Request::CloseIo(who, reply) => {
                let closed = self.process(&who).map(Process::close_input);
                answer(reply, closed);
            }
        }
        ControlFlow::Continue(())
    }

    fn finish(&mut self, done: Done) -> ControlFlow<()> {
        match done {
            Done::Opened(Ok(()), reply) => {
                self.init.state = State::Running;
                self.tell(Fact::Started {
                    id: self.id.clone(),
                    pid: self.init.pid,
                });
                self.tell_what_waited();
                answer(reply, Ok(self.init.pid));
            }
            Done::Opened(Err(error), reply) => {
                // It never ran its program, or must not go on with it; its end is on the way, if it
                // is not here already. Who has said why ends by itself, with a code of its own.
                self.init.state = State::Created;
                self.tell_what_waited();
                let ends = matches!(error, Error::Launch(duet_launch::Error::Step { .. }));
                if let Some(pidfd) = self.init.pidfd.as_ref().filter(|_| !ends) {
                    drop(signal::send(pidfd, signal::KILL));
                }
                answer(reply, Err(error));
            }
            Done::Born(start) => self.born(*start),
            Done::Frozen(result, reply) => {
                // A kill that came while the freezer was closing has opened it too early, perhaps.
                if result.is_ok() && std::mem::take(&mut self.killed) {
                    let body = Arc::clone(&self.body);
                    self.jobs.spawn_blocking(move || {
                        if let Err(error) = body.thaw() {
                            tracing::warn!(%error, "a killed container stays frozen");
                        }
                        Done::Answered
                    });
                }
                self.changed(State::Pausing, result, State::Paused, State::Running, reply);
            }
            Done::Thawed(result, reply) => {
                self.changed(
                    State::Resuming,
                    result,
                    State::Running,
                    State::Paused,
                    reply,
                );
            }
            Done::Swept(result) => {
                if let Err(error) = result {
                    // Its exit must become known all the same; Delete will find them again.
                    tracing::warn!(%error, "processes of the container left behind");
                }
                self.swept();
            }
            Done::Passed(who, exit) => self.conclude(who, exit),
            Done::Destroyed(Ok(())) => {
                let exit = self.init.exit().unwrap_or_else(Exit::unseen);
                let pid = self.init.pid;
                self.tell(Fact::Deleted {
                    id: self.id.clone(),
                    pid,
                    exit,
                });
                for reply in self.deleting.drain(..) {
                    answer(reply, Ok(Deleted { pid, exit }));
                }
                return ControlFlow::Break(());
            }
            Done::Destroyed(Err(error)) => {
                self.removing = false;
                // For the next who asked it is tried again, as if they had asked now.
                if let Some(reply) = self.deleting.pop_front() {
                    answer(reply, Err(error));
                }
            }
            Done::Answered => {}
        }
        self.settle();
        ControlFlow::Continue(())
    }

    fn open(&mut self, reply: Reply<i32>) {
        let allowed = self.init.state.allow(Verb::Start);
        match (allowed, self.init.gate.take()) {
            (Ok(state), Some(gate)) => {
                self.init.state = state;
                self.jobs
                    .spawn(async move { Done::Opened(gate.opened().await, reply) });
            }
            (Ok(_), None) => {
                // An earlier start failed: it ends, and is as good as ended.
                let why = Denied::WrongState {
                    verb: Verb::Start,
                    state: State::Stopped,
                };
                answer(reply, Err(why.into()));
            }
            (Err(why), Some(gate)) if self.init.ended.is_some() => {
                // What it failed at while it came to its gate says more than that it has ended.
                answer(reply, Err(gate.last_words().unwrap_or(why.into())));
            }
            (Err(why), gate) => {
                self.init.gate = gate;
                answer(reply, Err(why.into()));
            }
        }
    }

    fn delete(&mut self, reply: Reply<Deleted>) {
        let allowed = self.init.state.allow(Verb::Delete);
        if let Err(why) = allowed {
            return answer(reply, Err(why.into()));
        }
        if self.init.state == State::Created {
            // In this order: at a gate that closes it would end by itself, with a code of ours.
            if let Some(pidfd) = &self.init.pidfd {
                drop(signal::send(pidfd, signal::KILL));
            }
            self.init.gate = None;
        }
        self.deleting.push_back(reply);
        self.settle();
    }

    fn kill(&mut self, who: Who, signal: i32, scope: Scope, reply: Reply<()>) {
        let allowed = match self.process(&who) {
            Ok(process) if who.is_some() => process.state.allow_exec(Verb::Kill),
            Ok(process) => process.state.allow(Verb::Kill),
            Err(error) => return answer(reply, Err(error)),
        };
        if let Err(why) = allowed {
            return answer(reply, Err(why.into()));
        }
        let body = Arc::clone(&self.body);
        if scope == Scope::Container {
            self.jobs.spawn_blocking(move || {
                answer(reply, body.signal_all(signal));
                Done::Answered
            });
            return;
        }
        let frozen = matches!(self.init.state, State::Pausing | State::Paused);
        let Ok(process) = self.process(&who) else {
            return;
        };
        let sent = match &process.pidfd {
            Some(pidfd) => match signal::send(pidfd, signal) {
                // It has ended, and its exit is about to be published.
                Err(error) if error.raw_os_error() == Some(signal::ESRCH) => {
                    Err(Denied::AlreadyStopped.into())
                }
                Err(source) => Err(Error::Signal {
                    signal,
                    pid: process.pid,
                    source,
                }),
                Ok(()) => Ok(()),
            },
            None => Err(Denied::NotStarted.into()),
        };
        if sent.is_ok() && who.is_none() && signal == signal::KILL {
            self.killed = true;
        }
        if sent.is_ok() && frozen && who.is_none() && signal == signal::KILL {
            // cgroup v1 keeps a killed process frozen until it is thawed.
            self.jobs.spawn_blocking(move || {
                answer(reply, body.thaw());
                Done::Answered
            });
            return;
        }
        answer(reply, sent);
    }

    fn change(&mut self, verb: Verb, reply: Reply<()>) {
        match self.init.state.allow(verb) {
            Ok(state) => {
                self.init.state = state;
                let body = Arc::clone(&self.body);
                self.jobs.spawn_blocking(move || match state {
                    State::Pausing => Done::Frozen(body.freeze(), reply),
                    State::Created
                    | State::Starting
                    | State::Running
                    | State::Paused
                    | State::Resuming
                    | State::Stopped => Done::Thawed(body.thaw(), reply),
                });
            }
            Err(why) => answer(reply, Err(why.into())),
        }
    }

    fn changed(
        &mut self,
        during: State,
        result: Result<(), Error>,
        then: State,
        otherwise: State,
        reply: Reply<()>,
    ) {
        if self.init.state != during {
            return answer(reply, Err(Denied::AlreadyStopped.into()));
        }
        self.init.state = if result.is_ok() { then } else { otherwise };
        if result.is_ok() {
            let id = self.id.clone();
            self.tell(match then {
                State::Paused => Fact::Paused { id },
                State::Created
                | State::Starting
                | State::Running
                | State::Pausing
                | State::Resuming
                | State::Stopped => Fact::Resumed { id },
            });
        }
        answer(reply, result);
    }

    fn resize(&mut self, who: &Who, width: u16, height: u16) -> Result<(), Error> {
        let process = self.process(who)?;
        match who {
            Some(_) => process.state.allow_exec(Verb::Resize)?,
            None => process.state.allow(Verb::Resize)?,
        };
        match &mut process.asked {
            // Clients that do not know whether there is a terminal ask anyway.
            Some(asked) => drop(asked.resize(width, height)),
            None => process.io.resize(width, height)?,
        }
        Ok(())
    }

    fn status(&mut self, who: Who) -> Result<Status, Error> {
        let (id, bundle) = (self.id.clone(), self.bundle.clone());
        let container = self.init.phase();
        let process = self.process(&who)?;
        // The freezer takes all that runs in the container.
        let phase = match (container, process.phase()) {
            (Phase::Pausing | Phase::Paused, Phase::Running) => container,
            (_, own) => own,
        };
        Ok(Status {
            id,
            exec: who,
            bundle,
            pid: process.pid,
            phase,
            stdio: process.stdio.clone(),
            exit: process.exit(),
        })
    }

    fn process(&mut self, who: &Who) -> Result<&mut Process, Error> {
        match who {
            None => Ok(&mut self.init),
            Some(exec) => self
                .execs
                .get_mut(exec)
                .ok_or_else(|| Error::UnknownExec { exec: exec.clone() }),
        }
    }

    /// Publishes a fact. Whoever listened may have left: the container lives on.
    pub(crate) fn tell(&self, fact: Fact) {
        let at = SystemTime::now();
        drop(self.facts.send(Told { at, fact }));
    }

    /// Nobody can ask for anything any more: nothing is left behind.
    async fn abandon(self) {
        let body = Arc::clone(&self.body);
        drop(self);
        let gone = tokio::task::spawn_blocking(move || {
            body.signal_all(signal::KILL)?;
            body.destroy()
        });
        match gone.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "container left behind"),
            Err(error) => tracing::error!(%error, "container left behind"),
        }
    }
}

#[cfg(test)]
#[path = "actor/tests.rs"]
mod tests;
