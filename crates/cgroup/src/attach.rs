//! The descriptors through which a child enters a cgroup without waiting for the kernel.
//!
//! The usual way, the parent writing the child's pid to `cgroup.procs`, takes the kernel's lock over
//! all thread groups and with it an RCU grace period: 7 to 11 ms, whatever the machine does
//! otherwise. Neither way here takes that lock.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

use crate::{Cgroup, Error, Mode};

/// How a child enters the cgroup.
#[derive(Debug)]
pub enum Attach {
    /// The `tasks` file of each hierarchy, in the order of [`crate::Host::hierarchies`], for writing.
    ///
    /// The child writes `0` to each while it has one thread: 0.2 ms for nine hierarchies.
    V1(Vec<OwnedFd>),
    /// The directory of the cgroup, for `clone3` with `CLONE_INTO_CGROUP`: 0.1 ms with the birth.
    V2(OwnedFd),
}

// === impl Cgroup ===

impl Cgroup {
    /// Opens what a child needs to enter.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] if the cgroup was removed, [`Error::Call`] otherwise.
    pub fn attach(&self) -> Result<Attach, Error> {
        match self.mode() {
            Mode::V1 | Mode::Hybrid => {
                let tasks: Result<Vec<OwnedFd>, Error> = self
                    .places()
                    .iter()
                    .map(|place| tasks(&place.dir))
                    .collect();
                Ok(Attach::V1(tasks?))
            }
            Mode::V2 => Ok(Attach::V2(directory(self.dir())?)),
        }
    }

    /// On a hybrid host, the directory of the cgroup in the v2 tree.
    ///
    /// A child born with `CLONE_INTO_CGROUP` on it is in the v2 tree too, as runc's are; the v1
    /// hierarchies still need [`Attach::V1`]. Everything here works without it.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::attach`].
    pub fn attach_unified(&self) -> Result<Option<OwnedFd>, Error> {
        self.unified().map(directory).transpose()
    }
}

fn tasks(dir: &Path) -> Result<OwnedFd, Error> {
    let path = dir.join("tasks");
    // std adds O_CLOEXEC.
    let file = OpenOptions::new().write(true).open(&path);
    file.map(OwnedFd::from)
        .map_err(|error| Error::on("open", &path, &error))
}

fn directory(dir: &Path) -> Result<OwnedFd, Error> {
    let flags = i32::try_from(OFlags::DIRECTORY.bits()).unwrap_or_default();
    let file: std::io::Result<File> = OpenOptions::new().read(true).custom_flags(flags).open(dir);
    file.map(OwnedFd::from)
        .map_err(|error| Error::on("open", dir, &error))
}
