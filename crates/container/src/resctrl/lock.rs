//! The lock by which programs that change resctrl keep out of each other's way: `flock(2)` of the directory
//! in which it is mounted.
//!
//! # References
//!
//! "Resctrl filesystem locking" of <https://docs.kernel.org/filesystems/resctrl.html>.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// How long others may take with what they do under it. Everybody on the host may open the directory, and
/// nobody shall keep containers from being made for ever.
const LIMIT: Duration = Duration::from_secs(5);

/// Held until dropped.
#[derive(Debug)]
pub(super) struct Lock(File);

// === impl Lock ===

impl Lock {
    /// Who has it changes nothing, nor does anybody else.
    pub(super) fn shared(root: &Path) -> io::Result<Self> {
        Self::take(root, FlockOperation::NonBlockingLockShared, LIMIT)
    }

    /// Who has it may change something.
    pub(super) fn exclusive(root: &Path) -> io::Result<Self> {
        Self::take(root, FlockOperation::NonBlockingLockExclusive, LIMIT)
    }

    fn take(root: &Path, operation: FlockOperation, limit: Duration) -> io::Result<Self> {
        let root = File::open(root)?;
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_millis(1);
        loop {
            match flock(&root, operation) {
                Ok(()) => return Ok(Self(root)),
                Err(Errno::WOULDBLOCK) if Instant::now() >= deadline => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            // flock has no deadline of its own, and who lets go of it tells nobody.
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Not by the descriptor's end alone: a container that was born meanwhile may have it, too, until its
        // program is executed.
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "the lock of resctrl is kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_in_vain_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let shared = Lock::shared(dir.path()).unwrap();
        let another = Lock::shared(dir.path()).unwrap();
        let exclusive = || {
            let operation = FlockOperation::NonBlockingLockExclusive;
            Lock::take(dir.path(), operation, Duration::ZERO).map(drop)
        };
        drop(shared);
        assert_eq!(exclusive().unwrap_err().kind(), io::ErrorKind::TimedOut);
        // Also if a child that was born meanwhile has the descriptor.
        let _inherited = another.0.try_clone().unwrap();
        drop(another);
        exclusive().unwrap();
    }
}
