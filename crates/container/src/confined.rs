//! A container's cgroup, from its birth to its removal.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use duet_cgroup::{Cgroup, Host, Mode};
use duet_plan::{CgroupFacts, Hierarchy};

use crate::error::Error;
use crate::ground::Ground;

/// A cgroup that is removed with its owner, and whatever lives in it killed.
pub(crate) struct Confined {
    /// Which.
    pub(crate) cgroup: Cgroup,
    removed: AtomicBool,
}

// === impl Confined ===

impl Confined {
    /// Makes it.
    pub(crate) fn create(ground: &Ground, path: &Path) -> Result<Self, Error> {
        Self::at(ground.host(), path).map_err(Error::cgroup("create the cgroup"))
    }

    /// As [`Confined::create`], for what is no container.
    pub(crate) fn at(host: &Host, path: &Path) -> Result<Self, duet_cgroup::Error> {
        Ok(Confined {
            cgroup: Cgroup::create(host, path)?,
            removed: AtomicBool::new(false),
        })
    }

    /// The files by which a process of one thread enters it, writing `0` to each.
    pub(crate) fn entrances(&self) -> impl Iterator<Item = PathBuf> {
        let file = match self.cgroup.mode() {
            Mode::V1 | Mode::Hybrid => "tasks",
            Mode::V2 => "cgroup.procs",
        };
        let dirs = self.cgroup.own_dirs().into_iter();
        dirs.map(move |own| own.path.join(file))
    }

    /// What a plan must know of it.
    pub(crate) fn facts(&self) -> CgroupFacts {
        let hierarchies = self.cgroup.own_dirs().into_iter().map(|own| Hierarchy {
            name: own.name,
            mountpoint: own.mountpoint,
            path: own.path,
        });
        CgroupFacts {
            v2: self.cgroup.mode() == duet_cgroup::Mode::V2,
            hierarchies: hierarchies.collect(),
        }
    }

    /// Ends what lives in it and removes it. May be called again.
    pub(crate) fn remove(&self) -> Result<(), duet_cgroup::Error> {
        if self.removed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.cgroup.remove().or_else(|_| {
            // Something was still in it that nobody knows: it dies with its container.
            self.cgroup.kill()?;
            self.cgroup.remove()
        })?;
        self.removed.store(true, Ordering::Release);
        Ok(())
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(cgroup = %self.cgroup.path().display(), %error, "cgroup left behind");
        }
    }
}
