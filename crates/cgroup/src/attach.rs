//! The descriptors through which a child enters a cgroup without waiting for the kernel.
//!
//! The usual way, the parent writing the child's pid to `cgroup.procs`, takes the kernel's lock over
//! all thread groups and with it an RCU grace period: 7 to 11 ms, whatever the machine does
//! otherwise. Neither way here takes that lock.

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;

use crate::{Cgroup, Error, Mode};

// === impl Cgroup ===

impl Cgroup {
    /// The cgroup's directory in the v2 tree, if the host has one: for `clone3` with
    /// `CLONE_INTO_CGROUP`, 0.1 ms with the birth. On a hybrid host a child is in the v2 tree then,
    /// as runc's are, and enters the v1 hierarchies besides: with one thread it writes `0` to each
    /// `tasks` file of [`Cgroup::own_dirs`], 0.2 ms for nine.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] if the cgroup was removed, [`Error::Call`] otherwise.
    pub fn attach(&self) -> Result<Option<OwnedFd>, Error> {
        let dir = match self.mode() {
            Mode::V1 | Mode::Hybrid => self.unified(),
            Mode::V2 => Some(self.dir()),
        };
        dir.map(directory).transpose()
    }

    /// On v2, the directory of the cgroup that the process `pid` of this one is in.
    ///
    /// A container that shares its cgroup out among its own (systemd in a container, a container
    /// runtime in a container) has moved its processes into them, and then the kernel lets nobody
    /// into the one above: a birth there is `EBUSY`. Beside its first process there is room.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] if the process has ended or is in no cgroup of this one, [`Error::Call`]
    /// otherwise.
    pub fn attach_beside(&self, pid: i32) -> Result<OwnedFd, Error> {
        let file = PathBuf::from(format!("/proc/{pid}/cgroup"));
        let text = fs::read_to_string(&file).map_err(|error| Error::on("read", &file, &error))?;
        let mountpoint = self.places().first().map(|place| &*place.mountpoint);
        let beside = mountpoint.and_then(|mountpoint| below(&text, mountpoint, self.dir()));
        directory(&beside.ok_or(Error::Gone { path: file })?)
    }
}

/// The directory that a line `0::/path` of `/proc/<pid>/cgroup` names, if it is `own` or below.
fn below(text: &str, mountpoint: &Path, own: &Path) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let dir = mountpoint.join(path);
    // The number may be another process's by now, and `..` leads out of the caller's namespace.
    let inside = dir.starts_with(own) && !dir.components().any(|part| part == Component::ParentDir);
    inside.then_some(dir)
}

fn directory(dir: &Path) -> Result<OwnedFd, Error> {
    let flags = i32::try_from(OFlags::DIRECTORY.bits()).unwrap_or_default();
    let file: std::io::Result<File> = OpenOptions::new().read(true).custom_flags(flags).open(dir);
    file.map(OwnedFd::from)
        .map_err(|error| Error::on("open", dir, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_followed_to_a_cgroup_below_and_nowhere_else() {
        let (mountpoint, own) = (
            Path::new("/sys/fs/cgroup"),
            Path::new("/sys/fs/cgroup/pod/a"),
        );
        let cases = [
            (
                "0::/pod/a/init.scope\n",
                Some("/sys/fs/cgroup/pod/a/init.scope"),
            ),
            ("4:memory:/x\n0::/pod/a\n", Some("/sys/fs/cgroup/pod/a")),
            ("0::/pod/ab\n", None),
            ("0::/pod/a/../b\n", None),
            ("0::/../pod/a\n", None),
            ("4:memory:/pod/a\n", None),
        ];
        for (text, dir) in cases {
            assert_eq!(
                below(text, mountpoint, own).as_deref(),
                dir.map(Path::new),
                "{text}"
            );
        }
    }
}
