//! `/dev`: its nodes and links, and the console.
//!
//! Nodes are made relative to the descriptor of the `/dev` that was just mounted, never through
//! a path of the container, which an image can turn into a link to the host's (CVE-2026-41579).

use crate::{Error, Facts, Program, labels, user_namespace, writer::Writer};
use duet_spec::{ConsoleSize, Container, Device, DeviceKind, Mount, MountKind, Process, attr};
use duet_step::{Node, Reg, Source, Step};

/// What the container's `/dev` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dev {
    /// A file system that mount `index` makes new: it gets nodes and links.
    New {
        /// Which entry of `mounts`.
        index: usize,
    },
    /// Somebody else's: nothing is made in it.
    Foreign,
    /// The image's directory: it gets nodes and links, as under runc.
    Image,
}

/// The nodes that every container has: name, major, minor.
const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// The links that every container has: target, name.
const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

/// Finds the mount that makes `/dev`; of several the last one is seen.
pub(crate) fn find(spec: &Container) -> Dev {
    let last = spec
        .mounts
        .iter()
        .rev()
        .find(|mount| mount.destination == "/dev");
    match last.map(|mount| (&mount.kind, mount.index)) {
        None => Dev::Image,
        // There is one devtmpfs, the host's; a node replaced in it is replaced for the host.
        Some((MountKind::Filesystem { fstype, .. }, index)) if fstype != "devtmpfs" => {
            Dev::New { index }
        }
        Some(_) => Dev::Foreign,
    }
}

/// The register that a mount's descriptor is kept in.
pub(crate) fn register(spec: &Container, mount: &Mount, dev: Dev) -> Option<Reg> {
    let pts = matches!(&mount.kind, MountKind::Filesystem { fstype, .. } if fstype == "devpts");
    if dev == (Dev::New { index: mount.index }) {
        Some(Reg::Dev)
    } else if pts && mount.destination == "/dev/pts" && spec.process.terminal.is_some() {
        Some(Reg::Pts)
    } else {
        None
    }
}

/// Whether the `/dev` of a container in a user namespace is made before that is entered: in a
/// tmpfs of the namespace's own no node can be made.
pub(crate) fn is_prepared(spec: &Container) -> bool {
    user_namespace::has_one(spec) && own_tmpfs(spec).is_some()
}

/// The mount that makes `/dev`, when it is a tmpfs.
fn own_tmpfs(spec: &Container) -> Option<&Mount> {
    let Dev::New { index } = find(spec) else {
        return None;
    };
    let mut mounts = spec.mounts.iter();
    let mount = mounts.find(|mount| mount.index == index)?;
    let tmpfs = matches!(&mount.kind, MountKind::Filesystem { fstype, .. } if fstype == "tmpfs");
    tmpfs.then_some(mount)
}

/// Makes the `/dev` of a container in a user namespace, with its nodes, as the host's root; it
/// and they belong to the container's.
pub(crate) fn prepare(
    writer: &mut Writer,
    spec: &Container,
    facts: &Facts,
    kind: Program,
) -> Result<(), Error> {
    let own = own_tmpfs(spec);
    // Somebody else's /dev has what it has, as without a user namespace.
    let foreign = find(spec) == Dev::Foreign;
    let elsewhere = |device: &&Device| match below_dev(device) {
        Some(_) => own.is_none() && !foreign,
        None => true,
    };
    if let Some(device) = spec.devices.iter().find(elsewhere) {
        return Err(Error::Refused {
            field: "linux.devices".to_owned(),
            value: device.path.clone(),
            why: "in a user namespace a node can only be below a /dev that is a tmpfs".to_owned(),
        });
    }
    let Some(mount) = own else { return Ok(()) };
    let MountKind::Filesystem {
        fstype,
        source,
        options,
    } = &mount.kind
    else {
        return Ok(());
    };
    let (uid, gid) = on_host(facts, 0, 0, "/dev")?;
    let mut options = host_options(options, facts);
    for (name, id) in [("uid=", uid), ("gid=", gid)] {
        if !options.iter().any(|option| option.starts_with(name)) {
            options.push(format!("{name}{id}"));
        }
    }
    options.extend(labels::mount(spec, fstype));
    let source = Source::Filesystem {
        fstype: writer.text(fstype),
        source: writer.text(source),
        options: writer.texts(options),
    };
    let set = mount.attributes.set & !attr::RDONLY;
    writer.step(Step::Detached(source, set, Reg::Dev));
    let first = writer.plan.steps.len();
    nodes(writer, spec, kind);
    let mut made = writer.plan.steps.split_off(first);
    for step in &mut made {
        if let Step::Node(node) = step {
            let path = writer.plan.text(node.path);
            (node.uid, node.gid) = on_host(facts, node.uid, node.gid, &path)?;
            node.parents = (uid, gid);
        }
    }
    writer.plan.steps.append(&mut made);
    Ok(())
}

/// The host's numbers of two ids of the container.
fn on_host(facts: &Facts, uid: u32, gid: u32, path: &str) -> Result<(u32, u32), Error> {
    let ids = facts.ids.host_uid(uid).zip(facts.ids.host_gid(gid));
    ids.ok_or_else(|| Error::Refused {
        field: "linux.devices".to_owned(),
        value: format!("{path} of {uid}:{gid}"),
        why: "is not mapped in the container's user namespace".to_owned(),
    })
}

/// Options of a file system that the host's root mounts, with the host's numbers.
fn host_options(options: &[String], facts: &Facts) -> Vec<String> {
    let translated = |option: &String| {
        let (name, id) = option.split_once('=')?;
        let id = id.parse().ok()?;
        let id = match name {
            "uid" => facts.ids.host_uid(id)?,
            "gid" => facts.ids.host_gid(id)?,
            _ => return None,
        };
        Some(format!("{name}={id}"))
    };
    let mut host = Vec::with_capacity(options.len());
    for option in options {
        host.push(translated(option).unwrap_or_else(|| option.clone()));
    }
    host
}

/// Nodes of a `/dev` that is open in [`Reg::Dev`].
pub(crate) fn nodes(writer: &mut Writer, spec: &Container, kind: Program) {
    let inside = |device: &&Device| below_dev(device).is_some();
    for (name, major, minor) in NODES {
        // A guest has no terminal of its own to open; and what the spec says itself goes first.
        let theirs = spec
            .devices
            .iter()
            .any(|device| below_dev(device) == Some(name));
        if theirs || (kind == Program::Wasm && name == "tty") {
            continue;
        }
        let path = writer.text(name);
        let mode = libc::S_IFCHR | 0o666;
        let base = Reg::Dev;
        writer.step(Step::Node(Node {
            path,
            base,
            mode,
            major,
            minor,
            uid: 0,
            gid: 0,
            parents: (0, 0),
        }));
    }
    for device in spec.devices.iter().filter(inside) {
        node(writer, device);
    }
}

/// Links of a `/dev` that is open in [`Reg::Dev`].
///
/// A guest has only those of the standard streams. They lead nowhere, because it has no procfs, but the names are taken:
/// otherwise a guest that logs to `/dev/stdout` would make a file there, in the container's memory, that nobody reads.
pub(crate) fn links(writer: &mut Writer, kind: Program) {
    for (target, name) in LINKS {
        if kind == Program::Wasm && !target.starts_with("/proc/self/fd/") {
            continue;
        }
        let (target, name) = (writer.text(target), writer.text(name));
        writer.step(Step::Symlink(Reg::Dev, target, name));
    }
}

/// What remains to be done when everything is mounted.
pub(crate) fn settle(writer: &mut Writer, spec: &Container, dev: Dev, kind: Program) {
    if !matches!(dev, Dev::New { .. }) {
        let path = writer.text("/dev");
        if dev == Dev::Image {
            writer.step(Step::MakeDir(path, 0, 0));
        }
        writer.step(Step::Open(path, Reg::Dev));
    }
    if dev == Dev::Image {
        nodes(writer, spec, kind);
        links(writer, kind);
    }
    // Nodes elsewhere may be below any mount.
    for device in spec
        .devices
        .iter()
        .filter(|device| below_dev(device).is_none())
    {
        node(writer, device);
    }
}

/// Allocates the console from the container's devpts and shows it at `/dev/console`.
pub(crate) fn console(writer: &mut Writer, spec: &Container, size: ConsoleSize) {
    let mounted = spec
        .mounts
        .iter()
        .any(|mount| register(spec, mount, Dev::Image).is_some());
    if !mounted {
        let pts = writer.text("/dev/pts");
        writer.step(Step::Open(pts, Reg::Pts));
    }
    allocate_console(writer, &spec.process, size);
    writer.step(Step::BindConsole);
}

/// Allocates a console from the devpts in [`Reg::Pts`].
pub(crate) fn allocate_console(writer: &mut Writer, process: &Process, size: ConsoleSize) {
    let uid = process.user.uid;
    writer.step(Step::Console {
        uid,
        rows: size.rows,
        cols: size.cols,
    });
}

fn node(writer: &mut Writer, device: &Device) {
    let (base, path) = match below_dev(device) {
        // Always a link to the devpts of the container's own.
        Some("ptmx") => return,
        Some(name) => (Reg::Dev, name),
        None => (Reg::Root, device.path.trim_start_matches('/')),
    };
    let kind = match device.kind {
        DeviceKind::Char => libc::S_IFCHR,
        DeviceKind::Block => libc::S_IFBLK,
        DeviceKind::Fifo => libc::S_IFIFO,
    };
    let path = writer.text(path);
    writer.step(Step::Node(Node {
        path,
        base,
        mode: kind | device.mode,
        major: device.major,
        minor: device.minor,
        uid: device.uid,
        gid: device.gid,
        parents: (0, 0),
    }));
}

/// A device's path relative to `/dev`.
fn below_dev(device: &Device) -> Option<&str> {
    device.path.strip_prefix("/dev/")
}
