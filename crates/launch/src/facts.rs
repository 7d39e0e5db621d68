//! What a plan must know of the machine, asked before it is made.

use std::collections::BTreeMap;
use std::fs::{self, File, FileType};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, OnceLock};

use duet_linux::mount::{self, Entry};
use duet_linux::process::{self, hard_limit};
use duet_linux::{file, kernel};
use duet_plan::{
    Arch, CgroupFacts, Facts, Filesystem, PodNamespaces, Seen, SourceFacts, SourceKind, Stdio,
};
use duet_spec::{Container, IdMappings, MountKind, Namespace, Process};

use crate::{Error, user_namespace};

/// The longest `/etc/passwd` that is read, in bytes: 1 MiB. It belongs to the image, which may
/// put anything there.
const PASSWD_MAX: u64 = 1 << 20;

/// What the caller knows already.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// The session keyring of the container's own, if it has one.
    pub keyring: Option<String>,
    /// The container.
    pub container: &'a Container,
    /// The process to be born: the container's own, or an exec's.
    pub process: &'a Process,
    /// The container's place in the cgroup hierarchies.
    pub cgroup: CgroupFacts,
    /// The files by which a process enters the container's class of resctrl.
    pub resctrl: Vec<PathBuf>,
    /// Which namespaces the pod holds itself.
    pub pod: PodNamespaces,
    /// Which of 0, 1 and 2 the caller has.
    pub stdio: Stdio,
}

/// The sources of a container's bind mounts, held open since they were looked at: whoever changes
/// what is at their paths meanwhile changes nothing of what is mounted.
#[derive(Debug, Default)]
pub struct Sources(BTreeMap<PathBuf, OwnedFd>);

/// What the plan of a container must know, and the sources that it was seen in.
///
/// # Errors
///
/// [`Error::Open`] for a bind mount's source that is there and cannot be looked at. One that is
/// not there is no error here: the plan names the field.
pub fn facts(ask: Ask<'_>) -> Result<(Facts, Sources), Error> {
    let (sources, held) = sources(ask.container)?;
    let facts = Facts {
        sources,
        ..exec_facts(ask)?
    };
    Ok((facts, held))
}

/// What the plan of a further process must know: all but the sources of mounts.
///
/// # Errors
///
/// When `/proc/sys/kernel/cap_last_cap` cannot be read, or the kernel does not tell what the
/// calling thread may do, or a user namespace that is named by its path cannot be joined.
pub fn exec_facts(ask: Ask<'_>) -> Result<Facts, Error> {
    let home = match ask
        .process
        .env
        .iter()
        .find_map(|var| var.strip_prefix("HOME="))
    {
        None | Some("") => home(ask.container, ask.process.user.uid),
        Some(_) => None,
    };
    Ok(Facts {
        keyring: ask.keyring,
        cgroup: ask.cgroup,
        resctrl: ask.resctrl,
        sources: BTreeMap::new(),
        tree: Vec::new(),
        pod: ask.pod,
        last_capability: last_capability()?,
        held: process::permitted_capabilities().map_err(Error::call("capget"))?,
        hard_limits: hard_limits(ask.container, ask.process),
        stdio: ask.stdio,
        home,
        arch: ARCH,
        ids: ids(ask.container)?,
        apparmor: apparmor(),
        selinux: duet_linux::selinux::is_loaded(),
        listeners: false,
    })
}

// === impl Sources ===

impl Sources {
    /// The source at this path, if it was looked at.
    pub(crate) fn at(&self, path: &Path) -> Option<BorrowedFd<'_>> {
        self.0.get(path).map(AsFd::as_fd)
    }
}

/// What the first process of a container sees, by path.
///
/// # Errors
///
/// [`Error::Open`], when there is no such process any more.
pub fn tree(pid: i32) -> Result<Vec<Seen>, Error> {
    let path = PathBuf::from(format!("/proc/{pid}/mountinfo"));
    let table = mount::visible_to(pid).map_err(Error::open("mount table", &path))?;
    let seen = |entry: Entry| Seen {
        point: entry.point,
        filesystem: Filesystem::from_name(&entry.fstype),
    };
    Ok(table.into_iter().map(seen).collect())
}

#[cfg(target_arch = "x86_64")]
const ARCH: Arch = Arch::X86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: Arch = Arch::Aarch64;

/// The ids of the container's user namespace: as the spec has them, or, where that only names
/// the namespace, as the kernel does.
fn ids(container: &Container) -> Result<IdMappings, Error> {
    match &container.namespaces.user {
        Namespace::Path(path) if container.id_mappings.is_empty() => user_namespace::ids(path),
        Namespace::Path(_) | Namespace::New | Namespace::Host => Ok(container.id_mappings.clone()),
    }
}

/// Nothing where no user namespace stands between the child and its own `CAP_SYS_RESOURCE`.
fn hard_limits(container: &Container, process: &Process) -> BTreeMap<u32, u64> {
    if container.namespaces.user == Namespace::Host {
        return BTreeMap::new();
    }
    // An exec may have its limits from the container.
    let asked = process.rlimits.iter().chain(&container.process.rlimits);
    asked
        .filter_map(|limit| Some((limit.resource, hard_limit(limit.resource)?)))
        .collect()
}

/// Whether AppArmor is in the kernel and switched on. That does not change while it runs.
fn apparmor() -> bool {
    static ENABLED: LazyLock<bool> = LazyLock::new(|| {
        let enabled = fs::read("/sys/module/apparmor/parameters/enabled");
        enabled.is_ok_and(|text| text.first() == Some(&b'Y'))
    });
    *ENABLED
}

fn last_capability() -> Result<u32, Error> {
    static LAST: OnceLock<u32> = OnceLock::new();
    if let Some(last) = LAST.get() {
        return Ok(*last);
    }
    let path = Path::new("/proc/sys/kernel/cap_last_cap");
    let read =
        fs::read_to_string(path).and_then(|text| text.trim().parse().map_err(io::Error::other));
    let last = read.map_err(Error::open("kernel parameter", path))?;
    Ok(*LAST.get_or_init(|| last))
}

fn sources(container: &Container) -> Result<(BTreeMap<PathBuf, SourceFacts>, Sources), Error> {
    let mut places = Vec::new();
    for mount in &container.mounts {
        let MountKind::Bind { source, .. } = &mount.kind else {
            continue;
        };
        match mount::place(source) {
            Err(error) if kernel::is_absent(&error) => {}
            place => places.push((source, place.map_err(Error::open("mount source", source))?)),
        }
    }
    let (mut sources, mut held) = (BTreeMap::new(), BTreeMap::new());
    if places.is_empty() {
        return Ok((sources, Sources(held)));
    }
    // Read after them: opening a place may have mounted it.
    let path = Path::new("/proc/thread-self/mountinfo");
    let table = mount::table().map_err(Error::open("mount table", path))?;
    for (source, place) in places {
        let (facts, place) = look(place, &table).map_err(Error::open("mount source", source))?;
        sources.insert(source.clone(), facts);
        held.insert(source.clone(), place);
    }
    Ok((sources, Sources(held)))
}

/// What a place is, and the place itself.
fn look(place: OwnedFd, table: &[Entry]) -> io::Result<(SourceFacts, OwnedFd)> {
    let id = file::mount_id(&place)?;
    // What was unmounted in between has no line.
    let mount = table.iter().find(|entry| entry.id == id);
    let filesystem = mount.map_or(Filesystem::Other, |entry| {
        Filesystem::from_name(&entry.fstype)
    });
    let place = File::from(place);
    let kind = kind(place.metadata()?.file_type());
    let below = match kind {
        SourceKind::Directory => below(&path_of(&place)?, table),
        SourceKind::File | SourceKind::Device => None,
    };
    let facts = SourceFacts {
        kind,
        filesystem,
        below,
    };
    Ok((facts, place.into()))
}

fn kind(kind: FileType) -> SourceKind {
    if kind.is_dir() {
        SourceKind::Directory
    } else if kind.is_block_device() || kind.is_char_device() {
        SourceKind::Device
    } else {
        SourceKind::File
    }
}

/// Where a place is now, without links.
fn path_of(place: &File) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/thread-self/fd/{}", place.as_raw_fd()))
}

/// The first mount below a directory that shows something else than files.
fn below(directory: &Path, table: &[Entry]) -> Option<(PathBuf, Filesystem)> {
    let mut inside = table
        .iter()
        .filter(|entry| entry.point != directory && entry.point.starts_with(directory))
        .map(|entry| (entry.point.clone(), Filesystem::from_name(&entry.fstype)));
    inside.find(|(_, filesystem)| *filesystem != Filesystem::Other)
}

/// The home directory of a user in the container's `/etc/passwd`.
fn home(container: &Container, uid: u32) -> Option<String> {
    let mut bytes = Vec::new();
    let passwd = passwd(container)?.take(PASSWD_MAX).read_to_end(&mut bytes);
    passwd.ok()?;
    home_in(&String::from_utf8_lossy(&bytes), uid)
}

/// The `/etc/passwd` that the container sees: the image's, walked within its root, or the one that
/// the last of the mounts over it brings.
fn passwd(container: &Container) -> Option<File> {
    let file = Path::new("/etc/passwd");
    // What begins with what it covers shows that.
    let covering = container.mounts.iter().filter(|mount| !mount.copy_up);
    let over = covering.rev().find_map(|mount| {
        let rest = file.strip_prefix(&mount.destination).ok()?;
        Some((&mount.kind, rest))
    });
    let (root, path) = match over {
        None => (container.root.path.as_path(), file),
        Some((MountKind::Bind { source, .. }, rest)) if rest.as_os_str().is_empty() => {
            (Path::new("/"), source.as_path())
        }
        Some((MountKind::Bind { source, .. }, rest)) => (source.as_path(), rest),
        // What is made new has no file yet.
        Some((MountKind::Filesystem { .. } | MountKind::Cgroup { .. }, _)) => return None,
    };
    file::open_in_root(file::place(root).ok()?, path).ok()
}

fn home_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        // name:password:uid:gid:comment:home:shell
        let mut fields = line.split(':').skip(2);
        let found = fields.next()?.parse() == Ok(uid);
        found.then(|| fields.nth(2))?.map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_is_the_sixth_field_of_the_users_line() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:33::/var/www:/bin/false\n";
        assert_eq!(home_in(passwd, 33).as_deref(), Some("/var/www"));
        assert_eq!(home_in(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(home_in(passwd, 34), None);
    }

    #[test]
    fn procfs_is_known_and_found_below_the_root() {
        let table = mount::table().unwrap();
        let look = |path| {
            look(mount::place(Path::new(path)).unwrap(), &table)
                .unwrap()
                .0
        };
        let proc = look("/proc");
        assert_eq!(proc.filesystem, Filesystem::Proc);
        assert_eq!(proc.kind, SourceKind::Directory);
        let root = look("/");
        assert!(root.below.is_some());
        let null = look("/dev/null");
        assert_eq!(null.kind, SourceKind::Device);
    }
}
