//! Who lives in the pod, and the way to them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use duet_cgroup::Cgroup;
use duet_container::{
    Birth, Container, Create, Deleted, Error as ContainerError, Exit, Ground, Phase, Prepared,
    Programs, Status, Stdio, Told,
};
use duet_spec::Process;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;

use crate::error::Error;
use crate::holder::{Furnished, relabel};
use crate::reaper;
use crate::record::{self, Member, Page, Record};
use crate::sandbox::{self, check_id};

mod served;

use served::Served;
pub use served::{SandboxStatus, Standing};

/// What a pod needs to know from the start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The pod's name: the sandbox's id, or the value of the grouping annotation.
    pub id: String,
    /// containerd's namespace.
    pub namespace: String,
    /// The bundle of the shim itself (its first container's): the record is kept there.
    pub bundle: PathBuf,
    /// The program that keeps the namespaces of a pod of the Sandbox service.
    pub holder: PathBuf,
    /// What the wasm half needs.
    pub programs: Programs,
}

/// A handle on the pod; clones are the same pod.
#[derive(Debug, Clone)]
pub struct Pod {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    facts: UnboundedSender<Told>,
    ground: Arc<Ground>,
    holder: PathBuf,
    record: Arc<Record>,
    /// The Sandbox service's pod, once there is one. Watched by whoever waits for its end.
    served: watch::Sender<Option<Served>>,
    roster: Mutex<Roster>,
    /// Held for reading while something is made below the pod's cgroup, for writing while the
    /// pod's cgroup is removed. Blocking threads only.
    building: RwLock<()>,
    /// Held by whoever may be the last to leave. Blocking threads only.
    leaving: Mutex<()>,
    /// Members were let go whom nobody had asked to delete.
    let_go: Notify,
}

/// Who lives here. Locked for a look, never while anything is waited for.
#[derive(Debug, Default)]
struct Roster {
    members: HashMap<String, Place>,
    /// The owner of each container, and the reaper: nothing outlives the pod.
    owners: JoinSet<()>,
}

/// A member of the pod.
#[derive(Debug)]
enum Place {
    /// Its name is taken, and no call finds it yet.
    Creating,
    /// It can be asked.
    Here {
        container: Container,
        pod_cgroup: Option<PathBuf>,
    },
}

/// What is to be made.
enum Asked {
    /// What a bundle says.
    Container(Create),
    /// The holder of the pod.
    Holder(Box<Furnished>),
}

// === impl Pod ===

impl Pod {
    /// An empty pod. Facts are sent to `facts` in the order in which they become true.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Host`] if the machine lacks something every container needs.
    pub fn new(config: Config, facts: UnboundedSender<Told>) -> Result<Pod, Error> {
        let Config {
            id,
            namespace,
            bundle,
            holder,
            programs,
        } = config;
        let ground =
            Ground::new(namespace, programs).map_err(|source| Error::Container { id, source })?;
        let inner = Inner {
            record: Arc::new(Record::new(&bundle)),
            facts,
            ground: Arc::new(ground),
            holder,
            served: watch::Sender::new(None),
            roster: Mutex::default(),
            building: RwLock::new(()),
            leaving: Mutex::new(()),
            let_go: Notify::new(),
        };
        let reaper = reaper::run(Arc::clone(inner.ground.children()))?;
        inner.roster().owners.spawn(reaper);
        Ok(Pod {
            inner: Arc::new(inner),
        })
    }

    /// What its births stand on. Whoever drops it last waits for whoever still compiles for the pod; one who may
    /// not wait when the pod goes keeps it for longer.
    #[must_use]
    pub fn ground(&self) -> Arc<Ground> {
        Arc::clone(&self.inner.ground)
    }

    /// Creates a container; returns its init process, which stands at the gate.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`], or why a step failed; then nothing of it is left.
    pub async fn create(&self, request: Create) -> Result<i32, Error> {
        self.admit(Asked::Container(request)).await
    }

    async fn admit(&self, asked: Asked) -> Result<i32, Error> {
        let id = asked.request().id.clone();
        check_id(&id)?;
        let (reply, answer) = oneshot::channel();
        {
            let mut roster = self.inner.roster();
            if roster.members.contains_key(&id) {
                return Err(Error::Exists { id });
            }
            // Whoever has ended makes room.
            while roster.owners.try_join_next().is_some() {}
            roster.members.insert(id, Place::Creating);
            // A task of its own: a caller who leaves must not leave half a container behind.
            roster
                .owners
                .spawn(Arc::clone(&self.inner).raise(asked, reply));
        }
        answer.await.map_err(|_| dropped())?
    }

    /// Starts a container, or an exec of it; returns the process.
    ///
    /// # Errors
    ///
    /// Refused by the lifecycle, or the program could not be run.
    pub async fn start(&self, id: &str, exec: Option<&str>) -> Result<i32, Error> {
        self.find(id)?.start(exec).await.map_err(of(id))
    }

    /// Adds an exec: `process` is the OCI `Process` in JSON.
    ///
    /// # Errors
    ///
    /// The name is taken, the process asks for something unknown, or the container does not run.
    pub async fn exec(
        &self,
        id: &str,
        exec: &str,
        process: &[u8],
        stdio: Stdio,
    ) -> Result<(), Error> {
        let container = self.find(id)?;
        let process = Process::parse_with_terminal(process, stdio.terminal)
            .map_err(|error| of(id)(error.into()))?;
        container.exec(exec, process, stdio).await.map_err(of(id))
    }

    /// Removes a container that ended or never ran, or an exec of it.
    ///
    /// # Errors
    ///
    /// It runs, or is unknown.
    pub async fn delete(&self, id: &str, exec: Option<&str>) -> Result<Deleted, Error> {
        let container = self.find(id)?;
        let deleted = container.delete(exec).await.map_err(of(id))?;
        if exec.is_none() {
            self.inner.forget(id, &container).await;
            // Not waited for: the output of another may be with a slow reader.
            let here = self.clone();
            let others = async move { here.let_go_of_cleaned().await };
            self.inner.roster().owners.spawn(others);
        }
        Ok(deleted)
    }

    /// Lets go of ended members that `delete` has cleaned beside this shim: those that containerd could not connect
    /// to when it started. It has forgotten them, and will not ask for their removal.
    pub async fn let_go_of_cleaned(&self) {
        let members: Vec<_> = {
            let roster = self.inner.roster();
            let here = roster.members.iter().filter_map(|(id, place)| match place {
                Place::Here { container, .. } => Some((id.clone(), container.clone())),
                Place::Creating => None,
            });
            here.collect()
        };
        for (id, container) in members {
            let Ok(status) = container.state(None).await else {
                continue;
            };
            if status.phase != Phase::Stopped || record::is_recorded(&status.bundle) {
                continue;
            }
            match container.delete(None).await {
                Ok(_) => tracing::info!(id, "released a container that `delete` had cleaned up"),
                // Somebody has asked for it after all.
                Err(ContainerError::Gone) => {}
                Err(error) => {
                    tracing::warn!(id, %error, "cannot release a container that `delete` had cleaned up");
                    continue;
                }
            }
            self.inner.forget(&id, &container).await;
            self.inner.let_go.notify_one();
        }
    }

    /// Waits until the pod has let go of somebody whom nobody had asked to delete.
    pub async fn has_let_go(&self) {
        self.inner.let_go.notified().await;
    }

    /// Sends a signal to a process, or with `all` to every process of the container.
    ///
    /// # Errors
    ///
    /// It ended (which callers read as "gone"), or the signal does not exist.
    pub async fn kill(
        &self,
        id: &str,
        exec: Option<&str>,
        signal: u32,
        all: bool,
    ) -> Result<(), Error> {
        let container = self.find(id)?;
        // Beyond 64 there is no signal; the kernel's own refusal then names the number.
        let signal = i32::try_from(signal).unwrap_or(i32::MAX);
        let sent = match (all, exec) {
            (true, None) => container.kill_all(signal).await,
            (true | false, exec) => container.kill(exec, signal).await,
        };
        sent.map_err(of(id))
    }

    /// Waits for the end of a process; answers at once if it was.
    ///
    /// # Errors
    ///
    /// It is unknown, or was deleted meanwhile.
    pub async fn wait(&self, id: &str, exec: Option<&str>) -> Result<Exit, Error> {
        self.find(id)?.wait(exec).await.map_err(of(id))
    }

    /// How a process stands.
    ///
    /// # Errors
    ///
    /// It is unknown.
    pub async fn state(&self, id: &str, exec: Option<&str>) -> Result<Status, Error> {
        self.find(id)?.state(exec).await.map_err(of(id))
    }

    /// Every process of the container, with the exec it is the first process of.
    ///
    /// # Errors
    ///
    /// It is unknown, or its cgroup cannot be read.
    pub async fn pids(&self, id: &str) -> Result<Vec<(i32, Option<String>)>, Error> {
        self.find(id)?.pids().await.map_err(of(id))
    }

    /// What the container has used.
    ///
    /// # Errors
    ///
    /// It is unknown, or its cgroup cannot be read.
    pub async fn stats(&self, id: &str) -> Result<duet_cgroup::Stats, Error> {
        self.find(id)?.stats().await.map_err(of(id))
    }

    /// Freezes every process of the container.
    ///
    /// # Errors
    ///
    /// It does not run, or the freezer did not close in time (then it is open again).
    pub async fn pause(&self, id: &str) -> Result<(), Error> {
        self.find(id)?.pause().await.map_err(of(id))
    }

    /// Thaws it.
    ///
    /// # Errors
    ///
    /// It is not paused.
    pub async fn resume(&self, id: &str) -> Result<(), Error> {
        self.find(id)?.resume().await.map_err(of(id))
    }

    /// Changes limits in place: `resources` is the OCI `LinuxResources` in JSON.
    ///
    /// # Errors
    ///
    /// The text is malformed or a controller refuses a value.
    pub async fn update(&self, id: &str, resources: &[u8]) -> Result<(), Error> {
        let container = self.find(id)?;
        let resources = duet_spec::resources(resources).map_err(|error| of(id)(error.into()))?;
        container.update(resources).await.map_err(of(id))
    }

    /// Changes the size of a terminal, in characters, if there is one.
    ///
    /// # Errors
    ///
    /// The process is unknown, or has ended.
    pub async fn resize(
        &self,
        id: &str,
        exec: Option<&str>,
        width: u32,
        height: u32,
    ) -> Result<(), Error> {
        let container = self.find(id)?;
        let cells = |field, value: u32| {
            u16::try_from(value).map_err(|_| {
                let value = value.to_string();
                of(id)(ContainerError::Invalid {
                    field,
                    value,
                    why: "is more than 65535",
                })
            })
        };
        let (width, height) = (cells("width", width)?, cells("height", height)?);
        container.resize(exec, width, height).await.map_err(of(id))
    }

    /// Ends a process's stdin once what was written to it has been delivered.
    ///
    /// # Errors
    ///
    /// It is unknown. A process without stdin has nothing to close, which is no error.
    pub async fn close_io(&self, id: &str, exec: Option<&str>) -> Result<(), Error> {
        self.find(id)?.close_io(exec).await.map_err(of(id))
    }

    /// Whether no container lives here, nor is one being created, and no sandbox that was not
    /// shut down.
    pub fn is_empty(&self) -> bool {
        self.inner.roster().members.is_empty() && !self.inner.is_kept()
    }

    /// The ids of the containers that live here.
    pub fn ids(&self) -> Vec<String> {
        self.inner.roster().members.keys().cloned().collect()
    }

    fn find(&self, id: &str) -> Result<Container, Error> {
        match self.inner.roster().members.get(id) {
            Some(Place::Here { container, .. }) => Ok(container.clone()),
            Some(Place::Creating) | None => Err(Error::Unknown { id: id.to_owned() }),
        }
    }
}

// === impl Asked ===

impl Asked {
    fn request(&self) -> &Create {
        match self {
            Self::Container(request) => request,
            Self::Holder(furnished) => &furnished.request,
        }
    }
}

// === impl Inner ===

impl Inner {
    fn roster(&self) -> MutexGuard<'_, Roster> {
        // Every change is one step of a map or of a set of tasks, so also whole after a panic.
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a container, answers, and owns it until it is deleted.
    async fn raise(self: Arc<Self>, asked: Asked, reply: oneshot::Sender<Result<i32, Error>>) {
        let (id, bundle) = (asked.request().id.clone(), asked.request().bundle.clone());
        let facts = match &asked {
            Asked::Container(_) => self.facts.clone(),
            // containerd tells of sandboxes itself: nobody hears of the holder.
            Asked::Holder(_) => unbounded_channel().0,
        };
        let here = Arc::clone(&self);
        let born = tokio::task::spawn_blocking(move || {
            let mut pod_cgroup = None;
            let born = here.bear(asked, &mut pod_cgroup);
            (born, pod_cgroup)
        });
        let (born, pod_cgroup) = born.await.unwrap_or_else(|_| (Err(dropped()), None));
        let begun = async {
            let birth = born?;
            let pid = birth.pid();
            let (container, owner) = birth.begin(facts).await.map_err(of(&id))?;
            let pod_cgroup = pod_cgroup.clone();
            Ok((
                pid,
                Place::Here {
                    container,
                    pod_cgroup,
                },
                owner,
            ))
        };
        let (pid, place, owner) = match begun.await {
            Ok(begun) => begun,
            Err(error) => {
                self.leave(id, bundle, pod_cgroup).await;
                // The caller left: nobody is there to be told, and nothing is there to be found.
                drop(reply.send(Err(error)));
                return;
            }
        };
        let container = match &place {
            Place::Here { container, .. } => Some(container.clone()),
            Place::Creating => None,
        };
        self.roster().members.insert(id.clone(), place);
        if reply.send(Ok(pid)).is_ok() {
            drop((container, self));
            return owner.await;
        }
        let undo = async {
            let Some(container) = container else { return };
            if let Err(error) = container.delete(None).await {
                tracing::warn!(container = %id, %error, "container left behind by a caller who left");
                return;
            }
            self.forget(&id, &container).await;
        };
        tokio::join!(owner, undo);
    }

    /// Makes everything there is to make, and says first which cgroup of the pod it will be in.
    /// Blocks.
    fn bear(&self, asked: Asked, pod_cgroup: &mut Option<PathBuf>) -> Result<Birth, Error> {
        let request = asked.request();
        let (id, bundle) = (request.id.clone(), request.bundle.clone());
        let mounted = !request.rootfs.is_empty();
        let (prepared, holder) = match asked {
            Asked::Container(request) => (Prepared::read(request), None),
            Asked::Holder(furnished) => {
                let request = furnished.request.clone();
                (
                    Prepared::written(request, &furnished.config),
                    Some(furnished),
                )
            }
        };
        let mut prepared = prepared.map_err(of(&id))?;
        if let Some(files) = self.files() {
            prepared.share(&files);
            if let Some(label) = &prepared.spec().mount_label {
                relabel(&files, label, &id)?;
            }
        }
        let _building = self.building.read().unwrap_or_else(PoisonError::into_inner);
        *pod_cgroup = sandbox::join(&self.ground, &mut prepared)?;
        let rootfs = mounted.then(|| prepared.rootfs());
        let mut member = Member::new(id.clone(), prepared.cgroup().to_owned(), rootfs);
        member.unit = prepared.unit().map(str::to_owned);
        member.classes = prepared.classes();
        member.pod_cgroup.clone_from(pod_cgroup);
        member.workshop = Some(self.ground.workshop().to_owned());
        self.record.add(&bundle, &member)?;
        let ledger = Arc::new(Page::new(&self.record, &bundle, member));
        let birth = prepared
            .bear(Arc::clone(&self.ground), ledger)
            .map_err(of(&id))?;
        if let Some(Err(error)) = holder.map(|holder| holder.write()) {
            birth.abandon();
            return Err(error);
        }
        Ok(birth)
    }

    /// Removes what is left of a container that was deleted, and whose place on record went with
    /// it: its name, and the pod's cgroup with the last. Several may have asked for that, and the first of them may
    /// have made room for another of that name.
    async fn forget(self: &Arc<Self>, id: &str, deleted: &Container) {
        let pod_cgroup = {
            let mut roster = self.roster();
            match roster.members.get(id) {
                Some(Place::Here {
                    container,
                    pod_cgroup,
                }) if container.is(deleted) => {
                    let pod_cgroup = pod_cgroup.clone();
                    roster.members.remove(id);
                    pod_cgroup
                }
                Some(Place::Here { .. } | Place::Creating) | None => return,
            }
        };
        let Some(path) = pod_cgroup else { return };
        let here = Arc::clone(self);
        let left = tokio::task::spawn_blocking(move || here.remove_pod_cgroup(&path));
        if let Err(error) = left.await {
            tracing::error!(%error, "a pod's cgroup is left behind");
        }
    }

    /// As [`Inner::forget`], of what never came to be: its place on record goes first, because
    /// whoever takes the name again may have the same bundle.
    async fn leave(self: &Arc<Self>, id: String, bundle: PathBuf, pod_cgroup: Option<PathBuf>) {
        let here = Arc::clone(self);
        let left = tokio::task::spawn_blocking(move || {
            if let Err(error) = here.record.remove(&bundle) {
                tracing::warn!(%error, "record left behind");
            }
            here.roster().members.remove(&id);
            if let Some(path) = pod_cgroup {
                here.remove_pod_cgroup(&path);
            }
        });
        if let Err(error) = left.await {
            tracing::error!(%error, "a container's record is left behind");
        }
    }

    fn remove_pod_cgroup(&self, path: &Path) {
        let _turn = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        // Someone builds in it: whether or not that comes to anything, they leave after us.
        let Ok(_alone) = self.building.try_write() else {
            return;
        };
        if !self.roster().members.is_empty() {
            return;
        }
        let removed = Cgroup::open(self.ground.host(), path).and_then(|cgroup| cgroup.remove());
        if let Err(error) = removed
            && !error.is_gone()
        {
            tracing::warn!(cgroup = %path.display(), %error, "pod's cgroup left behind");
        }
    }
}

/// The error of a container, with its name.
fn of(id: &str) -> impl FnOnce(ContainerError) -> Error {
    move |source| Error::Container {
        id: id.to_owned(),
        source,
    }
}

/// A task of ours ended without an answer: it panicked.
fn dropped() -> Error {
    Error::Host {
        step: "create the container",
        source: std::io::Error::other("task panicked"),
    }
}
