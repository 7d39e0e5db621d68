//! The way to a container: what others hold, while the actor owns.

use std::path::PathBuf;
use std::sync::Arc;

use duet_cgroup::Stats;
use duet_spec::{LinuxResources, Process};
use tokio::sync::{mpsc, oneshot};

use crate::actor::{Actor, Request, Scope, Who};
use crate::body::{Body, Born};
use crate::error::Error;
use crate::exec::bury;
use crate::exit::Watch;
use crate::lifecycle::State;
use crate::process::{Process as Owned, Reply};
use crate::words::{Deleted, Exit, Fact, RootfsMount, Status, Stdio, Told};

/// A handle on a container; clones are the same container.
///
/// Every call answers [`Error::Gone`] once the container is deleted.
#[derive(Clone)]
pub struct Container {
    inbox: mpsc::UnboundedSender<Request>,
    body: Arc<dyn Body>,
    pid: i32,
}

/// What a container is called and was asked to be.
#[derive(Debug, Clone)]
pub(crate) struct Label {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: Vec<RootfsMount>,
    pub(crate) stdio: Stdio,
}

// === impl Container ===

impl Container {
    /// Takes over an init that stands at the gate, and says so. The future is the container's
    /// owner: it must run for as long as the container is to be served.
    pub(crate) fn begin(
        label: Label,
        body: Arc<dyn Body>,
        born: Born,
        facts: mpsc::UnboundedSender<Told>,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), Error> {
        let actor = owner(&label, Arc::clone(&body), born, facts)?;
        let pid = actor.init.pid;
        let (inbox, requests) = mpsc::unbounded_channel();
        let Label {
            id,
            bundle,
            rootfs,
            stdio,
        } = label;
        actor.tell(Fact::Created {
            id,
            bundle,
            rootfs,
            stdio,
            pid,
        });
        Ok((Container { inbox, body, pid }, actor.run(requests)))
    }

    /// The init process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether `other` is a handle on the same container, not on another of its name.
    pub fn is(&self, other: &Container) -> bool {
        self.inbox.same_channel(&other.inbox)
    }

    /// Starts init or an exec; returns its process.
    ///
    /// # Errors
    ///
    /// Refused by the lifecycle, or the program could not be run.
    pub async fn start(&self, exec: Option<&str>) -> Result<i32, Error> {
        self.ask(|reply| Request::Start(who(exec), reply)).await
    }

    /// Adds an exec.
    ///
    /// # Errors
    ///
    /// The name is taken, or the container does not run.
    pub async fn exec(&self, exec: &str, process: Process, stdio: Stdio) -> Result<(), Error> {
        self.ask(|reply| Request::Exec(exec.to_owned(), Box::new(process), stdio, reply))
            .await
    }

    /// Removes the container, or an exec, that ended or never ran. Whoever asks while the container is being
    /// removed hears what that comes to.
    ///
    /// # Errors
    ///
    /// It runs, or something could not be removed; then it may be tried again.
    pub async fn delete(&self, exec: Option<&str>) -> Result<Deleted, Error> {
        self.ask(|reply| Request::Delete(who(exec), reply)).await
    }

    /// Sends a signal to one process.
    ///
    /// # Errors
    ///
    /// It ended, was not started, or the signal does not exist.
    pub async fn kill(&self, exec: Option<&str>, signal: i32) -> Result<(), Error> {
        let scope = Scope::Process;
        self.ask(|reply| Request::Kill {
            who: who(exec),
            signal,
            scope,
            reply,
        })
        .await
    }

    /// Sends a signal to every process.
    ///
    /// # Errors
    ///
    /// The container ended, or the signal does not exist.
    pub async fn kill_all(&self, signal: i32) -> Result<(), Error> {
        let scope = Scope::Container;
        self.ask(|reply| Request::Kill {
            who: None,
            signal,
            scope,
            reply,
        })
        .await
    }

    /// Waits for the end of init or of an exec.
    ///
    /// # Errors
    ///
    /// It is unknown, or was deleted meanwhile.
    pub async fn wait(&self, exec: Option<&str>) -> Result<Exit, Error> {
        self.ask(|reply| Request::Wait(who(exec), reply)).await
    }

    /// How a process stands.
    ///
    /// # Errors
    ///
    /// It is unknown.
    pub async fn state(&self, exec: Option<&str>) -> Result<Status, Error> {
        self.ask(|reply| Request::State(who(exec), reply)).await
    }

    /// Every process, with the exec whose first process it is.
    ///
    /// # Errors
    ///
    /// The cgroup could not be read.
    pub async fn pids(&self) -> Result<Vec<(i32, Option<String>)>, Error> {
        let execs = self.ask(Request::Execs).await?;
        let pids = self.blocking(|body| body.pids()).await?;
        let name = |pid| {
            execs
                .iter()
                .find(|(first, _)| *first == pid)
                .map(|(_, e)| e.clone())
        };
        Ok(pids.into_iter().map(|pid| (pid, name(pid))).collect())
    }

    /// Freezes every process.
    ///
    /// # Errors
    ///
    /// It does not run, or the freezer did not close in time.
    pub async fn pause(&self) -> Result<(), Error> {
        self.ask(Request::Pause).await
    }

    /// Thaws them.
    ///
    /// # Errors
    ///
    /// It is not paused.
    pub async fn resume(&self) -> Result<(), Error> {
        self.ask(Request::Resume).await
    }

    /// Changes limits in place.
    ///
    /// # Errors
    ///
    /// A controller refuses a value.
    pub async fn update(&self, resources: LinuxResources) -> Result<(), Error> {
        self.ask(|reply| Request::Update(Box::new(resources), reply))
            .await
    }

    /// What was used so far; answers until the container is deleted.
    ///
    /// # Errors
    ///
    /// The cgroup could not be read.
    pub async fn stats(&self) -> Result<Stats, Error> {
        self.blocking(|body| body.stats()).await
    }

    /// Sets the size of a terminal, if there is one.
    ///
    /// # Errors
    ///
    /// The process is unknown, or has ended.
    pub async fn resize(&self, exec: Option<&str>, width: u16, height: u16) -> Result<(), Error> {
        self.ask(|reply| Request::Resize {
            who: who(exec),
            width,
            height,
            reply,
        })
        .await
    }

    /// Ends a process's input once what was written to it has been delivered.
    ///
    /// # Errors
    ///
    /// The exec is unknown.
    pub async fn close_io(&self, exec: Option<&str>) -> Result<(), Error> {
        self.ask(|reply| Request::CloseIo(who(exec), reply)).await
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(request(reply)).map_err(|_| Error::Gone)?;
        answer.await.map_err(|_| Error::Gone)?
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Body) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let body = Arc::clone(&self.body);
        tokio::task::spawn_blocking(move || work(body.as_ref()))
            .await
            .map_err(|error| Error::Host {
                step: "run a blocking thread",
                source: error.into(),
            })?
    }
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

fn who(exec: Option<&str>) -> Who {
    exec.map(str::to_owned)
}

/// The owner of an init that stands at the gate; nobody has heard of it yet.
pub(crate) fn owner(
    label: &Label,
    body: Arc<dyn Body>,
    born: Born,
    facts: mpsc::UnboundedSender<Told>,
) -> Result<Actor, Error> {
    let Born {
        pid,
        pidfd,
        console,
        plumbing,
        gate,
    } = born;
    let pidfd = Arc::new(pidfd);
    let connected = plumbing
        .connect(console)
        .and_then(|(io, drain)| Ok((io, Watch::new(Arc::clone(&pidfd), drain)?)));
    let (io, watch) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            drop(gate);
            bury(&pidfd);
            return Err(error);
        }
    };
    let init = Owned {
        state: State::Created,
        stdio: label.stdio.clone(),
        asked: None,
        pid,
        pidfd: Some(pidfd),
        gate: Some(gate),
        io,
        input: crate::process::Input::Open,
        ended: None,
        waiters: Vec::new(),
    };
    Ok(Actor::new(
        label.id.clone(),
        label.bundle.clone(),
        body,
        facts,
        init,
        watch,
    ))
}
