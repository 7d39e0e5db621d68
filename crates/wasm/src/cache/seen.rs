//! Modules whose key is known without reading them again.
//!
//! Hashing takes a millisecond for each 2 MB: half of the second start of a large module would be its hash. So
//! what the file was when it was hashed is kept, and the same file has the same key. That is for one cache of one
//! process, a shim with its pod: what a file system says of its files is believed to those alone who brought it,
//! and two files that it makes look the same are one pod's. The device is not asked for: it is another one for each
//! mount of the same image.
//!
//! A file in memory is hashed each time. Through a mapping the first store to a page moves its times and no later one
//! ever does (on a disk one does again when the page was written back), so that the finer times that tmpfs has since
//! Linux 6.13 tell no more than the old. Fanotify hears of none, tmpfs has no fs-verity, and only a memfd can be sealed.
//! The kernel's own count of changes (`i_version`, `STATX_CHANGE_COOKIE`) is not told to programs; a lease
//! (`F_SETLEASE`) would tell who opens the file for writing, mappings included, but makes them wait until the shim has
//! answered.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::Key;

/// How many are kept: more than a pod has containers.
const MOST: usize = 64;

/// How long ago a file's last change must be: within a tick of its clock, 10 ms at most, a second change
/// would not show.
const SETTLED: Duration = Duration::from_secs(2);

/// The files that were hashed, the last one first.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<VecDeque<(Identity, Key)>>);

/// What the kernel says of a file. No call can set the time of a file's last change back; but a file system that
/// keeps none takes another for it, and stores through a mapping show at the first of a page only, and in memory
/// that is the first for ever (which is not seen below an overlay).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

// === impl Seen ===

impl Seen {
    /// The key of the file that is this one.
    pub(super) fn key(&self, identity: &Identity) -> Option<Key> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut same = seen.iter().filter(|(known, _)| known == identity);
        same.next().map(|(_, key)| *key)
    }

    /// Keeps the `key` that `file` has, which was this before it was hashed, if nobody can have changed it meanwhile.
    pub(super) fn keep(&self, file: &File, before: Identity, key: Key, now: SystemTime) {
        let unchanged = Identity::of(file).is_ok_and(|after| after == before);
        if !unchanged || !before.is_settled(now) || !before.is_telling() || is_untrue(file) {
            return;
        }
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.truncate(MOST - 1);
        seen.push_front((before, key));
    }
}

// === impl Identity ===

impl Identity {
    /// What `file` is now.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let m = file.metadata()?;
        Ok(Self {
            inode: m.ino(),
            size: m.len(),
            modified: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
        })
    }

    /// Whether the time of the last change is one of its own: images of EROFS and squashfs have none, layers that
    /// are mounted without being unpacked have none or 0, and of two that were built alike all files would be the same.
    fn is_telling(&self) -> bool {
        self.changed > self.modified
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let seconds = u64::try_from(self.changed.0).unwrap_or(u64::MAX);
        let changed = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        changed
            .and_then(|changed| now.duration_since(changed).ok())
            .is_some_and(|age| age > SETTLED)
    }
}

/// Whether the file's system may say what it likes, or keeps files in memory.
fn is_untrue(file: &File) -> bool {
    /// From `linux/magic.h`.
    const UNTRUE: [i64; 3] = [
        0x0102_1994, // tmpfs
        0x8584_58f6, // ramfs
        0x6573_5546, // FUSE
    ];
    rustix::fs::fstatfs(file).map_or(true, |system| UNTRUE.contains(&system.f_type))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    /// A file on a disk.
    fn file() -> File {
        let own = std::env::current_exe().unwrap();
        tempfile::tempfile_in(own.parent().unwrap()).unwrap()
    }

    /// That file, changed once more after it was written.
    fn touched(file: File) -> File {
        // Until the clock of its file system has moved on.
        while !Identity::of(&file).unwrap().is_telling() {
            let same = file.metadata().unwrap().permissions();
            file.set_permissions(same).unwrap();
        }
        file
    }

    #[test]
    fn a_file_that_stays_the_same_is_known_and_any_other_is_not() {
        let seen = Seen::default();
        let mut file = file();
        file.write_all(b"one").unwrap();
        let file = touched(file);
        let identity = Identity::of(&file).unwrap();
        let later = SystemTime::now() + SETTLED * 2;
        // Too fresh: a write within the same tick would not show.
        let now =
            SystemTime::UNIX_EPOCH + Duration::from_secs(identity.changed.0.try_into().unwrap());
        seen.keep(&file, identity, Key([1; 32]), now);
        assert_eq!(seen.key(&identity), None);
        seen.keep(&file, identity, Key([1; 32]), later);
        assert_eq!(seen.key(&identity), Some(Key([1; 32])));
        // The same length, and its times set back: the last change shows.
        let times =
            std::fs::FileTimes::new().set_modified(file.metadata().unwrap().modified().unwrap());
        while Identity::of(&file).unwrap() == identity {
            file.write_all_at(b"two", 0).unwrap();
            file.set_times(times).unwrap();
        }
        assert_eq!(seen.key(&Identity::of(&file).unwrap()), None);
        // Changed while it was hashed.
        seen.keep(&file, identity, Key([2; 32]), later);
        assert_eq!(seen.key(&identity), Some(Key([1; 32])));
    }

    #[test]
    fn a_file_system_that_would_not_show_a_change_is_not_believed() {
        let seen = Seen::default();
        let later = SystemTime::now() + SETTLED * 2;
        let mut image = file();
        image.write_all(b"written at once").unwrap();
        let memory = touched(tempfile::tempfile_in("/dev/shm").unwrap());
        for file in [image, memory] {
            let identity = Identity::of(&file).unwrap();
            seen.keep(&file, identity, Key([1; 32]), later);
            assert_eq!(seen.key(&identity), None);
        }
    }

    #[test]
    fn there_is_a_bound() {
        let seen = Seen::default();
        let later = SystemTime::now() + SETTLED * 2;
        let files: Vec<_> = (0..MOST + 1).map(|_| touched(file())).collect();
        let identity = |file| Identity::of(file).unwrap();
        for file in &files {
            seen.keep(file, identity(file), Key([1; 32]), later);
        }
        assert_eq!(seen.key(&identity(&files[0])), None);
        assert_eq!(seen.key(&identity(&files[1])), Some(Key([1; 32])));
        assert_eq!(seen.0.lock().unwrap().len(), MOST);
    }
}
