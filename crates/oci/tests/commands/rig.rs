//! A bundle, and the program that makes containers of it.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, a bundle, and a folder of its own.
pub(crate) struct Rig {
    dir: tempfile::TempDir,
    program: OsString,
    pub(crate) config: Value,
    cgroup: String,
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a test that needs root, or says that it was skipped.
pub(crate) fn with(test: impl FnOnce(&mut Rig)) {
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("DUET_TEST_REQUIRE").is_none(),
            "this test needs root"
        );
        eprintln!("skipped: needs root");
        return;
    }
    let mut rig = Rig::new();
    test(&mut rig);
    rig.nothing_is_left();
}

// === impl Rig ===

impl Rig {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new()
            .prefix("duet-oci-")
            .tempdir()
            .unwrap();
        let rootfs = dir.path().join("bundle/rootfs");
        for name in ["bin", "proc", "dev", "tmp"] {
            fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        // By another program: what another test's thread forks would have it open for writing for a moment, and
        // the kernel executes no such file.
        let mut install = Command::new("install");
        let install = install.args(["-m", "0755", "/usr/bin/busybox"]);
        let installed = install.arg(rootfs.join("bin")).status().unwrap();
        assert!(installed.success(), "Debian's busybox-static");
        for name in ["sh", "true", "sleep", "cat", "id", "stty", "echo"] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
        let cgroup = format!("/duet-oci-test-{}-{number}", std::process::id());
        let caps = json!(["CAP_KILL", "CAP_SETUID", "CAP_SETGID"]);
        let config = json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "process": {
                "args": ["sleep", "1000"], "cwd": "/", "env": ["PATH=/bin"],
                "user": {"uid": 0, "gid": 0},
                "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                    "options": ["nosuid", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "annotations": {"org.example.key": "value"},
            "linux": {
                "cgroupsPath": format!("{cgroup}/c"),
                "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}],
            },
        });
        let program = std::env::var_os("DUET_OCI_PROGRAM");
        Rig {
            dir,
            program: program.unwrap_or_else(|| env!("CARGO_BIN_EXE_duet-oci").into()),
            config,
            cgroup,
        }
    }

    /// Whether the program is Duet's, and so its words are.
    pub(crate) fn is_duet(&self) -> bool {
        std::env::var_os("DUET_OCI_PROGRAM").is_none()
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    /// Where containers are kept.
    pub(crate) fn root(&self) -> PathBuf {
        // Longer than any socket's address.
        self.dir.path().join("r".repeat(120))
    }

    /// What the container runs.
    pub(crate) fn args(&mut self, args: &[&str]) -> &mut Self {
        self.config["process"]["args"] = json!(args);
        self
    }

    /// A program of the host's: a shell script that is told the folder of the rig as `$DIR`.
    pub(crate) fn script(&self, name: &str, body: &str) -> String {
        let path = self.dir.path().join(name);
        let text = format!("#!/bin/sh\nDIR={}\n{body}\n", self.dir.path().display());
        // By another program, as above.
        let write = "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\"";
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", write]).arg(&path).arg(text);
        assert!(shell.status().unwrap().success());
        path.to_str().unwrap().to_owned()
    }

    /// A command with these arguments; the bundle is written first.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let text = self.config.to_string();
        fs::write(self.bundle().join("config.json"), text).unwrap();
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.root()).args(args);
        command.current_dir(self.bundle()).stdin(Stdio::null());
        command
    }

    /// Runs it to its end. What it starts may keep its output, so that is a file.
    pub(crate) fn say(&self, args: &[&str]) -> Said {
        let name = |stream| self.dir.path().join(format!("{stream}-of-command"));
        let file = |stream| fs::File::create(name(stream)).unwrap();
        let mut command = self.command(args);
        command.stdout(file("out")).stderr(file("err"));
        let code = command.status().unwrap().code();
        let read = |stream| fs::read_to_string(name(stream)).unwrap();
        Said {
            code,
            stdout: read("out"),
            stderr: read("err"),
        }
    }

    /// As [`Rig::say`], of what must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let said = self.say(args);
        assert_eq!(said.code, Some(0), "{args:?}: {said:?}");
        said.stdout
    }

    /// As [`Rig::say`], of what must not; returns its words.
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let said = self.say(args);
        assert_eq!(said.code, Some(1), "{args:?}: {said:?}");
        said.stderr
    }

    pub(crate) fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["state", id])).unwrap()
    }

    /// Waits until a container has this status.
    pub(crate) fn await_status(&self, id: &str, status: &str) {
        within(|| self.state(id)["status"] == status);
    }

    fn nothing_is_left(&self) {
        let root = self.root();
        let names = fs::read_dir(&root).into_iter().flatten();
        let left: Vec<_> = names.map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "left in the root: {left:?}");
        let ours = self.dir.path().to_str().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(ours), "mounts left below {ours}");
        assert!(
            !self.bundle().join("duet.json").exists(),
            "a record is left"
        );
        // The keeper has answered its last question, and ends.
        within(|| !processes_naming(ours));
        // With v1 each controller's is below, with v2 it is the one.
        let root = Path::new("/sys/fs/cgroup");
        let below = fs::read_dir(root).unwrap().flatten();
        let hierarchies = below.map(|entry| entry.path()).chain([root.to_owned()]);
        for hierarchy in hierarchies {
            let place = hierarchy.join(self.cgroup.trim_start_matches('/'));
            assert!(!place.join("c").exists(), "{} is left", place.display());
            if place.exists() {
                // Like runc, Duet leaves what lies above a container's own cgroup.
                fs::remove_dir(&place).unwrap();
            }
        }
    }
}

impl Drop for Rig {
    /// A test that fails leaves nothing running either.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for entry in fs::read_dir(self.root()).into_iter().flatten().flatten() {
            let id = entry.file_name();
            let mut command = Command::new(&self.program);
            command.arg("--root").arg(self.root());
            // The test has failed already.
            let _removed = command.args(["delete", "--force"]).arg(id).status();
        }
    }
}

/// Waits until something holds.
pub(crate) fn within(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// Waits until a process has ended.
pub(crate) fn await_end(pidfd: impl AsFd) {
    let ended = duet_linux::channel::readable(pidfd, Instant::now() + PATIENCE);
    assert!(ended.unwrap(), "not in {PATIENCE:?}");
}

/// The outcome of a command whose output was piped.
pub(crate) fn said(output: &Output) -> Said {
    Said {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Whether the command line of some process names this folder.
fn processes_naming(folder: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .any(|line| String::from_utf8_lossy(&line).contains(folder))
}
