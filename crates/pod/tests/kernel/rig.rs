//! A pod with bundles made by hand.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use duet_pod::{Config, Create, Error, Exit, Fact, Given, Pod, Programs, RootfsMount, Stdio, Told};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;

/// How long a test may take before it counts as hanging: five minutes, for a machine that does much else beside.
const PATIENCE: Duration = Duration::from_secs(300);

/// A pod and where it lives.
pub(crate) struct Rig {
    dir: tempfile::TempDir,
    parent: String,
    pub(crate) pod: Pod,
    facts: UnboundedReceiver<Told>,
}

/// A container to make.
pub(crate) struct Bundle<'a> {
    pub(crate) rig: &'a Rig,
    pub(crate) id: &'a str,
    args: Vec<String>,
    namespaces: Vec<&'static str>,
    annotations: String,
    stdio: Stdio,
    memory: Option<u64>,
    version: &'static str,
    tasks: Option<i64>,
    hooks: String,
    seccomp: String,
    no_new_privileges: bool,
}

/// Held by whoever has a pod in this process: the reaper of one would take another's children, or a test's, for
/// strangers.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a test that needs root, or says that it was skipped.
pub(crate) fn with<F: AsyncFnOnce(Rig)>(test: F) {
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("DUET_TEST_REQUIRE").is_none(),
            "this test needs root"
        );
        eprintln!("skipped: needs root");
        assert!(
            std::env::var_os("DUET_TEST_REQUIRE").is_none(),
            "DUET_TEST_REQUIRE is set: nothing may be skipped"
        );

        return;
    }
    let _alone = alone();
    duet_linux::process::subreaper().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let rig = Rig::new();
        let (dir, parent) = (rig.dir.path().to_owned(), rig.parent.clone());
        tokio::time::timeout(PATIENCE, test(rig))
            .await
            .expect("in time");
        nothing_is_left(&dir, &parent);
    });
}

// === impl Rig ===

impl Rig {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new()
            .prefix("duet-pod-")
            .tempdir()
            .unwrap();
        let lower = dir.path().join("image");
        for name in ["bin", "proc", "dev", "tmp"] {
            fs::create_dir_all(lower.join(name)).unwrap();
        }
        fs::copy("/usr/bin/busybox", lower.join("bin/busybox")).expect("Debian's busybox-static");
        for name in [
            "sh", "true", "sleep", "cat", "hostname", "ip", "id", "dd", "stty", "echo",
        ] {
            std::os::unix::fs::symlink("busybox", lower.join("bin").join(name)).unwrap();
        }
        // A test may write another into it, before the pod's first guest.
        let compiler = dir.path().join("compiler");
        let real = format!("#!/bin/sh\nexec {}\n", binary("duet-compiler").display());
        fs::write(&compiler, real).unwrap();
        fs::set_permissions(&compiler, fs::Permissions::from_mode(0o755)).unwrap();
        let runner = dir.path().join("runner");
        std::os::unix::fs::symlink(binary("duet-runner"), &runner).unwrap();
        let (sender, facts) = unbounded_channel();
        let shim = dir.path().join("shim");
        fs::create_dir(&shim).unwrap();
        let config = Config {
            id: "pod".to_owned(),
            namespace: "test".to_owned(),
            bundle: shim,
            holder: binary("duet-holder"),
            programs: Programs {
                runner,
                compiler,
                tools: binary("duet-tools.wasm"),
                cache: dir.path().join("cache"),
                duet: dir.path().join("duet"),
                address: "/no/containerd".to_owned(),
            },
        };
        let pod = Pod::new(config, sender).unwrap();
        let parent = format!("/duet-test-{}-{number}", std::process::id());
        Rig {
            dir,
            parent,
            pod,
            facts,
        }
    }

    /// The bundle of the shim itself.
    pub(crate) fn shim(&self) -> PathBuf {
        self.dir.path().join("shim")
    }

    /// The cgroup that those of its containers are in.
    pub(crate) fn parent(&self) -> &str {
        &self.parent
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn bundle<'a>(&'a self, id: &'a str, args: &[&str]) -> Bundle<'a> {
        Bundle {
            rig: self,
            id,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            namespaces: vec!["mount", "pid", "ipc", "uts"],
            annotations: String::new(),
            stdio: Stdio::default(),
            memory: None,
            version: "1.1.0",
            tasks: None,
            hooks: String::new(),
            seccomp: "null".to_owned(),
            no_new_privileges: false,
        }
    }

    /// A FIFO with a reader that collects everything until the end.
    pub(crate) fn sink(&self, name: &str) -> (String, oneshot::Receiver<String>) {
        let path = self.fifo(name);
        let (told, heard) = oneshot::channel();
        let from = path.clone();
        // Waited for by a task and not by the thread: a reader that is late has a writer in another task.
        std::thread::spawn(move || told.send(fs::read_to_string(from).unwrap()));
        (path, heard)
    }

    pub(crate) fn fifo(&self, name: &str) -> String {
        let path = self.dir.path().join(name);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A program of the host's: a shell script that is told the directory of the rig as `$DIR`.
    pub(crate) fn script(&self, name: &str, body: &str) -> String {
        let path = self.dir.path().join(name);
        let text = format!("#!/bin/sh\nDIR={}\n{body}\n", self.dir.path().display());
        fs::write(&path, text).unwrap();
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&path, executable).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// What happened so far, in short words.
    pub(crate) fn facts(&mut self) -> Vec<String> {
        let mut words = Vec::new();
        while let Ok(told) = self.facts.try_recv() {
            words.push(match told.fact {
                Fact::Created { id, .. } => format!("created {id}"),
                Fact::Started { id, .. } => format!("started {id}"),
                Fact::ExecAdded { exec, .. } => format!("added {exec}"),
                Fact::ExecStarted { exec, .. } => format!("started {exec}"),
                Fact::Exited { process, exit, .. } => format!("exited {process} {}", exit.code),
                Fact::Deleted { id, .. } => format!("deleted {id}"),
                Fact::Paused { id } => format!("paused {id}"),
                Fact::Resumed { id } => format!("resumed {id}"),
                Fact::Oom { id, .. } => format!("oom {id}"),
            });
        }
        words
    }

    /// Waits for the end of a container and deletes it.
    pub(crate) async fn finish(&self, id: &str) -> Exit {
        let exit = self.pod.wait(id, None).await.unwrap();
        assert_eq!(self.pod.delete(id, None).await.unwrap().exit, exit);
        exit
    }
}

// === impl Bundle ===

impl Bundle<'_> {
    pub(crate) fn namespaces(mut self, list: &[&'static str]) -> Self {
        self.namespaces = list.to_vec();
        self
    }

    pub(crate) fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations = format!("\"{name}\":\"{value}\"");
        self
    }

    pub(crate) fn stdio(mut self, stdin: &str, stdout: &str) -> Self {
        self.stdio.stdin = stdin.to_owned();
        self.stdio.stdout = stdout.to_owned();
        self
    }

    pub(crate) fn terminal(mut self) -> Self {
        self.stdio.terminal = true;
        self
    }

    /// Gives it the caller's own descriptors.
    pub(crate) fn given(mut self, given: Given) -> Self {
        self.stdio.given = Some(given);
        self
    }

    pub(crate) fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Gives its bundle a version of the specification and a limit of tasks.
    pub(crate) fn tasks(mut self, version: &'static str, limit: i64) -> Self {
        (self.version, self.tasks) = (version, Some(limit));
        self
    }

    /// Adds a hook: its list, its path and arguments, and what else its JSON says.
    pub(crate) fn hook(mut self, moment: &str, args: &[&str], more: &str) -> Self {
        let comma = if self.hooks.is_empty() { "" } else { "," };
        let path = args[0];
        self.hooks += &format!(r#"{comma}"{moment}":[{{"path":"{path}","args":{args:?}{more}}}]"#);
        self
    }

    pub(crate) fn no_new_privileges(mut self) -> Self {
        self.no_new_privileges = true;
        self
    }

    /// Gives it a seccomp profile in JSON.
    pub(crate) fn seccomp(mut self, profile: &str) -> Self {
        profile.clone_into(&mut self.seccomp);
        self
    }

    pub(crate) async fn create(self) -> Result<i32, Error> {
        let bundle = self.rig.path().join("bundles").join(self.id);
        let work = self.rig.path().join("work").join(self.id);
        for dir in [&bundle, &work.join("upper"), &work.join("work")] {
            fs::create_dir_all(dir).unwrap();
        }
        let namespaces: Vec<String> = self
            .namespaces
            .iter()
            .map(|kind| format!("{{\"type\":\"{kind}\"}}"))
            .collect();
        let memory = match self.memory {
            Some(bytes) => format!(r#""memory":{{"limit":{bytes},"swap":{bytes}}}"#),
            None => String::new(),
        };
        let tasks = match self.tasks {
            Some(limit) => format!(r#""pids":{{"limit":{limit}}}"#),
            None => String::new(),
        };
        let ids = if self.namespaces.contains(&"user") {
            r#"[{"containerID":0,"hostID":200000,"size":65536}]"#
        } else {
            "[]"
        };
        let resources = [memory, tasks]
            .into_iter()
            .filter(|limit| !limit.is_empty());
        let resources = resources.collect::<Vec<_>>().join(",");
        let version = self.version;
        let caps = r#"["CAP_KILL","CAP_SETUID","CAP_SETGID","CAP_DAC_OVERRIDE"]"#;
        let config = format!(
            r#"{{"ociVersion":"{version}","root":{{"path":"rootfs"}},
            "process":{{"terminal":{},"noNewPrivileges":{},"args":{:?},"cwd":"/","user":{{"uid":0,"gid":0}},
                "env":["PATH=/bin","TERM=xterm"],
                "capabilities":{{"bounding":{caps},"effective":{caps},"permitted":{caps}}}}},
            "mounts":[
                {{"destination":"/proc","type":"proc","source":"proc"}},
                {{"destination":"/dev","type":"tmpfs","source":"tmpfs",
                    "options":["nosuid","mode=755","size=65536k"]}},
                {{"destination":"/dev/pts","type":"devpts","source":"devpts",
                    "options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620"]}}],
            "annotations":{{{}}},"hooks":{{{}}},
            "linux":{{"cgroupsPath":"{}/{}","resources":{{{resources}}},"seccomp":{},
                "uidMappings":{ids},"gidMappings":{ids},"namespaces":[{}]}}}}"#,
            self.stdio.terminal,
            self.no_new_privileges,
            self.args,
            self.annotations,
            self.hooks,
            self.rig.parent,
            self.id,
            self.seccomp,
            namespaces.join(","),
        );
        fs::write(bundle.join("config.json"), config).unwrap();
        let path = |name: &str| self.rig.path().join(name).display().to_string();
        let options = vec![
            format!("lowerdir={}", path("image")),
            format!("upperdir={}", work.join("upper").display()),
            format!("workdir={}", work.join("work").display()),
        ];
        let overlay = RootfsMount {
            fstype: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options,
        };
        let request = Create {
            id: self.id.to_owned(),
            bundle,
            rootfs: vec![overlay],
            stdio: self.stdio,
            io_owner: None,
            no_new_keyring: false,
            cache_size: None,
        };
        self.rig.pod.create(request).await
    }

    pub(crate) async fn start(self) -> i32 {
        let (pod, id) = (self.rig.pod.clone(), self.id.to_owned());
        let pid = self.create().await.unwrap();
        assert_eq!(pod.start(&id, None).await.unwrap(), pid);
        pid
    }
}

/// A binary of the wasm half, from the directory that the environment names.
fn binary(name: &str) -> PathBuf {
    let directory = std::env::var_os("DUET_TEST_BINARIES").unwrap_or_default();
    Path::new(&directory).join(name)
}

/// An exec's process in JSON.
pub(crate) fn process(args: &[&str], terminal: bool) -> Vec<u8> {
    format!(
        r#"{{"terminal":{terminal},"args":{args:?},"cwd":"/","user":{{"uid":0,"gid":0}},
        "env":["PATH=/bin"]}}"#
    )
    .into_bytes()
}

fn nothing_is_left(dir: &Path, parent: &str) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = dir.to_str().unwrap();
    assert!(!mounts.contains(ours), "mounts left below {ours}");
    // With v1 each controller's is below, with v2 it is the one.
    let root = Path::new("/sys/fs/cgroup");
    let below = fs::read_dir(root).unwrap().filter_map(Result::ok);
    let hierarchies = below.map(|entry| entry.path()).chain([root.to_owned()]);
    for hierarchy in hierarchies {
        let place = hierarchy.join(parent.trim_start_matches('/'));
        if !place.exists() {
            continue;
        }
        let inside: Vec<_> = fs::read_dir(&place)
            .unwrap()
            .filter_map(Result::ok)
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.path())
            .collect();
        assert!(inside.is_empty(), "cgroups left: {inside:?}");
        // Like runc, Duet leaves what lies above a container's own cgroup.
        fs::remove_dir(&place).unwrap();
    }
}
