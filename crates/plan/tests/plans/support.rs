//! Specs and facts that the tests of plans share.

use duet_plan::{
    Arch, CgroupFacts, Facts, Filesystem, Hierarchy, PodNamespaces, Seen, SourceFacts, SourceKind,
    Stdio,
};
use duet_spec::{Container, MountKind, Process};
use std::{collections::BTreeMap, path::Path};

pub(crate) fn read(name: &str) -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../spec/tests/fixtures")
        .join(name);
    std::fs::read(file).unwrap()
}

pub(crate) fn spec(name: &str) -> Container {
    Container::parse(Path::new("/run/bundle"), &read(name)).unwrap()
}

pub(crate) fn process(name: &str) -> Process {
    Process::parse(&read(name)).unwrap()
}

/// A machine with three cgroup v1 hierarchies, on which every source of the spec exists:
/// those with a dot, a `host` or a `log` in their last part are files.
pub(crate) fn facts(spec: &Container) -> Facts {
    let sources = spec.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Bind { source, .. } => {
            let name = source.file_name().unwrap_or_default().to_string_lossy();
            let file = name.contains('.') || name.contains("host") || name == "log";
            let kind = if file {
                SourceKind::File
            } else {
                SourceKind::Directory
            };
            let found = SourceFacts {
                kind,
                filesystem: Filesystem::Other,
                below: None,
            };
            Some((source.clone(), found))
        }
        MountKind::Cgroup { .. } | MountKind::Filesystem { .. } => None,
    });
    let hierarchies = ["memory", "cpu,cpuacct", "name=systemd"].map(|name| {
        let mountpoint = Path::new("/sys/fs/cgroup").join(name.trim_start_matches("name="));
        let path = mountpoint.join("default/one");
        Hierarchy {
            name: name.to_owned(),
            mountpoint,
            path,
        }
    });
    Facts {
        keyring: Some("_ses.one".to_owned()),
        resctrl: Vec::new(),
        cgroup: CgroupFacts {
            v2: false,
            hierarchies: hierarchies.to_vec(),
            awaited: false,
        },
        sources: sources.collect::<BTreeMap<_, _>>(),
        tree: Vec::new(),
        pod: PodNamespaces::default(),
        last_capability: 40,
        held: u64::MAX,
        hard_limits: BTreeMap::new(),
        stdio: Stdio {
            stdin: false,
            stdout: true,
            stderr: true,
        },
        home: Some("/root".to_owned()),
        arch: Arch::X86_64,
        ids: spec.id_mappings.clone(),
        apparmor: false,
        selinux: false,
        listeners: false,
    }
}

/// What the first process of a container sees that has mounted a procfs of its own.
pub(crate) fn tree() -> Vec<Seen> {
    let mounts = [
        ("/", Filesystem::Other),
        ("/dev", Filesystem::Other),
        ("/dev/mqueue", Filesystem::Mqueue),
        ("/dev/pts", Filesystem::Devpts),
        ("/dev/shm", Filesystem::Other),
        ("/dev/termination-log", Filesystem::Other),
        ("/proc", Filesystem::Proc),
        ("/srv/chroot/proc", Filesystem::Proc),
        ("/sys", Filesystem::Sysfs),
        ("/sys/fs/cgroup", Filesystem::Other),
        ("/var/lib", Filesystem::Other),
    ];
    let seen = |(point, filesystem): (&str, _)| Seen {
        point: point.into(),
        filesystem,
    };
    mounts.map(seen).to_vec()
}

/// The same machine with cgroup v2.
pub(crate) fn facts_v2(spec: &Container) -> Facts {
    Facts {
        cgroup: CgroupFacts {
            v2: true,
            hierarchies: Vec::new(),
            awaited: false,
        },
        ..facts(spec)
    }
}
