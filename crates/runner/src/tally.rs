//! What the shim is told of the guest while it runs (`duet_wasm::Tally`). Telling may fail: the guest goes on.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use duet_wasm::Tally;

/// Where it is told.
static TALLY: OnceLock<Tally> = OnceLock::new();
/// The most memory so far, in bytes.
static MEMORY: AtomicU64 = AtomicU64::new(0);
static REQUESTS: AtomicU64 = AtomicU64::new(0);
static TRAPS: AtomicU64 = AtomicU64::new(0);

/// Remembers where it is told. Without it nothing is.
pub(crate) fn follow(tally: Tally) {
    drop(TALLY.set(tally));
}

/// The guest holds so many bytes now.
pub(crate) fn memory(held: u64) {
    if MEMORY.fetch_max(held, Ordering::Relaxed) < held {
        drop(TALLY.get().map(|tally| tally.memory(held)));
    }
}

/// The guest is given one more request.
pub(crate) fn request() {
    let count = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
    drop(TALLY.get().map(|tally| tally.requests(count)));
}

/// The guest trapped once more, in these words.
pub(crate) fn trap(words: &str) {
    let count = TRAPS.fetch_add(1, Ordering::Relaxed) + 1;
    drop(TALLY.get().map(|tally| tally.trap(count, words)));
}
