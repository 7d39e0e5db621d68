//! The directory of the cache: who may write an entry, who uses one, and which must go.
//!
//! Two locks, both `flock(2)`, so that the end of a process is the end of its locks:
//!
//! | On | Shared | Exclusive |
//! | --- | --- | --- |
//! | `<key>/` | whoever uses the entry, from before it is checked until their container is gone | who removes it |
//! | `<key>.lock` | nobody | who compiles the entry, or removes it |
//!
//! The lock of the directory and not of a file of that name: an entry that is made anew is another
//! directory, which those who use the old one do not hold up. When an entry was last used is the
//! time of its lock file.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, flock, openat,
    unlinkat,
};
use rustix::io::Errno;

use super::{Error, Key, entry, failure};
use crate::{BLOCKS, CODE};

/// The directory, ours alone.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) directory: OwnedFd,
    pub(super) path: PathBuf,
}

/// What the directory holds.
#[derive(Default)]
struct Listing {
    entries: Vec<Listed>,
    failures: Vec<Listed>,
}

/// An entry as the space it takes is counted, or a failure.
struct Listed {
    key: Key,
    bytes: u64,
    /// Seconds and nanoseconds.
    used: (i64, i64),
}

/// `ST_NOEXEC` of statvfs(3), which rustix does not name.
const NOEXEC: u64 = 8;

/// How an entry's directory is opened; not as a path only, which cannot be locked.
const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

// === impl Store ===

impl Store {
    /// Opens the directory, making it if it is missing.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Directory {
            path: path.to_owned(),
            source,
        };
        make_private(path).map_err(failed)?;
        let directory =
            rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(|e| failed(e.into()))?;
        let stat = rustix::fs::fstat(&directory).map_err(|e| failed(e.into()))?;
        let mode = stat.st_mode & 0o7777;
        if stat.st_uid != rustix::process::geteuid().as_raw() || mode & 0o077 != 0 {
            return Err(Error::Exposed {
                path: path.to_owned(),
                owner: stat.st_uid,
                mode,
            });
        }
        let volume = rustix::fs::fstatvfs(&directory).map_err(|e| failed(e.into()))?;
        if volume.f_flag.bits() & NOEXEC != 0 {
            return Err(Error::Noexec {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            directory,
            path: path.to_owned(),
        })
    }

    /// Whether nothing can be made in the directory any more, for it has no name.
    pub(super) fn is_removed(&self) -> Result<bool, Error> {
        match rustix::fs::fstat(&self.directory) {
            Ok(stat) => Ok(stat.st_nlink == 0),
            Err(e) => Err(Error::Directory {
                path: self.path.clone(),
                source: e.into(),
            }),
        }
    }

    /// Opens the entry for use if there is one and it is whole. As long as the descriptor is open, the
    /// entry stays.
    pub(super) fn find(&self, key: Key) -> Result<Option<OwnedFd>, Error> {
        let failed = |e: Errno| self.failed(&key.to_string(), e);
        let directory = match openat(&self.directory, key.to_string(), DIRECTORY, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        // Before it is checked: from then on nobody removes what we have seen.
        match flock(&directory, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {}
            // It is being removed.
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(e) => return Err(failed(e)),
        }
        let lock = self.open_lock(key)?;
        if entry::check(&directory, key, &lock).is_err() {
            // Whatever is wrong with it, and whether or not we can tell: it will be made anew.
            return Ok(None);
        }
        touch(&lock).map_err(failed)?;
        Ok(Some(directory))
    }

    /// Waits until `deadline` for the right to compile `key`; `None` if it was not to be had.
    pub(super) fn lock(&self, key: Key, deadline: Instant) -> Result<Option<File>, Error> {
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(lock) = self.try_lock(key)? {
                return Ok(Some(lock));
            }
            // flock has no deadline of its own, and a holder that is killed leaves no trace to wait for.
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    fn try_lock(&self, key: Key) -> Result<Option<File>, Error> {
        let failed = |source| Error::Entry {
            path: self.path.join(lock_of(key)),
            source,
        };
        loop {
            let lock = self.open_lock(key)?;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
                Err(e) => return Err(failed(e.into())),
            }
            // Whoever had it may have removed it with its entry: that is nobody's lock any more.
            if lock.metadata().map_err(failed)?.nlink() > 0 {
                return Ok(Some(lock));
            }
        }
    }

    fn open_lock(&self, key: Key) -> Result<File, Error> {
        let name = lock_of(key);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.directory, &name, flags, Mode::from_raw_mode(0o600)) {
            Ok(lock) => Ok(lock.into()),
            Err(e) => Err(self.failed(&name, e)),
        }
    }

    /// Removes entries that nobody uses, the longest unused first, until all together take no more than
    /// `limit` bytes; of the failures those that are too many; and what killed shims have left half-made.
    ///
    /// Entries in use stay although they count: removing them would free nothing.
    pub(super) fn shrink(&self, limit: u64) -> Result<(), Error> {
        let Listing {
            mut entries,
            mut failures,
        } = self.list()?;
        // By their number alone: a cache that is full of what is in use would have room for none.
        failures.sort_by_key(|failure| failure.used);
        let many = failures.len().saturating_sub(failure::MOST);
        for failure in failures.into_iter().take(many) {
            self.evict(failure.key)?;
        }
        entries.sort_by_key(|entry| entry.used);
        let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        for entry in entries {
            if bytes <= limit {
                break;
            }
            if self.evict(entry.key)? {
                bytes -= entry.bytes;
            }
        }
        Ok(())
    }

    /// Removes an entry and its lock, unless somebody uses or makes it; whether it is gone.
    fn evict(&self, key: Key) -> Result<bool, Error> {
        let Some(_lock) = self.try_lock(key)? else {
            return Ok(false);
        };
        let name = key.to_string();
        match openat(&self.directory, &name, DIRECTORY, Mode::empty()) {
            Ok(entry) => match flock(&entry, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => self.discard(&name)?,
                Err(Errno::WOULDBLOCK) => return Ok(false),
                Err(e) => return Err(self.failed(&name, e)),
            },
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => self.discard(&name)?,
            Err(e) => return Err(self.failed(&name, e)),
        }
        self.discard(&new_of(key))?;
        self.discard(&failed_of(key))?;
        self.discard(&lock_of(key))?;
        Ok(true)
    }

    /// All whole entries, and all failures. What is half an entry and nobody works on is removed.
    fn list(&self) -> Result<Listing, Error> {
        let failed = |source| Error::Directory {
            path: self.path.clone(),
            source,
        };
        let mut listing = Listing::default();
        let directory = rustix::fs::Dir::read_from(&self.directory);
        for found in directory.map_err(|e| failed(e.into()))? {
            let found = found.map_err(|e| failed(e.into()))?;
            // What has another name is not ours.
            let Some((key, rest)) = found.file_name().to_str().ok().and_then(Key::parse) else {
                continue;
            };
            let whole = self.measure(key)?;
            match (rest, whole) {
                ("", Some(entry)) => listing.entries.push(entry),
                // Beside a whole entry it goes with that.
                (".failed", None) => listing.failures.extend(self.failure(key)?),
                (".lock" | ".new", None) if self.failure(key)?.is_none() => {
                    self.evict(key)?;
                }
                (_, _) => {}
            }
        }
        Ok(listing)
    }

    /// How much an entry takes and when it was last used, if there is one.
    fn measure(&self, key: Key) -> Result<Option<Listed>, Error> {
        if self.stat(&key.to_string())?.is_none() {
            return Ok(None);
        }
        let mut bytes = 0;
        for name in [CODE, BLOCKS] {
            let stat = self.stat(&format!("{key}/{name}"))?;
            let sectors = stat.map_or(0, |stat| stat.st_blocks);
            bytes += u64::try_from(sectors).unwrap_or(0) * 512;
        }
        // One that nobody has a time of was never used.
        let used = self.stat(&lock_of(key))?.map_or((0, 0), modified);
        Ok(Some(Listed { key, bytes, used }))
    }

    /// When the failure of `key` was last told, if it is known.
    fn failure(&self, key: Key) -> Result<Option<Listed>, Error> {
        let stat = self.stat(&failed_of(key))?;
        Ok(stat.map(|stat| Listed {
            key,
            bytes: 0,
            used: modified(stat),
        }))
    }

    fn stat(&self, name: &str) -> Result<Option<Stat>, Error> {
        match rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(self.failed(name, e)),
        }
    }

    /// Removes an entry, or whatever has its name.
    pub(super) fn discard(&self, name: &str) -> Result<(), Error> {
        let gone = |e: Errno| {
            if e == Errno::NOENT {
                Ok(())
            } else {
                Err(self.failed(name, e))
            }
        };
        match openat(&self.directory, name, DIRECTORY, Mode::empty()) {
            Ok(directory) => {
                unlinkat(&directory, CODE, AtFlags::empty()).or_else(gone)?;
                unlinkat(&directory, BLOCKS, AtFlags::empty()).or_else(gone)?;
                unlinkat(&self.directory, name, AtFlags::REMOVEDIR).or_else(gone)
            }
            Err(Errno::NOTDIR | Errno::LOOP) => {
                unlinkat(&self.directory, name, AtFlags::empty()).or_else(gone)
            }
            Err(e) => gone(e),
        }
    }

    pub(super) fn failed(&self, name: &str, e: Errno) -> Error {
        Error::Entry {
            path: self.path.join(name),
            source: e.into(),
        }
    }
}

/// The file that is locked by who makes or removes the entry.
fn lock_of(key: Key) -> String {
    format!("{key}.lock")
}

fn modified(stat: Stat) -> (i64, i64) {
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    (stat.st_mtime, nanoseconds)
}

/// The file with what is remembered of a compilation that failed.
pub(super) fn failed_of(key: Key) -> String {
    format!("{key}.failed")
}

/// The entry or the failure while it is being made.
pub(super) fn new_of(key: Key) -> String {
    format!("{key}.new")
}

/// Says that the entry with this lock file, or the failure in this one, is being used now.
pub(super) fn touch(lock: &File) -> Result<(), Errno> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    rustix::fs::futimens(
        lock.as_fd(),
        &Timestamps {
            last_access: now,
            last_modification: now,
        },
    )
}

/// Makes `directory` for us alone; its parents, if they are missing, for everybody to pass.
fn make_private(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if let Some(parent) = directory.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}
