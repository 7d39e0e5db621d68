//! The clock by which guests are interrupted.
//!
//! Code of servers asks at each loop and call whether an epoch is over. At a tick, a guest that is computing
//! lets the others of its thread go first, and whoever watches its time can end it.
//!
//! It is also who ends a server that was told to stop and does not hear it, for all of its threads wait in calls
//! that nobody can end: for room on a terminal that nobody reads. So it ticks as well while the server itself
//! says something.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use wasmtime::Engine;

use signal_hook::low_level;

use crate::end::say;

/// How long a guest may compute before others of its thread go first: 10 ms.
const TICK: Duration = Duration::from_millis(10);

/// How much longer than its patience a server may take that was told to stop: a second, for its last words.
const GRACE: Duration = Duration::from_secs(1);

/// The exit code of one that takes longer, as of one that ends by itself with requests in flight.
const IMPATIENT: i32 = 143;

/// Ticks while requests are inside the guest, or words on their way: a server that waits has no clock that wakes it.
#[derive(Debug)]
pub(crate) struct Clock {
    engine: Engine,
    /// Whether the server was told to stop.
    told: Arc<AtomicBool>,
    /// How long it may take then.
    patience: Duration,
    inside: AtomicU32,
    /// `None`: there was none to be had yet.
    thread: Mutex<Option<Thread>>,
    ticking: AtomicBool,
    /// Whether it was said that there is none to be had.
    said: AtomicBool,
}

/// Keeps the clock ticking.
#[derive(Debug)]
pub(crate) struct Inside(Arc<Clock>);

// === impl Clock ===

impl Clock {
    pub(crate) fn new(engine: Engine, told: Arc<AtomicBool>, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            engine,
            told,
            patience: patience.saturating_add(GRACE),
            inside: AtomicU32::new(0),
            thread: Mutex::default(),
            ticking: AtomicBool::new(false),
            said: AtomicBool::new(false),
        })
    }

    /// Has the clock tick until what is returned is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> Inside {
        // One that could not be had is asked for again: those who spin inside would never leave.
        let first = self.inside.fetch_add(1, Ordering::AcqRel) == 0;
        if first || !self.ticking.load(Ordering::Relaxed) {
            let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
            if thread.is_none() {
                *thread = self.start();
            }
            // Costs a system call only if the clock has stopped.
            thread.iter().for_each(Thread::unpark);
        }
        Inside(Arc::clone(self))
    }

    /// Whether whoever computes can be interrupted: there is a thread for it.
    pub(crate) fn is_there(&self) -> bool {
        self.ticking.load(Ordering::Relaxed)
    }

    fn start(self: &Arc<Self>) -> Option<Thread> {
        let clock = Arc::clone(self);
        let thread = thread::Builder::new()
            .name("clock".into())
            .stack_size(64 << 10)
            .spawn(move || clock.tick());
        match thread {
            Ok(handle) => {
                self.ticking.store(true, Ordering::Relaxed);
                Some(handle.thread().clone())
            }
            Err(error) => {
                if !self.said.swap(true, Ordering::Relaxed) {
                    say(&format!(
                        "duet: requests that compute cannot be interrupted now: no thread for a clock: {error}"
                    ));
                }
                None
            }
        }
    }

    fn tick(&self) {
        let mut since = None;
        loop {
            while self.inside.load(Ordering::Acquire) == 0 {
                thread::park();
            }
            thread::sleep(TICK);
            self.engine.increment_epoch();
            if self.told.load(Ordering::Relaxed) {
                let since: &mut Instant = since.get_or_insert_with(Instant::now);
                if since.elapsed() > self.patience {
                    // Without a word, for which there may be no room either.
                    low_level::exit(IMPATIENT);
                }
            }
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::AcqRel);
    }
}
