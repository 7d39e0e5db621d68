//! Files below a directory that is not ours.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, fstatfs, openat2};

/// The file-system type of `cgroup2`.
pub const CGROUP2: u64 = 0x6367_7270;
/// The file-system type of procfs.
pub const PROCFS: u64 = 0x9fa0;
/// The file-system type of sysfs.
pub const SYSFS: u64 = 0x6265_6572;

/// Opens a path as a place only (`O_PATH`), following links.
///
/// # Errors
///
/// The kernel's.
pub fn place(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Opens a regular file for reading, its path walked as if `root` were `/`; links that procfs
/// makes up are refused, and nothing that blocks is waited for.
///
/// # Errors
///
/// The kernel's, and `InvalidInput` for what is no regular file.
pub fn open_in_root(root: impl AsFd, path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(openat2(root, path, flags, Mode::empty(), resolve)?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

/// The magic number of the file system that a descriptor is on.
///
/// # Errors
///
/// The kernel's.
pub fn filesystem(file: impl AsFd) -> io::Result<u64> {
    let magic = fstatfs(file)?.f_type;
    // 32-bit numbers in a field of the machine's word.
    Ok(u64::from(u32::try_from(magic & 0xffff_ffff).unwrap_or(0)))
}

/// Copies a descriptor to the first free number from `least` up, closing on exec.
///
/// # Errors
///
/// `EMFILE`.
pub fn dup_above(file: impl AsFd, least: i32) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(file, least)?)
}
