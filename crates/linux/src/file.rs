//! Files below a directory that is not ours.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};
use rustix::io::Errno;

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

/// The number of the mount that a descriptor is on, as the mount table has it.
///
/// # Errors
///
/// The kernel's.
///
/// # References
///
/// [statx(2)](https://man7.org/linux/man-pages/man2/statx.2.html), `STATX_MNT_ID`, Linux 5.8.
pub fn mount_id(file: impl AsFd) -> io::Result<u64> {
    Ok(statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// Copies a descriptor to the first free number from `least` up, closing on exec.
///
/// # Errors
///
/// `EMFILE`, also if `least` itself is not below the limit, of which the kernel says `EINVAL`.
///
/// # References
///
/// [fcntl(2)](https://man7.org/linux/man-pages/man2/fcntl.2.html), `F_DUPFD`.
pub fn dup_above(file: impl AsFd, least: i32) -> io::Result<OwnedFd> {
    match rustix::io::fcntl_dupfd_cloexec(file, least) {
        Err(Errno::INVAL) => Err(Errno::MFILE.into()),
        other => Ok(other?),
    }
}
