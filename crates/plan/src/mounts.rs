//! The root, the mounts below it, and what is read-only or hidden in the finished tree.

use crate::{
    Descriptor, Error, Facts, Filesystem, Given, Program, SourceKind, TreeIdMap, cgroup_mounts,
    dev, labels, namespaces, user_namespace, wasm, writer::Writer,
};
use duet_spec::{Attributes, Container, Mount, MountKind, Propagation, PropagationKind, attr};
use duet_step::{Destination, Mount as MountStep, Reg, Source, Step};

/// Propagation types of `linux/mount.h`, in the width that `mount_setattr(2)` takes them in.
pub(crate) mod ms {
    pub(crate) const REC: u32 = 1 << 14;
    pub(crate) const UNBINDABLE: u32 = 1 << 17;
    pub(crate) const PRIVATE: u32 = 1 << 18;
    pub(crate) const SLAVE: u32 = 1 << 19;
    pub(crate) const SHARED: u32 = 1 << 20;
}

/// Files below `/proc` that may be replaced by a bind, as LXCFS and its like do; runc's list.
/// Anything else there is trusted by somebody (CVE-2019-16884 wrote LSM labels to nowhere).
const REPLACEABLE: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// Cuts the inherited mount tree off the host's and attaches the container's root.
pub(crate) fn root(writer: &mut Writer, spec: &Container) {
    let propagation = match spec.root.propagation.map(|propagation| propagation.kind) {
        Some(PropagationKind::Private | PropagationKind::Unbindable) => ms::PRIVATE,
        // Mounts of the host go on arriving, as runc's default has it. Never shared, even when
        // the root is to be: what is mounted here would appear on the host, and pivot_root
        // refuses. A shared root becomes shared again at the end.
        Some(PropagationKind::Slave | PropagationKind::Shared) | None => ms::SLAVE,
    };
    let whole = writer.text("/");
    writer.step(Step::Propagation(whole, propagation | ms::REC));
    let tree = writer.slot(Descriptor::Given(Given::RootTree));
    let by_path = !user_namespace::has_one(spec);
    let at = by_path.then(|| writer.path(&spec.root.path));
    writer.step(Step::AttachRoot {
        tree,
        at,
        propagation,
    });
}

/// Every mount of the spec in its order, and the nodes of `/dev` where they belong.
pub(crate) fn all(
    writer: &mut Writer,
    spec: &Container,
    facts: &Facts,
    kind: Program,
) -> Result<(), Error> {
    let dev = dev::find(spec);
    for mount in &spec.mounts {
        check_proc(mount, facts)?;
        match &mount.kind {
            MountKind::Bind { source, recursive } => {
                let Some(found) = facts.sources.get(source) else {
                    let source_path = source.clone();
                    return Err(Error::SourceMissing {
                        index: mount.index,
                        source_path,
                    });
                };
                let destination = match found.kind {
                    SourceKind::Directory => Destination::Directory,
                    SourceKind::File | SourceKind::Device => Destination::File,
                };
                let path = source.clone();
                let id_map = mount.id_map.as_ref().map(|map| {
                    let own = map.mappings.is_empty();
                    let ids = if own { &facts.ids } else { &map.mappings };
                    TreeIdMap {
                        namespace: writer.user_namespace(ids),
                        recursive: map.recursive,
                    }
                });
                let slot = writer.slot(Descriptor::Tree {
                    path,
                    recursive: *recursive,
                    id_map,
                });
                let (cut, propagation) = heard(inherited(spec), mount.propagation);
                let source = Source::Tree(slot);
                let step = step(writer, source, mount, mount.attributes, propagation);
                let kind = destination;
                writer.step(Step::Mount(MountStep { kind, cut, ..step }));
            }
            MountKind::Cgroup { options } => {
                cgroup_mounts::mount(writer, spec, facts, mount, options);
            }
            MountKind::Filesystem {
                fstype,
                source,
                options,
            } => {
                let keep = dev::register(spec, mount, dev);
                let mut set = mount.attributes.set;
                if late_read_only(mount) {
                    set &= !attr::RDONLY;
                }
                let made = keep == Some(Reg::Dev) && dev::is_prepared(spec);
                let labelled;
                let options = match labels::mount(spec, fstype) {
                    Some(label) => {
                        labelled = [options.as_slice(), &[label]].concat();
                        &labelled
                    }
                    None => options,
                };
                let source = if made {
                    set = 0;
                    Source::Made(Reg::Dev)
                } else {
                    Source::Filesystem {
                        fstype: writer.text(fstype),
                        source: writer.text(source),
                        options: writer.texts(options),
                    }
                };
                // A new file system has nothing to clear, and clearing the access-time field
                // afterwards would undo the mode that it was just made with.
                let attributes = Attributes {
                    set,
                    clear: 0,
                    ..mount.attributes
                };
                if mount.copy_up {
                    // What is copied is the container's memory.
                    namespaces::join_cgroup(writer, facts);
                }
                let step = step(writer, source, mount, attributes, mount.propagation);
                // As under runc: the kernel's own mode is 1777, which few images mean.
                let inherit_mode =
                    fstype == "tmpfs" && !options.iter().any(|option| option.starts_with("mode="));
                writer.step(Step::Mount(MountStep {
                    inherit_mode,
                    copy_up: mount.copy_up,
                    keep,
                    ..step
                }));
                if keep == Some(Reg::Dev) {
                    // Before anything is mounted below: a bind over one of the nodes finds it.
                    if !made {
                        dev::nodes(writer, spec, kind);
                    }
                    dev::links(writer, kind);
                }
            }
        }
    }
    dev::settle(writer, spec, dev, kind);
    Ok(())
}

/// A mount onto a directory.
pub(crate) fn step(
    writer: &mut Writer,
    source: Source,
    mount: &Mount,
    attributes: Attributes,
    propagation: Option<Propagation>,
) -> MountStep {
    MountStep {
        source,
        target: writer.text(&mount.destination),
        kind: Destination::Directory,
        set: attributes.set,
        clear: attributes.clear,
        set_recursive: attributes.set_recursive,
        clear_recursive: attributes.clear_recursive,
        cut: 0,
        propagation: propagation.map_or(0, |propagation| bits(propagation.kind)),
        propagation_recursive: propagation.is_some_and(|propagation| propagation.recursive),
        inherit_mode: false,
        copy_up: false,
        keep: None,
    }
}

fn bits(kind: PropagationKind) -> u32 {
    match kind {
        PropagationKind::Private => ms::PRIVATE,
        PropagationKind::Slave => ms::SLAVE,
        PropagationKind::Shared => ms::SHARED,
        PropagationKind::Unbindable => ms::UNBINDABLE,
    }
}

/// Sets a propagation that a copy of the tree does not keep, and that hinders what is done to the
/// tree before.
pub(crate) fn announce(writer: &mut Writer, path: &str, kind: PropagationKind, recursive: bool) {
    let below = if recursive { ms::REC } else { 0 };
    match kind {
        PropagationKind::Shared | PropagationKind::Unbindable => {
            let path = writer.text(path);
            writer.step(Step::Propagation(path, bits(kind) | below));
        }
        PropagationKind::Private | PropagationKind::Slave => {}
    }
}

/// The propagation of a bind that asks for none: that of the tree it would have been copied
/// from under runc, which sets the root's on everything first. The parent's copies are peers
/// of the host's mounts, so nothing needs to be done for a shared one.
fn inherited(spec: &Container) -> Option<Propagation> {
    let kind = match spec.root.propagation.map(|propagation| propagation.kind) {
        None | Some(PropagationKind::Slave) => PropagationKind::Slave,
        Some(PropagationKind::Private | PropagationKind::Unbindable) => PropagationKind::Private,
        // What root of a user namespace mounts is never for the host to see.
        Some(PropagationKind::Shared) if user_namespace::has_one(spec) => PropagationKind::Slave,
        Some(PropagationKind::Shared) => return None,
    };
    Some(Propagation {
        kind,
        recursive: true,
    })
}

/// What a copy of a mount of the host's is cut off from first, and the propagation it then gets,
/// if that of its tree would be `tree` and `asked` is asked for.
///
/// As under runc, where the tree is changed before anything is copied from it: shared is then
/// shared within the container. As a mere peer of the host's mount it would let the container's own
/// mounts appear on the host, which only a shared root is meant to do.
pub(crate) fn heard(
    tree: Option<Propagation>,
    asked: Option<Propagation>,
) -> (u32, Option<Propagation>) {
    match (tree, asked) {
        (Some(tree), Some(asked)) if asked.kind == PropagationKind::Shared => {
            (bits(tree.kind), Some(asked))
        }
        // Nobody is left to be heard.
        (Some(tree), Some(asked))
            if tree.kind == PropagationKind::Private && asked.kind == PropagationKind::Slave =>
        {
            (0, Some(tree))
        }
        (tree, asked) => (0, asked.or(tree)),
    }
}

fn check_proc(mount: &Mount, facts: &Facts) -> Result<(), Error> {
    let destination = mount.destination.as_str();
    let fine = match &mount.kind {
        MountKind::Bind { source, .. } if destination == "/proc" => facts
            .sources
            .get(source)
            .is_none_or(|found| found.filesystem == Filesystem::Proc),
        MountKind::Bind { .. } => {
            !destination.starts_with("/proc/") || REPLACEABLE.contains(&destination)
        }
        MountKind::Filesystem { fstype, .. } if destination == "/proc" => fstype == "proc",
        MountKind::Filesystem { .. } | MountKind::Cgroup { .. } => {
            destination != "/proc" && !destination.starts_with("/proc/")
        }
    };
    if fine {
        return Ok(());
    }
    Err(Error::InsideProc {
        index: mount.index,
        destination: destination.to_owned(),
    })
}

/// Whether a mount can be made read-only only when all is in it: a tmpfs that others are
/// mounted below, a `/dev` that gets its nodes.
fn late_read_only(mount: &Mount) -> bool {
    match &mount.kind {
        MountKind::Filesystem { fstype, .. } => {
            mount.attributes.set & attr::RDONLY != 0
                && (fstype == "tmpfs" || mount.destination == "/dev")
        }
        MountKind::Bind { .. } | MountKind::Cgroup { .. } => false,
    }
}

/// Makes read-only what could not be until now.
pub(crate) fn close(writer: &mut Writer, spec: &Container) {
    for mount in spec.mounts.iter().filter(|mount| late_read_only(mount)) {
        let path = writer.text(&mount.destination);
        writer.step(Step::Remount(path, attr::RDONLY, 0));
    }
    if spec.root.readonly {
        writer.step(Step::ReadOnlyRoot);
    }
}

/// Read-only and masked paths of the kernel's file systems, which a guest does not have.
pub(crate) fn protect_kernel(writer: &mut Writer, spec: &Container) {
    let kernels = |path: &&String| wasm::has_no(path);
    hide_and_keep(
        writer,
        spec.readonly_paths.iter().filter(kernels),
        spec.masked_paths.iter().filter(kernels),
    );
}

/// Read-only and masked paths. The latter come second: what is both is hidden.
pub(crate) fn protect(writer: &mut Writer, spec: &Container, kind: Program) {
    let matters = |path: &&String| match kind {
        Program::Native => true,
        Program::Wasm => !wasm::has_no(path),
    };
    hide_and_keep(
        writer,
        spec.readonly_paths.iter().filter(matters),
        spec.masked_paths.iter().filter(matters),
    );
}

fn hide_and_keep<'a>(
    writer: &mut Writer,
    read_only: impl Iterator<Item = &'a String>,
    masked: impl Iterator<Item = &'a String>,
) {
    for path in read_only {
        let path = writer.text(path);
        writer.step(Step::ReadOnly(path));
    }
    for path in masked {
        let path = writer.text(path);
        writer.step(Step::Mask(path));
    }
}
