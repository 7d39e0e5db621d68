//! What clients may have a server keep.
//!
//! A connection that nobody speaks on, a head that does not end and an answer that nobody takes are memory of the
//! container's that no guest has asked for: `limits.rs` does not hear of it before the kernel has given it. So clients
//! share a half of the container's limit, as it was when the server began; the other is the guests'. What each of
//! these is counted with is about the most that it takes.
//!
//! It is a semaphore whose permits are pages: one operation for a connection and one for a request of HTTP/2.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a permit stands for: 4 KiB.
const PAGE: u64 = 4 << 10;

/// How much there is at least, in pages: enough for one connection that does all that is counted.
const LEAST: usize = 128;

/// A connection: 16 KiB. Its task, the first buffer for what it says, and what the kernel has of it.
const CONNECTION: u32 = 4;

/// All that it has said and nobody has come to the end of: 64 KiB, see `HEAD` and `WINDOW` in `connections.rs`.
const HEARD: u32 = 16;

/// What it does not read: 128 KiB, which are four pieces of an answer (`outgoing.rs`).
const UNREAD: u32 = 32;

/// What is left for clients.
#[derive(Debug, Clone)]
pub(crate) struct Allowance(Arc<Semaphore>);

/// A part of it, until it is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Kept(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

// === impl Allowance ===

impl Allowance {
    /// Of a container with this limit, if it has one.
    pub(super) fn of(limit: Option<u64>) -> Self {
        let pages = limit.map_or(Semaphore::MAX_PERMITS, |limit| {
            usize::try_from(limit / 2 / PAGE).unwrap_or(usize::MAX)
        });
        let pages = pages.clamp(LEAST, Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(pages)))
    }

    /// For one more connection; `None`: there is none left just now.
    pub(super) fn connection_now(&self) -> Option<Kept> {
        self.now(CONNECTION)
    }

    /// The same, when there is.
    pub(super) async fn connection(&self) -> Option<Kept> {
        // It is never closed.
        let pages = Arc::clone(&self.0).acquire_many_owned(CONNECTION).await;
        pages.ok().map(Kept)
    }

    /// For what a connection says at length.
    pub(super) fn heard(&self) -> Option<Kept> {
        self.now(HEARD)
    }

    /// For an answer that is not read.
    pub(super) fn unread(&self) -> Option<Kept> {
        self.now(UNREAD)
    }

    fn now(&self, pages: u32) -> Option<Kept> {
        let pages = Arc::clone(&self.0).try_acquire_many_owned(pages);
        pages.ok().map(Kept)
    }
}
