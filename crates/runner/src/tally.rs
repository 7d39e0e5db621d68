//! What the shim is told of the guest while it runs (`duet_wasm::Tally`). Telling may fail: the guest goes on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use duet_wasm::Tally;

/// Where it is told.
static TALLY: OnceLock<Tally> = OnceLock::new();

/// What was told last. Whoever counts tells it before the next one counts: a server has several threads.
static COUNTS: Mutex<Counts> = Mutex::new(Counts {
    memory: 0,
    traps: 0,
});

/// Where requests are counted: there are too many for a system call each, or for who waits for who counts.
static REQUESTS: OnceLock<&AtomicU64> = OnceLock::new();

struct Counts {
    /// The most so far, in bytes.
    memory: u64,
    traps: u64,
}

/// Remembers where it is told. Without it nothing is.
pub(crate) fn follow(tally: Tally) {
    drop(TALLY.set(tally));
}

/// The guest holds so many bytes now.
pub(crate) fn memory(held: u64) {
    let mut counts = counts();
    if counts.memory < held {
        counts.memory = held;
        drop(TALLY.get().map(|tally| tally.memory(held)));
    }
}

/// The guest is given one more request.
pub(crate) fn request() {
    /// Where they are counted if they cannot be told.
    static UNTOLD: AtomicU64 = AtomicU64::new(0);
    let told = || TALLY.get()?.requests().ok();
    let requests = REQUESTS.get_or_init(|| told().unwrap_or(&UNTOLD));
    requests.fetch_add(1, Ordering::Relaxed);
}

/// The guest trapped once more, in these words.
pub(crate) fn trap(words: &str) {
    let mut counts = counts();
    counts.traps += 1;
    drop(TALLY.get().map(|tally| tally.trap(counts.traps, words)));
}

fn counts() -> MutexGuard<'static, Counts> {
    COUNTS.lock().unwrap_or_else(PoisonError::into_inner)
}
