//! From a bundle to a container that stands at its gate: each stage undoes itself.
//!
//! ```text
//!   Prepared::read    config.json, typed
//!   Prepared::bear    stdio -> rootfs -> native or wasm -> cgroup -> plan -> process
//!   Birth::begin      the actor takes over
//! ```
//!
//! All of it blocks and belongs on a blocking thread, but for `begin`.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use duet_cgroup::{OomWatch, Stats};
use duet_launch::Supplies;
use duet_plan::{Facts, Program};
use duet_spec::{Container as Spec, LinuxResources, Moment, Namespace, PodFiles, Process};
use duet_wasm::Compiled;
use tokio::sync::mpsc::UnboundedSender;

use crate::body::{Body, Born, Gate, PidNamespace};
use crate::confined::{Confined, Place};
use crate::error::Error;
use crate::exec::bury;
use crate::ground::Ground;
use crate::handle::{Container, Label};
use crate::kind::{self, Kind};
use crate::ledger::Ledger;
use crate::net_devices::HandedOver;
use crate::outputs::Writes;
use crate::plumbing::Plumbing;
use crate::resctrl::{self, Class};
use crate::rootfs::Rootfs;
use crate::signal;
use crate::stdio::Ends;
use crate::words::{Create, Exit, IoOwner, Stdio, Told};

mod counters;
mod further;
mod handed;
mod hooked;
mod spawned;
mod supplied;
mod told;

use counters::Counters;
use told::Account;

/// A request whose bundle was read; nothing was changed yet.
#[derive(Debug)]
pub struct Prepared {
    request: Create,
    spec: Spec,
    cgroup: Place,
    class: Option<Class>,
}

/// A container whose init stands at the gate, and that nobody serves yet. Dropping it ends it.
pub struct Birth {
    label: Label,
    born: Born,
    body: Arc<Linux>,
}

/// A container's half in the kernel. Dropping it kills and removes what is left of it.
struct Linux {
    id: String,
    spec: Spec,
    /// What its first process runs.
    program: Program,
    ground: Arc<Ground>,
    ledger: Arc<dyn Ledger>,
    io_owner: Option<IoOwner>,
    /// Its processes keep the shim's session keyring.
    no_new_keyring: bool,
    /// How much space the node's compiled code may take, if the request says so.
    cache_size: Option<u64>,
    /// The compiled code that its guests run: in the cache as long as the container is there.
    compiled: Mutex<Vec<Compiled>>,
    /// What is known of the guests that run, by their processes.
    accounts: Mutex<BTreeMap<i32, Account>>,
    /// What was used, for the time when its cgroup is gone.
    counters: Counters,
    /// Its first process, and the number of that.
    init: OnceLock<(i32, OwnedFd)>,
    /// Its class of resctrl, if it asks for one.
    class: Option<Class>,
    /// The network devices that it has got, until it is served.
    net_devices: Mutex<Option<HandedOver>>,
    /// Whether it came so far that its poststop hooks must run.
    begun: AtomicBool,
    // In the order in which they must go.
    confined: Confined,
    rootfs: Mutex<Rootfs>,
}

// === impl Prepared ===

impl Prepared {
    /// Reads the bundle's `config.json`.
    ///
    /// # Errors
    ///
    /// [`Error::Spec`], or [`Error::Cgroup`] for a `linux.cgroupsPath` that systemd could not take.
    pub fn read(request: Create) -> Result<Self, Error> {
        let spec = Spec::load(&request.bundle)?;
        Self::new(request, spec)
    }

    /// As [`Prepared::read`], of a `config.json` that is in no file.
    ///
    /// # Errors
    ///
    /// As [`Prepared::read`].
    pub fn written(request: Create, config: &str) -> Result<Self, Error> {
        let spec = Spec::parse(&request.bundle, config.as_bytes())?;
        Self::new(request, spec)
    }

    fn new(request: Create, spec: Spec) -> Result<Self, Error> {
        request.stdio.check(&spec.process)?;
        tell_unknown(&request.id, &spec.process);
        let cgroup = Place::of(&spec, &request.id)?;
        let class = match &spec.intel_rdt {
            None => None,
            Some(asked) => Some(Class::of(asked, &request.id, resctrl::find()?)?),
        };
        Ok(Prepared {
            request,
            spec,
            cgroup,
            class,
        })
    }

    /// What the bundle asks for.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Gives it the files of its pod.
    pub fn share(&mut self, pod: &PodFiles) {
        self.spec.share(pod);
    }

    /// Where its cgroup will be, below the root of each hierarchy.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// The unit of systemd that its cgroup will belong to.
    pub fn unit(&self) -> Option<&str> {
        self.cgroup.unit()
    }

    /// What of resctrl goes with it, in this order.
    pub fn classes(&self) -> Vec<PathBuf> {
        self.class.as_ref().map_or_else(Vec::new, Class::leaves)
    }

    /// Puts it elsewhere: below its pod's.
    pub fn set_cgroup(&mut self, cgroup: PathBuf) {
        self.cgroup = Place::Path(cgroup);
    }

    /// Where its root filesystem will be mounted, if there is something to mount.
    pub fn rootfs(&self) -> PathBuf {
        self.request.bundle.join("rootfs")
    }

    /// Makes everything there is to make, and the process last. On an error nothing is left.
    /// The programs that serve it meanwhile and afterwards are entered into `ledger`.
    ///
    /// # Errors
    ///
    /// [`Error`], naming the step.
    pub fn bear(self, ground: Arc<Ground>, ledger: Arc<dyn Ledger>) -> Result<Birth, Error> {
        let Prepared {
            request,
            spec,
            cgroup,
            class,
        } = self;
        let Create {
            id,
            bundle,
            rootfs: mounts,
            mut stdio,
            io_owner,
            no_new_keyring,
            cache_size,
        } = request;
        let uid = spec.host_uid(&spec.process);
        let served = ground.served(&id, &ledger);
        let writes = Writes::of(&[&spec.process]);
        let (plumbing, ends) = Plumbing::open(&stdio, uid, io_owner, writes, served)?;
        // What was given is the process's: whoever reads it must see its end.
        stdio.given = None;
        let rootfs = {
            // A mount with ids of its own has a child for a moment.
            let _labour = ground.children().labour();
            Rootfs::mount(&bundle.join("rootfs"), &mounts)?
        };
        let decided = kind::decide(&spec, || ground.layer(&id));
        let (kind, rule) = decided.inspect_err(|error| ends.complain(error))?;
        if let Some(class) = &class {
            class.make()?;
        }
        let resources = spec.resources.clone().unwrap_or_default();
        let confined = if kind.program() == Program::Native {
            Confined::begin(&ground, cgroup, &resources, &spec.namespaces)?
        } else {
            // The runner is born with the directory of its memory cgroup.
            Confined::create(&ground, cgroup, &resources, &spec.namespaces)?
        };
        let linux = Linux {
            id: id.clone(),
            spec,
            program: kind.program(),
            ground,
            ledger,
            io_owner,
            no_new_keyring,
            cache_size,
            compiled: Mutex::default(),
            accounts: Mutex::default(),
            counters: Counters::default(),
            init: OnceLock::new(),
            class,
            net_devices: Mutex::default(),
            begun: AtomicBool::new(false),
            confined,
            rootfs: Mutex::new(rootfs),
        };
        let (mut born, init) = match linux.first(kind, plumbing, ends, &resources) {
            Ok(born) => born,
            Err(error) => {
                linux.undo();
                return Err(error);
            }
        };
        tracing::info!(container = %id, pid = born.pid, detected_by = rule, "container created");
        drop(linux.init.set((born.pid, init)));
        linux.begun.store(true, Ordering::Release);
        let body = Arc::new(linux);
        if body
            .spec
            .hooks
            .any(&[Moment::StartContainer, Moment::Poststart])
        {
            let hooked = Arc::clone(&body);
            let start = Box::new(move |gate| hooked.start(gate));
            born.gate = Gate::Hooked(Box::new(born.gate), start);
        }
        let label = Label {
            id,
            bundle,
            rootfs: mounts,
            stdio,
        };
        Ok(Birth { label, born, body })
    }
}

// === impl Birth ===

impl Birth {
    /// The init process.
    pub fn pid(&self) -> i32 {
        self.born.pid
    }

    /// Lets the container be served, and says that it was created. The future is its owner and
    /// must run for as long as the container is to be served. Needs the runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Host`] or [`Error::Terminal`]; nothing of the container is left.
    pub async fn begin(
        self,
        facts: UnboundedSender<Told>,
    ) -> Result<(Container, impl Future<Output = ()> + Send + 'static), Error> {
        let Birth { label, born, body } = self;
        let left = Arc::clone(&body);
        let error = match Container::begin(label, body, born, facts) {
            Ok(begun) => {
                left.keep_net_devices();
                return Ok(begun);
            }
            Err(error) => error,
        };
        // Hooks take their time.
        if let Err(error) = tokio::task::spawn_blocking(move || left.undo()).await {
            tracing::error!(%error, "cleanup after a failed create is incomplete");
        }
        Err(error)
    }

    /// Ends it, and runs its poststop hooks. Blocks.
    pub fn abandon(self) {
        let Birth { born, body, .. } = self;
        drop(born.gate);
        bury(&born.pidfd);
        body.undo();
    }
}

impl std::fmt::Debug for Birth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Birth")
            .field("pid", &self.born.pid)
            .finish_non_exhaustive()
    }
}

// === impl Linux ===

impl Linux {
    /// The birth of init, with a second descriptor of it for execs.
    fn first(
        &self,
        kind: Kind,
        plumbing: Plumbing,
        ends: Ends,
        resources: &LinuxResources,
    ) -> Result<(Born, OwnedFd), Error> {
        let _labour = self.ground.children().labour();
        let (facts, sources) = duet_launch::facts(self.ask(&self.spec.process, &ends))?;
        let root = duet_launch::root_tree(&self.spec.root.path)?;
        let supplies = Supplies {
            root: Some(root.as_fd()),
            sources: Some(&sources),
            ..Supplies::default()
        };
        let listen = crate::listen::addresses(&self.spec, &kind)?;
        let newborn = match kind {
            Kind::Native => {
                let plan = duet_plan::container(&self.spec, &facts, Program::Native)?;
                self.spawn(&plan, &ends, supplies, None)?
            }
            Kind::Wasm(guest) => {
                let supplied = self.supply(guest, &self.spec.process, Some(listen), &facts);
                let supplied = supplied.inspect_err(|error| ends.complain(error))?;
                let facts = Facts {
                    listeners: supplied.way.is_some(),
                    ..facts
                };
                let plan = duet_plan::container(&self.spec, &facts, Program::Wasm)?;
                let supplies = Supplies {
                    runner: Some(self.ground.runner()?),
                    module: Some(supplied.module.as_fd()),
                    handoff: Some(supplied.handoff.as_fd()),
                    tally: Some(supplied.account.tally.as_fd()),
                    listeners: supplied.way.as_ref().map(AsFd::as_fd),
                    ..supplies
                };
                let newborn = self.spawn(&plan, &ends, supplies, None)?;
                self.keep(newborn.pid, supplied.account);
                if let Some(way) = supplied.way {
                    self.ground.listeners().attend(way, newborn.pid, &self.id);
                }
                newborn
            }
        };
        let init = newborn.pidfd.try_clone().map_err(|source| Error::Host {
            step: "keep the process",
            source,
        });
        let born = self.adopt(newborn, plumbing);
        match init.and_then(|init| self.confined.settle(resources).map(|()| init)) {
            Ok(init) => Ok((born, init)),
            Err(error) => {
                drop(born.gate);
                bury(&born.pidfd);
                Err(error)
            }
        }
    }

    /// Sees to it that nothing is left of a container that nobody will serve, and that its
    /// poststop hooks run then.
    fn undo(&self) {
        if let Err(error) = self.destroy() {
            tracing::warn!(container = %self.id, %error, "cleanup after a failed create is incomplete");
        }
        self.return_net_devices();
    }
}

impl Body for Linux {
    fn pid_namespace(&self) -> PidNamespace {
        match self.spec.namespaces.pid {
            Namespace::New => PidNamespace::Own,
            Namespace::Host | Namespace::Path(_) => PidNamespace::Shared,
        }
    }

    fn bear(&self, exec: &str, process: &Process, stdio: &Stdio) -> Result<Born, Error> {
        self.further(exec, process, stdio)
    }

    fn ended(&self, exec: Option<&str>, pid: i32, exit: Exit) {
        self.settle(exec, pid, exit);
        if exec.is_none() && kind::is_sandbox(&self.spec) {
            // The pod is over, whatever its other containers still do.
            self.ground.listeners().close();
        }
    }

    fn signal_all(&self, number: i32) -> Result<(), Error> {
        let cgroup = &self.confined.cgroup;
        if number == signal::KILL {
            return cgroup.kill().map_err(Error::cgroup("kill the container"));
        }
        for pid in self.pids()? {
            let sent =
                duet_linux::process::pidfd_open(pid).and_then(|pidfd| signal::send(pidfd, number));
            match sent {
                // It ended meanwhile.
                Err(error) if error.raw_os_error() == Some(signal::ESRCH) => {}
                sent => sent.map_err(|source| Error::Signal {
                    signal: number,
                    pid,
                    source,
                })?,
            }
        }
        Ok(())
    }

    fn freeze(&self) -> Result<(), Error> {
        self.confined
            .cgroup
            .freeze()
            .map_err(Error::cgroup("freeze the container"))
    }

    fn thaw(&self) -> Result<(), Error> {
        self.confined
            .cgroup
            .thaw()
            .map_err(Error::cgroup("thaw the container"))
    }

    fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        self.confined
            .update(&self.spec.reread(resources.clone()))
            .map_err(Error::cgroup("limit the container"))
    }

    fn pids(&self) -> Result<Vec<i32>, Error> {
        let pids = match self.confined.cgroup.pids() {
            Ok(pids) => pids,
            // systemd removes a scope's when the last process has left it: nobody is in there.
            Err(error) if error.is_gone() => Vec::new(),
            Err(error) => return Err(Error::cgroup("list the processes")(error)),
        };
        Ok(pids
            .into_iter()
            .filter_map(|pid| i32::try_from(pid).ok())
            .collect())
    }

    fn stats(&self) -> Result<Stats, Error> {
        self.used()
    }

    fn keep_counters(&self) {
        // What Duet made stays until Delete.
        if self.confined.is_scope() {
            self.look();
        }
    }

    fn oom(&self) -> Option<Arc<OomWatch>> {
        match self.confined.oom() {
            Ok(watch) => Some(self.counters.watch(watch)),
            Err(error) => {
                tracing::warn!(container = %self.id, %error, "OOM kills of this container will not be reported");
                None
            }
        }
    }

    fn destroy(&self) -> Result<(), Error> {
        self.confined
            .remove()
            .map_err(Error::cgroup("remove the cgroup"))?;
        self.class.as_ref().map_or(Ok(()), Class::remove)?;
        // A panic of another thread while it held the lock leaves a count that is still true.
        self.rootfs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .unmount()?;
        // Whoever has cleaned up has run the hooks.
        if !self.ledger.is_closed() {
            self.bid_farewell();
        }
        self.ledger.close();
        Ok(())
    }
}

/// A capability that no kernel has is not an error, as with runc; whoever asked for it may
/// wonder where it is.
fn tell_unknown(id: &str, process: &Process) {
    for name in &process.unknown_capabilities {
        tracing::warn!(container = %id, capability = %name, "unknown capability left out");
    }
}
