//! Which processes are a container's first and serve it, written down before they run.

use std::fmt::Debug;
use std::io;

/// Keeps a list of processes where whoever cleans up after this shim finds it.
pub trait Ledger: Debug + Send + Sync {
    /// Enters the first process, which does not run its program yet.
    ///
    /// # Errors
    ///
    /// It could not be written; then the process must not run.
    fn begin(&self, pid: i32) -> io::Result<()>;

    /// Adds a process that does not run its program yet.
    ///
    /// # Errors
    ///
    /// It could not be written; then the process must not run.
    fn enter(&self, pid: i32) -> io::Result<()>;

    /// Takes off the list what has ended. A line too much does no harm: it names its process by
    /// its beginning too.
    fn strike(&self, pid: i32);

    /// Nothing of the container is left, and nothing to clean up after. May be called again.
    fn close(&self);

    /// Whether somebody else has cleaned up and closed it, though this shim lives.
    fn is_closed(&self) -> bool {
        false
    }
}
