//! The container's memory limit, seen from inside: growing past it fails, instead of ending the container.
//!
//! Memory that a guest asks for costs nothing until it is touched, so the kernel has no way to say no but to
//! kill. A `memory.grow` can be answered with -1, and every language's allocator knows what that means. The
//! limit is read from the cgroup's own file each time: it can change while the guest runs.
//!
//! Others may be in the container, and files that are in memory only. The kernel counts what they have touched, and
//! this process what its guest was promised: a growth has to fit beside either.

use std::mem;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::io::Errno;
use wasmtime::{ResourceLimiter, ResourcesRequired};

use crate::cgroup::Memory;
use crate::end::say;
use crate::tally;

/// What all instances of this process have, in bytes.
static HELD: AtomicU64 = AtomicU64::new(0);
/// The limit that was last spoken of: a guest that asks again and again fills no log.
static SAID: AtomicU64 = AtomicU64::new(0);
/// How many memories and tables an instance is born with.
static BORN: AtomicU32 = AtomicU32::new(u32::MAX);
/// How many of these are for what an instance throws.
static EXCEPTIONS: AtomicU32 = AtomicU32::new(0);
/// Where the container's limit is written, and what is in use of it.
static MEMORY: OnceLock<Memory> = OnceLock::new();
/// The usage from which on to ask what the limits above the container's are.
static ASK_ABOVE: AtomicU64 = AtomicU64::new(16 << 20);

/// What a memory can have at most where it is, in bytes.
static PLACE: AtomicU64 = AtomicU64::new(u64::MAX);

/// How much of a limit is not the guest's: the runner's own 0.3 MiB, stacks, and kernel memory.
const OWN: u64 = 1 << 20;

/// How many bytes an element of a table takes.
const ELEMENT: u64 = 8;

/// A limit that a growth does not fit into.
struct Full {
    whose: &'static str,
    limit: u64,
    /// What is in use of it, if others have a part in that.
    used: Option<u64>,
}

/// Remembers the directory of the container's memory. If there is no limit in it, there is none.
pub(crate) fn follow(directory: OwnedFd) {
    drop(MEMORY.set(Memory::of(directory)));
}

/// The lowest limit that there is now, as far as that is told.
pub(crate) fn lowest() -> Option<u64> {
    let memory = MEMORY.get()?;
    let above = memory.stat().and_then(|stat| stat.lowest);
    memory.limit().into_iter().chain(above).min()
}

/// What an instance of a server can have of the runner's own memory, where nobody counts bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Uncounted {
    /// How many bytes one call may hand over: at most half of what there is, for the guest has them in its own memory,
    /// too.
    pub(crate) call: usize,
    /// How many handles there may be at a time: one for each KiB. Each takes some hundred bytes and what is behind it.
    pub(crate) handles: usize,
}

/// Remembers what an instance is born with, if that is known.
pub(crate) fn expect(needs: Option<&ResourcesRequired>) {
    let born = needs.map_or(u32::MAX, |needs| {
        needs.num_memories.saturating_add(needs.num_tables)
    });
    let exceptions = EXCEPTIONS.load(Ordering::Relaxed);
    BORN.store(born.saturating_add(exceptions), Ordering::Relaxed);
}

/// Remembers that what an instance throws has a memory of its own, which is born first, empty, and is in no list of
/// needs. To be called before [`expect`].
pub(crate) fn expect_exceptions() {
    EXCEPTIONS.store(1, Ordering::Relaxed);
}

/// Remembers that each memory has a place of so many bytes, and can have no other. wasmtime asks before it looks.
pub(crate) fn places_of(size: usize) {
    PLACE.store(bytes(size), Ordering::Relaxed);
}

/// Counts memory of the runner's own that a guest fills, if it fits. For `what`, the line on stderr.
pub(crate) fn take(bytes: u64, what: &str) -> bool {
    let memory = MEMORY.get();
    let limit = memory.and_then(Memory::limit);
    // Asked and counted at once: of two who both fit only alone one is refused.
    let fits = |held: u64| {
        let held = held.saturating_add(bytes);
        limit
            .is_none_or(|limit| held <= room(limit))
            .then_some(held)
    };
    let before = match HELD.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
        Ok(before) => before,
        Err(before) => {
            if let Some(limit) = limit {
                let full = Full {
                    whose: "container",
                    limit,
                    used: None,
                };
                full.say(what, before.saturating_add(bytes));
            }
            return false;
        }
    };
    let held = before.saturating_add(bytes);
    if let Some(full) = memory.and_then(|memory| full(memory, limit, bytes)) {
        give_back(bytes);
        full.say(what, held);
        return false;
    }
    tally::memory(held);
    true
}

/// Whether there is no room for `more` beside what all who are in the container have touched.
fn full(memory: &Memory, limit: Option<u64>, more: u64) -> Option<Full> {
    let ask_above = ASK_ABOVE.load(Ordering::Relaxed);
    if limit.is_none() && ask_above == u64::MAX {
        return None;
    }
    let usage = memory.usage()?;
    let after = usage.saturating_add(more);
    // In most cases this is all. It counts the files, too, that are kept because there is room.
    if limit.is_none_or(|limit| after <= most(limit)) && after <= ask_above {
        return None;
    }
    let stat = memory.stat()?;
    // A pod may have a limit where its containers have none. Only v1 tells.
    let ask_above = stat.lowest.map_or(u64::MAX, |_| after.saturating_mul(2));
    ASK_ABOVE.store(ask_above, Ordering::Relaxed);
    let used = usage.saturating_sub(stat.reclaimable);
    let fits = |limit| used.saturating_add(more) <= most(limit);
    let above = stat.lowest.filter(|lowest| Some(*lowest) != limit);
    let (whose, limit) = match (above, limit) {
        (Some(above), _) if !fits(above) => ("pod", above),
        (_, Some(limit)) if !fits(limit) => ("container", limit),
        _ => return None,
    };
    Some(Full {
        whose,
        limit,
        used: Some(used),
    })
}

fn add(bytes: u64) {
    let before = HELD.fetch_add(bytes, Ordering::Relaxed);
    tally::memory(before.saturating_add(bytes));
}

/// What was taken is free again.
pub(crate) fn give_back(bytes: u64) {
    HELD.fetch_sub(bytes, Ordering::Relaxed);
}

/// Counts what one instance has, and lets it have no more than fits.
#[derive(Debug)]
pub(crate) struct Limiter {
    held: u64,
    /// What the last growth was granted.
    last: u64,
    /// How many of its memories and tables are still to be made.
    unborn: u32,
}

// === impl Uncounted ===

impl Uncounted {
    /// As the container's limit is now. At most what wasmtime would allow: 128 MiB, and 100,000 handles.
    pub(crate) fn now() -> Self {
        let limit = lowest().and_then(|limit| usize::try_from(limit).ok());
        Self::of(limit.unwrap_or(usize::MAX))
    }

    fn of(limit: usize) -> Self {
        Self {
            call: (limit / 2).clamp(1 << 20, 128 << 20),
            // A request takes some ten.
            handles: (limit >> 10).clamp(1_000, 100_000),
        }
    }
}

// === impl Full ===

impl Full {
    /// Says that `what` does not grow to `held` bytes, but not again and again.
    fn say(&self, what: &str, held: u64) {
        if SAID.swap(self.limit, Ordering::Relaxed) == self.limit {
            return;
        }
        let used = self.used.map(|used| {
            let used = used >> 10;
            format!(", and {used} KiB of it are in use")
        });
        say(&format!(
            "duet: a growth of the guest's {what} to {} KiB is refused: the {}'s limit is {} KiB{}",
            held >> 10,
            self.whose,
            self.limit >> 10,
            used.unwrap_or_default()
        ));
    }
}

// === impl Limiter ===

impl Limiter {
    /// Of an instance that is about to be made.
    pub(crate) fn new() -> Self {
        Self {
            held: 0,
            last: 0,
            unborn: BORN.load(Ordering::Relaxed),
        }
    }

    /// Counts a growth that stays within `maximum`, the memory's own: wasmtime asks before it refuses one
    /// that does not, and what it refuses nobody has.
    fn grow(&mut self, current: u64, desired: u64, maximum: Option<u64>) -> bool {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return false;
        }
        let more = desired.saturating_sub(current);
        // What a module is born with it may never touch. One that was born empty grows from 0 as well, but
        // not before all of the others are there: only a start function in the midst of a component could.
        let birth = current == 0 && self.unborn > 0;
        if birth {
            self.unborn -= 1;
            add(more);
        } else if !take(more, "memory") {
            return false;
        }
        self.held = self.held.saturating_add(more);
        self.last = more;
        true
    }

    /// Takes back what was granted if the kernel then had no memory for it (`RLIMIT_DATA`, strict overcommit).
    ///
    /// wasmtime tells of other failures too, also of growths that it did not ask for; those are no errors of the
    /// kernel's.
    fn failed(&mut self, error: &wasmtime::Error) {
        if error.chain().any(|cause| cause.is::<Errno>()) {
            let last = mem::take(&mut self.last);
            self.held = self.held.saturating_sub(last);
            give_back(last);
        }
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        give_back(self.held);
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let place = PLACE.load(Ordering::Relaxed);
        let maximum = maximum.map_or(place, |maximum| bytes(maximum).min(place));
        Ok(self.grow(bytes(current), bytes(desired), Some(maximum)))
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.failed(&error);
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let size = |elements| bytes(elements).saturating_mul(ELEMENT);
        Ok(self.grow(size(current), size(desired), maximum.map(size)))
    }
}

fn bytes(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// How much of `limit` a guest may have. Of a small one, the runner needs less than usual; of a large
/// one, the kernel needs a page of tables for each 512.
fn room(limit: u64) -> u64 {
    limit.saturating_sub(own(limit)).saturating_sub(limit / 512)
}

/// How much of `limit` may be in use in all, what is the runner's own included: about half of what is set apart
/// for it.
fn most(limit: u64) -> u64 {
    room(limit).saturating_add(own(limit) / 2)
}

fn own(limit: u64) -> u64 {
    OWN.min(limit / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_memory_cannot_have_is_not_counted() {
        let mut limiter = Limiter::new();
        assert!(limiter.memory_growing(0, 64, Some(128)).unwrap());
        assert!(!limiter.memory_growing(64, 129, Some(128)).unwrap());
        assert!(!limiter.table_growing(0, 9, Some(8)).unwrap());
        assert_eq!(limiter.held, 64);
        assert!(limiter.table_growing(0, 8, Some(8)).unwrap());
        assert_eq!(limiter.held, 128);
    }

    #[test]
    fn what_nobody_counts_follows_from_the_limit() {
        let of = |limit| {
            let Uncounted { call, handles } = Uncounted::of(limit);
            (call, handles)
        };
        assert_eq!(of(32 << 20), (16 << 20, 32 << 10));
        assert_eq!(of(usize::MAX), (128 << 20, 100_000));
        assert_eq!(of(0), (1 << 20, 1_000));
    }

    #[test]
    fn a_part_of_each_limit_is_the_runners() {
        assert_eq!(room(32 << 20), (31 << 20) - (64 << 10));
        assert_eq!(room(4 << 20), (4 << 20) - (512 << 10) - (8 << 10));
        assert_eq!(room(0), 0);
    }
}
