//! The large blocks of memory that loading code fills, shared by all runners of the same code.
//!
//! wasmtime keeps about 24 bytes for each function of a loaded module, and 12 for its name: a third of a
//! megabyte for a language runtime, in each container. They are numbers, the same in every process that
//! loads the same file. So whoever fills the cache has one runner load the code and write its blocks into
//! a file beside it ([`write()`]); every other runner compares what it has with that file and then maps the
//! file in its place ([`share`]).
//!
//! Nothing is believed of the file when a runner starts: it can be wrong, of another build or missing, and
//! all that is lost is memory. From then on it is trusted like the code beside it: only root can write to
//! either, and the cache replaces files, never their content. A block that differs stays the process's own, and so does, from then on, a page that is written to later.
//!
//! Only large blocks, and only while code is loaded, are kept apart; everything else is the system
//! allocator's. Small ones are full of addresses, which are each process's own.
#![expect(
    unsafe_code,
    reason = "an allocator, and a file mapped in the place of equal memory"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags, openat};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::BLOCKS;

/// The runner's global allocator: the system's, apart from large blocks while code is loaded.
#[derive(Debug)]
pub struct Blocks;

/// The smallest block that is kept apart: 8 KiB. Below that the pages around it cost what it saves.
const SMALLEST: usize = 8 << 10;

/// How many allocations are kept apart at most, freed ones included: 128. A component has a few for each of
/// its modules.
const MOST: usize = 128;

/// What blocks are rounded up to. A kernel with larger pages refuses to map all but the first.
const PAGE: usize = 4 << 10;

/// Is code being loaded?
static LOADING: AtomicBool = AtomicBool::new(false);

static TABLE: Mutex<Table> = Mutex::new(Table {
    blocks: [None; MOST],
    next: 0,
});

/// The blocks in the order of their allocation.
struct Table {
    blocks: [Option<Block>; MOST],
    next: usize,
}

/// Pages of ours.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Block {
    address: usize,
    length: usize,
}

/// Runs `load`, and keeps the large blocks that it allocates apart.
pub(crate) fn keep_apart<T>(load: impl FnOnce() -> T) -> T {
    LOADING.store(true, Ordering::Relaxed);
    let loaded = load();
    LOADING.store(false, Ordering::Relaxed);
    loaded
}

/// Writes all blocks that are kept apart, one after the other.
pub(crate) fn write(mut out: impl Write) -> io::Result<()> {
    for block in table().live() {
        // SAFETY: a block of the table, whose lock is held; whoever loads code has no other thread.
        out.write_all(unsafe { bytes(block.address, block.length) })?;
    }
    out.flush()
}

/// Maps what lies beside the code in `entry` in the place of blocks that are equal to it.
pub(crate) fn share(entry: &OwnedFd) -> io::Result<()> {
    let table = table();
    if table.live().next().is_none() {
        return Ok(());
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(entry, BLOCKS, flags, Mode::empty())?);
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut offset = 0;
    for block in table.live() {
        if block.length > length.saturating_sub(offset) {
            break;
        }
        if block.equals(&file, offset)? {
            block.replace(&file, offset);
        }
        offset += block.length;
    }
    Ok(())
}

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pages, padding between what lies in them included: the kernel gave them as zeros.
///
/// # Safety
///
/// They are mapped, and nobody unmaps them or writes to them while the slice lives.
unsafe fn bytes<'a>(address: usize, length: usize) -> &'a [u8] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(address as *const u8, length) }
}

// === impl Table ===

impl Table {
    fn live(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().flatten()
    }

    fn holds(&self, address: usize) -> bool {
        self.live().any(|block| block.address == address)
    }

    /// Pages for `size` bytes of zeros, unless there is no place or no memory for them.
    fn allocate(&mut self, size: usize) -> Option<NonNull<u8>> {
        let place = self.blocks.get_mut(self.next)?;
        let length = size.checked_next_multiple_of(PAGE)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // It is about to be filled, and is replaced as a whole: a fault for each page would only take longer.
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: at an address of the kernel's choice, where nothing else is.
        let mapped = unsafe { mmap_anonymous(ptr::null_mut(), length, access, flags) };
        let address = NonNull::new(mapped.ok()?.cast::<u8>())?;
        *place = Some(Block {
            address: address.as_ptr() as usize,
            length,
        });
        self.next += 1;
        Some(address)
    }

    /// Unmaps the block at `address` if it is one of ours.
    fn release(&mut self, address: usize) -> bool {
        let found = self
            .blocks
            .iter_mut()
            .find(|place| place.is_some_and(|block| block.address == address));
        let Some(block) = found.and_then(Option::take) else {
            return false;
        };
        // SAFETY: the block was mapped by `allocate` and leaves the table only here; whoever frees it has no
        // more use for it. All that can go wrong is that the pages stay.
        let _kept = unsafe { munmap(block.address as *mut _, block.length) };
        true
    }
}

// === impl Block ===

impl Block {
    /// Is the file at `offset` what this block is?
    fn equals(&self, file: &File, offset: usize) -> io::Result<bool> {
        let (read, private) = (ProtFlags::READ, MapFlags::PRIVATE);
        // SAFETY: at an address of the kernel's choice, where nothing else is.
        let mapped = unsafe {
            mmap(
                ptr::null_mut(),
                self.length,
                read,
                private,
                file,
                offset as u64,
            )
        }?;
        // SAFETY: a block of the table, whose lock is held; whoever loads code has no other thread.
        let ours = unsafe { bytes(self.address, self.length) };
        // SAFETY: mapped above, and unmapped below.
        let theirs = unsafe { bytes(mapped as usize, self.length) };
        let equal = ours == theirs;
        // SAFETY: mapped above, and nobody has kept a reference into it.
        unsafe { munmap(mapped, self.length) }?;
        Ok(equal)
    }

    /// Maps the file where this block is.
    fn replace(&self, file: &File, offset: usize) {
        // SAFETY: the pages are this block's own, and the file holds what they hold: whoever has a
        // reference into them cannot tell. The mapping is private, so it stays as writable as it was.
        let replaced = unsafe {
            mmap(
                self.address as *mut _,
                self.length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::FIXED,
                file,
                offset as u64,
            )
        };
        if replaced.is_err() {
            // Before Linux 6.12 the kernel takes the old pages away first and may fail then, for want of
            // memory. What is missing here is in use: nothing may run on.
            std::process::abort();
        }
    }
}

// === impl Blocks ===

// SAFETY: everything is the system allocator's, apart from blocks in the table: those are whole pages,
// mapped by us, aligned to a page, in use from `allocate` to `release` and given to nobody else.
unsafe impl GlobalAlloc for Blocks {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match kept_apart(layout.size(), layout.align()) {
            Some(block) => block.as_ptr(),
            // SAFETY: the caller's promises are the same.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match kept_apart(layout.size(), layout.align()) {
            // The kernel's pages are zero.
            Some(block) => block.as_ptr(),
            // SAFETY: the caller's promises are the same.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        if may_be_ours(address, layout.size()) && table().release(address as usize) {
            return;
        }
        // SAFETY: what is not in the table came from the system, with this layout.
        unsafe { System.dealloc(address, layout) }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let ours = may_be_ours(address, layout.size()) && table().holds(address as usize);
        if !ours && (size < SMALLEST || !LOADING.load(Ordering::Relaxed)) {
            // SAFETY: what is not in the table came from the system, with this layout.
            return unsafe { System.realloc(address, layout, size) };
        }
        // SAFETY: the caller promises that size and alignment make a layout.
        let other = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: its size is not zero, says the caller.
        let new = unsafe { self.alloc(other) };
        if !new.is_null() {
            // SAFETY: both are at least this long, and the new one was given to nobody else.
            unsafe { ptr::copy_nonoverlapping(address, new, layout.size().min(size)) };
            // SAFETY: the caller gives it up, with its layout.
            unsafe { self.dealloc(address, layout) };
        }
        new
    }
}

/// A block of its own for an allocation, if it is large and code is being loaded.
fn kept_apart(size: usize, alignment: usize) -> Option<NonNull<u8>> {
    if size < SMALLEST || alignment > PAGE || !LOADING.load(Ordering::Relaxed) {
        return None;
    }
    table().allocate(size)
}

/// Whether it is worth to look for a block in the table. Ours begin a page; what the system allocates
/// hardly ever does, and a server frees such buffers on many threads.
fn may_be_ours(address: *mut u8, size: usize) -> bool {
    size >= SMALLEST && address.addr().is_multiple_of(PAGE)
}
