//! Descriptors in the event loop.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers an open descriptor with the event loop until it is dropped.
///
/// # Errors
///
/// `EPERM` for a file, which is always ready; `ENOSPC` at the user's limit of watches.
#[expect(
    deprecated,
    reason = "tokio's replacement is unsafe: it asks for the promise that `AsFd` makes by type"
)]
pub(crate) fn polled<T: AsFd + AsRawFd>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(fd, interest)
}
