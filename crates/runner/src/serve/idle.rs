//! How long a client has asked nothing, and how long it has been asking.
//!
//! What a client of HTTP/1.1 may take for its next request hyper counts; for HTTP/2 it would only ask whether the
//! client is there, which the kernel does as well (`SO_KEEPALIVE`). One that is there and wants nothing keeps a
//! descriptor and its buffers all the same. And one that does not take its answer keeps that.
//!
//! Whoever waits for the end of it sleeps about once in that time: a request costs a look at the clock, and wakes nobody.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The requests of one connection, as far as they are its client's sign of life.
#[derive(Debug)]
pub(super) struct Idle(Mutex<State>);

#[derive(Debug)]
struct State {
    /// How many are not answered to the end, or still inside the guest.
    open: u32,
    /// When the last of them came, or was done with if none is there.
    since: Instant,
}

/// A request of it.
#[derive(Debug)]
pub(crate) struct Asked(Arc<Idle>);

// === impl Idle ===

impl Idle {
    pub(super) fn new() -> Arc<Self> {
        let state = State {
            open: 0,
            since: Instant::now(),
        };
        Arc::new(Self(Mutex::new(state)))
    }

    /// It is not idle before what is returned is dropped.
    pub(super) fn asked(self: &Arc<Self>) -> Asked {
        let mut state = self.state();
        state.open += 1;
        state.since = Instant::now();
        drop(state);
        Asked(Arc::clone(self))
    }

    /// Returns when it was idle for `limit`, after this was called.
    pub(super) async fn over(&self, limit: Duration) {
        let called = Instant::now();
        loop {
            let rest = limit.saturating_sub(self.idle(called));
            if rest.is_zero() {
                return;
            }
            sleep(rest).await;
        }
    }

    /// For how long nothing is open, at most since then.
    pub(super) fn idle(&self, then: Instant) -> Duration {
        let state = self.state();
        if state.open > 0 {
            return Duration::ZERO;
        }
        state.since.max(then).elapsed()
    }

    /// When the last request came, if there is one.
    pub(super) fn asking(&self) -> Option<Instant> {
        let state = self.state();
        (state.open > 0).then_some(state.since)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.open -= 1;
        state.since = Instant::now();
    }
}
