//! Every role is run as a process, every answer read from the wire; no container yet.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use containerd_shim_protos::api;
use containerd_shim_protos::bootstrap_api::BootstrapParams;
use containerd_shim_protos::shim_sync::Client;
use containerd_shim_protos::types::introspection::RuntimeInfo;
use protobuf::Message as _;
use ttrpc::Code;

use crate::node::{LIMIT, Node, code, connect, gone, limit, shim, task, text, until};

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
fn a_container_may_be_named_as_a_role_is() {
    let node = Node::new();
    for id in ["start", "serve", "delete"] {
        let socket = node.start(id, "{}");
        node.end(id, &socket);
        let log = fs::read_to_string(node.dir.path().join(id).join("log")).unwrap();
        let pod = format!(r#""pod":"{id}""#);
        assert!(log.contains(&pod), "{log}");
    }
}

#[test]
fn a_start_that_cannot_leave_its_address_leaves_no_shim() {
    let node = Node::new();
    let bundle = node.bundle("a", "{}");
    // What is no file cannot be replaced by one.
    fs::create_dir(bundle.join("address")).unwrap();
    let input = node.params("a").write_to_bytes().unwrap();
    let output = shim(
        &bundle,
        &["-namespace", "test", "-id", "a", "start"],
        &input,
    );
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("address"), "{output:?}");
    let pid = fs::read_to_string(bundle.join("shim.pid")).unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "shim {pid}");
    let sockets = fs::read_dir(node.dir.path().join("s")).unwrap();
    assert_eq!(sockets.count(), 0);
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
    let (code, message) = crate::node::code(task.checkpoint(limit(), &request));
    assert_eq!(code, Code::UNIMPLEMENTED);
    assert!(message.contains("does not checkpoint"), "{message}");

    let request = api::CreateTaskRequest {
        id: "x".to_owned(),
        checkpoint: "/some/image".to_owned(),
        ..Default::default()
    };
    let (code, message) = crate::node::code(task.create(limit(), &request));
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
        until("the shim is gone", || gone(pid));
    };
    kill();
    assert!(socket.exists());
    assert_eq!(node.start("a", "{}"), socket);
    kill();

    let bundle = node.dir.path().join("a");
    for _ in 0..2 {
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
    let output = shim(&bundle, &["-namespace", "test", "-id", "a", "delete"], b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    until("the shim is gone", || gone(pid));
    assert!(!socket.exists());
}

#[test]
fn a_shim_that_is_slow_keeps_its_socket_and_its_pod() {
    let node = Node::new();
    let pod = r#"{"io.kubernetes.cri.sandbox-id":"p"}"#;
    let socket = node.start("p", pod);
    assert_eq!(node.start("a", pod), socket);
    let connected = || task(&socket).connect(limit(), &connect("p"));
    let pid = connected().unwrap().shim_pid;
    let tell = |signal: &str| {
        let mut kill = Command::new("kill");
        let told = kill.args([signal, &pid.to_string()]).status();
        assert!(told.unwrap().success());
    };
    // As a busy machine does for as long as it likes.
    tell("-STOP");
    // Neither who goes nor who comes takes the pod from it, nor the first, whose bundle has its number.
    for id in ["a", "p"] {
        let bundle = node.dir.path().join(id);
        let output = shim(&bundle, &["-namespace", "test", "-id", id, "delete"], b"");
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(!gone(pid), "{id}");
        assert!(socket.exists(), "{id}");
        assert_eq!(node.start("b", pod), socket);
    }
    tell("-CONT");
    assert_eq!(connected().unwrap().shim_pid, pid);
    node.end("p", &socket);
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
    for flag in ["-h", "-help", "--help"] {
        let output = shim(dir.path(), &[flag], b"");
        assert!(output.status.success(), "{flag}: {output:?}");
        let said = text(&output.stdout);
        assert_eq!(said.lines().count(), 2, "{said}");
        assert!(said.contains("containerd starts it"), "{said}");
    }
    let output = shim(dir.path(), &[], b"");
    assert!(!output.status.success(), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("containerd starts this program"), "{said}");
}
