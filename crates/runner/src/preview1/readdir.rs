//! `fd_readdir`.
//!
//! A cookie is the kernel's own place in the directory, two more of it: 0 is the start, 1 is after `.`, 2 after `..`, which
//! come first whatever the file system does. What is removed while a guest reads moves nothing, what was given is not
//! given again, and nothing is kept but the piece that was read last.

use std::fs::File;

use rustix::fs::AtFlags;
use rustix::io::Errno as Kernel;
use wasmtime_wasi::p1::types::{Dircookie, Errno, Error, Fd, Filetype, Size};
use wiggle::{GuestMemory, GuestPtr};

use super::Preview1;
use super::attributes::{self, filetype, number};
use super::descriptors::Descriptor;
use super::listing::Entry;
use super::opened::Directory;
use super::streams::errno;

/// The cookie after `..`, where the kernel's own begin.
const DOTS: Dircookie = 2;

// === impl Preview1 ===

impl Preview1 {
    /// `fd_readdir`. Fills the buffer; less than that is the end.
    pub(super) fn read_directory(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        buffer: GuestPtr<u8>,
        length: Size,
        cookie: Dircookie,
    ) -> Result<Size, Error> {
        let directory = match self.descriptors.get_mut(fd)? {
            Descriptor::Directory(directory) => directory,
            Descriptor::Stdin | Descriptor::Stdout | Descriptor::Stderr | Descriptor::File(_) => {
                return Err(Errno::Badf.into());
            }
            Descriptor::Fifo(_) | Descriptor::Listener(_) | Descriptor::Connection(_) => {
                return Err(Errno::Notdir.into());
            }
        };
        let Some(mut room) = memory.as_slice_mut(buffer.as_array(length))? else {
            return Err(Errno::Notsup.into());
        };
        let all = room.len();
        directory.fill(&mut room, cookie).map_err(errno)?;
        Ok(Size::try_from(all - room.len())?)
    }
}

// === impl Directory ===

impl Directory {
    /// Puts entries from `cookie` on into `room`, and takes from it what they fill.
    fn fill(&mut self, room: &mut &mut [u8], mut cookie: Dircookie) -> Result<(), Kernel> {
        let file = self.readable()?;
        if cookie == 0 {
            self.listing.rewind(&*file)?;
        }
        let mut own = None;
        while cookie < DOTS && !room.is_empty() {
            let name = if cookie == 0 { "." } else { ".." };
            let (device, ino, _) = attributes::identity(&*file, name, AtFlags::empty())?;
            own.get_or_insert(device);
            cookie += 1;
            put(
                room,
                cookie,
                number(device, ino),
                Filetype::Directory,
                name.as_bytes(),
            );
        }
        if room.is_empty() {
            return Ok(());
        }
        self.listing.seek(&*file, cookie - DOTS)?;
        while !room.is_empty() {
            let Some(entry) = self.listing.peek(&*file)? else {
                break;
            };
            match identity(&file, entry, &mut own) {
                Ok((ino, kind)) => {
                    let cookie = entry.next.checked_add(DOTS).ok_or(Kernel::OVERFLOW)?;
                    if !put(room, cookie, ino, kind, &entry.name) {
                        // The guest will ask for it again.
                        break;
                    }
                }
                // It was removed after the kernel told of it.
                Err(Kernel::NOENT) => {}
                Err(error) => return Err(error),
            }
            self.listing.pass();
        }
        Ok(())
    }
}

/// The number and the kind of an entry; `own` is the directory's device, once it was asked for.
fn identity(
    directory: &File,
    entry: &Entry,
    own: &mut Option<u64>,
) -> Result<(u64, Filetype), Kernel> {
    let how = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match attributes::identity(directory, &*entry.name, how) {
        Ok((device, ino, kind)) => Ok((number(device, ino), filetype(kind))),
        Err(Kernel::NOENT) => Err(Kernel::NOENT),
        // Who may read a directory need not be allowed to look further.
        Err(_) => {
            let device = match *own {
                Some(device) => device,
                None => {
                    let (device, ..) = attributes::identity(directory, "", AtFlags::EMPTY_PATH)?;
                    *own.insert(device)
                }
            };
            Ok((number(device, entry.ino), filetype(entry.kind)))
        }
    }
}

/// Puts an entry into `room` as far as it goes; false if not all of it did.
fn put(room: &mut &mut [u8], next: Dircookie, ino: u64, kind: Filetype, name: &[u8]) -> bool {
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let head = [
        &next.to_le_bytes()[..],
        &ino.to_le_bytes(),
        &length.to_le_bytes(),
        &[u8::from(kind), 0, 0, 0],
    ]
    .concat();
    [head.as_slice(), name].into_iter().all(|bytes| {
        let count = bytes.len().min(room.len());
        let (into, rest) = std::mem::take(room).split_at_mut(count);
        into.copy_from_slice(bytes.get(..count).unwrap_or_default());
        *room = rest;
        count == bytes.len()
    })
}
