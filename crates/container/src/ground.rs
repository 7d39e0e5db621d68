//! What every birth in a pod stands on.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use std::os::fd::AsFd;

use duet_cgroup::Host;
use duet_linux::mount;
use duet_linux::namespace::Kind;
use duet_plan::PodNamespaces;
use duet_wasm::{Cache, Program};

use crate::children::Children;
use crate::error::{Error, WasmError};
use crate::helper::Served;
use crate::kind::Guest;
use crate::layer::Layers;
use crate::ledger::Ledger;
use crate::listeners::Listeners;
use crate::tools;
use crate::workshop::{Tenancy, Workshop};

/// What every birth in a pod stands on.
#[derive(Debug)]
pub struct Ground {
    namespace: String,
    host: Host,
    children: Arc<Children>,
    namespaces: OnceLock<Vec<(Kind, OwnedFd)>>,
    listeners: Arc<Listeners>,
    wasm: Wasm,
}

/// Where the programs of the wasm half and what they work on are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The program that runs guests.
    pub runner: PathBuf,
    /// The program that compiles them.
    pub compiler: PathBuf,
    /// The guest that execs find in wasm containers whose image has no such program.
    pub tools: PathBuf,
    /// Where compiled code is kept, for the whole node.
    pub cache: PathBuf,
    /// The program that asks containerd for a guest that is in no file.
    pub duet: PathBuf,
    /// containerd's socket.
    pub address: String,
}

// === impl Programs ===

impl Programs {
    /// Those that `make install` puts beside `program`, with the node's cache; `address` is containerd's.
    #[must_use]
    pub fn beside(program: &Path, address: String) -> Self {
        Self {
            runner: program.with_file_name("duet-runner"),
            compiler: program.with_file_name("duet-compiler"),
            tools: program.with_file_name("duet-tools.wasm"),
            cache: PathBuf::from(Cache::DIRECTORY),
            duet: program.with_file_name("duet"),
            address,
        }
    }
}

/// The wasm half. Its programs are opened at once, all else when the first guest needs it.
#[derive(Debug)]
struct Wasm {
    runner_program: Program,
    compiler: Program,
    tools_path: PathBuf,
    cache_path: PathBuf,
    workshop: Arc<Workshop>,
    layers: Layers,
    runner: OnceLock<OwnedFd>,
    cache: OnceLock<Cache>,
}

// === impl Ground ===

impl Ground {
    /// Looks at the host's cgroups and opens the runner and the compiler, so that they stay those of this shim's build. `namespace` is containerd's.
    ///
    /// # Errors
    ///
    /// [`Error::Cgroup`] if there are none.
    pub fn new(namespace: String, programs: Programs) -> Result<Self, Error> {
        let host = Host::detect().map_err(Error::cgroup("find the host's cgroups"))?;
        let children: Arc<Children> = Arc::default();
        let Programs {
            runner,
            compiler,
            tools,
            cache,
            duet,
            address,
        } = programs;
        let layers = Layers {
            program: duet,
            address,
            namespace: namespace.clone(),
        };
        let workshop = Workshop::new(host.clone(), Arc::clone(&children));
        Ok(Ground {
            namespace,
            host,
            children,
            namespaces: OnceLock::new(),
            listeners: Arc::default(),
            wasm: Wasm {
                workshop: Arc::new(workshop),
                layers,
                runner_program: Program::at(runner),
                compiler: Program::at(compiler),
                tools_path: tools,
                cache_path: cache,
                runner: OnceLock::new(),
                cache: OnceLock::new(),
            },
        })
    }

    /// What a helper needs to serve the container or exec of this name.
    pub(crate) fn served<'a>(&'a self, name: &'a str, ledger: &'a Arc<dyn Ledger>) -> Served<'a> {
        Served {
            name,
            namespace: &self.namespace,
            children: &self.children,
            ledger,
        }
    }

    /// The shim's children.
    pub fn children(&self) -> &Arc<Children> {
        &self.children
    }

    /// The listening sockets that the pod keeps for successors of its servers.
    pub(crate) fn listeners(&self) -> &Arc<Listeners> {
        &self.listeners
    }

    /// containerd's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The host's cgroups.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Gives the pod namespaces of its own, which its containers get when they ask for new
    /// ones. Only the first gift counts.
    pub fn hold(&self, namespaces: Vec<(Kind, OwnedFd)>) {
        // A second gift is dropped, and with it the namespaces that nobody has entered.
        drop(self.namespaces.set(namespaces));
    }

    /// Whether the pod holds namespaces of its own.
    pub fn holds(&self) -> bool {
        self.namespaces.get().is_some()
    }

    pub(crate) fn pod(&self) -> PodNamespaces {
        let held = |kind| self.held().iter().any(|(held, _)| *held == kind);
        PodNamespaces {
            network: held(Kind::Net),
            ipc: held(Kind::Ipc),
            uts: held(Kind::Uts),
        }
    }

    pub(crate) fn given(&self) -> Vec<(u32, BorrowedFd<'_>)> {
        self.held()
            .iter()
            .map(|(kind, file)| (kind.flag(), file.as_fd()))
            .collect()
    }

    fn held(&self) -> &[(Kind, OwnedFd)] {
        self.namespaces.get().map_or(&[], Vec::as_slice)
    }

    /// The runner, as a mount of its own that nobody can write to.
    pub(crate) fn runner(&self) -> Result<BorrowedFd<'_>, WasmError> {
        let program = &self.wasm.runner_program;
        open_once(&self.wasm.runner, || {
            let mount = program.file().and_then(mount::clone_open_read_only);
            mount.map_err(|source| WasmError::File {
                step: "open the runner",
                path: program.path().to_owned(),
                source,
            })
        })
        .map(AsFd::as_fd)
    }

    /// The program that an exec is, named `name`, in a container that has none.
    pub(crate) fn tool(&self, name: &str) -> Result<Guest, WasmError> {
        tools::open(&self.wasm.tools_path, name)
    }

    /// The cgroup in which wasm is compiled while it is, below the root of each hierarchy.
    pub fn workshop(&self) -> &Path {
        self.wasm.workshop.path()
    }

    /// The WebAssembly layer of the image of a container, if it has one.
    pub(crate) fn layer(&self, container: &str) -> Result<Option<File>, WasmError> {
        let _launch = self.children.launch();
        self.wasm.layers.of(container)
    }

    /// The node's compiled code, of which there is `size` at most: what the pod's first guest was
    /// created with, for the options of a runtime are the same for all of a pod.
    pub(crate) fn cache(&self, size: Option<u64>) -> Result<&Cache, WasmError> {
        let Wasm {
            cache_path,
            compiler,
            runner_program,
            workshop,
            ..
        } = &self.wasm;
        open_once(&self.wasm.cache, || {
            let cache = Cache::open(cache_path, compiler)?;
            Ok(cache
                .with_runner(runner_program)
                .with_workshop(Arc::new(Tenancy(Arc::clone(workshop))))
                .with_size(size.unwrap_or(Cache::SIZE)))
        })
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // The pod is over: who still compiles does it for nobody, and would leave its cgroup behind.
        self.wasm.workshop.close();
    }
}

/// As `OnceLock::get_or_try_init`: an error is not remembered.
fn open_once<T>(
    lock: &OnceLock<T>,
    open: impl FnOnce() -> Result<T, WasmError>,
) -> Result<&T, WasmError> {
    if let Some(opened) = lock.get() {
        return Ok(opened);
    }
    let opened = open()?;
    Ok(lock.get_or_init(|| opened))
}
