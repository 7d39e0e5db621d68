//! What is open by way of wasmtime, and the kernel's own descriptor of it.
//!
//! wasmtime's table of preview 1 is closed, but behind each of its numbers is a resource, and the table of resources is
//! open. What it gives next is known: the place that was given back last.

use std::fs::File;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, fcntl_getfl, openat};
use rustix::io::Errno as Kernel;
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::filesystem::{Descriptor as Theirs, WasiFilesystemView as _};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p1::types::{Errno, Error, Fd, Fdflags, Lookupflags, Oflags, Rights, Size};
use wasmtime_wasi::p1::wasi_snapshot_preview1::WasiSnapshotPreview1 as _;
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;
use wiggle::{GuestMemory, GuestPtr};

use super::descriptors::{Descriptor, ROOT};
use super::listing::Listing;
use super::streams::errno;
use super::{Preview1, special};

/// Flags that have what is written be on the disk before the call is over.
const SYNC: Fdflags = Fdflags::DSYNC.union(Fdflags::RSYNC).union(Fdflags::SYNC);

/// A file.
#[derive(Debug)]
pub(super) struct Opened {
    /// wasmtime's number.
    pub(super) number: Fd,
    pub(super) file: Arc<File>,
    /// Those of [`SYNC`] that it was opened with; wasmtime knows none.
    pub(super) sync: Fdflags,
}

/// A directory.
#[derive(Debug)]
pub(super) struct Directory {
    /// wasmtime's number.
    pub(super) number: Fd,
    pub(super) file: Arc<File>,
    pub(super) listing: Listing,
    /// The same directory, open for reading, once that was asked for.
    readable: Option<Arc<File>>,
}

/// The directories a guest is born with.
pub(super) fn preopened(wasmtime: &mut WasiP1Ctx) -> wasmtime::Result<Vec<Directory>> {
    // With its first call wasmtime fills its tables. From then on it takes one resource for what it opens.
    let mut nothing = GuestMemory::Unshared(&mut []);
    wasmtime.fd_prestat_get(&mut nothing, ROOT.into())?;
    let mut directories = Vec::new();
    for (number, (copy, _)) in (ROOT..).zip(wasmtime.filesystem().get_directories()?) {
        if let Theirs::Dir(directory) = wasmtime.ctx().table.delete(copy)? {
            directories.push(Directory::new(number.into(), directory.dir));
        }
    }
    Ok(directories)
}

/// The number that the next resource will have.
fn next(resources: &mut ResourceTable) -> Result<u32, Error> {
    let place = resources.push(())?;
    let number = place.rep();
    resources.delete(place)?;
    Ok(number)
}

// === impl Opened ===

impl Opened {
    /// Ends a call that has written.
    pub(super) fn written(&self, count: Size) -> Result<Size, Error> {
        if self.sync.intersects(Fdflags::SYNC | Fdflags::RSYNC) {
            rustix::fs::fsync(&*self.file).map_err(errno)?;
        } else if self.sync.contains(Fdflags::DSYNC) {
            rustix::fs::fdatasync(&*self.file).map_err(errno)?;
        }
        Ok(count)
    }
}

// === impl Directory ===

impl Directory {
    pub(super) fn new(number: Fd, file: Arc<File>) -> Self {
        Self {
            number,
            file,
            listing: Listing::default(),
            readable: None,
        }
    }

    /// Puts what was made, renamed and removed in it on the disk.
    pub(super) fn sync(&mut self) -> Result<(), Error> {
        let file = self.readable().map_err(errno)?;
        Ok(rustix::fs::fsync(&*file).map_err(errno)?)
    }

    /// Its descriptor for reading. Those a guest is born with are only good for finding others.
    pub(super) fn readable(&mut self) -> Result<Arc<File>, Kernel> {
        if let Some(file) = &self.readable {
            return Ok(Arc::clone(file));
        }
        let file = if fcntl_getfl(&*self.file)?.contains(OFlags::PATH) {
            let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Arc::new(openat(&*self.file, ".", how, Mode::empty())?.into())
        } else {
            Arc::clone(&self.file)
        };
        Ok(Arc::clone(self.readable.insert(file)))
    }
}

// === impl Preview1 ===

impl Preview1 {
    /// `path_open`.
    #[expect(
        clippy::too_many_arguments,
        reason = "so many has the call, but for those that nobody reads"
    )]
    pub(super) async fn open(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        lookup: Lookupflags,
        path: GuestPtr<str>,
        flags: Oflags,
        rights: Rights,
        status: Fdflags,
    ) -> Result<Fd, Error> {
        let at = self.file(fd, Errno::Notdir)?;
        if let Descriptor::Directory(directory) = self.descriptors.get(fd)? {
            let place = special::Place {
                directory: &directory.file,
                path: &memory.as_cow_str(path)?,
                follow: lookup.contains(Lookupflags::SYMLINK_FOLLOW),
            };
            if let Some(kind) = place.look() {
                let fifo = place.open(kind, flags, rights, status)?;
                return self.descriptors.open(Descriptor::Fifo(fifo));
            }
        }
        let resource = next(self.wasmtime.ctx().table)?;
        let none = Rights::empty();
        let opened = self
            .wasmtime
            .path_open(memory, at, lookup, path, flags, rights, none, status - SYNC)
            .await;
        let number = match opened {
            Ok(number) => number,
            Err(error) => {
                if let Some(stream) = self.stream(memory, &error, fd, lookup, path) {
                    if flags.contains(Oflags::DIRECTORY) {
                        return Err(Errno::Notdir.into());
                    }
                    return self.descriptors.open_again(stream);
                }
                let changes = rights.contains(Rights::FD_WRITE)
                    || flags.intersects(Oflags::CREAT | Oflags::TRUNC);
                return Err(self.reason(memory, error, changes, &[(fd, path)]));
            }
        };
        let resource = Resource::<Theirs>::new_borrow(resource);
        let descriptor = match self.wasmtime.ctx().table.get(&resource)? {
            Theirs::Dir(directory) => {
                Descriptor::Directory(Directory::new(number, Arc::clone(&directory.dir)))
            }
            Theirs::File(file) => Descriptor::File(Opened {
                number,
                file: Arc::clone(&file.file),
                sync: status & SYNC,
            }),
        };
        self.descriptors.open(descriptor)
    }
}
