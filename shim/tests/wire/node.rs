//! A node without containerd: directories of our own, and the shim run as containerd runs it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use containerd_shim_protos::api;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::shim_sync::{Client, TaskClient};
use protobuf::Message as _;
use ttrpc::{Code, Error, context};

use crate::life::forget_cgroups;

/// How long anything here may take before the test fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A node of our own: a directory for sockets and one for bundles.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    pub(crate) fn bundle(&self, id: &str, annotations: &str) -> PathBuf {
        let bundle = self.dir.path().join(id);
        fs::create_dir_all(&bundle).unwrap();
        // A plain file takes the log as well as the FIFO that containerd makes.
        fs::File::create(bundle.join("log")).unwrap();
        let config = format!(r#"{{"ociVersion":"1.0.2","annotations":{annotations}}}"#);
        fs::write(bundle.join("config.json"), config).unwrap();
        bundle
    }

    pub(crate) fn params(&self, id: &str) -> BootstrapParams {
        BootstrapParams {
            instance_id: id.to_owned(),
            namespace: "test".to_owned(),
            containerd_ttrpc_address: self.dir.path().join("events").display().to_string(),
            containerd_grpc_address: self.dir.path().join("grpc").display().to_string(),
            socket_dir: Some(self.dir.path().join("s").display().to_string()),
            ..BootstrapParams::default()
        }
    }

    /// Starts a shim for `id` and returns its socket.
    pub(crate) fn start(&self, id: &str, annotations: &str) -> PathBuf {
        let bundle = self.bundle(id, annotations);
        self.ask(id, &bundle, &self.params(id))
    }

    /// As [`Node::start`], told in other words.
    pub(crate) fn start_told(&self, id: &str, params: &BootstrapParams) -> PathBuf {
        let bundle = self.bundle(id, "{}");
        self.ask(id, &bundle, params)
    }

    fn ask(&self, id: &str, bundle: &Path, params: &BootstrapParams) -> PathBuf {
        let input = params.write_to_bytes().unwrap();
        let output = shim(bundle, &["-namespace", "test", "-id", id, "start"], &input);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "");
        let reply = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!((reply.version, reply.protocol.as_str()), (3, "ttrpc"));
        assert_eq!(
            fs::read_to_string(bundle.join("address")).unwrap(),
            reply.address
        );
        PathBuf::from(reply.address.strip_prefix("unix://").unwrap())
    }

    /// Asks the shim to end and waits until it has.
    pub(crate) fn end(&self, id: &str, socket: &Path) {
        let task = task(socket);
        let pid = task.connect(limit(), &connect(id)).unwrap().shim_pid;
        let request = api::ShutdownRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        // The shim may be gone before its answer is read.
        drop(task.shutdown(limit(), &request));
        until("the shim is gone", || gone(pid));
        assert!(!socket.exists(), "the socket is left behind");
    }

    /// The shim that `start` has left for a bundle, if it lives.
    fn served(&self, bundle: &Path) -> Option<u32> {
        let pid = fs::read_to_string(bundle.join("shim.pid")).ok()?;
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        // It may be another's by now.
        let ours = line.contains(self.dir.path().to_str()?);
        pid.parse().ok().filter(|_| ours)
    }
}

impl Drop for Node {
    /// A test that fails leaves nothing running either: as containerd does after a shim that it has lost.
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let entries = fs::read_dir(self.dir.path()).into_iter().flatten();
        let bundles: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|dir| dir.join("config.json").exists())
            .collect();
        for pid in bundles.iter().filter_map(|bundle| self.served(bundle)) {
            drop(Command::new("kill").args(["-9", &pid.to_string()]).status());
            // Nothing may panic here.
            soon(|| gone(pid));
        }
        for bundle in &bundles {
            let program = env!("CARGO_BIN_EXE_containerd-shim-duet-v1");
            let mut delete = Command::new(program);
            delete.args(["-namespace", "test", "-id"]);
            delete.args(bundle.file_name()).arg("delete");
            drop(delete.current_dir(bundle).output());
        }
        forget_cgroups();
    }
}

pub(crate) fn shim(cwd: &Path, args: &[&str], input: &[u8]) -> Output {
    shim_in(&[], cwd, args, input)
}

/// As [`shim`], with more in its environment.
pub(crate) fn shim_in(
    environment: &[(&str, &str)],
    cwd: &Path,
    args: &[&str],
    input: &[u8],
) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_containerd-shim-duet-v1"))
        .args(args)
        .envs(environment.iter().copied())
        .current_dir(cwd)
        .env_remove("TTRPC_ADDRESS")
        .env_remove("GRPC_ADDRESS")
        .env_remove("MAX_SHIM_VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses its arguments does not read.
    drop(child.stdin.take().unwrap().write_all(input));
    child.wait_with_output().unwrap()
}

pub(crate) fn task(socket: &Path) -> TaskClient {
    let client = Client::connect(&format!("unix://{}", socket.display()));
    TaskClient::new(client.unwrap_or_else(|error| panic!("{error}; logs:\n{}", logs(socket))))
}

/// What the shims of the node that has `socket` have logged.
fn logs(socket: &Path) -> String {
    let node = socket.parent().and_then(Path::parent).unwrap();
    let bundles = fs::read_dir(node).unwrap().flatten();
    bundles
        .filter_map(|bundle| fs::read_to_string(bundle.path().join("log")).ok())
        .collect()
}

pub(crate) fn limit() -> context::Context {
    context::with_duration(LIMIT)
}

pub(crate) fn connect(id: &str) -> api::ConnectRequest {
    api::ConnectRequest {
        id: id.to_owned(),
        ..Default::default()
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

/// Whether a process has ended.
pub(crate) fn gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists() || zombie(pid)
}

pub(crate) fn until(what: &str, done: impl Fn() -> bool) {
    assert!(soon(done), "not in time: {what}");
}

/// Waits until it is so; returns whether that was in time.
fn soon(done: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !done() {
        if start.elapsed() >= LIMIT {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
    true
}

pub(crate) fn code<T: std::fmt::Debug>(answer: ttrpc::Result<T>) -> (Code, String) {
    match answer {
        Err(Error::RpcStatus(status)) => (status.code(), status.message().to_owned()),
        other => panic!("not a status: {other:?}"),
    }
}
