//! A `cgroup` mount: what the container sees of its limits, for each version of cgroups and
//! with or without a cgroup namespace.

use crate::{Descriptor, Facts, mounts, namespaces, user_namespace, writer::Writer};
use duet_spec::{
    Attributes, Container, Mount, MountKind, Namespace, Propagation, PropagationKind, attr,
};
use duet_step::{Mount as MountStep, Reg, Source, Step};
use std::path::PathBuf;

/// What each of the mounts below the tmpfs of v1 has besides what is asked for, as under runc.
const V1: u64 = attr::NOSUID | attr::NODEV | attr::NOEXEC;

/// A copy of one of the host's mounts that neither hears of it nor is heard by it.
const APART: Propagation = Propagation {
    kind: PropagationKind::Private,
    recursive: true,
};

/// Makes a `cgroup` mount.
pub(crate) fn mount(
    writer: &mut Writer,
    spec: &Container,
    facts: &Facts,
    mount: &Mount,
    options: &[String],
) {
    if facts.cgroup.v2 && user_namespace::has_one(spec) && spec.namespaces.cgroup == Namespace::Host
    {
        // A file system of the host's, which only its root can mount anew.
        shared(writer, mount);
    } else if facts.cgroup.v2 {
        unified(writer, mount, options);
    } else {
        v1(writer, spec, facts, mount);
    }
}

/// The unified hierarchy. In a cgroup namespace it shows the container's own part; without one
/// all of it, as under runc: `/proc/self/cgroup` names a path in it.
fn unified(writer: &mut Writer, mount: &Mount, options: &[String]) {
    let source = Source::Filesystem {
        fstype: writer.text("cgroup2"),
        source: writer.text("cgroup"),
        options: writer.texts(options),
    };
    let attributes = Attributes {
        clear: 0,
        ..mount.attributes
    };
    let step = mounts::step(writer, source, mount, attributes, mount.propagation);
    writer.step(Step::Mount(step));
}

/// The host's own mount of the unified hierarchy.
fn shared(writer: &mut Writer, mount: &Mount) {
    let tree = writer.slot(Descriptor::Tree {
        path: PathBuf::from("/sys/fs/cgroup"),
        recursive: true,
        id_map: None,
    });
    let (cut, propagation) = mounts::heard(Some(APART), mount.propagation);
    let source = Source::Tree(tree);
    let step = mounts::step(writer, source, mount, mount.attributes, propagation);
    writer.step(Step::Mount(MountStep { cut, ..step }));
}

/// A tmpfs with a directory for each hierarchy, and links for controllers that share one.
fn v1(writer: &mut Writer, spec: &Container, facts: &Facts, mount: &Mount) {
    namespaces::join_cgroup(writer, facts);
    let base = Source::Filesystem {
        fstype: writer.text("tmpfs"),
        source: writer.text("tmpfs"),
        options: writer.texts(["mode=755"]),
    };
    let attributes = Attributes {
        set: V1,
        ..Attributes::default()
    };
    let step = mounts::step(writer, base, mount, attributes, mount.propagation);
    writer.step(Step::Mount(step));

    let read_only = mount.attributes.set & attr::RDONLY;
    for hierarchy in &facts.cgroup.hierarchies {
        let name = hierarchy
            .mountpoint
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let (source, (cut, propagation)) = if spec.namespaces.cgroup == Namespace::Host {
            // Only the container's own part: the file system anew would be all of the host's.
            let own = writer.path(&hierarchy.path);
            let heard = mounts::heard(Some(APART), mount.propagation);
            (Source::Host(own), heard)
        } else {
            let source = Source::Filesystem {
                fstype: writer.text("cgroup"),
                source: writer.text("cgroup"),
                options: writer.texts(hierarchy.name.split(',')),
            };
            (source, (0, mount.propagation))
        };
        let below = Mount {
            index: mount.index,
            destination: format!("{}/{name}", mount.destination),
            kind: MountKind::Cgroup {
                options: Vec::new(),
            },
            attributes: Attributes {
                set: V1 | read_only,
                ..Attributes::default()
            },
            propagation: None,
            id_map: None,
            copy_up: false,
        };
        let step = mounts::step(writer, source, &below, below.attributes, propagation);
        writer.step(Step::Mount(MountStep { cut, ..step }));
    }
    for hierarchy in &facts.cgroup.hierarchies {
        let name = hierarchy
            .mountpoint
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        if !name.contains(',') {
            continue;
        }
        for controller in name.split(',') {
            let path = format!("{}/{controller}", mount.destination.trim_start_matches('/'));
            let (target, path) = (writer.text(&name), writer.text(&path));
            writer.step(Step::Symlink(Reg::Root, target, path));
        }
    }
    if read_only != 0 {
        let path = writer.text(&mount.destination);
        writer.step(Step::Remount(path, attr::RDONLY, 0));
    }
}
