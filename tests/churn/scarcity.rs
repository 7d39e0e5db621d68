//! What runs out: the call says what, nothing is left, and the next one is none the worse.

use std::fs;
use std::process::Command;

use duet_tests::shim::{Bundle, Shim};
use duet_tests::{Node, command, machine, wait};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::{live, pod};

#[test]
fn a_full_disk_is_named() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let dir = node.scratch().join("churn");
    let (shim, spec) = start(&node, "full");
    let disk = dir.join("disk");
    fs::create_dir(&disk).unwrap();
    let options = Some("size=64k");
    mount(
        Some("disk"),
        &disk,
        Some("tmpfs"),
        MsFlags::empty(),
        options,
    )
    .unwrap();
    let bundle = Bundle::new(&disk.join("brief-0"), Some(&spec.to_string())).unwrap();
    // It ends with what there is room for.
    let filled = fs::write(disk.join("filler"), vec![0; 1 << 16]);
    assert!(filled.is_err());
    let error = shim.create("brief-0", &bundle.dir).unwrap_err();
    let file = bundle.dir.join("duet.json").display().to_string();
    assert!(error.contains(&format!("write {file}")), "{error}");
    assert!(error.contains("No space left on device"), "{error}");
    let left = fs::read_dir(&bundle.dir).unwrap().count();
    assert_eq!(left, 3, "config.json, log and rootfs are ours");
    umount2(&disk, MntFlags::MNT_DETACH).unwrap();

    live(&shim, 0, &dir, &format!("/{}", node.namespace()), spec);
    let _said = shim.shutdown();
}

#[test]
fn a_shim_without_descriptors_says_so() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let dir = node.scratch().join("churn");
    let (shim, spec) = start(&node, "many");
    let pid = shim.pid("brief-1").unwrap().to_string();
    let limit = |soft: usize| {
        let limit = format!("--nofile={soft}:");
        let _set = command::run(Command::new("prlimit").args(["--pid", &pid, &limit])).ok();
    };
    // What it opens when it first needs it is open after a life, and what that life had is closed soon.
    live(
        &shim,
        1,
        &dir,
        &format!("/{}", node.namespace()),
        spec.clone(),
    );
    let open = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let before = wait::until("the shim to be at rest", || {
        let once = open();
        let _answered = shim.pid("brief-1");
        (open() == once).then_some(once)
    });
    let bundle = Bundle::new(&dir.join("brief-1"), Some(&spec.to_string())).unwrap();
    // Room for a file at a time, and not for a birth: each of its steps is the one that fails.
    for room in 4..8 {
        limit(before + room);
        let error = shim.create("brief-1", &bundle.dir).unwrap_err();
        assert!(
            error.contains("EMFILE") || error.contains("Too many open files"),
            "{room}: {error}"
        );
        let left = fs::read_dir(&bundle.dir).unwrap().count();
        assert_eq!(left, 3, "config.json, log and rootfs are ours");
        limit(1024);
    }
    fs::remove_dir_all(&bundle.dir).unwrap();

    live(&shim, 1, &dir, &format!("/{}", node.namespace()), spec);
    let _said = shim.shutdown();
}

/// A shim of a pod of that name, and the spec of its containers.
fn start(node: &Node, name: &str) -> (Shim, Value) {
    let mut spec = pod(node, name);
    spec["process"]["args"] = json!(["/bin/true"]);
    let dir = node.scratch().join("churn");
    let bundle = Bundle::new(&dir.join("pod"), Some(&spec.to_string())).unwrap();
    let program = machine::binary("containerd-shim-duet-v1");
    let shim = Shim::start(node.daemon(), &program, node.namespace(), name, &bundle).unwrap();
    (shim, spec)
}
