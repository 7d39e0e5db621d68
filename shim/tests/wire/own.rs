//! What is the shim's own, and what of it a container gets.

use std::fs;
use std::path::Path;

use containerd_shim_protos::api;
use containerd_shim_protos::shim::oci;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use protobuf::Message as _;
use protobuf::well_known_types::any::Any;
use serde_json::{Value, json};

use crate::life::{Daemon, bundle, can_make_containers, creation, forget_cgroups, named};
use crate::node::{Node, connect, limit, task};

/// Gives a bundle a procfs.
fn with_procfs(bundle: &Path) {
    let file = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["mounts"] = json!([{ "destination": "/proc", "type": "proc", "source": "proc" }]);
    fs::write(file, config.to_string()).unwrap();
}

#[test]
fn a_container_has_a_session_keyring_of_its_own_unless_its_options_say_that_it_keeps_the_shims() {
    if !can_make_containers() {
        return;
    }
    let node = Node::new();
    let _daemon = Daemon::listen(&node);
    let socket = node.start("k", "{}");
    let task = task(&socket);
    for (id, keeps) in [("k", false), ("l", true)] {
        // A process lists the keys that it may see: its own session keyring, by its name.
        let script = format!("busybox grep -c _ses.{id} /proc/keys >/found");
        let bundle = bundle(&node, id, &script);
        with_procfs(&bundle);
        let options = oci::Options {
            no_new_keyring: keeps,
            ..oci::Options::default()
        };
        let options = Any {
            type_url: "containerd.runc.v1.Options".to_owned(),
            value: options.write_to_bytes().unwrap(),
            ..Any::default()
        };
        let request = api::CreateTaskRequest {
            options: Some(options).into(),
            ..creation(id, &bundle)
        };
        task.create(limit(), &request).unwrap();
        let start = named(id, |request: &mut api::StartRequest, id| request.id = id);
        task.start(limit(), &start).unwrap();
        let wait = named(id, |request: &mut api::WaitRequest, id| request.id = id);
        let code = task.wait(limit(), &wait).unwrap().exit_status;
        let found = fs::read_to_string(bundle.join("rootfs/found")).unwrap();
        let expected = if keeps { (1, "0\n") } else { (0, "1\n") };
        assert_eq!((code, found.as_str()), expected, "{id}");
        let delete = named(id, |request: &mut api::DeleteRequest, id| request.id = id);
        task.delete(limit(), &delete).unwrap();
    }
    node.end("k", &socket);
    forget_cgroups();
}

#[test]
fn nobody_writes_to_the_program_that_containers_are_born_of() {
    // CVE-2019-5736: what is born of the shim is a copy of it until it executes its own program, and a
    // container finds the file at `/proc/<pid>/exe`. A server that was executed as it lies on the node
    // answers 0 here: all that then keeps root from writing to it is that it runs.
    if !can_make_containers() {
        return;
    }
    let node = Node::new();
    let socket = node.start("x", "{}");
    let pid = task(&socket)
        .connect(limit(), &connect("x"))
        .unwrap()
        .shim_pid;
    let exe = format!("/proc/{pid}/exe");
    assert_eq!(access(exe.as_str(), AccessFlags::W_OK), Err(Errno::EROFS));
    node.end("x", &socket);
}
