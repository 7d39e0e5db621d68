//! The place a scenario plays in: the machine's runtime, a containerd, and the promise
//! that nothing is left.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use std::{process, thread};

use crate::command::{self, Outcome};
use crate::containerd::Containerd;
use crate::cri::Cri;
use crate::ctr::Container;
use crate::leaks::{self, Scope, Snapshot};
use crate::machine::{self, Cgroups, Runtime, Sandboxer, Skip};
use crate::{image, wait};

/// The command line of a shim that serves.
const SHIM: &str = "containerd-shim-duet-v1 -namespace";

/// How long what Duet has left may outlast containerd's own cleaning.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// One test at a time: a leak check that sees the whole machine needs it.
static ALONE: Mutex<()> = Mutex::new(());
static DAEMON: OnceLock<Containerd> = OnceLock::new();
/// How many tests have left something, or failed and may have.
static SPOILT: AtomicU32 = AtomicU32::new(0);

/// A node that one test has for itself.
#[derive(Debug)]
pub struct Node {
    daemon: &'static Containerd,
    runtime: Runtime,
    sandboxer: Sandboxer,
    namespace: String,
    netns: RefCell<Vec<PathBuf>>,
    /// How long containerd may take to clean up after the test's last request.
    cleanup: Duration,
    scratch: tempfile::TempDir,
    before: Snapshot,
    /// How much the daemon had logged when the test began, in bytes.
    log_start: usize,
    _alone: MutexGuard<'static, ()>,
}

impl Node {
    /// Enters the node; `None` when the machine cannot be one and nobody requires it.
    ///
    /// # Panics
    ///
    /// When the machine could be a node but the daemon or an image fails.
    #[must_use]
    pub fn enter() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            let why = "containers need root".to_owned();
            machine::skip(&Skip { what: "root", why });
            return None;
        }
        let runtime = Runtime::chosen();
        if runtime == Runtime::Duet {
            for name in [
                "containerd-shim-duet-v1",
                "duet-runner",
                "duet-compiler",
                "duet-tools.wasm",
            ] {
                let _path = machine::binary(name);
            }
        }
        if Sandboxer::chosen() == Sandboxer::Shim {
            let _path = machine::binary("duet-holder");
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let daemon = DAEMON.get_or_init(Containerd::start);
        // The images are imported once: the next test finds this one's namespace empty, or gets
        // another.
        let spoilt = SPOILT.load(Ordering::Relaxed);
        let namespace = format!("duett-{}-{spoilt}", process::id());
        let scratch = tempfile::Builder::new()
            .prefix("scratch-")
            .tempdir_in(&daemon.dir)
            .expect("our own folder");
        let mut this = Self {
            daemon,
            runtime,
            sandboxer: Sandboxer::chosen(),
            namespace,
            netns: RefCell::default(),
            cleanup: wait::patience(),
            scratch,
            before: Snapshot::default(),
            log_start: daemon.log().len(),
            _alone: alone,
        };
        this.import(&this.namespace);
        this.before = Snapshot::take(&this.scope(&[], &this.namespaces()));
        Some(this)
    }

    /// As [`Node::enter`], for what only Duet offers: with the oracle chosen there is
    /// nothing to compare, and the test ends.
    #[must_use]
    pub fn enter_with_duet() -> Option<Self> {
        if Runtime::chosen() == Runtime::Runc {
            eprintln!("not a question for runc");
            return None;
        }
        Self::enter()
    }

    /// As [`Node::enter`], for pods that the shim makes itself.
    #[must_use]
    pub fn enter_with_sandboxes() -> Option<Self> {
        if Sandboxer::chosen() == Sandboxer::Podsandbox {
            eprintln!("a question for sandboxer = \"shim\"");
            return None;
        }
        Self::enter()
    }

    /// As [`Node::enter`], on a machine whose systemd makes the cgroups.
    #[must_use]
    pub fn enter_with_systemd() -> Option<Self> {
        if Cgroups::chosen() == Cgroups::Cgroupfs {
            eprintln!("a question for DUET_TEST_CGROUPS=systemd");
            return None;
        }
        Self::enter()
    }

    /// Waits only for `limit` until nothing is left.
    #[must_use]
    pub fn cleaning_within(mut self, limit: Duration) -> Self {
        self.cleanup = limit;
        self
    }

    /// The daemon.
    #[must_use]
    pub fn daemon(&self) -> &'static Containerd {
        self.daemon
    }

    /// What runs the containers.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        self.runtime
    }

    /// Who makes its CRI pods.
    #[must_use]
    pub fn sandboxer(&self) -> Sandboxer {
        self.sandboxer
    }

    /// The name of the CRI handler that pods are asked of.
    #[must_use]
    pub fn handler(&self) -> &'static str {
        self.runtime.handler(self.sandboxer)
    }

    /// The containerd namespace of this test; also its cgroup, and the cgroup parent of
    /// its CRI pods.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The cgroup that this test's pods are below, as CRI is told it.
    #[must_use]
    pub fn cgroup_parent(&self) -> String {
        match Cgroups::chosen() {
            Cgroups::Cgroupfs => format!("/{}", self.namespace),
            Cgroups::Systemd => leaks::slice(&self.namespace),
        }
    }

    /// Whether there is a cgroup of a container that `ctr` runs, or of any if none is named.
    #[must_use]
    pub fn has_cgroup(&self, container: Option<&str>) -> bool {
        let name = container.map(|id| match Cgroups::chosen() {
            Cgroups::Cgroupfs => id.to_owned(),
            Cgroups::Systemd => format!("ctr-{id}.scope"),
        });
        let parent = leaks::parent_of_cgroups(&self.namespace);
        let below = |hierarchy: PathBuf| std::fs::read_dir(hierarchy.join(&parent));
        let mut entries = leaks::hierarchies().into_iter().flat_map(below).flatten();
        entries.any(|entry| {
            entry.as_ref().is_ok_and(|entry| {
                let named = name.as_ref().is_none_or(|name| entry.file_name() == **name);
                named && entry.path().is_dir()
            })
        })
    }

    /// What `ctr run` has to be told of the cgroup of a container.
    pub(crate) fn cgroup_of(&self, id: &str) -> Vec<String> {
        match Cgroups::chosen() {
            Cgroups::Cgroupfs => Vec::new(),
            Cgroups::Systemd => {
                let slice = leaks::slice(&self.namespace);
                vec!["--cgroup".to_owned(), format!("{slice}:ctr:{id}")]
            }
        }
    }

    /// A folder that is gone after the test.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Runs `ctr` with `args` in this test's namespace.
    #[must_use]
    pub fn ctr(&self, args: &[&str]) -> Outcome {
        command::run(self.daemon.ctr(&self.namespace).args(args))
    }

    /// A container to be run by `ctr`.
    #[must_use]
    pub fn container(&self, id: &str) -> Container<'_> {
        Container::new(self, id)
    }

    /// A CRI client of this node.
    #[must_use]
    pub fn cri(&self) -> Cri<'_> {
        self.import("k8s.io");
        Cri::connect(self)
    }

    /// Waits until nothing is left of what the test has done so far.
    ///
    /// # Panics
    ///
    /// When something is.
    pub fn expect_nothing_left(&self, after: &str) {
        let left = self.leftovers(self.cleanup, |_| true);
        assert!(
            left.is_empty(),
            "left behind after {after}:\n{}",
            left.join("\n")
        );
    }

    /// Waits until containerd has cleaned up, which ends with the removal of a bundle, and then for
    /// as long as Duet may still take until nothing is left: a second.
    ///
    /// # Panics
    ///
    /// When something is.
    pub fn expect_nothing_left_after_cleanup(&self, after: &str) {
        let namespaces = [self.namespace.as_str(), "k8s.io"];
        wait::until(&format!("containerd to clean up after {after}"), || {
            leaks::bundles(self.daemon, &namespaces)
                .is_empty()
                .then_some(())
        });
        // The shim's own end may wait for containerd to take its last events.
        let left = self.leftovers(AFTERWARDS * wait::slowness(), |sentence| {
            !sentence.contains(SHIM)
        });
        assert!(
            left.is_empty(),
            "left behind a second after containerd's cleanup after {after}:\n{}",
            left.join("\n")
        );
        self.expect_nothing_left(after);
    }

    /// Remembers a network namespace that must be gone when the test ends.
    pub(crate) fn remember_netns(&self, path: PathBuf) {
        self.netns.borrow_mut().push(path);
    }

    /// Imports the images into `namespace`, unless they are there.
    fn import(&self, namespace: &str) {
        static ARCHIVE: OnceLock<PathBuf> = OnceLock::new();
        static IMPORTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
        let archive = ARCHIVE.get_or_init(|| image::archive(&self.daemon.dir, self.sandboxer));
        let mut imported = IMPORTED.lock().unwrap_or_else(PoisonError::into_inner);
        if !imported.contains(namespace) {
            let mut import = self.daemon.ctr(namespace);
            let _imported = command::run(import.args(["images", "import"]).arg(archive)).ok();
            imported.insert(namespace.to_owned());
        }
    }

    fn namespaces(&self) -> [String; 1] {
        [self.namespace.clone()]
    }

    fn scope<'a>(&self, netns: &'a [PathBuf], namespaces: &'a [String]) -> Scope<'a> {
        Scope {
            daemon: self.daemon,
            runtime: self.runtime,
            namespaces,
            netns,
        }
    }

    /// Waits until nothing that is `judged` is left; returns what still is.
    fn leftovers(&self, limit: Duration, judged: impl Fn(&str) -> bool) -> Vec<String> {
        let (netns, namespaces) = (self.netns.borrow().clone(), self.namespaces());
        let scope = self.scope(&netns, &namespaces);
        let mut left = Vec::new();
        let _clean = wait::within(limit, || {
            leaks::remove_empty_parents(&scope);
            left = Snapshot::take(&scope).since(&self.before);
            left.retain(|sentence| judged(sentence));
            left.is_empty().then_some(())
        });
        if !left.is_empty() {
            leaks::clear(&scope);
        }
        left
    }

    /// Shows what the daemon and its shims have logged during this test.
    fn show_log(&self) {
        let log = self.daemon.log();
        let log = log.get(self.log_start..).unwrap_or_default();
        let told = |line: &&str| !line.contains("level=debug") && !line.contains("loading plugin");
        let lines: Vec<_> = log.lines().filter(told).collect();
        eprintln!("--- containerd and shims ---\n{}", lines.join("\n"));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.daemon.revive();
        let left = self.leftovers(self.cleanup, |_| true);
        if thread::panicking() || !left.is_empty() {
            SPOILT.fetch_add(1, Ordering::Relaxed);
        }
        if thread::panicking() {
            self.show_log();
            eprintln!("--- left behind ---\n{}", left.join("\n"));
        } else if !left.is_empty() {
            self.show_log();
            panic!("the test left behind:\n{}", left.join("\n"));
        }
    }
}
