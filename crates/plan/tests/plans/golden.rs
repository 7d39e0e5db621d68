//! Whole plans as text.

use crate::support::{facts, facts_v2, process, read, spec, tree};
use duet_plan::{Facts, Kinds, Plan, PodNamespaces, Program, Stdio, container, exec};
use std::path::Path;

#[track_caller]
fn check(name: &str, plan: &Plan) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let shown = plan.show();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &shown).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        shown == expected,
        "{} differs; the plan is now:\n{shown}",
        file.display()
    );
}

#[test]
fn the_default_of_ctr() {
    let spec = spec("ctr-default.json");
    check(
        "ctr-default.txt",
        &container(&spec, &facts(&spec), Program::Native).unwrap(),
    );
}

#[test]
fn a_terminal_in_a_pod_of_ctr() {
    let spec = spec("ctr-terminal.json");
    let pod = PodNamespaces {
        network: true,
        ipc: true,
        uts: true,
    };
    let facts = Facts {
        pod,
        ..facts(&spec)
    };
    check(
        "ctr-terminal.txt",
        &container(&spec, &facts, Program::Native).unwrap(),
    );
}

#[test]
fn the_default_of_cri() {
    let spec = spec("cri-default.json");
    check(
        "cri-default.txt",
        &container(&spec, &facts(&spec), Program::Native).unwrap(),
    );
}

#[test]
fn restricted_by_cri_on_cgroup_v2() {
    let spec = spec("cri-restricted.json");
    check(
        "cri-restricted.txt",
        &container(&spec, &facts_v2(&spec), Program::Native).unwrap(),
    );
}

#[test]
fn privileged_on_the_hosts_network() {
    let spec = spec("cri-privileged.json");
    check(
        "cri-privileged.txt",
        &container(&spec, &facts(&spec), Program::Native).unwrap(),
    );
}

#[test]
fn the_sandbox_of_cri() {
    let spec = spec("cri-sandbox.json");
    check(
        "cri-sandbox.txt",
        &container(&spec, &facts(&spec), Program::Native).unwrap(),
    );
}

/// As CRI writes it with `hostUsers: false`: the pod's user namespace by path, and the ids.
fn user_namespace(name: &str) -> duet_spec::Container {
    let mut document: serde_json::Value = serde_json::from_slice(&read(name)).unwrap();
    let ids = serde_json::json!([{ "containerID": 0, "hostID": 65_536, "size": 65_536 }]);
    document["linux"]["uidMappings"] = ids.clone();
    document["linux"]["gidMappings"] = ids.clone();
    let user = serde_json::json!({ "type": "user", "path": "/proc/4242/ns/user" });
    let namespaces = document["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(user);
    for mount in document["mounts"].as_array_mut().unwrap() {
        if mount["type"] == "bind" {
            mount["uidMappings"] = ids.clone();
            mount["gidMappings"] = ids.clone();
        }
    }
    let json = document.to_string();
    duet_spec::Container::parse(Path::new("/run/bundle"), json.as_bytes()).unwrap()
}

#[test]
fn in_the_user_namespace_of_a_pod() {
    let spec = user_namespace("cri-default.json");
    check(
        "user-namespace.txt",
        &container(&spec, &facts(&spec), Program::Native).unwrap(),
    );
    check(
        "user-namespace-exec.txt",
        &exec(
            &process("exec-terminal.json"),
            &spec,
            &facts(&spec),
            Kinds::NATIVE,
        )
        .unwrap(),
    );
}

#[test]
fn a_wasm_guest_of_cri() {
    let spec = spec("cri-default.json");
    check(
        "wasm-cri.txt",
        &container(&spec, &facts(&spec), Program::Wasm).unwrap(),
    );
}

#[test]
fn a_wasm_guest_with_a_way_to_its_pods_listeners_has_one_descriptor_more() {
    let spec = spec("cri-default.json");
    let facts = Facts {
        listeners: true,
        ..facts(&spec)
    };
    let plan = container(&spec, &facts, Program::Wasm).unwrap();
    let shown = plan.show();
    assert!(
        shown.contains("Tally on 6\n 38 Listeners on 7\n 39 close from 8 on exec\n"),
        "{shown}"
    );
}

#[test]
fn a_wasm_guest_with_a_terminal() {
    let spec = spec("ctr-terminal.json");
    check(
        "wasm-terminal.txt",
        &container(&spec, &facts(&spec), Program::Wasm).unwrap(),
    );
}

#[test]
fn an_exec() {
    let spec = spec("cri-default.json");
    let stdio = Stdio {
        stdin: true,
        stdout: true,
        stderr: true,
    };
    let facts = Facts {
        stdio,
        ..facts(&spec)
    };
    check(
        "exec.txt",
        &exec(&process("exec.json"), &spec, &facts, Kinds::NATIVE).unwrap(),
    );
}

#[test]
fn an_exec_with_a_terminal() {
    let spec = spec("cri-restricted.json");
    let facts = facts_v2(&spec);
    check(
        "exec-terminal.txt",
        &exec(&process("exec-terminal.json"), &spec, &facts, Kinds::NATIVE).unwrap(),
    );
}

/// A further process of one kind beside a first one of another.
#[track_caller]
fn beside(name: &str, process_of: &str, container: Program, further: Program) {
    let spec = spec("cri-default.json");
    let facts = Facts {
        tree: tree(),
        ..facts(&spec)
    };
    let kinds = Kinds {
        container,
        process: further,
    };
    check(
        name,
        &exec(&process(process_of), &spec, &facts, kinds).unwrap(),
    );
}

#[test]
fn an_exec_of_a_guest_beside_a_guest() {
    let (guest, with) = (Program::Wasm, "exec-terminal.json");
    beside("exec-guest.txt", with, guest, guest);
}

#[test]
fn an_exec_of_a_guest_beside_a_native_program() {
    let (native, guest) = (Program::Native, Program::Wasm);
    beside("exec-guest-in-native.txt", "exec.json", native, guest);
}

#[test]
fn an_exec_of_a_native_program_beside_a_guest() {
    let (native, guest) = (Program::Native, Program::Wasm);
    let with = "exec-terminal.json";
    beside("exec-native-in-guest.txt", with, guest, native);
}
