//! Mounts a container's root filesystem where its bundle expects it, and takes it away again.
//!
//! The mounts are containerd's words. A snapshot is one overlay, usually, and its list of lower
//! directories may not fit into the page in which mount(2) takes its options; then the names are
//! made relative to their common directory, in a thread whose working directory is its own. (One
//! layer at a time through fsconfig(2) would need Linux 6.7.)

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount,
};

use duet_linux::loop_device::{LoopDevice, Use};
use duet_linux::mount;
use duet_spec::{IdMappings, IdRange};

use crate::error::Error;
use crate::words::RootfsMount;

/// How long the options of mount(2) may be, with their NUL: a page.
const PAGE: usize = 4096;

/// A root filesystem as it is mounted. Dropping it unmounts it.
#[derive(Debug)]
pub(crate) struct Rootfs {
    at: PathBuf,
    /// How many mounts lie on it; those below it go with the one they are in.
    layers: usize,
}

// === impl Rootfs ===

impl Rootfs {
    /// Mounts all of `mounts`, in order, at `at`, which is made if there is something to mount.
    pub(crate) fn mount(at: &Path, mounts: &[RootfsMount]) -> Result<Self, Error> {
        let mut rootfs = Rootfs {
            at: at.to_owned(),
            layers: 0,
        };
        if mounts.is_empty() {
            return Ok(rootfs);
        }
        match fs::DirBuilder::new().mode(0o711).create(at) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(rootfs.failed("mkdir".to_owned(), error));
            }
            Ok(()) | Err(_) => {}
        }
        for mount in mounts {
            let options = Options::parse(&mount.options)?;
            if let Some(("fuse" | "fuse3", _)) = mount.fstype.split_once('.') {
                // A program of the host's would have to serve it, from outside of the pod.
                return Err(Error::Unsupported {
                    field: "rootfs mount type",
                    value: mount.fstype.clone(),
                });
            }
            attach(at, mount, &options).map_err(|error| {
                rootfs.failed(format!("mount {} {} on", mount.fstype, mount.source), error)
            })?;
            rootfs.layers += usize::from(is_root(&mount.target));
        }
        Ok(rootfs)
    }

    /// Unmounts what was mounted, whoever still uses it. May be called again.
    pub(crate) fn unmount(&mut self) -> Result<(), Error> {
        while self.layers > 0 {
            detach(&self.at).map_err(|error| self.failed("unmount".to_owned(), error))?;
            self.layers -= 1;
        }
        Ok(())
    }

    fn failed(&self, step: String, source: io::Error) -> Error {
        Error::Rootfs {
            step,
            target: self.at.clone(),
            source,
        }
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            tracing::warn!(path = %self.at.display(), %error, "mount left behind");
        }
    }
}

/// Unmounts everything that is mounted at `at`, from the record of a shim that is gone.
///
/// # Errors
///
/// The kernel's. A path without a mount, or no path, is no error.
pub fn unmount_all(at: &Path) -> io::Result<()> {
    // Every layer is a mount of its own; more than a few would be somebody's mistake.
    for _ in 0..64 {
        match rustix::mount::unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Detaches the mount at `at`; none there is no error: containerd may have been faster.
fn detach(at: &Path) -> io::Result<()> {
    match duet_linux::mount::unmount_detach(at) {
        Err(error)
            if matches!(
                rustix::io::Errno::from_io_error(&error),
                Some(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT)
            ) =>
        {
            Ok(())
        }
        done => done,
    }
}

fn is_root(target: &str) -> bool {
    target.is_empty() || target == "/"
}

fn attach(at: &Path, mount: &RootfsMount, options: &Options) -> io::Result<()> {
    let root = rustix::fs::open(at, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    // A place below the rootfs is looked up as the container would, so that a link in the image
    // cannot lead out of it.
    let place = if is_root(&mount.target) {
        root
    } else {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat2(root, mount.target.as_str(), flags, Mode::empty(), resolve)?
    };
    if options.flags.intersects(MountFlags::BIND) && options.ids.is_none() {
        return bind(Path::new(&mount.source), place.as_fd(), options);
    }
    // The link of a descriptor leads where the descriptor does, whatever was renamed meanwhile.
    let target = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()));
    let flags = options.flags.bits();
    let data = options.data.join(",");
    // It is wanted until the file system is mounted, which then keeps it.
    let device = options.looped.map(|usage| {
        let device = LoopDevice::attach(Path::new(&mount.source), usage);
        device.map_err(|error| io::Error::new(error.kind(), format!("loop device: {error}")))
    });
    let device = device.transpose()?;
    let source = device
        .as_ref()
        .map_or(Path::new(&mount.source), LoopDevice::path);
    if let Some(ids) = &options.ids {
        id_mapped(ids, at, mount, source, &place, options)?;
    } else if data.len() < PAGE {
        duet_linux::mount::mount(source, &target, &mount.fstype, flags, &data)?;
    } else {
        let (directory, data) = compact(&options.data)
            .filter(|(_, data)| data.len() < PAGE)
            .ok_or_else(|| io::Error::from(io::ErrorKind::ArgumentListTooLong))?;
        duet_linux::namespace::aside(|| {
            unshare(CloneFlags::CLONE_FS)?;
            std::env::set_current_dir(&directory)?;
            duet_linux::mount::mount(source, &target, &mount.fstype, flags, &data)
        })?;
    }
    match options.propagation {
        // By path: the descriptor leads below what was just mounted.
        Some(propagation) if is_root(&mount.target) => Ok(mount_change(at, propagation)?),
        Some(_) | None => Ok(()),
    }
}

fn bind(source: &Path, place: impl AsFd, options: &Options) -> io::Result<()> {
    put(tree(source, options)?, place)
}

/// A detached copy of a directory of the host's, as read-only as it is to be.
fn tree(source: &Path, options: &Options) -> io::Result<OwnedFd> {
    let recursive = options.flags.intersects(MountFlags::REC);
    let tree = mount::clone_tree(source, recursive)?;
    if options.flags.intersects(MountFlags::RDONLY) {
        mount::make_read_only(&tree)?;
    }
    Ok(tree)
}

fn put(tree: OwnedFd, place: impl AsFd) -> io::Result<()> {
    let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, "", place, "", how)?)
}

/// A mount whose files belong to a user namespace's ids instead of the host's.
///
/// An overlay cannot be mapped itself: its layers are, each in a mount of its own that no one but
/// this overlay has. The upper one is not; its files are the container's own already.
fn id_mapped(
    ids: &IdMappings,
    at: &Path,
    asked: &RootfsMount,
    source: &Path,
    place: impl AsFd,
    options: &Options,
) -> io::Result<()> {
    let namespace = duet_launch::user_namespace(ids).map_err(io::Error::other)?;
    if asked.fstype != "overlay" {
        let recursive = options.flags.intersects(MountFlags::REC);
        let tree = if options.flags.intersects(MountFlags::BIND) {
            tree(source, options)?
        } else {
            let (fstype, data) = (asked.fstype.as_str(), options.data.join(","));
            aside(|| {
                mount::mount(source, at, fstype, options.flags.bits(), &data)?;
                mount::clone_tree(at, false)
            })?
        };
        mount::id_map(&tree, namespace, recursive)?;
        return put(tree, place);
    }
    let lower = options
        .data
        .iter()
        .find_map(|option| option.strip_prefix("lowerdir="));
    let layers: Vec<&Path> = lower
        .unwrap_or_default()
        .split(':')
        .map(Path::new)
        .collect();
    let mapped = layers.iter().map(|layer| {
        let tree = mount::clone_tree(layer, false)?;
        mount::id_map(&tree, &namespace, false)?;
        Ok(tree)
    });
    let mapped = mapped.collect::<io::Result<Vec<OwnedFd>>>()?;
    let names: Vec<String> = (0..mapped.len()).map(|number| number.to_string()).collect();
    let data: Vec<String> = options
        .data
        .iter()
        .map(|option| match option.strip_prefix("lowerdir=") {
            Some(_) => format!("lowerdir={}", names.join(":")),
            None => option.clone(),
        })
        .collect();
    // Where nobody else sees them; the overlay keeps copies of its own.
    let overlay = aside(|| {
        mount::mount(Path::new("layers"), at, "tmpfs", 0, "mode=700")?;
        std::env::set_current_dir(at)?;
        for (tree, name) in mapped.iter().zip(&names) {
            fs::create_dir(name)?;
            mount::attach(tree, Path::new(name))?;
        }
        fs::create_dir("all")?;
        let all = Path::new("all");
        mount::mount(
            source,
            all,
            "overlay",
            options.flags.bits(),
            &data.join(","),
        )?;
        mount::clone_tree(all, false)
    })?;
    put(overlay, place)
}

/// Does something in a thread with a mount namespace and a working directory of its own.
fn aside<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    duet_linux::namespace::aside(|| {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let below = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount_change("/", below)?;
        work()
    })
}

/// The options with the layers of `lowerdir` relative to their common directory, and that
/// directory.
fn compact(data: &[String]) -> Option<(PathBuf, String)> {
    let lower = data
        .iter()
        .find_map(|option| option.strip_prefix("lowerdir="))?;
    let layers: Vec<&str> = lower.split(':').collect();
    let first = layers.first()?;
    let mut length = first.rfind('/')? + 1;
    for layer in &layers {
        let common = first
            .bytes()
            .zip(layer.bytes())
            .take_while(|(a, b)| a == b)
            .count();
        // Of bytes: two names may differ within a letter.
        let shared = first.as_bytes().get(..common.min(length))?;
        length = shared.iter().rposition(|byte| *byte == b'/')? + 1;
    }
    // A name with an escaped colon was cut in two above: its pieces have nothing in common.
    if length < 2
        || layers
            .iter()
            .any(|layer| layer.ends_with('\\') || layer.len() <= length)
    {
        return None;
    }
    let short: Vec<&str> = layers.iter().map(|layer| &layer[length..]).collect();
    let rest = data
        .iter()
        .map(|option| match option.strip_prefix("lowerdir=") {
            Some(_) => format!("lowerdir={}", short.join(":")),
            None => option.clone(),
        });
    Some((
        PathBuf::from(&first[..length]),
        rest.collect::<Vec<_>>().join(","),
    ))
}

/// The options of one mount, sorted by who reads them.
#[derive(Debug, PartialEq)]
struct Options {
    flags: MountFlags,
    propagation: Option<MountPropagationFlags>,
    /// Other owners for its files (`uidmap` and `gidmap`).
    ids: Option<IdMappings>,
    /// Its source is a file, which is to be a block device.
    looped: Option<Use>,
    /// For the filesystem itself.
    data: Vec<String>,
}

// === impl Options ===

impl Options {
    /// Sorts options as mount(8) does.
    fn parse(options: &[String]) -> Result<Self, Error> {
        let mut sorted = Options {
            flags: MountFlags::empty(),
            propagation: None,
            ids: None,
            looped: None,
            data: Vec::new(),
        };
        let looped = options.iter().any(|option| option == "loop");
        let (mut uids, mut gids) = (Vec::new(), Vec::new());
        for option in options {
            let set = match option.as_str() {
                // The defaults; and what other tools leave for themselves.
                "" | "defaults" | "rw" | "dev" | "exec" | "suid" | "async" | "nofail" => continue,
                note if note.starts_with("X-") || note.starts_with("x-") => continue,
                "bind" => MountFlags::BIND,
                "rbind" => MountFlags::BIND | MountFlags::REC,
                "ro" => MountFlags::RDONLY,
                "nosuid" => MountFlags::NOSUID,
                "nodev" => MountFlags::NODEV,
                "noexec" => MountFlags::NOEXEC,
                "noatime" => MountFlags::NOATIME,
                "nodiratime" => MountFlags::NODIRATIME,
                "relatime" => MountFlags::RELATIME,
                "strictatime" => MountFlags::STRICTATIME,
                "lazytime" => MountFlags::LAZYTIME,
                "sync" => MountFlags::SYNCHRONOUS,
                "dirsync" => MountFlags::DIRSYNC,
                "nosymfollow" => MountFlags::NOSYMFOLLOW,
                "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared"
                | "unbindable" | "runbindable" => {
                    sorted.propagation = propagation(option);
                    continue;
                }
                // Read below. The second is containerd's own word, beside the first only.
                "loop" => continue,
                "direct-io" if looped => continue,
                "remount" | "move" => {
                    return Err(Error::Unsupported {
                        field: "rootfs mount option",
                        value: option.clone(),
                    });
                }
                // containerd's own, with snapshots that no chown was made of.
                map if map.starts_with("uidmap=") || map.starts_with("gidmap=") => {
                    let (kind, ranges) = map.split_at("uidmap=".len());
                    let read = ranges.split(',').map(range).collect::<Option<Vec<_>>>();
                    let Some(read) = read else {
                        return Err(Error::Invalid {
                            field: "rootfs mount option",
                            value: option.clone(),
                            why: "is not a list of container:host:size",
                        });
                    };
                    if kind == "uidmap=" {
                        uids = read;
                    } else {
                        gids = read;
                    }
                    continue;
                }
                other => {
                    sorted.data.push(other.to_owned());
                    continue;
                }
            };
            sorted.flags |= set;
        }
        sorted.looped = looped.then(|| Use {
            read_only: sorted.flags.intersects(MountFlags::RDONLY),
            direct: options.iter().any(|option| option == "direct-io"),
        });
        sorted.ids = match (uids.is_empty(), gids.is_empty()) {
            (true, true) => None,
            (false, false) => Some(IdMappings { uids, gids }),
            (true, false) | (false, true) => {
                return Err(Error::Invalid {
                    field: "rootfs mount options",
                    value: options.join(","),
                    why: "need both uidmap and gidmap or neither",
                });
            }
        };
        let with_bind = MountFlags::BIND | MountFlags::REC | MountFlags::RDONLY;
        if sorted.flags.intersects(MountFlags::BIND) && !with_bind.contains(sorted.flags) {
            let value = options.join(",");
            return Err(Error::Unsupported {
                field: "rootfs bind mount with options",
                value,
            });
        }
        Ok(sorted)
    }
}

/// A range of ids as containerd writes it: `container:host:size`.
fn range(text: &str) -> Option<IdRange> {
    let mut numbers = text.split(':').map(|number| number.parse().ok());
    let mut next = || numbers.next().flatten();
    let range = IdRange {
        container: next()?,
        host: next()?,
        size: next()?,
    };
    numbers.next().is_none().then_some(range)
}

fn propagation(option: &str) -> Option<MountPropagationFlags> {
    let (kind, recursive) = match option.strip_prefix('r') {
        Some(kind) => (kind, MountPropagationFlags::REC),
        None => (option, MountPropagationFlags::empty()),
    };
    let kind = match kind {
        "private" => MountPropagationFlags::PRIVATE,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "shared" => MountPropagationFlags::SHARED,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(kind | recursive)
}

#[cfg(test)]
#[path = "rootfs/tests.rs"]
mod tests;
