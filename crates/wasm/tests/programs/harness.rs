//! Compiles a guest, runs it, and tells what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use duet_wasm::{Cache, Compiled, Error, Handoff, Http, Preview, Program, Tally, Told, detect};

/// How long anything here may take before it counts as hung.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A guest that is about to run.
pub(crate) struct Guest {
    wasm: Vec<u8>,
    pub(crate) handoff: Handoff,
    stdin: Vec<u8>,
    /// The directory in which its memory is limited and counted.
    memory: PathBuf,
    /// Whether somebody goes on typing.
    typing: bool,
    /// What the shell does before it becomes the runner.
    first: &'static str,
    /// A signal that came before it could listen.
    told: Option<&'static str>,
    /// How many threads a user of its own may have, if it is to have one.
    threads: Option<u32>,
    /// Its root folder, if that is not this test's.
    image: Option<PathBuf>,
    /// Which of its system calls are written down, and where.
    traced: Option<(&'static str, PathBuf)>,
}

/// A guest that runs. Killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<std::process::ChildStdout>,
    tally: Tally,
}

/// A guest that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) told: Told,
}

/// False, and a line that says so, if this process may not mount.
pub(crate) fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        let required = std::env::var("DUET_TEST_REQUIRE").unwrap_or_default();
        assert!(
            !required.contains("root"),
            "this test needs root, and DUET_TEST_REQUIRE says so"
        );
        eprintln!("skipped: needs root");
        assert!(
            std::env::var_os("DUET_TEST_REQUIRE").is_none(),
            "DUET_TEST_REQUIRE is set: nothing may be skipped"
        );
    }
    root
}

/// The binary of `package`, in a cargo invocation of its own: the runner must not be linked with what
/// the compiler needs.
pub(crate) fn binary(package: &'static str) -> PathBuf {
    let variable = package.to_uppercase().replace('-', "_");
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--package", package])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(status.success(), "{package} does not build");
    // target/<triple>/debug/deps/<this test>
    let here = std::env::current_exe().unwrap();
    here.ancestors()
        .nth(3)
        .unwrap()
        .join("release")
        .join(package)
}

pub(crate) fn runner() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| binary("duet-runner"))
}

/// The runner where everybody can execute it: where it was built may be below root's home.
fn public_runner() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    install_runner(dir.path());
    dir
}

/// By another program: a copy that this one has open is busy as long as any child of another test's has it.
fn install_runner(folder: &Path) {
    let status = Command::new("install")
        .args(["-m", "0755"])
        .args([runner(), &folder.join("duet-runner")])
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

/// What gives the program after it a user who may have `most` threads, and has none beside this test.
fn limited(most: u32) -> [String; 6] {
    // The kernel counts for the user, wherever on the machine that is.
    let user = 1_000_000_000 + std::process::id();
    [
        "prlimit".to_owned(),
        format!("--nproc={most}"),
        "setpriv".to_owned(),
        format!("--reuid={user}"),
        format!("--regid={user}"),
        "--clear-groups".to_owned(),
    ]
}

pub(crate) fn compiler() -> Program {
    Program::at(binary("duet-compiler"))
}

/// One cache for all tests of this process.
pub(crate) fn cache() -> &'static Cache {
    static CACHE: OnceLock<(Cache, tempfile::TempDir)> = OnceLock::new();
    let (cache, _) = CACHE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(&directory.path().join("cache"), &compiler());
        (
            cache.unwrap().with_runner(&Program::at(runner())),
            directory,
        )
    });
    cache
}

pub(crate) fn compile(wasm: &[u8]) -> Result<Compiled, Error> {
    compile_for(Preview::Two, wasm)
}

pub(crate) fn compile_for(preview: Preview, wasm: &[u8]) -> Result<Compiled, Error> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(wasm).unwrap();
    let deadline = Instant::now() + PATIENCE;
    cache().compiled(&file, "/guest.wasm", preview, deadline)
}

/// A port that nobody listens on just now, and that nobody else here was given.
pub(crate) fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        if GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

/// Tries until it works or [`PATIENCE`] ends.
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

// === impl Guest ===

impl Guest {
    /// A guest in the text format.
    pub(crate) fn wat(text: &str) -> Self {
        Self::wasm(&wat::parse_str(text).unwrap())
    }

    /// One of the committed guests.
    pub(crate) fn named(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/guests")
            .join(name);
        Self::wasm(&std::fs::read(path).unwrap())
    }

    /// One of the guests that the scenarios run in containers.
    pub(crate) fn of_the_scenarios(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/guests")
            .join(name);
        Self::wasm(&std::fs::read(path).unwrap())
    }

    pub(crate) fn wasm(wasm: &[u8]) -> Self {
        let handoff = Handoff {
            name: "/guest.wasm".into(),
            format: detect(wasm).unwrap(),
            preview: Preview::Two,
            argv: vec!["guest".into()],
            env: Vec::new(),
            cwd: "/".into(),
            mounts: Vec::new(),
            http: Http::default(),
            config: BTreeMap::new(),
            listen: Vec::new(),
        };
        Self {
            wasm: wasm.to_owned(),
            handoff,
            stdin: Vec::new(),
            memory: "/dev/null".into(),
            typing: false,
            first: ":",
            told: None,
            threads: None,
            image: None,
            traced: None,
        }
    }

    pub(crate) fn args<S: ToString>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.handoff
            .argv
            .extend(args.into_iter().map(|arg| arg.to_string()));
        self
    }

    pub(crate) fn env(mut self, entry: &str) -> Self {
        self.handoff.env.push(entry.to_owned());
        self
    }

    pub(crate) fn stdin(mut self, bytes: &[u8]) -> Self {
        self.stdin = bytes.to_owned();
        self
    }

    /// Has the files of `directory` say how much memory there is.
    pub(crate) fn memory(mut self, directory: &Path) -> Self {
        directory.clone_into(&mut self.memory);
        self
    }

    /// Leaves standard input open, for [`Running::typing`].
    pub(crate) fn typing(mut self) -> Self {
        self.typing = true;
        self
    }

    /// Sets one of its process's limits, in the words of a shell's `ulimit`.
    pub(crate) fn ulimit(mut self, command: &'static str) -> Self {
        self.first = command;
        self
    }

    /// Is told to end before it listens, by the signal of this name, as a container's birth keeps it.
    pub(crate) fn told(mut self, signal: &'static str) -> Self {
        self.told = Some(signal);
        self
    }

    /// Has a user of its own, who may have this many threads. Tests that ask for this at the same time share the
    /// user, and what it may have.
    pub(crate) fn of_threads(mut self, most: u32) -> Self {
        self.threads = Some(most);
        self
    }

    /// Has `image` as its root folder.
    pub(crate) fn within(mut self, image: &Path) -> Self {
        self.image = Some(image.to_owned());
        self
    }

    /// Has its calls of these names written to `log`.
    pub(crate) fn traced(mut self, calls: &'static str, log: &Path) -> Self {
        self.traced = Some((calls, log.to_owned()));
        self
    }

    pub(crate) fn config(mut self, name: &str, value: &str) -> Self {
        self.handoff.config.insert(name.into(), value.into());
        self
    }

    pub(crate) fn listen(mut self, address: SocketAddr) -> Self {
        self.handoff.listen.push(address);
        self
    }

    /// Lets it use preview 3.
    pub(crate) fn preview3(mut self) -> Self {
        self.handoff.preview = Preview::Three;
        self
    }

    pub(crate) fn http(mut self, set: impl FnOnce(&mut Http)) -> Self {
        set(&mut self.handoff.http);
        self
    }

    pub(crate) fn start(self) -> Running {
        let compiled = compile_for(self.handoff.preview, &self.wasm).unwrap();
        self.start_in(&compiled)
    }

    /// Starts it with code that was compiled elsewhere.
    pub(crate) fn start_in(self, compiled: &Compiled) -> Running {
        let entry = compiled.tree().unwrap();
        let handoff = self.handoff.seal().unwrap();
        let tally = Tally::new().unwrap();
        let path = |fd: i32| format!("/proc/{}/fd/{fd}", std::process::id());
        let public = self.threads.map(|_| public_runner());
        let program = match (&public, &self.image) {
            (Some(dir), _) => dir.path().join("duet-runner"),
            (None, Some(image)) => {
                install_runner(image);
                "/duet-runner".into()
            }
            (None, None) => runner().to_owned(),
        };
        let mut child = Command::new("sh")
            .args([
                "-c",
                "$FIRST; exec \"$@\" 3<\"$ENTRY\" 4<\"$HANDOFF\" 5<\"$MEMORY\" 6<>\"$TALLY\"",
                "sh",
            ])
            .args(self.told.into_iter().flat_map(|signal| {
                let tell = "kill -s $0 $$; exec \"$@\"";
                [
                    "env",
                    "--block-signal=TERM,INT,QUIT",
                    "sh",
                    "-c",
                    tell,
                    signal,
                ]
            }))
            .args(self.threads.map(limited).into_iter().flatten())
            .args(self.traced.iter().flat_map(|(calls, log)| {
                // The tracer is not between us and the runner.
                let log = log.to_str().unwrap();
                ["strace", "-D", "-f", "-e", calls, "-o", log]
            }))
            .args(
                self.image
                    .iter()
                    .flat_map(|image| [Path::new("/usr/sbin/chroot"), image]),
            )
            .arg(program)
            .args(self.handoff.argv.iter().skip(1))
            .env_clear()
            .env("ENTRY", path(entry.as_raw_fd()))
            .env("HANDOFF", path(handoff.as_raw_fd()))
            .env("PATH", "/usr/bin:/bin")
            .env("MEMORY", &self.memory)
            .env("FIRST", self.first)
            .env("TALLY", path(tally.as_fd().as_raw_fd()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The shell opens our descriptors by name: they must still be there when it does.
        let comm = format!("/proc/{}/comm", child.id());
        eventually("the shell to become the runner", || {
            let comm = std::fs::read_to_string(&comm).unwrap_or_default();
            (comm.trim() == "duet-runner" || child.try_wait().unwrap().is_some()).then_some(())
        });
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&self.stdin).ok();
        let stdin = self.typing.then_some(stdin);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Running {
            child,
            stdin,
            stdout,
            tally,
        }
    }

    pub(crate) fn run(self) -> Ended {
        self.start().wait()
    }
}

// === impl Running ===

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input, once.
    pub(crate) fn typing(&mut self) -> ChildStdin {
        self.stdin.take().unwrap()
    }

    /// What it has told of itself until now.
    pub(crate) fn told(&self) -> Told {
        self.tally.told().unwrap()
    }

    /// The next line of its stdout.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end, and answers what it asks of `listener`, if it comes to that.
    pub(crate) fn answered_at(self, listener: &TcpListener) -> Ended {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                if stream.read_exact(&mut [0; 10]).is_ok() {
                    stream.write_all(b"an answer").unwrap();
                }
            });
            let ended = self.wait();
            if ended.code != 0 {
                // It may never have come; then nobody else will.
                drop(TcpStream::connect(listener.local_addr().unwrap()));
            }
            ended
        })
    }

    pub(crate) fn wait(mut self) -> Ended {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.stdout.read_to_string(&mut stdout).unwrap();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        let status = self.child.wait().unwrap();
        let code = status
            .code()
            .unwrap_or_else(|| 1000 + status.signal().unwrap());
        Ended {
            code,
            stdout,
            stderr,
            told: self.tally.told().unwrap(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Where the descriptors of a process lead.
pub(crate) fn descriptors(pid: u32) -> Vec<String> {
    let directory = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let link = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_link(entry.unwrap().path()).map(|to| to.to_string_lossy().into_owned())
    };
    directory.filter_map(|entry| link(entry).ok()).collect()
}
