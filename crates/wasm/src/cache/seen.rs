//! Modules whose key is known without reading them again.
//!
//! Hashing takes a millisecond per megabyte: most of the second start of a large module would be its hash. So
//! what the file was when it was hashed is kept, and the same file has the same key. That is for one cache of one
//! process, a shim with its pod: what a file system says of its files is believed to those alone who brought it,
//! and two files that it makes look the same are one pod's. The device is not asked for: it is another one for each
//! mount of the same image.

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

/// What the kernel says of a file. No call can set the time of a file's last change back.
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
        if !unchanged || !before.is_settled(now) {
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

    fn is_settled(&self, now: SystemTime) -> bool {
        let seconds = u64::try_from(self.changed.0).unwrap_or(u64::MAX);
        let changed = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        changed
            .and_then(|changed| now.duration_since(changed).ok())
            .is_some_and(|age| age > SETTLED)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn a_file_that_stays_the_same_is_known_and_any_other_is_not() {
        let seen = Seen::default();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"one").unwrap();
        let identity = Identity::of(&file).unwrap();
        let later = SystemTime::now() + SETTLED * 2;
        // Too fresh: a write within the same tick would not show.
        seen.keep(&file, identity, Key([1; 32]), SystemTime::now());
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
    fn there_is_a_bound() {
        let seen = Seen::default();
        let later = SystemTime::now() + SETTLED * 2;
        let files: Vec<_> = (0..MOST + 1)
            .map(|_| tempfile::tempfile().unwrap())
            .collect();
        let identity = |file| Identity::of(file).unwrap();
        for file in &files {
            seen.keep(file, identity(file), Key([1; 32]), later);
        }
        assert_eq!(seen.key(&identity(&files[0])), None);
        assert_eq!(seen.key(&identity(&files[1])), Some(Key([1; 32])));
        assert_eq!(seen.0.lock().unwrap().len(), MOST);
    }
}
