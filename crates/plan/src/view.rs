//! What a process sees that runs beside one of the other kind, in a container that lives.
//!
//! It has a mount namespace of its own, copied from the container's, so that what is shown or hidden
//! there is so for this process alone:
//!
//! - a guest beside a native program must not see the kernel's file systems, wherever the container or
//!   its processes have mounted them, nor the container's devices;
//! - a native program beside a guest gets those that every program expects, and that the guest does
//!   without (`wasm`).
//!
//! Both get a `/dev` of their own over the container's, with what is mounted below that carried over.

use crate::{
    Error, Facts, Filesystem, Kinds, Program, labels, mounts, mounts::ms, namespaces::clone,
    user_namespace, wasm, writer::Writer,
};
use duet_spec::{Container, Mount, MountKind, Process, attr};
use duet_step::{Destination, Mount as MountStep, Reg, Source, Step};

/// The difference to what the container's first process sees, as the spec of a container that has
/// no other mounts.
#[derive(Debug)]
pub(crate) struct View {
    /// Its mounts.
    pub(crate) spec: Container,
    kind: Program,
    /// The procfs of a container in a user namespace. That is made by the host's root: the kernel
    /// lets no other mount one where none is seen.
    proc: Option<Mount>,
}

// === impl View ===

impl View {
    /// Nothing where both are of the same kind.
    pub(crate) fn of(container: &Container, process: &Process, kinds: Kinds) -> Option<Self> {
        if kinds.container == kinds.process {
            return None;
        }
        let mut spec = container.clone();
        spec.process = process.clone();
        spec.devices.clear();
        let mut proc = None;
        match kinds.process {
            Program::Wasm => spec.mounts.clear(),
            Program::Native => {
                let confined = user_namespace::has_one(container);
                spec.mounts.retain(|mount| {
                    let restored = restored(mount, confined);
                    if restored == Restored::Made && proc.is_none() {
                        proc = Some(mount.clone());
                    }
                    restored == Restored::Mounted
                });
            }
        }
        if spec.mounts.iter().all(|mount| mount.destination != "/dev") {
            let index = container.mounts.len();
            spec.mounts.insert(0, wasm::fresh_dev(index));
        }
        let kind = kinds.process;
        Some(Self { spec, kind, proc })
    }

    /// Makes the tree, in a new mount namespace.
    pub(crate) fn make(
        &self,
        writer: &mut Writer,
        container: &Container,
        facts: &Facts,
    ) -> Result<(), Error> {
        let Self { spec, kind, proc } = self;
        writer.step(Step::Unshare(clone::MOUNT));
        let propagation = match kind {
            Program::Native => ms::SLAVE,
            // What appears in the container later must not appear here.
            Program::Wasm => ms::PRIVATE,
        };
        let root = writer.text("/");
        writer.step(Step::Propagation(root, propagation | ms::REC));
        writer.step(Step::Open(root, Reg::Root));
        let adds = *kind == Program::Native && spec.root.readonly;
        if adds {
            // An image without a /proc gets one; the root is read-only again at the end.
            writer.step(Step::Remount(root, 0, attr::RDONLY));
        }
        let covered = writer.text("/dev");
        writer.step(Step::Open(covered, Reg::Covered));
        mounts::all(writer, spec, facts, *kind)?;
        if let Some(proc) = proc {
            let source = Source::Made(Reg::Proc);
            let step = mounts::step(writer, source, proc, proc.attributes, proc.propagation);
            let (kind, clear) = (Destination::Directory, 0);
            writer.step(Step::Mount(MountStep {
                kind,
                clear,
                ..step
            }));
        }
        for seen in &facts.tree {
            let below = seen.point.strip_prefix("/dev").ok();
            let shows_files = seen.filesystem == Filesystem::Other;
            if let Some(below) = below.filter(|below| shows_files && *below != "") {
                let below = writer.path(below);
                writer.step(Step::Carry(below));
            }
        }
        mounts::close(writer, spec);
        match kind {
            Program::Native => {
                mounts::protect_kernel(writer, container);
                user_namespace::lock(writer, container, &spec.process);
            }
            Program::Wasm => hide(writer, container, facts),
        }
        Ok(())
    }
}

/// What becomes of a mount of the spec that a native program beside a guest may want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restored {
    /// It is mounted.
    Mounted,
    /// It is made before the user namespace is entered.
    Made,
    /// It is there, or stays away.
    Not,
}

fn restored(mount: &Mount, confined: bool) -> Restored {
    let MountKind::Filesystem { fstype, .. } = &mount.kind else {
        return Restored::Not;
    };
    match Filesystem::from_name(fstype) {
        Filesystem::Proc if confined => Restored::Made,
        // As procfs, and of no use to most.
        Filesystem::Sysfs if confined => Restored::Not,
        Filesystem::Proc | Filesystem::Sysfs | Filesystem::Devpts | Filesystem::Mqueue => {
            Restored::Mounted
        }
        Filesystem::Other if mount.destination == "/dev" => Restored::Mounted,
        Filesystem::Devtmpfs | Filesystem::Cgroup | Filesystem::Kernel | Filesystem::Other => {
            Restored::Not
        }
    }
}

/// Hides what shows the kernel or is a device, and lets the parent see that nothing was missed: a
/// process of the container may have mounted something meanwhile.
fn hide(writer: &mut Writer, container: &Container, facts: &Facts) {
    for seen in &facts.tree {
        if seen.filesystem != Filesystem::Other && !seen.point.starts_with("/dev") {
            let path = writer.path(&seen.point);
            writer.step(Step::Mask(path));
        }
    }
    for device in &container.devices {
        if !device.path.starts_with("/dev/") {
            let path = writer.text(&device.path);
            writer.step(Step::Mask(path));
        }
    }
    writer.step(Step::Pause);
}

/// A console from a devpts that no path leads to: its descriptors are all that a guest may have of it.
pub(crate) fn hidden_pts(writer: &mut Writer, container: &Container) {
    let made = container.mounts.iter().find_map(|mount| match &mount.kind {
        MountKind::Filesystem {
            fstype, options, ..
        } if fstype == "devpts" => Some(options.as_slice()),
        MountKind::Filesystem { .. } | MountKind::Bind { .. } | MountKind::Cgroup { .. } => None,
    });
    let mut options = made.unwrap_or_default().to_vec();
    options.extend(labels::mount(container, "devpts"));
    let name = writer.text("devpts");
    let source = Source::Filesystem {
        fstype: name,
        source: name,
        options: writer.texts(&options),
    };
    writer.step(Step::Detached(
        source,
        attr::NOSUID | attr::NOEXEC,
        Reg::Pts,
    ));
}
