//! Files below a directory that is not ours.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags, fstat, openat2, readlinkat, statx,
};
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
/// makes up are refused, and nothing but a regular file is opened: opening a device can be to act on it, and
/// who made the root may have put any there. Nothing that blocks is waited for.
///
/// # Errors
///
/// The kernel's, and `InvalidInput` for what is no regular file.
pub fn open_in_root(root: impl AsFd, path: &Path) -> io::Result<File> {
    open_regular(root, path, ResolveFlags::NO_MAGICLINKS)
}

/// As [`open_in_root`], following no link. An empty path is `root` itself.
///
/// # Errors
///
/// As there, and `ELOOP` where there is a link.
pub fn open_without_links(root: impl AsFd, path: &Path) -> io::Result<File> {
    open_regular(root, path, ResolveFlags::NO_SYMLINKS)
}

/// Where a link leads, by its text; nothing if what is there is no link.
///
/// # Errors
///
/// The kernel's, and `ELOOP` for a link on the way.
pub fn link_in_root(root: impl AsFd, path: &Path) -> io::Result<Option<PathBuf>> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = openat2(root, path, flags, Mode::empty(), resolve)?;
    if FileType::from_raw_mode(fstat(&place)?.st_mode) != FileType::Symlink {
        return Ok(None);
    }
    let target = readlinkat(place, "", Vec::new())?;
    Ok(Some(OsStr::from_bytes(target.as_bytes()).into()))
}

fn open_regular(root: impl AsFd, path: &Path, how: ResolveFlags) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | how;
    let place = if path.as_os_str().is_empty() {
        root.as_fd().try_clone_to_owned()?
    } else {
        openat2(root, path, flags, Mode::empty(), resolve)?
    };
    if FileType::from_raw_mode(fstat(&place)?.st_mode) != FileType::RegularFile {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let place = format!("/proc/self/fd/{}", place.as_raw_fd());
    // Who has a lease on it is not waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    Ok(rustix::fs::open(place, flags, Mode::empty())?.into())
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
