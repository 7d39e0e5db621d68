//! What is remembered of a compilation that failed, and for how long: `<key>.failed`.
//!
//! A container that cannot start is started again and again, each time for what its module's compilation costs: up
//! to four minutes of two processors, for the same sentence. So the sentence is kept under the module's key:
//!
//! | What failed | It is believed |
//! | --- | --- |
//! | the module is refused | as long as it is kept: another compiler has another key |
//! | the compiler used up its time or its memory, or broke down | for [`FIRST`], then for twice as long each time, at most for [`LONGEST`] |
//! | it could not work, or somebody killed it; the disk, the cgroup | not at all: that is the node's, and may be over |
//!
//! The file is a sha256 and what it is of, together with the key and the time that a compiler is given: one that is
//! cut off, changed, another module's, or of another limit, is none. It is not synced: one that is lost costs a compilation.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags, openat, renameat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::store::{Store, failed_of, new_of, touch};
use super::{Error, Key};

/// How many failures are kept: 256, mostly of one block each. Of more the longest unused go.
pub(super) const MOST: usize = 256;

/// How long the first failure is believed that may be the machine's: 2 minutes, in which a kubelet has tried four times.
const FIRST: Duration = Duration::from_secs(120);

/// How long one is believed at most: an hour.
const LONGEST: Duration = Duration::from_secs(3600);

/// How large a file is read: 32 KiB. Of the 4 KiB that a compiler says JSON makes 24, if all of it has to be escaped.
const LARGEST: u64 = 32 << 10;

/// A failure, and how long it is to be believed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) believed: Believed,
}

/// How long a failure is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Believed {
    /// As long as it is kept.
    Always,
    /// For a while, and each time for longer.
    ForNow,
    /// It is told to whoever asked, and forgotten.
    Not,
}

/// A moment, in seconds since 1970 as the clock of the node has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment(u64);

/// The file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    what: What,
    failed: Moment,
    /// When it is tried again; if there is no such time, not while this is there.
    again: Option<Moment>,
}

/// An [`Error`] without the name of the module, which is another one for each who has it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum What {
    Refused(String),
    Broken(String),
    Stopped(Duration),
}

/// What is said of a compiler that was stopped.
pub(super) const STOPPED: &str = "the compiler was stopped";

/// Returns what is known of the compilation of `key`, if there is no point in trying it now.
///
/// `patience` is how long a compiler is given, and `name` the module as its user knows it.
pub(super) fn remembered(
    store: &Store,
    key: Key,
    patience: Duration,
    name: &str,
    now: SystemTime,
) -> Option<Error> {
    let (file, record) = read(store, key, patience)?;
    let now = Moment::of(now);
    // A clock that was set back says nothing of how long ago that was.
    let is_due = now < record.failed || record.again.is_some_and(|again| again <= now);
    if is_due {
        return None;
    }
    // On a disk that takes nothing, what is tried again says so.
    touch(&file).ok()?;
    Some(record.into_error(name))
}

/// Remembers what is worth it, and returns what the user is told.
///
/// To be called under the lock of `key`, with nothing of it half-made.
pub(super) fn remember(
    store: &Store,
    key: Key,
    patience: Duration,
    name: &str,
    failed: Failed,
    now: SystemTime,
) -> Error {
    let Failed { error, believed } = failed;
    let Some(what) = What::of(&error) else {
        return error;
    };
    let now = Moment::of(now);
    let again = match believed {
        Believed::Not => return error,
        Believed::Always => None,
        Believed::ForNow => {
            let before = read(store, key, patience).and_then(|(_, record)| record.pause());
            let pause = before.map_or(FIRST, |pause| (pause * 2).clamp(FIRST, LONGEST));
            Some(Moment(now.0.saturating_add(pause.as_secs())))
        }
    };
    let record = Record {
        what,
        failed: now,
        again,
    };
    match write(store, key, patience, &record) {
        Ok(()) => record.into_error(name),
        // On a disk that is full nothing is remembered, and nothing promised.
        Err(_) => error,
    }
}

/// Reads the record of `key` if there is one and it is whole, ours, and of these limits.
fn read(store: &Store, key: Key, patience: Duration) -> Option<(File, Record)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file: File = openat(&store.directory, failed_of(key), flags, Mode::empty())
        .ok()?
        .into();
    let metadata = file.metadata().ok()?;
    let is_ours = metadata.is_file() && metadata.uid() == rustix::process::geteuid().as_raw();
    if !is_ours || metadata.len() > LARGEST {
        return None;
    }
    let mut bytes = Vec::new();
    (&mut file).take(LARGEST).read_to_end(&mut bytes).ok()?;
    let (hash, text) = bytes.split_at_checked(32)?;
    if hash != digest(key, patience, text) {
        return None;
    }
    let record = serde_json::from_slice(text).ok()?;
    Some((file, record))
}

fn write(store: &Store, key: Key, patience: Duration, record: &Record) -> Result<(), Error> {
    let (fresh, place) = (new_of(key), failed_of(key));
    let failed = |e: Errno| store.failed(&place, e);
    let broken = |source| Error::Entry {
        path: store.path.join(&place),
        source,
    };
    let text = serde_json::to_vec(record).map_err(|error| broken(error.into()))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file: File = openat(&store.directory, &fresh, flags, Mode::from_raw_mode(0o600))
        .map_err(failed)?
        .into();
    let hash = digest(key, patience, &text);
    let written = file.write_all(&[hash.as_slice(), &text].concat());
    let placed = written
        .map_err(broken)
        // Whatever is there by that name.
        .and_then(|()| store.discard(&place))
        .and_then(|()| {
            renameat(&store.directory, &fresh, &store.directory, &place).map_err(failed)
        });
    if placed.is_err() {
        drop(store.discard(&fresh));
    }
    placed
}

fn digest(key: Key, patience: Duration, text: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"duet failure 1");
    hash.update(key.0);
    hash.update(patience.as_millis().to_le_bytes());
    hash.update(text);
    hash.finalize().into()
}

// === impl Failed ===

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self {
            error,
            believed: Believed::Not,
        }
    }
}

// === impl Record ===

impl Record {
    /// How long it is believed, if not for ever.
    fn pause(&self) -> Option<Duration> {
        let again = self.again?;
        Some(Duration::from_secs(again.0.saturating_sub(self.failed.0)))
    }

    fn into_error(self, name: &str) -> Error {
        let name = name.to_owned();
        let failure = match self.what {
            What::Refused(why) => Error::Refused { name, why },
            What::Broken(how) => Error::Broken { name, how },
            What::Stopped(waited) => Error::Late {
                name,
                waited,
                what: STOPPED,
            },
        };
        match self.again {
            None => failure,
            Some(again) => Error::Postponed {
                failure: Box::new(failure),
                again,
            },
        }
    }
}

// === impl What ===

impl What {
    fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Refused { why, .. } => Some(Self::Refused(why.clone())),
            Error::Broken { how, .. } => Some(Self::Broken(how.clone())),
            Error::Late { waited, .. } => Some(Self::Stopped(*waited)),
            Error::Directory { .. }
            | Error::Exposed { .. }
            | Error::Noexec { .. }
            | Error::Compiler { .. }
            | Error::Workshop { .. }
            | Error::Module { .. }
            | Error::TooLarge { .. }
            | Error::Unloadable { .. }
            | Error::Postponed { .. }
            | Error::Entry { .. } => None,
        }
    }
}

// === impl Moment ===

impl Moment {
    /// The second in which `time` is.
    #[must_use]
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(since.as_secs())
    }
}

/// As RFC 3339 writes it, in UTC: the same words in each event of the same failure.
impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (mut days, second) = (self.0 / 86_400, self.0 % 86_400);
        let is_leap =
            |year: u64| year.is_multiple_of(if year.is_multiple_of(100) { 400 } else { 4 });
        let mut year = 1970;
        while days >= 365 + u64::from(is_leap(year)) {
            days -= 365 + u64::from(is_leap(year));
            year += 1;
        }
        let february = 28 + u64::from(is_leap(year));
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if days < length {
                break;
            }
            days -= length;
            month += 1;
        }
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let day = days + 1;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::compile::SENTENCE;
    use super::*;

    const KEY: Key = Key([7; 32]);
    const PATIENCE: Duration = Duration::from_secs(600);

    fn later(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    /// What is told of a failure that many seconds later.
    fn told(store: &Store, seconds: u64) -> Option<String> {
        let error = remembered(store, KEY, PATIENCE, "/app.wasm", later(seconds));
        error.map(|error| error.to_string())
    }

    /// Fails that many seconds later.
    fn fail(store: &Store, believed: Believed, seconds: u64) -> String {
        let error = Error::Broken {
            name: "/app.wasm".to_owned(),
            how: "ended with 3: x".to_owned(),
        };
        let failed = Failed { error, believed };
        remember(store, KEY, PATIENCE, "/app.wasm", failed, later(seconds)).to_string()
    }

    fn store() -> (Store, tempfile::TempDir) {
        let root = tempfile::tempdir().unwrap();
        (Store::open(&root.path().join("cache")).unwrap(), root)
    }

    #[test]
    fn what_may_be_the_machines_is_tried_again_after_a_while_and_each_time_later() {
        let (store, _root) = store();
        let mut now = 0;
        for pause in [120, 240, 480, 960, 1920, 3600, 3600] {
            let first = fail(&store, Believed::ForNow, now);
            let again = Moment::of(later(now + pause));
            let expected =
                format!("/app.wasm: the compiler ended with 3: x; not tried again before {again}");
            assert_eq!(first, expected);
            // The same words until then.
            assert_eq!(told(&store, now), Some(expected.clone()));
            assert_eq!(told(&store, now + pause - 1), Some(expected));
            now += pause;
            assert_eq!(told(&store, now), None);
        }
        // A clock that was set back.
        assert_eq!(told(&store, 0), None);
    }

    #[test]
    fn what_does_not_change_is_told_as_long_as_it_is_there() {
        let (store, _root) = store();
        let words = "/app.wasm: the compiler ended with 3: x";
        assert_eq!(fail(&store, Believed::Always, 0), words);
        assert_eq!(told(&store, 1 << 40).as_deref(), Some(words));
    }

    #[test]
    fn what_is_the_nodes_is_not_remembered_and_nothing_is_promised_that_is_not() {
        let (store, root) = store();
        let words = "/app.wasm: the compiler ended with 3: x";
        assert_eq!(fail(&store, Believed::Not, 0), words);
        assert_eq!(told(&store, 0), None);
        // As if the disk were full.
        let fresh = root.path().join("cache").join(new_of(KEY));
        std::fs::create_dir_all(fresh).unwrap();
        assert_eq!(fail(&store, Believed::ForNow, 0), words);
        assert_eq!(told(&store, 0), None);
    }

    #[test]
    fn a_record_that_is_unfit_is_none() {
        type Spoil = fn(&Path);
        let table: [(&str, Spoil); 7] = [
            ("empty", |file| std::fs::write(file, "").unwrap()),
            ("cut off", |file| {
                let bytes = std::fs::read(file).unwrap();
                std::fs::write(file, &bytes[..bytes.len() - 1]).unwrap();
            }),
            ("one bit", |file| {
                let mut bytes = std::fs::read(file).unwrap();
                bytes[40] ^= 1;
                std::fs::write(file, bytes).unwrap();
            }),
            ("longer", |file| {
                let mut bytes = std::fs::read(file).unwrap();
                bytes.resize(1 << 20, b' ');
                std::fs::write(file, bytes).unwrap();
            }),
            ("another key's", |file| {
                let name = file.file_name().unwrap().to_str().unwrap();
                let other = name.replacen("07", "08", 1);
                let place = file.with_file_name(other);
                std::fs::rename(file, &place).unwrap();
            }),
            ("a link", |file| {
                std::fs::rename(file, file.with_file_name("x")).unwrap();
                std::os::unix::fs::symlink("x", file).unwrap();
            }),
            ("a folder", |file| {
                std::fs::remove_file(file).unwrap();
                std::fs::create_dir(file).unwrap();
            }),
        ];
        for (how, spoil) in table {
            let (store, root) = store();
            fail(&store, Believed::Always, 0);
            assert!(told(&store, 0).is_some(), "{how}");
            spoil(&root.path().join("cache").join(failed_of(KEY)));
            assert_eq!(told(&store, 0), None, "{how}");
            let other = Key([[8].as_slice(), &[7; 31]].concat().try_into().unwrap());
            let error = remembered(&store, other, PATIENCE, "/app.wasm", later(0));
            assert!(error.is_none(), "{how}");
            // Another takes its place.
            fail(&store, Believed::Always, 0);
            assert!(told(&store, 0).is_some(), "{how}");
        }
    }

    #[test]
    fn the_longest_sentence_is_remembered_whatever_is_in_it() {
        let (store, _root) = store();
        for character in ['\u{1}', '\u{fffd}'] {
            let failed = Failed {
                error: Error::Refused {
                    name: "/app.wasm".to_owned(),
                    why: character.to_string().repeat(SENTENCE),
                },
                believed: Believed::Always,
            };
            let error = remember(&store, KEY, PATIENCE, "/app.wasm", failed, later(0));
            assert_eq!(told(&store, 0), Some(error.to_string()));
        }
    }

    #[test]
    fn who_is_given_more_time_is_not_told_of_who_had_less() {
        let (store, _root) = store();
        fail(&store, Believed::ForNow, 0);
        let error = remembered(&store, KEY, PATIENCE * 2, "/app.wasm", later(0));
        assert!(error.is_none(), "{error:?}");
    }

    #[test]
    fn a_moment_is_written_as_others_write_it() {
        // As date(1) has them.
        let table = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (1_798_761_600, "2027-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (seconds, expected) in table {
            assert_eq!(Moment(seconds).to_string(), expected);
        }
    }
}
