//! What a wasm container has less of than a native one.
//!
//! A guest that can open `/proc/self/mem` owns its runner, so the guest's tree never has
//! anything that shows the host or the kernel: no procfs, sysfs, cgroups, message queues or
//! devpts, and of devices only those that are nothing but bytes. What every pod mounts is left
//! out silently; what somebody has asked for on purpose is refused by name.
//!
//! That is looked at once, when the container is made. So nothing that is mounted later comes into
//! it: its mounts are private, where those of a native container that asks for nothing follow the host's.

use crate::{Error, Facts, Filesystem, SourceKind};
use duet_spec::{
    Attributes, Container, Mount, MountKind, Personality, Propagation, PropagationKind, attr,
};

/// The spec without what the guest must not see.
pub(crate) fn guard(spec: &Container, facts: &Facts) -> Result<Container, Error> {
    if let Some(device) = spec.devices.first() {
        return Err(Error::Refused {
            field: "linux.devices".to_owned(),
            value: device.path.clone(),
            why: "a wasm container has no devices of the host".to_owned(),
        });
    }
    if spec.personality == Some(Personality::Linux32) {
        return Err(Error::Refused {
            field: "linux.personality.domain".to_owned(),
            value: Personality::Linux32.name().to_owned(),
            why: "a guest has no machine of the host's to see".to_owned(),
        });
    }
    let mut guarded = spec.clone();
    guarded.mounts.clear();
    guarded.root.propagation = Some(Propagation {
        kind: PropagationKind::Private,
        recursive: true,
    });
    let mut has_dev = false;
    for mount in &spec.mounts {
        match allowed(facts, mount)? {
            Verdict::Keep => {
                has_dev |= mount.destination == "/dev";
                guarded.mounts.push(mount.clone());
            }
            Verdict::LeaveOut => {}
        }
    }
    if !has_dev {
        guarded.mounts.insert(0, fresh_dev(spec.mounts.len()));
    }
    Ok(guarded)
}

enum Verdict {
    Keep,
    LeaveOut,
}

fn allowed(facts: &Facts, mount: &Mount) -> Result<Verdict, Error> {
    let refuse = |field: &str, value: String, why: String| {
        Err(Error::Refused {
            field: format!("mounts[{}].{field}", mount.index),
            value,
            why,
        })
    };
    match &mount.kind {
        MountKind::Cgroup { .. } => Ok(Verdict::LeaveOut),
        MountKind::Filesystem { fstype, .. } => match Filesystem::from_name(fstype) {
            Filesystem::Proc
            | Filesystem::Sysfs
            | Filesystem::Devpts
            | Filesystem::Cgroup
            | Filesystem::Mqueue => Ok(Verdict::LeaveOut),
            shows @ (Filesystem::Devtmpfs | Filesystem::Kernel) => {
                let why = format!("a wasm container must not see {}", shows.name());
                refuse("type", fstype.clone(), why)
            }
            Filesystem::Other => Ok(Verdict::Keep),
        },
        MountKind::Bind { .. } if mount.destination == "/dev" => {
            let why = "a wasm container's /dev is Duet's own".to_owned();
            refuse("destination", mount.destination.clone(), why)
        }
        MountKind::Bind { source, recursive } => {
            let path = source.display().to_string();
            let Some(found) = facts.sources.get(source) else {
                let source_path = source.clone();
                return Err(Error::SourceMissing {
                    index: mount.index,
                    source_path,
                });
            };
            if found.kind == SourceKind::Device {
                let why = "a wasm container has no devices of the host".to_owned();
                return refuse("source", path, why);
            }
            if found.filesystem != Filesystem::Other {
                let why = format!(
                    "is {}, which a wasm container must not see",
                    found.filesystem.name()
                );
                return refuse("source", path, why);
            }
            if let Some(asked) = mount.propagation
                && matches!(asked.kind, PropagationKind::Slave | PropagationKind::Shared)
            {
                let why = "what is mounted later comes into no wasm container".to_owned();
                return refuse("options", asked.word().to_owned(), why);
            }
            match &found.below {
                Some((below, shows)) if *recursive => {
                    let below = below.display();
                    let why = format!(
                        "{below} is {}, which a wasm container must not see",
                        shows.name()
                    );
                    refuse("source", path, why)
                }
                _ => Ok(Verdict::Keep),
            }
        }
    }
}

/// The `/dev` of a spec that has none: the image's own could hold anything.
pub(crate) fn fresh_dev(index: usize) -> Mount {
    Mount {
        index,
        destination: "/dev".to_owned(),
        kind: MountKind::Filesystem {
            fstype: "tmpfs".to_owned(),
            source: "tmpfs".to_owned(),
            options: vec!["mode=755".to_owned(), "size=64k".to_owned()],
        },
        attributes: Attributes {
            set: attr::NOSUID | attr::NOEXEC,
            ..Attributes::default()
        },
        propagation: None,
        id_map: None,
        copy_up: false,
    }
}

/// Whether a path is in a part of the tree that the guest does not have.
pub(crate) fn has_no(path: &str) -> bool {
    ["/proc", "/sys"].into_iter().any(|gone| {
        path.strip_prefix(gone)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}
