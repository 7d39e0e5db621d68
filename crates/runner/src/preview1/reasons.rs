//! Why a call failed of which wasmtime only says `EIO`.
//!
//! It has no word for some errors that programs ask for: they copy what cannot be moved (`EXDEV`), close files when there
//! are too many (`EMFILE`), and tell a read-only volume (`EROFS`) from a broken disk. What it was is looked for when
//! a call has failed.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, StatVfsMountFlags, StatxFlags, fstatvfs, openat, statx};
use rustix::io::Errno as Kernel;
use wasmtime_wasi::p1::types::{Errno, Error, Fd};
use wiggle::{GuestMemory, GuestPtr};

use super::Preview1;
use super::descriptors::Descriptor;

// === impl Preview1 ===

impl Preview1 {
    /// A better word for `error`, of a call about `places` that `changes` something there.
    #[cold]
    pub(super) fn reason(
        &self,
        memory: &GuestMemory<'_>,
        error: Error,
        changes: bool,
        places: &[(Fd, GuestPtr<str>)],
    ) -> Error {
        if !matches!(error.downcast_ref(), Some(Errno::Io)) {
            return error;
        }
        let mut known = Vec::new();
        for (fd, path) in places {
            if let (Ok(Descriptor::Directory(directory)), Ok(path)) =
                (self.descriptors.get(*fd), memory.as_cow_str(*path))
            {
                known.push((&*directory.file, path));
            }
        }
        let known: Vec<_> = known.iter().map(|(file, path)| (*file, &**path)).collect();
        found(&known, changes).map_or(error, Error::from)
    }
}

fn found(places: &[(&File, &str)], changes: bool) -> Option<Errno> {
    let (directory, _) = places.first()?;
    match open(directory, ".") {
        Err(Kernel::MFILE) => return Some(Errno::Mfile),
        Err(Kernel::NFILE) => return Some(Errno::Nfile),
        Ok(_) | Err(_) if changes => {}
        // To read is allowed on a read-only volume, too: something is broken.
        Ok(_) | Err(_) => return None,
    }
    let mut mounts = Vec::new();
    for (directory, path) in places {
        let parent = open(directory, parent(path)).ok()?;
        let stat = statx(&parent, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
        mounts.push(stat.stx_mnt_id);
    }
    if mounts.windows(2).any(|two| two.first() != two.last()) {
        return Some(Errno::Xdev);
    }
    places
        .iter()
        .flat_map(|(directory, path)| [(directory, parent(path)), (directory, path)])
        .any(|(directory, path)| open(directory, path).is_ok_and(|file| is_read_only(&file)))
        .then_some(Errno::Rofs)
}

fn open(directory: &File, path: &str) -> Result<OwnedFd, Kernel> {
    openat(
        directory,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn is_read_only(file: &OwnedFd) -> bool {
    fstatvfs(file).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// The directory that has the name at the end of a path.
fn parent(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.rsplit_once('/').map_or(".", |(parent, _)| parent)
}
