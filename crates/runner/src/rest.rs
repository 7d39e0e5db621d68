//! What only starting needed, given back when a guest waits for the first time.

use std::sync::Once;

use duet_linux::{heap, text};

/// A guest that waits for the first time has started, and so have we: what loading and linking have freed can go, and so
/// can the pages of the program and of the guest's code, which come back one by one as they are needed.
///
/// One that never waits is soon over, and keeps what it has.
pub(crate) fn end_of_start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        heap::trim();
        // Memory that cannot be given back is kept.
        drop(duet_wasm::unmap_code());
        drop(text::unmap_own());
    });
}
