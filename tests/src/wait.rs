//! Waiting: always for something that can be asked about, and never without an end.

use std::thread;
use std::time::{Duration, Instant};

/// How long one step of a scenario may take before the test gives up.
///
/// Generous, because the two cores of a test machine may be shared; a test that passes
/// never waits this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(10);

/// Asks until there is an answer; `None` if there is none when `limit` has passed.
pub fn within<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

/// Asks until there is an answer.
///
/// # Panics
///
/// When there is none within [`PATIENCE`]; `what` says what was waited for.
pub fn until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, ask).unwrap_or_else(|| panic!("waited {PATIENCE:?} for {what}"))
}
