//! A containerd of our own: its own folders, socket, network and configuration.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{env, process};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::cni::Network;
use crate::machine::{self, Cgroups, Runtime, Sandboxer};
use crate::{command, wait};

/// Takes away what containerd and a failed test leave, when this program has ended.
///
/// It waits at a pipe whose other end only this program has, so that the order to clean up
/// cannot be forgotten, whatever ended the tests.
const KEEPER: &str = r#"
read -r _
daemon=$(cat "$1/containerd.pid")
kill "$daemon" 2>/dev/null && timeout 20 tail -s 0.1 --pid="$daemon" -f /dev/null
# A test that failed may have left processes and mounts; the next run starts clean.
for environ in $(grep -lszFx "DUET_TEST_RUN=$1" /proc/[0-9]*/environ); do
    pid=${environ#/proc/}; pid=${pid%/environ}
    kill -9 "$pid" 2>/dev/null
done
awk -v dir="$1/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r |
    while read -r mount; do umount -l "$mount"; done
ip link delete "$2"
[ -n "$DUET_TEST_KEEP" ] || rm -rf "$1"
"#;

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    /// The folder that everything of this daemon lies in.
    pub dir: PathBuf,
    /// The pods' network.
    pub network: Network,
    daemon: Mutex<Daemon>,
    /// Its standard input is what holds the keeper back.
    _keeper: Child,
}

/// The process, which a test may end and start again.
#[derive(Debug)]
struct Daemon {
    /// The folder of the programs `containerd` and `ctr`; `None` means those in `PATH`.
    programs: Option<PathBuf>,
    /// "1.6.20" and the like.
    version: String,
    process: Child,
}

impl Containerd {
    /// Starts the one that `DUET_TEST_CONTAINERD` chooses and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not start; its log is printed.
    #[must_use]
    pub fn start() -> Self {
        let programs = env::var_os("DUET_TEST_CONTAINERD").map(PathBuf::from);
        let dir = env::temp_dir().join(format!("duet-tests-{}", process::id()));
        fs::create_dir_all(&dir).expect("the folder for temporary files is writable");
        let network = Network::new(&dir);
        let daemon = Daemon::start(programs, &dir, &network);
        let keeper = keep(&dir, &network.bridge);
        let this = Self {
            dir,
            network,
            daemon: Mutex::new(daemon),
            _keeper: keeper,
        };
        this.wait_until_ready();
        this
    }

    /// Ends the daemon by `signal` and waits until it is gone. What it has started goes on.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub fn end(&self, signal: Signal) {
        let mut daemon = self.daemon();
        daemon.signal(signal);
        let ended = wait::within(wait::patience(), || daemon.has_ended().then_some(()));
        assert!(ended.is_some(), "{signal} does not end containerd");
    }

    /// Starts the daemon again after [`Containerd::end`].
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start_again(&self) {
        let programs = self.daemon().programs.clone();
        self.start_again_from(programs);
    }

    /// Starts another release of the daemon over the same folders.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start_again_from(&self, programs: Option<PathBuf>) {
        *self.daemon() = Daemon::start(programs, &self.dir, &self.network);
        self.wait_until_ready();
    }

    /// Makes sure that it runs, whatever the last test did to it.
    pub(crate) fn revive(&self) {
        let ended = self.daemon().has_ended();
        if ended {
            self.start_again();
        }
    }

    /// Whether this is containerd 2 or later.
    #[must_use]
    pub fn is_2(&self) -> bool {
        !self.version().starts_with("1.")
    }

    /// The version it tells.
    #[must_use]
    pub fn version(&self) -> String {
        self.daemon().version.clone()
    }

    /// The gRPC socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// The socket that shims send their events to.
    #[must_use]
    pub fn ttrpc_socket(&self) -> PathBuf {
        self.dir.join("containerd.sock.ttrpc")
    }

    /// The daemon's own program.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        find("containerd", self.daemon().programs.as_deref())
    }

    /// The process id of the daemon.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.daemon().process.id()
    }

    /// What it and its shims have logged.
    #[must_use]
    pub fn log(&self) -> String {
        let mut log = Vec::new();
        let read = File::open(self.dir.join("log")).and_then(|mut file| file.read_to_end(&mut log));
        read.map_or_else(
            |error| error.to_string(),
            |_| String::from_utf8_lossy(&log).into_owned(),
        )
    }

    /// `ctr`, talking to this daemon.
    #[must_use]
    pub fn ctr(&self, namespace: &str) -> Command {
        let mut command = Command::new(find("ctr", self.daemon().programs.as_deref()));
        command
            .arg("--address")
            .arg(self.socket())
            .arg("--namespace")
            .arg(namespace);
        command
    }

    /// The folders in which a task or a sandbox of `namespace` has its bundle and its work files.
    #[must_use]
    pub fn task_dirs(&self, namespace: &str) -> [PathBuf; 4] {
        const TASKS: &str = "io.containerd.runtime.v2.task";
        const SANDBOXES: &str = "io.containerd.sandbox.controller.v1.shim";
        let places = [
            ("state", TASKS),
            ("root", TASKS),
            ("state", SANDBOXES),
            ("root", SANDBOXES),
        ];
        places.map(|(dir, plugin)| self.dir.join(dir).join(plugin).join(namespace))
    }

    fn wait_until_ready(&self) {
        // `ctr version` asks the daemon itself, so its answer is the readiness.
        let ready = wait::within(wait::patience(), || {
            let answer = command::run(self.ctr("default").arg("version"));
            (answer.code == 0 || self.daemon().has_ended()).then_some(answer.code == 0)
        });
        assert!(
            ready == Some(true),
            "containerd does not answer:\n{}",
            self.log()
        );
    }

    fn daemon(&self) -> MutexGuard<'_, Daemon> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Daemon ===

impl Daemon {
    fn start(programs: Option<PathBuf>, dir: &Path, network: &Network) -> Self {
        let is_folder = programs
            .as_ref()
            .is_none_or(|dir| dir.is_absolute() && dir.is_dir());
        assert!(
            is_folder,
            "{programs:?} is no absolute path of a folder with containerd in it"
        );
        let program = find("containerd", programs.as_deref());
        let version = version_of(&program);
        fs::write(dir.join("config.toml"), config(dir, network, &version)).expect("our own folder");
        let log = || {
            let log = File::options()
                .create(true)
                .append(true)
                .open(dir.join("log"));
            log.expect("our own folder")
        };
        let process = Command::new(&program)
            .arg("--config")
            .arg(dir.join("config.toml"))
            .env("DUET_TEST_RUN", dir)
            .env("PATH", shim_path())
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            // A Ctrl-C at the keyboard is for the tests; the keeper ends the daemon after them.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        fs::write(dir.join("containerd.pid"), process.id().to_string()).expect("our own folder");
        Self {
            programs,
            version,
            process,
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).expect("a pid is small");
        // It may have ended by itself; nobody else gets its number before it is waited for.
        let _sent = nix::sys::signal::kill(Pid::from_raw(pid), signal);
    }

    fn has_ended(&mut self) -> bool {
        self.process.try_wait().expect("our own child").is_some()
    }
}

fn keep(dir: &Path, bridge: &str) -> Child {
    Command::new("sh")
        .args(["-c", KEEPER, "keeper"])
        .arg(dir)
        .arg(bridge)
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("every machine has a shell")
}

/// The built binaries first, so that containerd finds Duet's shim as an installed one.
fn shim_path() -> std::ffi::OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = [machine::bin_dir()]
        .into_iter()
        .chain(env::split_paths(&path));
    let sbin = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    env::join_paths(dirs.chain(sbin)).expect("no folder in PATH has a colon")
}

fn find(name: &str, programs: Option<&Path>) -> PathBuf {
    match programs {
        Some(dir) => dir.join(name),
        None => machine::program(name)
            .unwrap_or_else(|| panic!("{name} is missing: apt-get install containerd")),
    }
}

fn version_of(daemon: &Path) -> String {
    let said = command::run(Command::new(daemon).arg("--version"))
        .ok()
        .stdout;
    // "containerd github.com/containerd/containerd 1.6.20~ds1 <revision>"
    let version = said
        .split_whitespace()
        .nth(2)
        .expect("containerd tells its version");
    version.trim_start_matches('v').to_owned()
}

/// The tables of CRI's runtime handlers.
fn handlers(version: &str) -> String {
    let is_1 = version.starts_with("1.");
    let table = if is_1 {
        "'io.containerd.grpc.v1.cri'"
    } else {
        "'io.containerd.cri.v1.runtime'"
    };
    let handler = |runtime: Runtime, sandboxer| {
        let (handler, name) = (runtime.handler(sandboxer), runtime.name());
        let head = format!("[plugins.{table}.containerd.runtimes.{handler}");
        let options = match (Cgroups::chosen(), sandboxer) {
            // containerd 2.1 starts no container in a pod of a shim's own whose handler has options,
            // unless it is runc's: `WithTaskAPIEndpoint` asks for runc's type.
            (Cgroups::Cgroupfs, _) | (Cgroups::Systemd, Sandboxer::Shim) => String::new(),
            (Cgroups::Systemd, Sandboxer::Podsandbox) => {
                format!("{head}.options]\n  SystemdCgroup = true\n")
            }
        };
        let annotations = "pod_annotations = ['io.containerd.duet.v1.*']";
        format!("{options}{head}]\n  runtime_type = '{name}'\n  {annotations}\n")
    };
    let usual = [Runtime::Duet, Runtime::Runc].map(|it| handler(it, Sandboxer::Podsandbox));
    let mut handlers = usual.concat();
    if !is_1 {
        handlers += &handler(Runtime::Duet, Sandboxer::Shim);
        handlers += "  sandboxer = 'shim'\n";
    }
    handlers
}

/// The configuration: version 2 of it for containerd 1, version 3 for containerd 2.
fn config(dir: &Path, network: &Network, version: &str) -> String {
    let (root, state) = (dir.join("root"), dir.join("state"));
    let socket = dir.join("containerd.sock");
    let (conf, plugins) = (&network.conf_dir, Network::plugin_dir());
    let (runtimes, selinux) = (handlers(version), machine::enforces_selinux());
    // A busy machine is not a node: what containerd gives a shim a few seconds for may take longer.
    let timeouts = ["shim.cleanup", "shim.load", "shim.shutdown", "task.state"]
        .map(|what| format!("  'io.containerd.timeout.{what}' = '30s'\n"))
        .concat();
    let head = format!(
        "root = {root:?}\nstate = {state:?}\n[grpc]\n  address = {socket:?}\n[debug]\n  level = 'debug'\n\
         [timeouts]\n{timeouts}"
    );
    // Without CAP_SYS_RESOURCE nobody may lower an oom_score_adj, and the pause
    // container asks for -998.
    if version.starts_with("1.") {
        format!(
            "version = 2\n{head}\
             [plugins.'io.containerd.internal.v1.opt']\n  path = '{root}/opt'\n\
             [plugins.'io.containerd.grpc.v1.cri']\n  sandbox_image = '{PAUSE}'\n  \
             restrict_oom_score_adj = true\n  enable_selinux = {selinux}\n  stream_server_address = '127.0.0.1'\n  stream_server_port = '0'\n\
             [plugins.'io.containerd.grpc.v1.cri'.cni]\n  bin_dir = '{plugins}'\n  conf_dir = {conf:?}\n\
             [plugins.'io.containerd.grpc.v1.cri'.containerd]\n  snapshotter = 'overlayfs'\n\
             {runtimes}",
            root = root.display(),
            PAUSE = crate::image::PAUSE,
        )
    } else {
        format!(
            "version = 3\n{head}\
             [plugins.'io.containerd.internal.v1.opt']\n  path = '{root}/opt'\n\
             [plugins.'io.containerd.nri.v1.nri']\n  disable = true\n\
             [plugins.'io.containerd.cri.v1.images'.pinned_images]\n  sandbox = '{PAUSE}'\n\
             [plugins.'io.containerd.cri.v1.runtime']\n  restrict_oom_score_adj = true\n  \
             enable_selinux = {selinux}\n\
             [plugins.'io.containerd.cri.v1.runtime'.cni]\n  bin_dirs = ['{plugins}']\n  conf_dir = {conf:?}\n\
             [plugins.'io.containerd.grpc.v1.cri']\n  stream_server_address = '127.0.0.1'\n  stream_server_port = '0'\n\
             {runtimes}",
            root = root.display(),
            PAUSE = crate::image::PAUSE,
        )
    }
}
