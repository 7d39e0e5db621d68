//! A place for births: a mount namespace, a busybox root, and a spec as CRI writes it.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use duet_launch::{Ask, Error, Newborn, Supplies};
use duet_linux::process::{self, Exit};
use duet_plan::{CgroupFacts, Plan, PodNamespaces, Program, Stdio};
use duet_spec::{Container, Process};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

/// Where the statically linked busybox is that the tests' containers run.
const BUSYBOX: &str = "/bin/busybox";
/// Its names that the tests use.
const APPLETS: [&str; 25] = [
    "sh", "true", "false", "cat", "ls", "echo", "grep", "id", "tty", "stat", "sleep", "touch",
    "mount", "readlink", "test", "ps", "hostname", "wc", "stty", "head", "pwd", "kill", "env",
    "umask", "umount",
];

/// Held while a program is written: a child that is born meanwhile has the file open for a
/// moment too, and until it has closed it nobody can execute it (`ETXTBSY`).
static COPYING: RwLock<()> = RwLock::new(());

/// A stage of one test's own, in a mount namespace of its own.
pub(crate) struct Stage {
    pub(crate) bundle: PathBuf,
    _dir: tempfile::TempDir,
}

/// What a process left behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: u8,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs a test in a thread whose mounts nobody else sees. Without root it says so and skips.
pub(crate) fn stage(test: impl FnOnce(&Stage) + Send) {
    if !nix::unistd::geteuid().is_root() {
        assert_ne!(
            std::env::var("DUET_TEST_REQUIRE").as_deref(),
            Ok("root"),
            "this test needs root"
        );
        eprintln!("skipped: needs root");
        assert!(
            std::env::var_os("DUET_TEST_REQUIRE").is_none(),
            "DUET_TEST_REQUIRE is set: nothing may be skipped"
        );

        return;
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            test(&Stage::new());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

// === impl Stage ===

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().canonicalize().unwrap();
        let none = None::<&str>;
        mount(
            Some("stage"),
            &bundle,
            Some("tmpfs"),
            MsFlags::empty(),
            none,
        )
        .unwrap();
        let root = bundle.join("rootfs");
        for made in ["bin", "etc", "tmp", "home/web"] {
            fs::create_dir_all(root.join(made)).unwrap();
        }
        {
            let _no_births = COPYING.write().unwrap_or_else(PoisonError::into_inner);
            fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
        }
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let passwd = "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/home/web:/bin/sh\n";
        fs::write(root.join("etc/passwd"), passwd).unwrap();
        Self { bundle, _dir: dir }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    /// A spec as CRI writes it for an unprivileged container, with these arguments.
    pub(crate) fn spec<const N: usize>(&self, args: [&str; N]) -> Value {
        for file in ["hosts", "hostname", "resolv.conf"] {
            fs::write(self.bundle.join(file), format!("{file}\n")).unwrap();
        }
        let bind = |name: &str| {
            json!({"destination": format!("/etc/{name}"), "type": "bind",
                   "source": self.bundle.join(name), "options": ["rbind", "rprivate", "rw"]})
        };
        let caps = json!([
            "CAP_CHOWN",
            "CAP_DAC_OVERRIDE",
            "CAP_FSETID",
            "CAP_FOWNER",
            "CAP_MKNOD",
            "CAP_NET_RAW",
            "CAP_SETGID",
            "CAP_SETUID",
            "CAP_SETFCAP",
            "CAP_SETPCAP",
            "CAP_NET_BIND_SERVICE",
            "CAP_SYS_CHROOT",
            "CAP_KILL",
            "CAP_AUDIT_WRITE"
        ]);
        json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "hostname": "stage",
            "process": {
                "args": args.to_vec(),
                "env": ["PATH=/usr/bin:/bin"],
                "cwd": "/",
                "user": {"uid": 0, "gid": 0},
                "noNewPrivileges": true,
                "oomScoreAdj": 500,
                "capabilities": {"bounding": caps, "effective": caps, "permitted": caps}
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                bind("hosts"), bind("hostname"), bind("resolv.conf")
            ],
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
                "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
                    "/sys/firmware", "/sys/devices/virtual/powercap", "/proc/asound"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
            }
        })
    }

    pub(crate) fn container(&self, spec: &Value) -> Container {
        Container::parse(&self.bundle, spec.to_string().as_bytes()).unwrap()
    }

    pub(crate) fn plan(&self, spec: &Value) -> Plan {
        let container = self.container(spec);
        let facts = duet_launch::facts(ask(&container, &container.process))
            .unwrap()
            .0;
        duet_plan::container(&container, &facts, Program::Native).unwrap()
    }

    /// Brings a process to its gate, with `/dev/null` and two pipes as stdio.
    pub(crate) fn create(&self, plan: &Plan) -> Result<(Newborn, Pipes), Error> {
        let tree = duet_launch::root_tree(&self.root()).unwrap();
        let supplies = Supplies {
            root: Some(tree.as_fd()),
            ..Supplies::default()
        };
        create(plan, supplies)
    }

    /// A life from birth to end.
    pub(crate) fn live(&self, plan: &Plan) -> Result<Outcome, Error> {
        let (newborn, pipes) = self.create(plan)?;
        newborn.gate.open()?;
        Ok(pipes.outcome(&newborn.pidfd))
    }

    /// The life of a container as the spec describes it.
    pub(crate) fn run(&self, spec: &Value) -> Outcome {
        self.live(&self.plan(spec)).unwrap()
    }

    /// The life of a wasm container in which busybox plays the runner.
    pub(crate) fn run_as_guest(&self, spec: &Value) -> Outcome {
        let (newborn, pipes) = self.create_guest(spec);
        newborn.gate.open().unwrap();
        pipes.outcome(&newborn.pidfd)
    }

    /// Brings such a one to its gate.
    pub(crate) fn create_guest(&self, spec: &Value) -> (Newborn, Pipes) {
        let container = self.container(spec);
        let facts = duet_launch::facts(ask(&container, &container.process))
            .unwrap()
            .0;
        let plan = duet_plan::container(&container, &facts, Program::Wasm).unwrap();
        let tree = duet_launch::root_tree(&self.root()).unwrap();
        let runner = duet_linux::mount::clone_read_only(&self.root().join("bin/busybox")).unwrap();
        let module = duet_linux::memfd::sealed("module", b"module\n").unwrap();
        let handoff = duet_linux::memfd::sealed("handoff", b"handoff\n").unwrap();
        let limit = duet_linux::memfd::sealed("limit", b"limit\n").unwrap();
        let supplies = Supplies {
            memory: Some(limit.as_fd()),
            tally: Some(limit.as_fd()),
            root: Some(tree.as_fd()),
            runner: Some(runner.as_fd()),
            module: Some(module.as_fd()),
            handoff: Some(handoff.as_fd()),
            ..Supplies::default()
        };
        create(&plan, supplies).unwrap()
    }

    /// The output of a shell script in a container as CRI makes it.
    pub(crate) fn script(&self, script: &str) -> String {
        let outcome = self.run(&self.spec(["sh", "-c", script]));
        assert_eq!(outcome.code, 0, "{outcome:?}");
        outcome.out
    }
}

pub(crate) fn ask<'a>(container: &'a Container, process: &'a Process) -> Ask<'a> {
    Ask {
        keyring: Some("_ses.stage".to_owned()),
        container,
        process,
        cgroup: CgroupFacts::default(),
        resctrl: Vec::new(),
        pod: PodNamespaces::default(),
        stdio: Stdio {
            stdin: false,
            stdout: true,
            stderr: true,
        },
    }
}

/// Brings a process to its gate, with two pipes for its output.
pub(crate) fn create(plan: &Plan, supplies: Supplies<'_>) -> Result<(Newborn, Pipes), Error> {
    let (out, stdout) = std::io::pipe().unwrap();
    let (err, stderr) = std::io::pipe().unwrap();
    let supplies = Supplies {
        stdout: Some(stdout.as_fd()),
        stderr: Some(stderr.as_fd()),
        ..supplies
    };
    let _no_copies = COPYING.read().unwrap_or_else(PoisonError::into_inner);
    let newborn = duet_launch::spawn(plan, supplies)?;
    Ok((newborn, Pipes(out, err)))
}

/// The parent's ends of a process's output.
pub(crate) struct Pipes(std::io::PipeReader, std::io::PipeReader);

// === impl Pipes ===

impl Pipes {
    /// Reads all there is and waits for the end.
    pub(crate) fn outcome(mut self, pidfd: &OwnedFd) -> Outcome {
        let (mut out, mut err) = (String::new(), String::new());
        self.0.read_to_string(&mut out).unwrap();
        self.1.read_to_string(&mut err).unwrap();
        let code = process::wait(pidfd).unwrap().code;
        Outcome { code, out, err }
    }
}

/// The console's output until the last process lets go of it.
pub(crate) fn read_console(console: OwnedFd) -> String {
    let mut text = Vec::new();
    // A terminal without a user end answers EIO, not an end of file.
    File::from(console).read_to_end(&mut text).unwrap_or(0);
    String::from_utf8(text).unwrap()
}

/// Whether a process is there, a zombie included.
pub(crate) fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// The descriptors of this process, as text.
pub(crate) fn descriptors(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = entries.map(|entry| fs::read_link(entry.unwrap().path()));
    links
        .map(|link| link.unwrap().display().to_string())
        .collect()
}

pub(crate) fn reaped(newborn: Newborn) -> Exit {
    let Newborn { pidfd, gate, .. } = newborn;
    drop(gate);
    assert!(pidfd.as_raw_fd() > 2);
    process::wait(pidfd).unwrap()
}
