//! Giving a cgroup to the user of what lives in it, who may then make others below it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

use crate::{Cgroup, Error, Mode};

/// Where the kernel lists what is to be given away with a directory, since Linux 4.15.
const LIST: &str = "/sys/kernel/cgroup/delegate";

/// What was to be given away before there was the list: cgroups(7), "Delegation".
const FILES: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

impl Cgroup {
    /// Makes the user `uid` of the host the owner of it, so that it can make cgroups below it and move
    /// its processes between those; what limits it stays the host's. On v1 nothing is given away.
    ///
    /// # Errors
    ///
    /// [`Error::Call`] naming the file, or [`Error::Gone`].
    pub fn delegate(&self, uid: u32) -> Result<(), Error> {
        if self.mode() != Mode::V2 {
            return Ok(());
        }
        let listed = fs::read_to_string(LIST);
        let listed = listed.as_deref().unwrap_or(FILES);
        self.own_dirs()
            .iter()
            .try_for_each(|own| give(&own.path, listed, uid))
    }
}

fn give(dir: &Path, listed: &str, uid: u32) -> Result<(), Error> {
    let chown = |path: PathBuf| match lchown(&path, Some(uid), None) {
        // It may be a controller's that is not enabled here.
        Err(error) if error.kind() == ErrorKind::NotFound && path != dir => Ok(()),
        Err(error) => Err(Error::on("give away", &path, &error)),
        Ok(()) => Ok(()),
    };
    chown(dir.to_owned())?;
    listed.lines().try_for_each(|file| chown(dir.join(file)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn what_is_listed_and_there_is_given_away_and_nothing_else() {
        if !rustix::process::geteuid().is_root() {
            assert!(
                std::env::var_os("DUET_TEST_REQUIRE").is_none(),
                "DUET_TEST_REQUIRE is set: nothing may be skipped"
            );
            eprintln!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        for file in ["cgroup.procs", "cgroup.threads", "memory.max"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        give(dir.path(), FILES, 4321).unwrap();
        let owners = ["", "cgroup.procs", "cgroup.threads", "memory.max"]
            .map(|file| fs::metadata(dir.path().join(file)).unwrap().uid());
        assert_eq!(owners, [4321, 4321, 4321, 0]);
        assert!(
            give(&dir.path().join("gone"), FILES, 1)
                .unwrap_err()
                .is_gone()
        );
    }
}
