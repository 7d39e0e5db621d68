//! What only starting needed, given back when a guest waits for the first time.

use std::sync::Once;

use duet_linux::text;

/// A guest that waits for the first time has started, and so have we: the program's pages can go, and come back one by
/// one as they are needed.
///
/// One that never waits is soon over, and keeps what it has.
pub(crate) fn end_of_start() {
    static ONCE: Once = Once::new();
    // Memory that cannot be given back is kept.
    ONCE.call_once(|| drop(text::unmap_own()));
}
