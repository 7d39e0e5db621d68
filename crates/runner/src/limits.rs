//! The container's memory limit, seen from inside: growing past it fails, instead of ending the container.
//!
//! Memory that a guest asks for costs nothing until it is touched, so the kernel has no way to say no but to
//! kill. A `memory.grow` can be answered with -1, and every language's allocator knows what that means. The
//! limit is read from the cgroup's own file each time: it can change while the guest runs.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use wasmtime::{ResourceLimiter, ResourcesRequired};

use crate::end::say;
use crate::tally;

/// What all instances of this process have, in bytes.
static HELD: AtomicU64 = AtomicU64::new(0);
/// The limit that was last spoken of: a guest that asks again and again fills no log.
static SAID: AtomicU64 = AtomicU64::new(0);
/// How many memories and tables an instance is born with.
static BORN: AtomicU32 = AtomicU32::new(u32::MAX);
/// Where the container's limit is written.
static LIMIT: OnceLock<File> = OnceLock::new();

/// How much of a limit is not the guest's: the runner's own 0.3 MiB, stacks, and kernel memory.
const OWN: u64 = 1 << 20;

/// How many bytes an element of a table takes.
const ELEMENT: u64 = 8;

/// Remembers where the limit is written. Without it there is none.
pub(crate) fn follow(limit: File) {
    drop(LIMIT.set(limit));
}

/// Remembers what an instance is born with, if that is known.
pub(crate) fn expect(needs: Option<&ResourcesRequired>) {
    let born = needs.map_or(u32::MAX, |needs| {
        needs.num_memories.saturating_add(needs.num_tables)
    });
    BORN.store(born, Ordering::Relaxed);
}

/// Counts memory of the runner's own that a guest fills, if it fits. For `what`, the line on stderr.
pub(crate) fn take(bytes: u64, what: &str) -> bool {
    let limit = limit();
    // Asked and counted at once: of two who both fit only alone one is refused.
    let fits = |held: u64| {
        let held = held.saturating_add(bytes);
        limit
            .is_none_or(|limit| held <= room(limit))
            .then_some(held)
    };
    match HELD.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
        Ok(before) => tally::memory(before.saturating_add(bytes)),
        Err(before) => {
            if let Some(limit) = limit {
                refuse(what, before.saturating_add(bytes), limit);
            }
            return false;
        }
    }
    true
}

fn add(bytes: u64) {
    let before = HELD.fetch_add(bytes, Ordering::Relaxed);
    tally::memory(before.saturating_add(bytes));
}

/// What was taken is free again.
pub(crate) fn give_back(bytes: u64) {
    HELD.fetch_sub(bytes, Ordering::Relaxed);
}

fn refuse(what: &str, held: u64, limit: u64) {
    if SAID.swap(limit, Ordering::Relaxed) != limit {
        say(&format!(
            "duet: a growth of the guest's {what} to {} KiB is refused: \
             the container's limit is {} KiB",
            held >> 10,
            limit >> 10
        ));
    }
}

/// Counts what one instance has, and lets it have no more than fits.
#[derive(Debug)]
pub(crate) struct Limiter {
    held: u64,
    /// How many of its memories and tables are still to be made.
    unborn: u32,
}

// === impl Limiter ===

impl Limiter {
    /// Of an instance that is about to be made.
    pub(crate) fn new() -> Self {
        Self {
            held: 0,
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
        true
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
        Ok(self.grow(bytes(current), bytes(desired), maximum.map(bytes)))
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

/// The limit as it is now.
fn limit() -> Option<u64> {
    let mut text = [0; 32];
    let read = LIMIT.get()?.read_at(&mut text, 0).ok()?;
    parse(text.get(..read)?)
}

/// `max`, or a number; v1 writes a number that no machine has.
fn parse(text: &[u8]) -> Option<u64> {
    let limit = std::str::from_utf8(text).ok()?.trim().parse().ok()?;
    (limit < 1 << 62).then_some(limit)
}

/// How much of `limit` a guest may have. Of a small one, the runner needs less than usual; of a large
/// one, the kernel needs a page of tables for each 512.
fn room(limit: u64) -> u64 {
    limit
        .saturating_sub(OWN.min(limit / 8))
        .saturating_sub(limit / 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_both_versions_write_them() {
        assert_eq!(parse(b"max\n"), None);
        assert_eq!(parse(b"9223372036854771712\n"), None);
        assert_eq!(parse(b"33554432\n"), Some(32 << 20));
        assert_eq!(parse(b""), None);
    }

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
    fn a_part_of_each_limit_is_the_runners() {
        assert_eq!(room(32 << 20), (31 << 20) - (64 << 10));
        assert_eq!(room(4 << 20), (4 << 20) - (512 << 10) - (8 << 10));
        assert_eq!(room(0), 0);
    }
}
