//! The shim as containerd meets it, before any container: every role is run as a process,
//! every answer read from the wire.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use containerd_shim_protos::api;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::shim_sync::{Client, TaskClient};
use containerd_shim_protos::types::introspection::RuntimeInfo;
use protobuf::Message;
use ttrpc::{Code, Error, context};

/// How long anything here may take before the test fails.
const LIMIT: Duration = Duration::from_secs(10);

/// A node of our own: a directory for sockets and one for bundles.
struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    fn bundle(&self, id: &str, annotations: &str) -> PathBuf {
        let bundle = self.dir.path().join(id);
        fs::create_dir_all(&bundle).unwrap();
        let config = format!(r#"{{"ociVersion":"1.0.2","annotations":{annotations}}}"#);
        fs::write(bundle.join("config.json"), config).unwrap();
        bundle
    }

    fn params(&self, id: &str) -> BootstrapParams {
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
    fn start(&self, id: &str, annotations: &str) -> PathBuf {
        let bundle = self.bundle(id, annotations);
        let input = self.params(id).write_to_bytes().unwrap();
        let output = shim(&bundle, &["-namespace", "test", "-id", id, "start"], &input);
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
    fn end(&self, id: &str, socket: &Path) {
        let task = task(socket);
        let pid = task.connect(limit(), &connect(id)).unwrap().shim_pid;
        let request = api::ShutdownRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        // The shim may be gone before its answer is read.
        drop(task.shutdown(limit(), &request));
        until("the shim is gone", || {
            !Path::new(&format!("/proc/{pid}")).exists() || zombie(pid)
        });
        assert!(!socket.exists(), "the socket is left behind");
    }
}

fn shim(cwd: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_containerd-shim-duet-v1"))
        .args(args)
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

fn task(socket: &Path) -> TaskClient {
    TaskClient::new(Client::connect(&format!("unix://{}", socket.display())).unwrap())
}

fn limit() -> context::Context {
    context::with_duration(LIMIT)
}

fn connect(id: &str) -> api::ConnectRequest {
    api::ConnectRequest {
        id: id.to_owned(),
        ..Default::default()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "not in time: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn code<T: std::fmt::Debug>(answer: ttrpc::Result<T>) -> (Code, String) {
    match answer {
        Err(Error::RpcStatus(status)) => (status.code(), status.message().to_owned()),
        other => panic!("not a status: {other:?}"),
    }
}

#[test]
fn a_shim_starts_answers_and_ends_when_told() {
    let node = Node::new();
    let start = Instant::now();
    let socket = node.start("a", "{}");
    eprintln!("start took {:?}", start.elapsed());
    let task = task(&socket);

    let answer = task.connect(limit(), &connect("a")).unwrap();
    assert_eq!(answer.task_pid, 0, "a task nobody knows has no process");
    let status = fs::read_to_string(format!("/proc/{}/stat", answer.shim_pid)).unwrap();
    let fields: Vec<&str> = status
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    assert_eq!(
        fields[3],
        answer.shim_pid.to_string(),
        "it leads a session of its own"
    );
    node.end("a", &socket);
}

#[test]
fn every_call_about_an_unknown_task_says_so() {
    let node = Node::new();
    let socket = node.start("a", "{}");
    let task = task(&socket);
    macro_rules! ask {
        ($($method:ident($request:ident)),* $(,)?) => {
            [$((
                stringify!($method),
                code(task.$method(limit(), &api::$request { id: "x".to_owned(), ..Default::default() })),
            )),*]
        };
    }
    for (method, (code, message)) in ask![
        state(StateRequest),
        start(StartRequest),
        delete(DeleteRequest),
        pids(PidsRequest),
        pause(PauseRequest),
        resume(ResumeRequest),
        kill(KillRequest),
        resize_pty(ResizePtyRequest),
        wait(WaitRequest),
        stats(StatsRequest),
    ] {
        assert_eq!(code, Code::NOT_FOUND, "{method}: {message}");
        assert!(message.contains('x'), "{method}: {message}");
    }

    let request = api::CheckpointTaskRequest {
        id: "x".to_owned(),
        ..Default::default()
    };
    let (code, message) = self::code(task.checkpoint(limit(), &request));
    assert_eq!(code, Code::UNIMPLEMENTED);
    assert!(message.contains("does not checkpoint"), "{message}");

    let request = api::CreateTaskRequest {
        id: "x".to_owned(),
        checkpoint: "/some/image".to_owned(),
        ..Default::default()
    };
    let (code, message) = self::code(task.create(limit(), &request));
    assert_eq!(
        code,
        Code::INVALID_ARGUMENT,
        "UNIMPLEMENTED would mean an older protocol"
    );
    assert!(message.contains("/some/image"), "{message}");
    node.end("a", &socket);
}

#[test]
fn both_names_of_the_task_service_are_served() {
    let node = Node::new();
    let socket = node.start("a", "{}");
    let client = Client::connect(&format!("unix://{}", socket.display())).unwrap();
    for service in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
        let mut request = ttrpc::Request::new();
        request.set_service(service.to_owned());
        request.set_method("Connect".to_owned());
        request.set_timeout_nano(i64::try_from(LIMIT.as_nanos()).unwrap());
        request.payload = connect("a").write_to_bytes().unwrap();
        let answer = client.request(request).unwrap();
        let answer = api::ConnectResponse::parse_from_bytes(&answer.payload).unwrap();
        assert_ne!(answer.shim_pid, 0, "{service}");
    }
    node.end("a", &socket);
}

#[test]
fn containers_of_one_pod_get_one_shim() {
    let node = Node::new();
    for annotation in [
        "io.kubernetes.cri.sandbox-id",
        "io.containerd.runc.v2.group",
        "io.containerd.duet.v1.pod",
    ] {
        let annotations = format!(r#"{{"{annotation}":"pod-{annotation}"}}"#);
        let first = node.start("a", &annotations);
        let second = node.start("b", &annotations);
        let other = node.start("c", "{}");
        assert_eq!(first, second, "{annotation}");
        assert_ne!(first, other);
        node.end("c", &other);
        node.end("a", &first);
    }
}

#[test]
fn the_socket_of_a_killed_shim_is_replaced_or_removed() {
    let node = Node::new();
    let socket = node.start("a", "{}");
    let kill = || {
        let pid = task(&socket)
            .connect(limit(), &connect("a"))
            .unwrap()
            .shim_pid;
        assert!(
            Command::new("kill")
                .args(["-9", &pid.to_string()])
                .status()
                .unwrap()
                .success()
        );
        until("the shim is gone", || {
            !Path::new(&format!("/proc/{pid}")).exists() || zombie(pid)
        });
    };
    kill();
    assert!(socket.exists());
    assert_eq!(node.start("a", "{}"), socket);
    kill();

    let bundle = node.dir.path().join("a");
    for _ in 0..2 {
        let start = Instant::now();
        let args = [
            "-namespace",
            "test",
            "-id",
            "a",
            "-bundle",
            bundle.to_str().unwrap(),
            "delete",
        ];
        let output = shim(&bundle, &args, b"");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let answer = api::DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!(answer.exit_status, 137);
        assert!(answer.exited_at.is_some());
        assert!(!socket.exists());
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}

#[test]
fn a_shim_that_hangs_is_ended_by_delete() {
    let node = Node::new();
    let socket = node.start("a", "{}");
    let pid = task(&socket)
        .connect(limit(), &connect("a"))
        .unwrap()
        .shim_pid;
    assert!(
        Command::new("kill")
            .args(["-STOP", &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
    let bundle = node.dir.path().join("a");
    let start = Instant::now();
    let output = shim(&bundle, &["-namespace", "test", "-id", "a", "delete"], b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(start.elapsed() < Duration::from_secs(1));
    until("the shim is gone", || {
        !Path::new(&format!("/proc/{pid}")).exists() || zombie(pid)
    });
    assert!(!socket.exists());
}

#[test]
fn older_containerds_are_answered_in_their_own_words() {
    // A socket directory cannot be named in the older protocol: what is checked here ends
    // before there is a socket.
    let node = Node::new();
    let bundle = node.bundle("a", "[]");
    let output = shim(&bundle, &["-namespace", "test", "-id", "a", "start"], b"");
    assert!(
        text(&output.stderr).contains("TTRPC_ADDRESS"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn bad_input_is_one_clear_line_and_leaves_nothing() {
    let node = Node::new();
    let good = node.params("a");
    let stranger = BootstrapParams {
        namespace: "other".to_owned(),
        ..good.clone()
    };
    let deep = BootstrapParams {
        socket_dir: Some(format!("/{}", "d".repeat(90))),
        ..good.clone()
    };
    let good = good.write_to_bytes().unwrap();
    let start = ["-namespace", "test", "-id", "a", "start"];
    let cases: [(&str, &[&str], Vec<u8>, &str); 9] = [
        (
            "{}",
            &start,
            stranger.write_to_bytes().unwrap(),
            "BootstrapParams for other/a",
        ),
        (
            "{}",
            &start,
            deep.write_to_bytes().unwrap(),
            "longer than 107 bytes",
        ),
        ("{}", &start, vec![0xff; 64], "64 bytes that are neither"),
        ("{}", &start, vec![0; 4 << 20], "more than 1048576 bytes"),
        ("[]", &start, good.clone(), "config.json"),
        (
            "{}",
            &["-namespace", "test", "start"],
            good.clone(),
            "-id is missing",
        ),
        (
            "{}",
            &["-id", "a", "start"],
            good.clone(),
            "-namespace is missing",
        ),
        (
            "{}",
            &["-id", "a", "-namespace", "test", "stop"],
            good.clone(),
            "\"stop\"",
        ),
        ("{}", &["-nonsense", "start"], good, "nonsense"),
    ];
    for (annotations, args, input, expected) in cases {
        let bundle = node.bundle("a", annotations);
        let output = shim(&bundle, args, &input);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(output.stdout.is_empty());
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(
            stderr.contains(expected),
            "{stderr:?} does not say {expected:?}"
        );
        assert!(!node.dir.path().join("s").exists(), "{stderr}");
    }
}

#[test]
fn info_and_version_need_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let output = shim(dir.path(), &["-info"], b"");
    let info = RuntimeInfo::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!(info.name, "io.containerd.duet.v1");
    let features: serde_json::Value = serde_json::from_slice(&info.features.value).unwrap();
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    for flag in ["-v", "-version"] {
        let line = text(&shim(dir.path(), &[flag], b"").stdout);
        assert!(
            line.starts_with("containerd-shim-duet-v1 io.containerd.duet.v1 "),
            "{line}"
        );
    }
}
