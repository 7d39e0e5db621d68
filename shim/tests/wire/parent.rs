//! A containerd of 2.3 or later as far as `start` can tell: it writes what the published protos say.

use std::fs;
use std::path::Path;

use containerd_shim_protos::api;
use containerd_shim_protos::bootstrap_api::{
    BootstrapParams, BootstrapResult, Extension, LogLevel,
};
use containerd_shim_protos::shim::oci;
use protobuf::well_known_types::any::Any;
use protobuf::{EnumOrUnknown, Message as _};
use rustix::process::{Pid, getpid};
use rustix::thread::{CoreSchedulingScope, core_scheduling_cookie};

use crate::node::{Node, connect, limit, shim, shim_in, task, text};

const START: [&str; 5] = ["-namespace", "test", "-id", "a", "start"];

/// An extension with `value` as the message `type_url`.
fn extension(type_url: &str, value: Vec<u8>) -> Extension {
    let any = Any {
        type_url: type_url.to_owned(),
        value,
        ..Any::default()
    };
    Extension {
        value: Some(any).into(),
        ..Extension::default()
    }
}

/// `runtimeoptions.v1.Options` by hand: field `number`, a string.
fn runtime_options(number: u8, value: &str) -> Extension {
    let length = u8::try_from(value.len()).unwrap();
    let message = [&[number << 3 | 2, length], value.as_bytes()].concat();
    extension("runtimeoptions.v1.Options", message)
}

/// The command line and the environment of the shim that serves `a`.
fn server(socket: &Path) -> (Vec<String>, Vec<String>) {
    let pid = task(socket)
        .connect(limit(), &connect("a"))
        .unwrap()
        .shim_pid;
    let words = |file: &str| -> Vec<String> {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap();
        let words = bytes.split(|byte| *byte == 0);
        words.map(text).collect()
    };
    (words("cmdline"), words("environ"))
}

#[test]
fn every_field_of_the_parameters_is_heeded() {
    let node = Node::new();
    let log_levels = [
        (LogLevel::LOG_LEVEL_TRACE as i32, true),
        (LogLevel::LOG_LEVEL_DEBUG as i32, true),
        (LogLevel::LOG_LEVEL_INFO as i32, false),
        (LogLevel::LOG_LEVEL_WARN as i32, false),
        (LogLevel::LOG_LEVEL_PANIC as i32, false),
        // A level that the protos do not name yet.
        (99, false),
    ];
    for (level, debug) in log_levels {
        let params = BootstrapParams {
            log_level: EnumOrUnknown::from_i32(level),
            containerd_version: "v9.9.9".to_owned(),
            containerd_binary: "/nonexistent/containerd".to_owned(),
            extensions: vec![
                extension("example.com/of.another.shim", vec![0xff]),
                runtime_options(3, "BinaryName = 'runc'"),
            ],
            ..node.params("a")
        };
        let socket = node.start_told("a", &params);
        assert_eq!(
            socket.parent().unwrap().to_str(),
            params.socket_dir.as_deref()
        );
        let (cmdline, environ) = server(&socket);
        assert_eq!(
            cmdline.iter().any(|word| word == "-debug"),
            debug,
            "{level}"
        );
        let address = cmdline.iter().skip_while(|word| *word != "-address").nth(1);
        assert_eq!(address, Some(&params.containerd_grpc_address));
        let events = format!("TTRPC_ADDRESS={}", params.containerd_ttrpc_address);
        assert!(environ.contains(&events), "{environ:?}");
        node.end("a", &socket);
    }
}

#[test]
fn an_extension_that_cannot_be_honoured_is_named_and_nothing_is_left() {
    let node = Node::new();
    let pivot = oci::Options {
        no_pivot_root: true,
        ..oci::Options::default()
    };
    let cases = [
        (runtime_options(3, "Foo = 'bar'"), "unknown field `Foo`"),
        (runtime_options(3, "= ="), "config_body"),
        (runtime_options(3, "SystemdCgroup = 'yes'"), "SystemdCgroup"),
        (
            runtime_options(2, "/nonexistent/duet.toml"),
            "config_path /nonexistent/duet.toml",
        ),
        (
            extension(
                "types.containerd.io/containerd.runc.v1.Options",
                pivot.write_to_bytes().unwrap(),
            ),
            "NoPivotRoot",
        ),
        (
            extension("containerd.runc.v1.Options", vec![0xff]),
            "containerd.runc.v1.Options",
        ),
    ];
    for (extension, expected) in cases {
        let params = BootstrapParams {
            extensions: vec![extension],
            ..node.params("a")
        };
        let bundle = node.bundle("a", "{}");
        let output = shim(&bundle, &START, &params.write_to_bytes().unwrap());
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(output.stdout.is_empty());
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(expected), "{stderr:?}: {expected:?}");
        assert!(!node.dir.path().join("s").exists(), "{stderr}");
        assert!(!bundle.join("address").exists(), "{stderr}");
    }
}

#[test]
fn a_file_of_options_is_read_where_it_is_named() {
    let node = Node::new();
    let file = node.dir.path().join("duet.toml");
    fs::write(&file, "BinaryName = 'crun'\nRoot = '/run/crun'\n").unwrap();
    let params = BootstrapParams {
        extensions: vec![runtime_options(2, file.to_str().unwrap())],
        ..node.params("a")
    };
    let socket = node.start_told("a", &params);
    node.end("a", &socket);
}

#[test]
fn a_second_container_of_the_pod_is_told_the_same_address() {
    let node = Node::new();
    let annotations = r#"{"io.kubernetes.cri.sandbox-id":"p"}"#;
    let first = node.start("p", annotations);
    let second = node.start("a", annotations);
    assert_eq!(first, second);
    // Pids of what was not made yet tells a containerd that comes back that nothing is lost.
    let request = api::PidsRequest {
        id: "a".to_owned(),
        ..Default::default()
    };
    let (code, _) = crate::node::code(task(&first).pids(limit(), &request));
    assert_eq!(code, ttrpc::Code::NOT_FOUND);
    node.end("p", &first);
}

#[test]
fn a_pod_has_cores_to_itself_or_is_told_why_not() {
    let node = Node::new();
    let bundle = node.bundle("a", "{}");
    let input = node.params("a").write_to_bytes().unwrap();
    let output = shim_in(&[("SCHED_CORE", "1")], &bundle, &START, &input);
    let own = core_scheduling_cookie(getpid(), CoreSchedulingScope::Thread);
    let Err(error) = own else {
        assert!(output.status.success(), "{}", text(&output.stderr));
        let reply = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
        let socket = Path::new(reply.address.strip_prefix("unix://").unwrap());
        let shim = task(socket).connect(limit(), &connect("a")).unwrap();
        let shim = Pid::from_raw(i32::try_from(shim.shim_pid).unwrap()).unwrap();
        let cookie = core_scheduling_cookie(shim, CoreSchedulingScope::Thread).unwrap();
        assert!(cookie != 0 && Ok(cookie) != own, "{cookie}");
        return node.end("a", socket);
    };
    // A kernel without core scheduling, or a machine whose cores have no threads.
    assert!(!output.status.success());
    let why = format!("SCHED_CORE \"1\": making a core scheduling domain: {error}");
    assert!(
        text(&output.stderr).contains(&why),
        "{}",
        text(&output.stderr)
    );
    assert!(!bundle.join("address").exists());
}
