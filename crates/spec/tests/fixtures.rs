//! The documents that containerd writes all load, and mean what they say.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its fixture has failed"
)]

use duet_spec::{
    CgroupsPath, Container, MountKind, Namespace, Process, Propagation, PropagationKind,
    annotations, attr,
};
use std::path::{Path, PathBuf};

fn load(name: &str) -> Container {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    let json = std::fs::read(file).unwrap();
    Container::parse(Path::new("/run/bundle"), &json).unwrap()
}

#[test]
fn the_default_of_ctr_loads() {
    let spec = load("ctr-default.json");
    assert_eq!(spec.root.path, Path::new("/run/bundle/rootfs"));
    assert_eq!(spec.process.args, ["/bin/sh", "-c", "exit 7"]);
    assert_eq!(spec.namespaces.network, Namespace::New);
    assert_eq!(spec.namespaces.cgroup, Namespace::Host);
    assert_eq!(
        spec.cgroups_path,
        Some(CgroupsPath::Cgroupfs(PathBuf::from("/default/one")))
    );
    let dev = &spec.mounts[1];
    assert_eq!(dev.attributes.set, attr::NOSUID | attr::STRICTATIME);
    let MountKind::Filesystem { options, .. } = &dev.kind else {
        panic!("{dev:?}")
    };
    assert_eq!(options, &["mode=755", "size=65536k"]);
    let sys = spec
        .mounts
        .iter()
        .find(|mount| mount.destination == "/sys")
        .unwrap();
    let MountKind::Filesystem { options, .. } = &sys.kind else {
        panic!("{sys:?}")
    };
    assert!(
        options.is_empty(),
        "the superblock of sysfs belongs to the whole pod"
    );
}

#[test]
fn what_cri_writes_for_a_container_loads() {
    let spec = load("cri-default.json");
    assert_eq!(
        spec.namespaces.network,
        Namespace::Path("/proc/4242/ns/net".into())
    );
    assert_eq!(annotations::pod_key(&spec.annotations), Some("pod"));
    assert_eq!(spec.process.user.additional_gids, [0, 10]);
    assert_eq!(spec.process.oom_score_adj, Some(1000));
    assert!(!spec.process.no_new_privileges);
    let hosts = spec
        .mounts
        .iter()
        .find(|mount| mount.destination == "/etc/hosts")
        .unwrap();
    assert_eq!(
        hosts.propagation,
        Some(Propagation {
            kind: PropagationKind::Private,
            recursive: true
        })
    );
    assert_eq!(
        hosts.attributes.clear, 0,
        "rw must not make a read-only source writable"
    );
    assert_eq!(spec.masked_paths.len(), 11);
    assert!(spec.seccomp.is_some());
}

#[test]
fn what_cri_writes_for_a_restricted_container_loads() {
    let spec = load("cri-restricted.json");
    let config = spec
        .mounts
        .iter()
        .find(|mount| mount.destination == "/config")
        .unwrap();
    assert_eq!(config.attributes.set, 0);
    assert_eq!(config.attributes.set_recursive, attr::RDONLY);
    assert_eq!(spec.process.rlimits[0].resource, 7);
    assert_eq!(spec.process.rlimits[1].hard, u64::MAX);
    assert_eq!(spec.process.io_priority.unwrap().0, (2 << 13) | 6);
    assert_eq!(spec.process.capabilities.unwrap().ambient, 1 << 10);
    assert_eq!(spec.process.user.umask, Some(0o027));
}

#[test]
fn a_capability_of_a_newer_kernel_is_reported_and_not_fatal() {
    let spec = load("cri-privileged.json");
    assert_eq!(spec.process.unknown_capabilities, ["CAP_FROM_THE_FUTURE"]);
    assert_eq!(spec.process.capabilities.unwrap().bounding, (1 << 41) - 1);
    assert_eq!(spec.devices.len(), 5);
    assert_eq!(spec.namespaces.network, Namespace::Host);
}

#[test]
fn what_cri_writes_for_a_sandbox_loads() {
    let spec = load("cri-sandbox.json");
    assert_eq!(spec.hostname.as_deref(), Some("web"));
    assert_eq!(spec.sysctl["net/ipv4/ip_unprivileged_port_start"], "0");
    let systemd = CgroupsPath::Systemd {
        slice: "kubepods-besteffort-pod7.slice".to_owned(),
        prefix: "cri-containerd".to_owned(),
        name: "pause".to_owned(),
    };
    assert_eq!(spec.cgroups_path, Some(systemd));
}

#[test]
fn an_exec_loads() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/exec-terminal.json");
    let json = std::fs::read(file).unwrap();
    let process = Process::parse(&json).unwrap();
    let size = process.terminal.unwrap();
    assert_eq!((size.rows, size.cols), (50, 132));
    let off = Process::parse_with_terminal(&json, false).unwrap();
    assert_eq!(off.terminal, None);
    let text = String::from_utf8(json).unwrap();
    let silent = text.replace(r#""terminal": true,"#, "");
    let on = Process::parse_with_terminal(silent.as_bytes(), true).unwrap();
    assert_eq!(on, process);
}

#[test]
fn a_cgroup_is_given_to_whom_it_is_mounted_for_writing() {
    let owner = |options: &str, namespaces: &str, more: &str| {
        let json = format!(
            r#"{{"ociVersion": "1.2.0", "root": {{"path": "rootfs"}},
            "process": {{"args": ["a"], "cwd": "/", "user": {{"uid": 7, "gid": 0}}}},
            "mounts": [{{"destination": "/sys/fs/cgroup/", "type": "cgroup", "source": "cgroup",
                "options": [{options}]}}],
            "linux": {{"namespaces": [{{"type": "mount"}}{namespaces}]{more}}}}}"#
        );
        let spec = Container::parse(Path::new("/run/bundle"), json.as_bytes());
        spec.unwrap().cgroup_owner()
    };
    let own = r#", {"type": "cgroup"}"#;
    assert_eq!(owner(r#""rw", "nosuid""#, own, ""), Some(7));
    assert_eq!(
        owner(r#""ro""#, own, ""),
        None,
        "it can write nothing there"
    );
    assert_eq!(
        owner(r#""rw""#, "", ""),
        None,
        "it sees the cgroups of others"
    );
    let others = r#", {"type": "cgroup", "path": "/proc/1/ns/cgroup"}"#;
    assert_eq!(owner(r#""rw""#, others, ""), None);

    let mapped = format!(r#"{own}, {{"type": "user"}}"#);
    let maps = |first: u32| {
        let map = format!(r#"[{{"containerID": {first}, "hostID": 200000, "size": 10}}]"#);
        format!(r#", "uidMappings": {map}, "gidMappings": {map}"#)
    };
    assert_eq!(owner(r#""rw""#, &mapped, &maps(0)), Some(200_007));
}
