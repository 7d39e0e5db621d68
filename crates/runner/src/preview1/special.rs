//! What is no file, directory or link: FIFOs, sockets, devices, and the names of the standard streams. Somebody may
//! have put them on a volume.
//!
//! wasmtime reads and writes at offsets, which a FIFO does not have, and opens whatever there is. So it is looked
//! before anything is opened, with one call more.

use std::fs::File;
use std::os::unix::fs::FileTypeExt as _;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, fcntl_getfl, openat2,
    readlinkat, statx,
};
use rustix::io::Errno as Kernel;
use wasmtime_wasi::p1::types::{
    Errno, Error, Fd, Fdflags, Fdstat, Filetype, Lookupflags, Oflags, Rights,
};
use wiggle::{GuestMemory, GuestPtr};

use super::Preview1;
use super::attributes::kind;
use super::descriptors::Descriptor;
use super::streams::{errno, is_nonblocking};

/// The devices of every container's that are nothing but bytes, of major number 1: null, zero, full, random, urandom.
const BYTES: [u32; 5] = [3, 5, 7, 8, 9];

/// How often the kernel is asked again whose way to a file somebody has just changed.
const TRIES: usize = 4;

/// A path in a directory.
pub(super) struct Place<'a> {
    pub(super) directory: &'a File,
    pub(super) path: &'a str,
    /// Whether a link at its end is followed.
    pub(super) follow: bool,
}

// === impl Place ===

impl Place<'_> {
    /// What is there, if it is none of wasmtime's.
    ///
    /// That is looked for without the walls around the directory: outside of them there is nothing but the
    /// container's own, and of a device or a socket there no more is told than that it is one.
    pub(super) fn look(&self) -> Option<FileType> {
        // wasmtime refuses it.
        if self.path.starts_with('/') {
            return None;
        }
        let mut how = AtFlags::NO_AUTOMOUNT;
        how.set(AtFlags::SYMLINK_NOFOLLOW, !self.follow);
        let stat = statx(self.directory, self.path, how, StatxFlags::TYPE).ok()?;
        match kind(&stat) {
            FileType::CharacterDevice if is_bytes(&stat) => None,
            other @ (FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice) => Some(other),
            FileType::RegularFile | FileType::Directory | FileType::Symlink | FileType::Unknown => {
                None
            }
        }
    }

    /// Opens it, if it is a FIFO: until somebody opens its other end, unless the guest does not want to wait.
    pub(super) fn open(
        &self,
        kind: FileType,
        flags: Oflags,
        rights: Rights,
        status: Fdflags,
    ) -> Result<File, Error> {
        if flags.contains(Oflags::CREAT | Oflags::EXCL) {
            return Err(Errno::Exist.into());
        }
        if flags.contains(Oflags::DIRECTORY) {
            return Err(Errno::Notdir.into());
        }
        match kind {
            FileType::Fifo => {}
            // As the kernel for one on a mount that is `nodev`.
            FileType::CharacterDevice | FileType::BlockDevice => return Err(Errno::Acces.into()),
            // As the kernel for a socket.
            FileType::Socket
            | FileType::RegularFile
            | FileType::Directory
            | FileType::Symlink
            | FileType::Unknown => return Err(Errno::Nxio.into()),
        }
        let reads = rights.contains(Rights::FD_READ);
        let writes = rights.contains(Rights::FD_WRITE);
        let mut how = OFlags::CLOEXEC
            | match (reads, writes) {
                (true, true) => OFlags::RDWR,
                (false, true) => OFlags::WRONLY,
                (_, false) => OFlags::RDONLY,
            };
        how.set(OFlags::NOFOLLOW, !self.follow);
        how.set(OFlags::NONBLOCK, status.contains(Fdflags::NONBLOCK));
        let fifo = self.open_within(how)?;
        // It may have become something else meanwhile.
        let metadata = fifo.metadata().map_err(|_| Errno::Io)?;
        metadata
            .file_type()
            .is_fifo()
            .then_some(fifo)
            .ok_or_else(|| Errno::Nxio.into())
    }

    fn open_within(&self, how: OFlags) -> Result<File, Error> {
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            match openat2(self.directory, self.path, how, Mode::empty(), within) {
                Ok(file) => return Ok(file.into()),
                Err(Kernel::INTR) => {}
                Err(Kernel::AGAIN) if tries < TRIES => tries += 1,
                // What wasmtime says of a way out.
                Err(Kernel::XDEV) => return Err(Errno::Perm.into()),
                Err(error) => return Err(errno(error).into()),
            }
        }
    }
}

// === impl Preview1 ===

impl Preview1 {
    /// The standard stream that `path` is a link to, if that is why wasmtime refused to follow it.
    ///
    /// `/dev/stdout` and its kin are links into procfs, which a guest does not have. Images have links to those where a
    /// server looks for its logs.
    pub(super) fn stream(
        &self,
        memory: &GuestMemory<'_>,
        refused: &Error,
        fd: Fd,
        lookup: Lookupflags,
        path: GuestPtr<str>,
    ) -> Option<Descriptor> {
        let follow = lookup.contains(Lookupflags::SYMLINK_FOLLOW);
        if !follow || !matches!(refused.downcast_ref(), Some(Errno::Perm)) {
            return None;
        }
        let Ok(Descriptor::Directory(directory)) = self.descriptors.get(fd) else {
            return None;
        };
        let path = memory.as_cow_str(path).ok()?;
        let target = readlinkat(&*directory.file, &*path, Vec::new()).ok()?;
        match target.to_bytes() {
            b"/dev/stdin" | b"/dev/fd/0" | b"/proc/self/fd/0" => Some(Descriptor::Stdin),
            b"/dev/stdout" | b"/dev/fd/1" | b"/proc/self/fd/1" => Some(Descriptor::Stdout),
            b"/dev/stderr" | b"/dev/fd/2" | b"/proc/self/fd/2" => Some(Descriptor::Stderr),
            _ => None,
        }
    }
}

fn is_bytes(stat: &Statx) -> bool {
    stat.stx_rdev_major == 1 && BYTES.contains(&stat.stx_rdev_minor)
}

/// Whether a FIFO was opened for reading, and whether for writing.
pub(super) fn ways(fifo: &File) -> (bool, bool) {
    let mode = fcntl_getfl(fifo).map_or(OFlags::RDONLY, |flags| flags & OFlags::RWMODE);
    (mode != OFlags::WRONLY, mode != OFlags::RDONLY)
}

/// What can be done with a FIFO.
pub(super) fn fdstat(fifo: &File) -> Fdstat {
    let (reads, writes) = ways(fifo);
    let mut fs_rights_base =
        Rights::FD_FDSTAT_SET_FLAGS | Rights::FD_FILESTAT_GET | Rights::POLL_FD_READWRITE;
    fs_rights_base.set(Rights::FD_READ, reads);
    fs_rights_base.set(Rights::FD_WRITE, writes);
    let mut fs_flags = Fdflags::empty();
    fs_flags.set(Fdflags::NONBLOCK, is_nonblocking(fifo));
    Fdstat {
        fs_filetype: Filetype::Unknown,
        fs_flags,
        fs_rights_base,
        fs_rights_inheriting: fs_rights_base,
    }
}
