//! Mounts of the calling process's mount namespace.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree,
};

use crate::mount_attr::{self, Change};

/// `MOUNT_ATTR_RDONLY`.
const RDONLY: u64 = 1;

/// `mount(2)`. `flags` are `MS_*` bits, `data` the comma-separated options.
///
/// # Errors
///
/// The kernel's, and `InvalidInput` for a NUL in a text.
pub fn mount(source: &Path, target: &Path, fstype: &str, flags: u32, data: &str) -> io::Result<()> {
    let data = CString::new(data)?;
    let flags = MountFlags::from_bits_retain(flags);
    Ok(rustix::mount::mount(
        source,
        target,
        fstype,
        flags,
        data.as_c_str(),
    )?)
}

/// Detaches a mount and what is below it. A path that is no mount is an error.
///
/// # Errors
///
/// `EINVAL` when nothing is mounted there, `ENOENT` when there is no such path.
pub fn unmount_detach(target: &Path) -> io::Result<()> {
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    Ok(rustix::mount::unmount(target, flags)?)
}

/// Opens a path as a place only, following links; what is mounted there on demand (autofs) is mounted, as it is
/// not by `open(2)` with `O_PATH`.
///
/// # Errors
///
/// The kernel's.
pub fn place(path: &Path) -> io::Result<OwnedFd> {
    Ok(open_tree(
        rustix::fs::CWD,
        path,
        OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?)
}

/// Makes a detached copy of the mount at `path`, and of those below it when `recursive`.
///
/// # Errors
///
/// The kernel's: `ENOENT` when the path is missing, `EINVAL` for what may not be copied.
pub fn clone_tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    clone_tree_at(rustix::fs::CWD, path, recursive)
}

/// As [`clone_tree`], for what is open already.
///
/// # Errors
///
/// As [`clone_tree`].
pub fn clone_open(place: impl AsFd, recursive: bool) -> io::Result<OwnedFd> {
    clone_tree_at(place, Path::new(""), recursive)
}

fn clone_tree_at(dir: impl AsFd, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.as_os_str().is_empty());
    Ok(open_tree(dir, path, flags)?)
}

/// Makes a detached mount read-only, and those below it.
///
/// # Errors
///
/// The kernel's.
pub fn make_read_only(tree: impl AsFd) -> io::Result<()> {
    mount_attr::set(tree.as_fd(), Change::Attributes(RDONLY), true)
}

/// Gives the files of a detached mount the owners that a user namespace has for them, and those
/// of the mounts below it when `recursive`.
///
/// # Errors
///
/// The kernel's: `EINVAL` for a file system that cannot (Linux 5.12 knew three of them), `EPERM`
/// for a mount that is mapped already.
pub fn id_map(tree: impl AsFd, namespace: impl AsFd, recursive: bool) -> io::Result<()> {
    mount_attr::set(tree.as_fd(), Change::IdMap(namespace.as_fd()), recursive)
}

/// A detached read-only copy of the mount at `path`: what is executed from it cannot be opened
/// for writing through `/proc/<pid>/exe` (CVE-2019-5736).
///
/// # Errors
///
/// As [`clone_tree`].
pub fn clone_read_only(path: &Path) -> io::Result<OwnedFd> {
    let tree = clone_tree(path, false)?;
    make_read_only(&tree)?;
    Ok(tree)
}

/// As [`clone_read_only`], for what is open already, even if it has no name any more.
///
/// # Errors
///
/// As [`clone_tree`].
pub fn clone_open_read_only(place: impl AsFd) -> io::Result<OwnedFd> {
    let tree = clone_open(place, false)?;
    make_read_only(&tree)?;
    Ok(tree)
}

/// Attaches a detached mount at a path.
///
/// # Errors
///
/// The kernel's.
pub fn attach(tree: impl AsFd, at: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(tree, "", rustix::fs::CWD, at, flags)?)
}

/// A line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The mount's number, as [`crate::file::mount_id`] gives it.
    pub id: u64,
    /// The number of the mount that it is on.
    pub parent: u64,
    /// Where it is, as seen from the root of the process whose table it is.
    pub point: PathBuf,
    /// The kernel's name of its file system.
    pub fstype: String,
}

/// The mounts of the calling thread's namespace, in the kernel's order.
///
/// # Errors
///
/// When procfs is not at `/proc`.
pub fn table() -> io::Result<Vec<Entry>> {
    // Of the thread: a thread may have a mount namespace of its own.
    let table = std::fs::read("/proc/thread-self/mountinfo")?;
    Ok(parse(&table))
}

/// The mounts that a process sees, by path: not those that another one covers.
///
/// # Errors
///
/// When procfs is not at `/proc`, or there is no such process.
pub fn visible_to(pid: i32) -> io::Result<Vec<Entry>> {
    let table = std::fs::read(format!("/proc/{pid}/mountinfo"))?;
    Ok(visible(&parse(&table)))
}

/// Walks from the root: a mount is seen if its place on its parent is, and nothing is on its root.
fn visible(table: &[Entry]) -> Vec<Entry> {
    let known: HashSet<u64> = table.iter().map(|entry| entry.id).collect();
    let mut on: HashMap<u64, Vec<&Entry>> = HashMap::new();
    let mut places: HashMap<(u64, &Path), u64> = HashMap::new();
    let mut reached = VecDeque::new();
    for entry in table {
        if entry.parent == entry.id || !known.contains(&entry.parent) {
            reached.push_back(entry);
            continue;
        }
        on.entry(entry.parent).or_default().push(entry);
        places.insert((entry.parent, &entry.point), entry.id);
    }
    let mut seen = Vec::new();
    while let Some(entry) = reached.pop_front() {
        if !places.contains_key(&(entry.id, entry.point.as_path())) {
            seen.push(entry.clone());
        }
        reached.extend(on.get(&entry.id).into_iter().flatten().filter(|child| {
            let mut above = child.point.ancestors();
            !above.any(|above| {
                let there = places.get(&(entry.id, above));
                there.is_some_and(|there| *there != child.id)
            })
        }));
    }
    seen.sort_by(|one, other| one.point.cmp(&other.point));
    seen
}

/// The mount points at and below `path`, the innermost first.
///
/// # Errors
///
/// As [`table`].
pub fn mounts_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(below(table()?, path))
}

fn below(table: Vec<Entry>, path: &Path) -> Vec<PathBuf> {
    let points = table.into_iter().map(|entry| entry.point);
    let mut points: Vec<_> = points.filter(|point| point.starts_with(path)).collect();
    // Later lines were mounted later, on top of or below earlier ones.
    points.reverse();
    points.sort_by_key(|point| std::cmp::Reverse(point.as_os_str().as_bytes().len()));
    points
}

/// `36 35 98:0 /root /point options [tags...] - fstype source options`, for each mount.
fn parse(table: &[u8]) -> Vec<Entry> {
    let lines = table.split(|byte| *byte == b'\n');
    let entries = lines.filter_map(|line| {
        let mut words = line.split(|byte| *byte == b' ');
        let mut number = || std::str::from_utf8(words.next()?).ok()?.parse().ok();
        let (id, parent) = (number()?, number()?);
        let point = PathBuf::from(OsString::from_vec(unescape(words.nth(2)?)));
        let fstype = words.skip_while(|word| *word != b"-").nth(1)?;
        let fstype = String::from_utf8_lossy(fstype).into_owned();
        Some(Entry {
            id,
            parent,
            point,
            fstype,
        })
    });
    entries.collect()
}

/// Undoes the kernel's `\040` for a space and its kin.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.first_chunk::<3>().filter(|_| *first == b'\\');
        let byte = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[3..] } else { after };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_mounts_come_first_and_neighbours_do_not_come() {
        let table = b"1 0 0:1 / / rw - ext4 a rw\n\
            2 1 0:2 / /run/a\\040b rw - tmpfs t rw\n\
            3 2 0:3 / /run/a\\040b/c rw - tmpfs t rw\n\
            4 1 0:4 / /run/a\\040bc rw - tmpfs t rw\n";
        let found = below(parse(table), Path::new("/run/a b"));
        assert_eq!(found, [Path::new("/run/a b/c"), Path::new("/run/a b")]);
    }

    #[test]
    fn what_another_mount_covers_is_not_seen() {
        let table = b"10 1 0:1 / / rw - overlay o rw\n\
            11 10 0:2 / /proc rw - proc p rw\n\
            12 10 0:3 / /hidden/proc rw - proc p rw\n\
            13 10 0:4 / /hidden rw - tmpfs t rw\n\
            14 10 0:5 / /stacked rw - sysfs s rw\n\
            15 14 0:6 / /stacked rw - tmpfs t rw\n\
            16 14 0:7 / /stacked/below rw - proc p rw\n\
            17 15 0:7 / /stacked/below rw - proc p rw\n\
            18 10 0:4 / /hiddenly rw - proc p rw\n";
        let seen = visible(&parse(table));
        let ids: Vec<u64> = seen.iter().map(|entry| entry.id).collect();
        assert_eq!(ids, [10, 13, 18, 11, 15, 17]);
    }
}
