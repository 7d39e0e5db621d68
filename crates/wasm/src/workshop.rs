//! Where a module is compiled: apart from the pod, which must neither pay for it nor be slowed by it.
//!
//! Who uses the cache knows the node's cgroups and this crate does not: it asks for a room, tells the
//! compiler by [`TASKS`] how to enter it, and leaves the room when the compiler is gone.

use std::ffi::OsString;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// How much memory of its own a compilation may have: 2 GiB. With it the node's memory is not a module's to take.
pub const MEMORY: u64 = 2 << 30;

/// How much processor time it may use, on all threads: 4 minutes.
///
/// The kubelet gives a container two minutes to be created, and two threads compile.
pub const SECONDS: u64 = 240;

/// The variable that names the files of a room for who is to enter it, one a line. A line and not a
/// colon between them: a path may have one.
pub(crate) const TASKS: &str = "DUET_TASKS";

/// Makes rooms for compilers.
pub trait Workshop: fmt::Debug + Send + Sync {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// The host's.
    fn open(&self) -> io::Result<Room>;
}

/// A cgroup for what a compilation runs.
pub struct Room {
    /// Whoever writes `0` to each of these files, with one thread, is in it.
    pub tasks: Vec<PathBuf>,
    /// Clears it away when it is dropped.
    pub kept: Box<dyn Send + Sync>,
}

// === impl Room ===

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room")
            .field("tasks", &self.tasks)
            .finish_non_exhaustive()
    }
}

impl Room {
    /// The value of [`TASKS`].
    pub(crate) fn told(&self) -> OsString {
        let lines: Vec<_> = self
            .tasks
            .iter()
            .map(|path| path.as_os_str().as_bytes())
            .collect();
        OsString::from_vec(lines.join(&b'\n'))
    }
}

/// Enters the room that this process was told of, if it was. To be called while there is one thread.
///
/// # Errors
///
/// The kernel's, with the file.
pub fn enter_room() -> io::Result<()> {
    let Some(told) = std::env::var_os(TASKS) else {
        return Ok(());
    };
    for line in told.as_bytes().split(|byte| *byte == b'\n') {
        let path = Path::new(std::ffi::OsStr::from_bytes(line));
        // Not made if it is missing: a room that is gone is no room.
        let entered = OpenOptions::new().write(true).open(path);
        entered
            .and_then(|mut tasks| tasks.write_all(b"0"))
            .map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })?;
    }
    Ok(())
}
