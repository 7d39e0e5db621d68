//! The files of `deploy/`, read by those they are for.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use duet_tests::machine::workspace;
use duet_tests::{Node, command};

/// What a daemon's configuration is once its drop-ins are merged.
fn merged(node: &Node, main: &str, drop_in: &Path) -> String {
    let file = node.scratch().join("config.toml");
    let imports = format!("imports = [{:?}]\n", drop_in.display().to_string());
    let main = main.replacen("\n[", &format!("\n{imports}["), 1);
    fs::write(&file, main).expect("our own folder");
    let mut dump = Command::new(node.daemon().program());
    dump.arg("--config").arg(&file).args(["config", "dump"]);
    command::run(&mut dump).ok().stdout
}

/// The drop-in that this containerd is to read.
fn drop_in(node: &Node) -> PathBuf {
    let name = if node.daemon().is_2() {
        "duet-v3.toml"
    } else {
        "duet-v2.toml"
    };
    workspace().join("deploy/containerd").join(name)
}

/// A configuration with a setting that must survive the drop-in.
fn with_a_setting(node: &Node) -> &'static str {
    if node.daemon().is_2() {
        "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\n  conf_dir = '/our/own/cni'\n"
    } else {
        "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.cni]\n  conf_dir = '/our/own/cni'\n"
    }
}

#[test]
fn the_drop_in_makes_the_handler_known() {
    let Some(node) = Node::enter() else { return };
    let config = merged(&node, with_a_setting(&node), &drop_in(&node));
    let table = config.split("runtimes.duet]").nth(1);
    let table = table.unwrap_or_else(|| panic!("no runtime duet in\n{config}"));
    let runtime_type = table
        .lines()
        .find(|line| line.trim().starts_with("runtime_type"));
    assert!(
        runtime_type.is_some_and(|line| line.contains("io.containerd.duet.v1")),
        "{table}"
    );
}

#[test]
fn the_drop_in_for_the_shims_own_pods_makes_a_handler_beside_the_other() {
    let Some(node) = Node::enter() else { return };
    if !node.daemon().is_2() {
        // containerd 1 has no such setting.
        return;
    }
    let file = workspace().join("deploy/containerd/duet-shim-v3.toml");
    let config = merged(&node, with_a_setting(&node), &file);
    let table = config.split("runtimes.duet-shim]").nth(1);
    let table = table.unwrap_or_else(|| panic!("no runtime duet-shim in\n{config}"));
    for (key, value) in [
        ("runtime_type", "io.containerd.duet.v1"),
        ("sandboxer", "shim"),
    ] {
        let line = table.lines().find(|line| line.trim().starts_with(key));
        assert!(
            line.is_some_and(|line| line.contains(value)),
            "{key} in {table}"
        );
    }
    assert!(config.contains("/our/own/cni"), "{config}");
}

#[test]
fn the_drop_in_leaves_other_settings_alone_except_in_containerd_1() {
    let Some(node) = Node::enter() else { return };
    let config = merged(&node, with_a_setting(&node), &drop_in(&node));
    let kept = config.contains("/our/own/cni");
    // deploy/README.md warns of containerd 1; should that change, the page must too.
    assert_eq!(kept, node.daemon().is_2(), "{config}");
}

#[test]
fn the_drop_in_of_k3s_is_read_by_its_containerd() {
    let Some(node) = Node::enter() else { return };
    if !node.daemon().is_2() {
        // k3s with containerd 1.7 uses the drop-in of version 2, which is tested above.
        return;
    }
    let config = merged(
        &node,
        with_a_setting(&node),
        &workspace().join("deploy/k3s/duet.toml"),
    );
    assert!(
        config.contains("/usr/local/bin/containerd-shim-duet-v1"),
        "{config}"
    );
    assert!(config.contains("/our/own/cni"), "{config}");
}

#[test]
fn the_runtime_class_names_the_handler_of_the_drop_ins() {
    let file = workspace().join("deploy/kubernetes/runtimeclass.yaml");
    let yaml = fs::read_to_string(file).expect("it is part of the repository");
    assert!(yaml.contains("\nhandler: duet\n"), "{yaml}");
    for drop_in in [
        "containerd/duet-v2.toml",
        "containerd/duet-v3.toml",
        "k3s/duet.toml",
    ] {
        let toml = fs::read_to_string(workspace().join("deploy").join(drop_in)).expect("so is it");
        assert!(toml.contains(".containerd.runtimes.duet]"), "{drop_in}");
    }
}

#[test]
fn a_running_cri_runs_a_pod_by_the_handler() {
    let Some(node) = Node::enter() else { return };
    // The node's own configuration has the same table as the drop-in; this is its proof.
    let cri = node.cri();
    let pod = cri.pod("handled");
    pod.remove();
}
