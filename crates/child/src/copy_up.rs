//! `tmpcopyup`: a file system that begins with what the directory has that it covers.
//!
//! By the child, so that the memory is the container's. Directories, files, links, pipes and
//! devices with their owners, modes and times, as under runc; nothing is followed.

use core::ffi::{CStr, c_int};

use crate::fault::{Fault, unless};
use crate::syscalls::{self, Fd, IN_ROOT, Stat};

/// How deep directories may lie in each other: each costs the stack a few kilobytes.
const DEPTH: u32 = 64;
/// The kernel's `PATH_MAX`: what a link may hold and its NUL.
const PATH_MAX: usize = 4096;
/// The bits of a mode that are not the file's type.
const PERMISSIONS: u32 = 0o7777;

/// Copies what is at `path` below `root` into the directory `to`; nothing there is nothing to copy.
pub(crate) fn copy_up(root: c_int, path: &CStr, to: c_int) -> Result<(), Fault> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    match unless(libc::ENOENT, syscalls::openat2(root, path, flags, IN_ROOT))? {
        Some(from) => directory(from.number(), to, DEPTH),
        None => Ok(()),
    }
}

fn directory(from: c_int, to: c_int, depth: u32) -> Result<(), Fault> {
    let depth = depth.checked_sub(1).ok_or(Fault::check(libc::ELOOP))?;
    let mut buffer = syscalls::Entries::new();
    while buffer.read(from)? {
        for name in buffer.names() {
            if name != c"." && name != c".." {
                entry(from, to, name, depth)?;
            }
        }
    }
    Ok(())
}

fn entry(from: c_int, to: c_int, name: &CStr, depth: u32) -> Result<(), Fault> {
    let stat = syscalls::stat_name(from, name)?;
    let kind = stat.mode & libc::S_IFMT;
    match kind {
        libc::S_IFDIR => {
            syscalls::mkdirat(to, name, 0o700)?;
            let flags = libc::O_RDONLY | libc::O_DIRECTORY;
            let below = syscalls::open_name(from, name, flags, 0)?;
            let copy = syscalls::open_name(to, name, flags, 0)?;
            directory(below.number(), copy.number(), depth)?;
        }
        libc::S_IFREG => {
            let file = syscalls::open_name(from, name, libc::O_RDONLY, 0)?;
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
            contents(&file, &syscalls::open_name(to, name, flags, 0o600)?)?;
        }
        libc::S_IFLNK => link(from, to, name)?,
        _ => syscalls::mknodat(to, name, stat.mode, stat.device)?,
    }
    own(to, name, &stat)
}

/// Owner, mode and times, in this order: a change of the owner takes mode bits away.
fn own(to: c_int, name: &CStr, stat: &Stat) -> Result<(), Fault> {
    syscalls::fchownat(to, name, stat.uid, stat.gid)?;
    if stat.mode & libc::S_IFMT != libc::S_IFLNK {
        syscalls::fchmodat(to, name, stat.mode & PERMISSIONS)?;
    }
    syscalls::utimensat(to, name, &stat.times)
}

fn contents(from: &Fd, to: &Fd) -> Result<(), Fault> {
    while syscalls::sendfile(from.number(), to.number())? > 0 {}
    Ok(())
}

/// Not inlined: its buffer would be on the stack of every directory on the way.
#[inline(never)]
fn link(from: c_int, to: c_int, name: &CStr) -> Result<(), Fault> {
    let mut target = [0; PATH_MAX];
    let len = syscalls::readlinkat(from, name, &mut target)?;
    // A link that fills the buffer has no NUL, and is no longer than the kernel allows otherwise.
    let target = target
        .get(..=len)
        .and_then(|target| CStr::from_bytes_with_nul(target).ok());
    syscalls::symlinkat(target.ok_or(Fault::check(libc::ENAMETOOLONG))?, to, name)
}
