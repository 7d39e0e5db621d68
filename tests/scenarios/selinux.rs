//! SELinux's labels, on a machine whose kernel enforces a policy: the emulated one of `tests/vm`, with Debian's.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use duet_tests::cri::Wish;
use duet_tests::machine::{self, Runtime};
use duet_tests::{Node, command};
use k8s_cri::v1 as api;

/// Categories of a test.
const LEVEL: &str = "s0:c1,c2";
/// What a container's processes are by the policy (`contexts/lxc_contexts`), with those.
const PROCESS: &str = "system_u:system_r:container_t:s0:c1,c2";
/// And the files that they may change.
const FILE: &str = "system_u:object_r:container_file_t:s0:c1,c2";
/// Those that every container may change.
const ANYBODYS: &str = "system_u:object_r:container_file_t:s0";
/// Those that no container may read.
const SHADOW: &str = "system_u:object_r:shadow_t:s0";

/// A node whose kernel enforces a policy.
fn enter() -> Option<Node> {
    if machine::enforces_selinux() {
        return Node::enter();
    }
    eprintln!("a question for a kernel with SELinux");
    None
}

fn level() -> api::SeLinuxOption {
    api::SeLinuxOption {
        level: LEVEL.to_owned(),
        ..Default::default()
    }
}

/// One that no policy has.
fn nowhere() -> api::SeLinuxOption {
    api::SeLinuxOption {
        r#type: "duet_nowhere_t".to_owned(),
        ..level()
    }
}

/// Has a pod labelled.
fn labelled(config: &mut api::PodSandboxConfig, label: api::SeLinuxOption) {
    let linux = config.linux.as_mut().expect("the harness sets it");
    let security = linux.security_context.as_mut().expect("this, too");
    security.selinux_options = Some(label);
}

/// The label of a process, as the kernel shows it.
fn label_of(pid: i32) -> String {
    let label = fs::read_to_string(format!("/proc/{pid}/attr/current")).expect("it runs");
    label.trim_end_matches('\0').to_owned()
}

/// The label of a file that a process sees.
fn label_at(pid: i32, path: &str) -> String {
    let path = format!("/proc/{pid}/root{path}");
    let told = command::run(Command::new("stat").args(["-c", "%C", &path]));
    told.ok().stdout.trim().to_owned()
}

/// A folder of the node that the container may search, with a file in it that has this label.
fn volume(node: &Node, name: &str, label: &str) -> PathBuf {
    let dir = node.scratch().join(name);
    let file = dir.join("file");
    fs::create_dir(&dir).expect("our own folder");
    fs::write(&file, format!("{name}\n")).expect("it was just made");
    for (path, label) in [(&dir, FILE), (&file, label)] {
        let _labelled = command::run(Command::new("chcon").arg(label).arg(path)).ok();
    }
    dir
}

/// Has them as volumes: files of its own, of another container's, and of the node's.
fn with_volumes(node: &Node, mut wish: Wish) -> Wish {
    for (name, label) in [
        ("own", FILE),
        ("anothers", "system_u:object_r:container_file_t:s0:c3,c4"),
        ("nodes", SHADOW),
    ] {
        wish = wish.volume(&volume(node, name, label), &format!("/{name}"));
    }
    wish.selinux(level())
}

#[test]
fn a_label_confines_a_program_and_its_execs() {
    let Some(node) = enter() else {
        return;
    };
    let cri = node.cri();
    let pod = cri.pod_with("labelled", |config| labelled(config, level()));
    assert_eq!(label_of(pod.holder()), PROCESS);

    let script = "for volume in own anothers nodes; do cat /$volume/file || echo denied; done 2>/dev/null
        echo x > /dev/null && echo x > /dev/shm/x && echo x > /x && echo x > /own/x && echo writes
        grep -c MemTotal /proc/meminfo; cat /sys/kernel/mm/transparent_hugepage/enabled > /dev/null && echo sysfs
        echo ready; exec sleep 1000";
    let main = pod.start(&with_volumes(&node, Wish::native("main", script)));
    main.says("ready");
    let said = ["own", "denied", "denied", "writes", "1", "sysfs", "ready"];
    let lines = main.log().into_iter().map(|(_, line)| line);
    assert_eq!(lines.collect::<Vec<_>>(), said);
    let pid = main.pid();
    assert_eq!(label_of(pid), PROCESS);
    for path in [
        "/",
        "/bin/busybox",
        "/x",
        "/dev",
        "/dev/null",
        "/dev/pts",
        "/dev/shm/x",
        "/own/x",
    ] {
        assert_eq!(label_at(pid, path), FILE, "{path}");
    }
    // Those of a pod of the shim's own are all of its containers'.
    for path in [
        "/dev/shm",
        "/etc/hosts",
        "/etc/hostname",
        "/etc/resolv.conf",
    ] {
        let label = label_at(pid, path);
        assert!(
            [FILE, ANYBODYS].contains(&label.as_str()),
            "{path}: {label}"
        );
    }
    for (path, label) in [
        ("/proc", "proc_t"),
        ("/sys", "sysfs_t"),
        ("/sys/fs/cgroup", "cgroup_t"),
    ] {
        assert_eq!(label_at(pid, path), format!("system_u:object_r:{label}:s0"));
    }
    // A key is shown to whom its label lets see it, and other categories' are not.
    let (_, keys, _) = main.exec(&["/bin/cat", "/proc/keys"]);
    assert!(keys.contains(&format!("_ses.{}", main.id())), "{keys}");

    let exec = main.exec(&["/bin/cat", "/proc/self/attr/current", "/nodes/file"]);
    assert_eq!(exec.1, format!("{PROCESS}\0"), "{exec:?}");
    assert!(exec.2.contains("Permission denied"), "{exec:?}");
    let terminal = main.exec_streaming(&["/bin/sh", "-c", "tty && echo x > /dev/tty"], "", true);
    assert_eq!(terminal.stdout, "/dev/pts/0\r\nx\r\n");

    // Whatever categories containerd gives one that asks for none.
    let script = "cat /etc/hosts /etc/resolv.conf > /dev/null && echo x > /dev/shm/y && echo ready; exec sleep 1000";
    let other = pod.start(&Wish::native("other", script));
    other.says("ready");
    assert!(label_of(other.pid()).starts_with("system_u:system_r:container_t:s0:c"));
    assert_eq!(main.exec(&["/bin/cat", "/etc/hosts"]).0, 0);
    pod.remove();
}

#[test]
fn a_label_confines_a_guest() {
    let Some(node) = enter() else {
        return;
    };
    if node.runtime() == Runtime::Runc {
        eprintln!("not a question for runc");
        return;
    }
    let cri = node.cri();
    let pod = cri.pod("mixed");
    let guest = pod.start(&with_volumes(&node, Wish::wasm("guest", &["spin"])));
    guest.says("spinning");
    assert_eq!(label_of(guest.pid()), PROCESS);
    let cat = |path| guest.exec(&["/probe.wasm", "cat", path]);
    assert_eq!(cat("/own/file").1, "own\n");
    for path in ["/anothers/file", "/nodes/file"] {
        let (code, out, _) = cat(path);
        assert_ne!(code, 0, "{path}");
        assert_eq!(out, "", "{path}");
    }
    pod.remove();
}

#[test]
fn a_label_that_the_policy_does_not_know_is_named() {
    let Some(node) = enter() else {
        return;
    };
    let cri = node.cri();
    let named = |what: &str, error: &tonic::Status| {
        // runc names the file that it writes.
        let word = match node.runtime() {
            Runtime::Duet => {
                "process.selinuxLabel: system_u:system_r:duet_nowhere_t:s0:c1,c2: the loaded policy does not know this label"
            }
            Runtime::Runc => "/proc/self/attr/keycreate: invalid argument",
        };
        assert!(error.message().contains(word), "{what}: {error}");
    };
    let pod = cri.pod("somewhere");
    let main = pod.create(&Wish::native("main", "true").selinux(nowhere()));
    let error = main.and_then(|main| main.start());
    named("container", &error.expect_err("no such type"));
    pod.remove();
    let pod = cri.try_pod("nowhere", |config| labelled(config, nowhere()));
    named("pod", &pod.expect_err("no such type"));
}
