//! What is known of a file, in the words of preview 1.
//!
//! wasmtime's own answer has the time of birth where that of the last change belongs, and one device for all
//! mounts.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::fd::AsFd;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, StatxTimestamp, makedev,
    openat2, statat, statx,
};
use rustix::io::Errno as Kernel;
use rustix::path::Arg;
use wasmtime_wasi::p1::types::{Errno, Error, Filestat, Filetype, Timestamp};

use super::streams::errno;

/// Of what is open.
pub(super) fn of(file: impl AsFd) -> Result<Filestat, Error> {
    let stat = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
    Ok(filestat(&stat.map_err(errno)?))
}

/// Of what is at `path`; `None` if wasmtime has to be asked, who knows other ways and other errors.
pub(super) fn at(
    directory: impl AsFd,
    path: &str,
    follow: bool,
) -> Option<Result<Filestat, Error>> {
    let found = if !follow && is_name(path) {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        statx(directory, path, flags, StatxFlags::BASIC_STATS)
    } else {
        let mut how = OFlags::PATH | OFlags::CLOEXEC;
        how.set(OFlags::NOFOLLOW, !follow);
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        openat2(directory, path, how, Mode::empty(), within)
            .and_then(|file| statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS))
    };
    match found {
        Ok(stat) => Some(Ok(filestat(&stat))),
        // What interpreters ask for most is what is not there.
        Err(Kernel::NOENT) => Some(Err(Errno::Noent.into())),
        Err(_) => None,
    }
}

/// Whether a path is one component, and no way to another directory.
fn is_name(path: &str) -> bool {
    !path.contains('/') && !["", ".", ".."].contains(&path)
}

/// The number of a file, which is unique over all mounts: the same as wasmtime's.
pub(super) fn number(device: u64, ino: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (device, ino).hash(&mut hasher);
    hasher.finish()
}

/// A kind of file. There is no word for a FIFO, and for a socket two.
pub(super) fn filetype(kind: FileType) -> Filetype {
    match kind {
        FileType::RegularFile => Filetype::RegularFile,
        FileType::Directory => Filetype::Directory,
        FileType::Symlink => Filetype::SymbolicLink,
        FileType::BlockDevice => Filetype::BlockDevice,
        FileType::CharacterDevice => Filetype::CharacterDevice,
        FileType::Fifo | FileType::Socket | FileType::Unknown => Filetype::Unknown,
    }
}

/// The device, the number there, and the kind of an entry of `directory`.
pub(super) fn identity(
    directory: impl AsFd,
    name: impl Arg + Copy,
    how: AtFlags,
) -> Result<(u64, u64, FileType), Kernel> {
    match statx(&directory, name, how, StatxFlags::BASIC_STATS) {
        Ok(stat) => Ok((device(&stat), stat.stx_ino, kind(&stat))),
        // A filter of the container's forbids it.
        Err(Kernel::NOSYS) => {
            let stat = statat(directory, name, how)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            Ok((stat.st_dev, stat.st_ino, kind))
        }
        Err(error) => Err(error),
    }
}

/// What kind of file the kernel has told of.
pub(super) fn kind(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}

fn device(stat: &Statx) -> u64 {
    makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

fn filestat(stat: &Statx) -> Filestat {
    let device = device(stat);
    Filestat {
        dev: device,
        ino: number(device, stat.stx_ino),
        filetype: filetype(kind(stat)),
        nlink: stat.stx_nlink.into(),
        size: stat.stx_size,
        atim: timestamp(stat.stx_atime),
        mtim: timestamp(stat.stx_mtime),
        ctim: timestamp(stat.stx_ctime),
    }
}

/// Nanoseconds since 1970; what is before or too far after is at the nearest end.
fn timestamp(time: StatxTimestamp) -> Timestamp {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec.into())
}
