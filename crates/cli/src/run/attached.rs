//! The pods of `duet run --address`: whose each is, and what becomes of those whose `duet` was killed.
//!
//! ```text
//!   <root>/attached/<uid of a pod>/owner.lock    held by its duet as long as that lives
//!                                  containerd    the socket of the containerd that it runs on
//! ```
//!
//! That containerd goes on when Duet is gone, and so does the pod. Who comes next with the same root and to
//! the same containerd removes it.

use super::{cgroup_parent, clean_up};
use crate::cri::Cri;
use crate::error::Error;
use crate::screen::step;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The folder of one pod, as long as its `duet` lives.
#[derive(Debug)]
pub(super) struct Claim {
    _lock: File,
}

// === impl Claim ===

impl Claim {
    /// Claims the folder of a pod that is about to run on the containerd at `socket`.
    pub(super) fn stake(directory: &Path, socket: &Path) -> Result<Self, Error> {
        let path = owner(directory);
        let lock = File::create(&path).map_err(Error::at("could not create", &path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| Error::io("could not lock", &path, errno.into()))?;
        // Last: from here on it counts as a pod's.
        let path = containerd(directory);
        fs::write(&path, socket.as_os_str().as_bytes())
            .map_err(Error::at("could not write", &path))?;
        Ok(Self { _lock: lock })
    }
}

/// Removes the pods on the containerd at `socket` whose `duet` was killed. What of one cannot be removed is
/// said, and no reason for another pod not to run.
pub(super) async fn sweep(cri: &mut Cri, pods: &Path, socket: &Path) -> Result<(), Error> {
    for directory in directories(pods)? {
        let Some(uid) = directory.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let lock = orphaned(&directory, socket).map_err(Error::at("could not look at", &directory));
        let _lock = match lock {
            Ok(Some(lock)) => lock,
            Ok(None) => continue,
            Err(error) => {
                step("left behind", &error.chain());
                continue;
            }
        };
        step("duet", &format!("removes the left-over pod {uid}"));
        let removed = async {
            let parent = cgroup_parent(cri, uid).await?;
            clean_up(cri, uid, &directory, &parent).await
        };
        if let Err(error) = removed.await {
            step("left behind", &error.chain());
        }
    }
    Ok(())
}

/// The lock of a pod's folder if nobody holds it and the pod ran on the containerd at `socket`.
fn orphaned(directory: &Path, socket: &Path) -> io::Result<Option<File>> {
    let held = || -> io::Result<Option<File>> {
        if fs::read(containerd(directory))? != socket.as_os_str().as_bytes() {
            return Ok(None);
        }
        let lock = File::open(owner(directory))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(lock)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    };
    match held() {
        // Not yet claimed, or gone in the meantime.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        held => held,
    }
}

fn directories(pods: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(pods) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::at("could not read", pods))?,
    };
    entries
        .map(|entry| Ok(entry.map_err(Error::at("could not read", pods))?.path()))
        .collect()
}

fn owner(directory: &Path) -> PathBuf {
    directory.join("owner.lock")
}

fn containerd(directory: &Path) -> PathBuf {
    directory.join("containerd")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_orphaned_if_nobody_holds_it_and_its_containerd_is_this_one() {
        let dir = tempfile::tempdir().unwrap();
        let (this, other) = (Path::new("/run/a.sock"), Path::new("/run/b.sock"));
        let is_orphaned = |socket| orphaned(dir.path(), socket).unwrap().is_some();
        assert!(!is_orphaned(this), "nobody has claimed it yet");
        let claim = Claim::stake(dir.path(), this).unwrap();
        assert!(!is_orphaned(this), "it is held");
        drop(claim);
        assert!(!is_orphaned(other));
        assert!(is_orphaned(this));
    }
}
