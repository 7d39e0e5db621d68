//! Waiting: always for something that can be asked about, and never without an end.

use std::env;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// How long one step of a scenario may take before the test gives up, on a machine of the usual kind.
///
/// Generous, because the two cores of a test machine may be shared; a test that passes
/// never waits this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(10);

/// How many times slower than the usual kind this machine is: what `DUET_TEST_SLOWNESS` says, which
/// only an emulated one needs.
///
/// # Panics
///
/// When that is no number.
#[must_use]
pub fn slowness() -> u32 {
    static TOLD: OnceLock<u32> = OnceLock::new();
    *TOLD.get_or_init(|| match env::var("DUET_TEST_SLOWNESS") {
        Err(_) => 1,
        Ok(told) => told
            .parse()
            .unwrap_or_else(|_| panic!("DUET_TEST_SLOWNESS: {told:?} is no number")),
    })
}

/// How long one step of a scenario may take before the test gives up.
#[must_use]
pub fn patience() -> Duration {
    PATIENCE * slowness()
}

/// Asks until there is an answer; `None` if there is none when `limit` has passed.
pub fn within<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        // The last question is asked after the end: whoever asks may have been held up since.
        let last = Instant::now() >= end;
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if last {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

/// Asks until there is an answer.
///
/// # Panics
///
/// When there is none within [`patience`]; `what` says what was waited for.
pub fn until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    let limit = patience();
    within(limit, ask).unwrap_or_else(|| panic!("waited {limit:?} for {what}"))
}
