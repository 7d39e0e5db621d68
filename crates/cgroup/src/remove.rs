//! Removes a cgroup from every hierarchy.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::error::errno;
use crate::kill::children;
use crate::{Cgroup, Error};

/// How long the kernel may take to let go of an emptied cgroup: 1 s, for all hierarchies together.
///
/// A process that was killed is out of `cgroup.procs` some time before its last reference is.
const REMOVE_LIMIT: Duration = Duration::from_secs(1);

/// The first pause before a busy directory is tried again: nothing announces that it has become
/// free (`populated 0` comes earlier). They double up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_micros(100);

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

// === impl Cgroup ===

impl Cgroup {
    /// Removes the cgroup, and those that its processes have made below it, from every hierarchy.
    ///
    /// The cgroups above it stay, also those that [`Cgroup::create`] made: others may rely on them by
    /// now. A directory that is missing is success. Processes are neither killed nor moved: a cgroup
    /// that holds some is an error. Every hierarchy is tried even if one fails.
    ///
    /// # Errors
    ///
    /// [`Error::Occupied`] if processes still live in it after a second, [`Error::Call`] for anything
    /// else: the first that was met.
    pub fn remove(&self) -> Result<(), Error> {
        let deadline = Instant::now() + REMOVE_LIMIT;
        let mut result = Ok(());
        for dir in self.dirs() {
            result = result.and(remove_tree(dir, deadline));
        }
        result
    }

    /// Removes each of its directories in which there is nothing, neither a process nor a cgroup: it is others', too,
    /// and who leaves last removes it. What stays is no error.
    pub fn remove_if_empty(&self) {
        for dir in self.dirs() {
            fs::remove_dir(dir).ok();
        }
    }
}

/// Removes `dir`, of which the kernel may not have let go yet.
pub(crate) fn remove_dir(dir: &Path) -> Result<(), Error> {
    remove_tree(dir, Instant::now() + REMOVE_LIMIT)
}

/// Removes `dir` and what is below it, deepest first.
fn remove_tree(dir: &Path, deadline: Instant) -> Result<(), Error> {
    let mut pause = FIRST_PAUSE;
    loop {
        // Nearly every cgroup has none below it: one call.
        let Err(error) = fs::remove_dir(dir) else {
            return Ok(());
        };
        let cause = errno(&error);
        if cause == Errno::ENOENT {
            return Ok(());
        }
        if !matches!(cause, Errno::EBUSY | Errno::ENOTEMPTY) {
            return Err(Error::on("remove", dir, &error));
        }
        let below = match children(dir) {
            Err(Error::Gone { .. }) => return Ok(()),
            other => other?,
        };
        if !below.is_empty() {
            for child in below {
                remove_tree(&child, deadline)?;
            }
            continue;
        }
        if Instant::now() >= deadline {
            return Err(busy(dir, &error));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn busy(dir: &Path, error: &std::io::Error) -> Error {
    let processes =
        crate::control::read(dir, "cgroup.procs").map_or(0, |text| text.lines().count());
    match processes {
        0 => Error::on("remove", dir, error),
        count => Error::Occupied {
            path: dir.to_owned(),
            count,
        },
    }
}
