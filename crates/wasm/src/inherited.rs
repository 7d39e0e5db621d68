//! The runner's end of descriptors 3 to 7: an entry of the cache, the handoff, the container's memory, the tally, and
//! the way to the pod's listeners.
#![expect(
    unsafe_code,
    reason = "descriptors by number, and machine code from a file"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::mm::{Advice, madvise};
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use crate::{CODE, Handoff, Tally, blocks};

/// What whoever exec'd a runner left open for it.
#[derive(Debug)]
pub struct Inherited {
    entry: OwnedFd,
    /// Not there if there is no guest.
    handoff: Option<File>,
    /// Whether it said that descriptor 7 is there.
    has_listeners: AtomicBool,
}

/// What was loaded last, which is what runs. It stays mapped.
static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

enum Loaded {
    Module(Module),
    Component(Component),
}

/// Unmaps the pages of the code that was loaded last, so that a guest that waits maps only what it comes back to.
///
/// They return one by one, from the page cache that all containers of the same code share. How many a start
/// maps is the page cache's choice: it maps as much around a fault as it has in one piece.
///
/// # Errors
///
/// The kernel's: `EINVAL` for a process that is locked in memory.
///
/// # References
///
/// [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html), `MADV_DONTNEED`.
pub fn unmap_code() -> io::Result<()> {
    let loaded = loaded();
    let image = match &*loaded {
        Some(Loaded::Module(module)) => module.image_range(),
        Some(Loaded::Component(component)) => component.image_range(),
        None => return Ok(()),
    };
    let length = image.end.addr() - image.start.addr();
    // SAFETY: `LOADED`, whose lock is held, keeps the image mapped. It is a private mapping of a file of which the
    // cache never changes a byte, `deserialize_file` made it read-only, and wasmtime refuses code that has anything to
    // relocate: no page of it was ever written to, so that what comes back is what was there.
    unsafe { madvise(image.start.cast_mut().cast(), length, Advice::LinuxDontNeed) }?;
    Ok(())
}

fn loaded() -> MutexGuard<'static, Option<Loaded>> {
    LOADED.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Inherited ===

impl Inherited {
    /// Takes descriptors 3 and 4, and 5, the directory in which the container's memory is limited and counted, and 6,
    /// once; `None` the second time.
    ///
    /// To be called before anything else opens a file, by a program that is exec'd with the
    /// four open, which is what being Duet's runner means. If they are not, reading the handoff fails.
    #[must_use]
    pub fn take() -> Option<(Self, OwnedFd, Tally)> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::Relaxed) {
            return None;
        }
        // SAFETY: nobody in this process owns 3: it was inherited, and `TAKEN` lets only one caller here.
        let entry = unsafe { OwnedFd::from_raw_fd(3) };
        // SAFETY: the same for 4.
        let handoff = unsafe { File::from_raw_fd(4) };
        // SAFETY: the same for 5.
        let memory = unsafe { OwnedFd::from_raw_fd(5) };
        // SAFETY: the same for 6.
        let tally = unsafe { File::from_raw_fd(6) };
        let inherited = Self {
            entry,
            handoff: Some(handoff),
            has_listeners: AtomicBool::new(false),
        };
        Some((inherited, memory, Tally::of(tally)))
    }

    /// What the cache leaves open for a runner that has no guest: the entry, as standard input.
    ///
    /// What is loaded from it is for [`Inherited::write_blocks`].
    ///
    /// # Errors
    ///
    /// When there is no standard input.
    pub fn for_the_cache() -> io::Result<Self> {
        Ok(Self {
            entry: io::stdin().as_fd().try_clone_to_owned()?,
            handoff: None,
            has_listeners: AtomicBool::new(false),
        })
    }

    /// Writes the memory that loading filled to standard output, for runners that have a guest.
    ///
    /// To be called while what was loaded is still there.
    ///
    /// # Errors
    ///
    /// When standard output takes nothing.
    pub fn write_blocks(&self) -> io::Result<()> {
        blocks::write(io::stdout().lock())
    }

    /// Reads the handoff.
    ///
    /// # Errors
    ///
    /// When descriptor 4 is not what [`Handoff::seal`] made.
    pub fn handoff(&self) -> io::Result<Handoff> {
        let handoff = self.handoff.as_ref();
        let handoff = Handoff::read(handoff.ok_or(io::ErrorKind::NotFound)?)?;
        let has_listeners = handoff.http.pod_listener;
        self.has_listeners.store(has_listeners, Ordering::Relaxed);
        Ok(handoff)
    }

    /// Takes descriptor 7, the way to the pod's [listeners](crate::listeners), once, if the handoff that was
    /// read says that it is there.
    #[must_use]
    pub fn listeners(&self) -> Option<OwnedFd> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if !self.has_listeners.load(Ordering::Relaxed) || TAKEN.swap(true, Ordering::Relaxed) {
            return None;
        }
        // SAFETY: nobody in this process owns 7: descriptor 4 said that it was inherited, which only the shim can
        // have written, and `TAKEN` lets only one caller here.
        Some(unsafe { OwnedFd::from_raw_fd(7) })
    }

    /// Maps a compiled module.
    ///
    /// # Errors
    ///
    /// When the entry was compiled by another engine or for another CPU, or cannot be mapped.
    pub fn module(&self, engine: &Engine) -> wasmtime::Result<Module> {
        let module = self.enter(|| {
            // SAFETY: descriptor 3 is an entry of the cache, which only root can write and only our
            // compiler fills; whoever can pass us another could have exec'd another program.
            unsafe { Module::deserialize_file(engine, CODE) }
        })?;
        *loaded() = Some(Loaded::Module(module.clone()));
        Ok(module)
    }

    /// Maps a compiled component.
    ///
    /// # Errors
    ///
    /// As for [`Inherited::module`].
    pub fn component(&self, engine: &Engine) -> wasmtime::Result<Component> {
        let component = self.enter(|| {
            // SAFETY: as for a module.
            unsafe { Component::deserialize_file(engine, CODE) }
        })?;
        *loaded() = Some(Loaded::Component(component.clone()));
        Ok(component)
    }

    /// Opens the machine code and steps out of its directory again.
    fn enter<T>(&self, load: impl FnOnce() -> wasmtime::Result<T>) -> wasmtime::Result<T> {
        // What was loaded only to see what it is makes room first.
        drop(loaded().take());
        // wasmtime loads a component from a path only. A relative path finds the entry although it
        // is outside of the container's root: the descriptor is a mount of its own.
        rustix::process::fchdir(&self.entry)?;
        let loaded = blocks::keep_apart(load);
        rustix::process::chdir(c"/")?;
        if self.handoff.is_some() {
            // What cannot be shared stays this process's own, and the guest runs as well.
            drop(blocks::share(&self.entry));
        }
        loaded
    }
}
