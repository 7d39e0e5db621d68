//! The entries of a directory, one after the other, from where the kernel is in it.
//!
//! Its own places (`d_off` of `getdents64(2)`) outlive whatever is removed and made beside them, which numbers of
//! our own in a copy that is made anew would not. What is there is asked for once, a piece at a time.

use std::os::fd::AsFd;

use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use rustix::io::Errno;

/// How much the kernel tells at once: 32 KiB, as much as C libraries ask for.
const PIECE: usize = 32 << 10;

/// What a directory says of an entry.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its name, whatever its bytes are.
    pub(super) name: Vec<u8>,
    /// Its number in the directory's own file system.
    pub(super) ino: u64,
    /// What it is, if the file system keeps that in directories.
    pub(super) kind: FileType,
    /// The place after it.
    pub(super) next: u64,
}

/// How far a directory has been read.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The place before the first of `piece`.
    from: u64,
    /// What was read and may be asked for again; the kernel is behind it.
    piece: Vec<Entry>,
    /// How many of these are before the next.
    passed: usize,
}

// === impl Listing ===

impl Listing {
    /// Goes back to the start, to see the directory as it is now.
    pub(super) fn rewind(&mut self, directory: impl AsFd) -> Result<(), Errno> {
        self.jump(directory, 0)
    }

    /// Goes to `place`: 0 is the start, others are [`Entry::next`] of an entry that was read here or elsewhere.
    pub(super) fn seek(&mut self, directory: impl AsFd, place: u64) -> Result<(), Errno> {
        if place == self.place() {
            return Ok(());
        }
        // What is still known is not asked for again: some file systems (tmpfs before Linux 6.6) count to a
        // place, and count wrongly when something was removed before it.
        let after = self.piece.iter().rposition(|entry| entry.next == place);
        match after {
            Some(index) => self.passed = index + 1,
            None if place == self.from => self.passed = 0,
            None => self.jump(directory, place)?,
        }
        Ok(())
    }

    /// The next entry, none at the end. `.` and `..` are left out.
    pub(super) fn peek(&mut self, directory: impl AsFd) -> Result<Option<&Entry>, Errno> {
        if self.passed >= self.piece.len() {
            let piece = read(directory)?;
            self.from = self.place();
            self.passed = 0;
            self.piece = piece;
        }
        Ok(self.piece.get(self.passed))
    }

    /// Goes past what [`Self::peek`] has shown.
    pub(super) fn pass(&mut self) {
        self.passed += 1;
    }

    fn place(&self) -> u64 {
        let before = self.passed.checked_sub(1);
        let before = before.and_then(|before| self.piece.get(before));
        before.map_or(self.from, |entry| entry.next)
    }

    fn jump(&mut self, directory: impl AsFd, place: u64) -> Result<(), Errno> {
        // The kernel's are signed.
        i64::try_from(place).map_err(|_| Errno::INVAL)?;
        seek(directory, SeekFrom::Start(place))?;
        *self = Self {
            from: place,
            ..Self::default()
        };
        Ok(())
    }
}

/// The next piece of a directory; nothing is its end.
fn read(directory: impl AsFd) -> Result<Vec<Entry>, Errno> {
    let mut buffer = Vec::with_capacity(PIECE);
    let mut raw = RawDir::new(directory.as_fd(), buffer.spare_capacity_mut());
    let mut entries = Vec::new();
    loop {
        match raw.next() {
            Some(Ok(entry)) => {
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    entries.push(Entry {
                        name: name.to_vec(),
                        ino: entry.ino(),
                        kind: entry.file_type(),
                        next: entry.next_entry_cookie(),
                    });
                }
            }
            // What was removed has nothing in it; so POSIX wants it told.
            None | Some(Err(Errno::NOENT)) => break,
            Some(Err(error)) => return Err(error),
        }
        if raw.is_buffer_empty() && !entries.is_empty() {
            break;
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeSet;
    use std::fs::File;
    use std::path::Path;

    /// More than one piece of them.
    const MANY: usize = 3000;

    fn name(number: usize) -> String {
        format!("a-name-of-some-length-{number}")
    }

    fn filled(directory: &Path) -> File {
        for number in 0..MANY {
            std::fs::write(directory.join(name(number)), "").unwrap();
        }
        File::open(directory).unwrap()
    }

    /// Calls `each` with every name and the place after it.
    fn read_to_end(listing: &mut Listing, directory: &File, mut each: impl FnMut(&str, u64)) {
        while let Some(entry) = listing.peek(directory).unwrap() {
            each(std::str::from_utf8(&entry.name).unwrap(), entry.next);
            listing.pass();
        }
    }

    /// On the file system of the temporary folder, and on a tmpfs.
    fn folders() -> [tempfile::TempDir; 2] {
        [
            tempfile::tempdir().unwrap(),
            tempfile::tempdir_in("/dev/shm").unwrap(),
        ]
    }

    #[test]
    fn nothing_is_missed_or_seen_twice_while_all_of_it_is_removed() {
        for folder in folders() {
            let directory = filled(folder.path());
            let (mut listing, mut seen) = (Listing::default(), BTreeSet::new());
            read_to_end(&mut listing, &directory, |name, _| {
                std::fs::remove_file(folder.path().join(name)).unwrap();
                assert!(seen.insert(name.to_owned()), "{name} twice");
            });
            assert_eq!(seen.len(), MANY);
            assert!(listing.peek(&directory).unwrap().is_none());
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn every_place_leads_to_what_was_after_it() {
        for folder in folders() {
            let directory = filled(folder.path());
            let (mut listing, mut all) = (Listing::default(), vec![(String::new(), 0)]);
            read_to_end(&mut listing, &directory, |name, next| {
                all.push((name.to_owned(), next));
            });
            for (before, after) in all.iter().zip(&all[1..]).rev().step_by(7) {
                listing.seek(&directory, before.1).unwrap();
                let entry = listing.peek(&directory).unwrap().unwrap();
                assert_eq!(entry.name, after.0.as_bytes());
            }
        }
    }

    #[test]
    fn what_is_made_shows_after_a_rewind_and_what_is_gone_does_not() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("one"), "").unwrap();
        let directory = File::open(folder.path()).unwrap();
        let mut listing = Listing::default();
        let mut names = || {
            let mut names = Vec::new();
            listing.rewind(&directory).unwrap();
            read_to_end(&mut listing, &directory, |name, _| {
                names.push(name.to_owned());
            });
            names
        };
        assert_eq!(names(), ["one"]);
        std::fs::rename(folder.path().join("one"), folder.path().join("two")).unwrap();
        assert_eq!(names(), ["two"]);
    }

    #[test]
    fn an_empty_directory_and_one_that_is_gone_have_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let directory = File::open(folder.path()).unwrap();
        let mut listing = Listing::default();
        assert!(listing.peek(&directory).unwrap().is_none());
        drop(folder);
        listing.rewind(&directory).unwrap();
        assert!(listing.peek(&directory).unwrap().is_none());
    }

    #[test]
    fn a_place_that_the_kernel_cannot_have_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let directory = File::open(folder.path()).unwrap();
        let mut listing = Listing::default();
        assert_eq!(listing.seek(&directory, u64::MAX), Err(Errno::INVAL));
    }

    #[test]
    fn names_are_the_bytes_that_they_are() {
        use std::os::unix::ffi::OsStrExt as _;
        let folder = tempfile::tempdir().unwrap();
        let name = std::ffi::OsStr::from_bytes(b"caf\xe9");
        std::fs::write(folder.path().join(name), "").unwrap();
        let directory = File::open(folder.path()).unwrap();
        let mut listing = Listing::default();
        let entry = listing.peek(&directory).unwrap().unwrap();
        assert_eq!(entry.name, name.as_bytes());
    }
}
