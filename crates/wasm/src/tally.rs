//! What a runner tells of its guest while it runs, in a file that outlives it.
//!
//! ```text
//!   0  the most memory it held, in bytes        u64, of this machine's order
//!   8  how many requests it was given           u64
//!  16  how many times it trapped                u64
//!  24  the first line of the last trap          200 bytes of UTF-8, NUL after its end
//! ```
//!
//! A guest that is killed has no last word, so each number is written when it changes. The guest may have got
//! the better of the runner: whoever reads it believes nothing and formats nothing by it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::AtomicU64;

use duet_linux::shared;
use rustix::fs::{SealFlags, fcntl_add_seals};

use crate::handoff::memory_file;

const REQUESTS: usize = 8;
const TRAPS: u64 = 16;
const TRAP: u64 = 24;
/// How long a trap's line may be.
const LINE: usize = 200;
const SIZE: u64 = TRAP + LINE as u64;

/// The file.
#[derive(Debug)]
pub struct Tally(File);

/// What was told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// The most that its memories, tables and kept values took at one time, in bytes.
    pub memory: u64,
    /// How many requests it was given.
    pub requests: u64,
    /// How many times it trapped.
    pub traps: u64,
    /// The first line of the last trap.
    pub trap: Option<String>,
}

// === impl Tally ===

impl Tally {
    /// Makes one in which nothing was told yet. It takes memory when something is.
    ///
    /// # Errors
    ///
    /// When the kernel has no descriptor for it.
    pub fn new() -> io::Result<Self> {
        let file = memory_file("duet-tally")?;
        file.set_len(SIZE)?;
        fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW)?;
        Ok(Self(file))
    }

    /// One that was inherited.
    #[cfg(feature = "load")]
    pub(crate) fn of(file: File) -> Self {
        Self(file)
    }

    /// Tells the most memory so far.
    ///
    /// # Errors
    ///
    /// When the file is not what [`Tally::new`] made.
    pub fn memory(&self, bytes: u64) -> io::Result<()> {
        self.0.write_all_at(&bytes.to_ne_bytes(), 0)
    }

    /// Where the number of requests is told, from now on without a system call for each.
    ///
    /// # Errors
    ///
    /// As for [`Tally::memory`], or when the kernel maps nothing more.
    pub fn requests(&self) -> io::Result<&'static AtomicU64> {
        shared::number(&self.0, REQUESTS)
    }

    /// Tells of a trap, the `count`th; of `words` the first line counts.
    ///
    /// # Errors
    ///
    /// As for [`Tally::memory`].
    pub fn trap(&self, count: u64, words: &str) -> io::Result<()> {
        let first = words.lines().next().unwrap_or_default();
        let mut line = [0; LINE];
        let end = first.floor_char_boundary(LINE);
        for (to, from) in line.iter_mut().zip(first[..end].bytes()) {
            *to = from;
        }
        self.0.write_all_at(&count.to_ne_bytes(), TRAPS)?;
        self.0.write_all_at(&line, TRAP)
    }

    /// What was told until now.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn told(&self) -> io::Result<Told> {
        let number = |at| {
            let mut bytes = [0; 8];
            self.0.read_exact_at(&mut bytes, at)?;
            io::Result::Ok(u64::from_ne_bytes(bytes))
        };
        let mut line = [0; LINE];
        self.0.read_exact_at(&mut line, TRAP)?;
        let line = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let trap = (!line.is_empty()).then(|| String::from_utf8_lossy(line).into_owned());
        Ok(Told {
            memory: number(0)?,
            requests: number(REQUESTS as u64)?,
            traps: number(TRAPS)?,
            trap,
        })
    }
}

impl AsFd for Tally {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn what_is_told_last_is_read() {
        let tally = Tally::new().unwrap();
        assert_eq!(tally.told().unwrap(), Told::default());
        tally.memory(1).unwrap();
        tally.memory(1 << 20).unwrap();
        tally.requests().unwrap().fetch_add(3, Ordering::Relaxed);
        tally.trap(1, "a long first line of a trap").unwrap();
        tally.trap(2, "short\n0: and its backtrace").unwrap();
        assert_eq!(
            tally.told().unwrap(),
            Told {
                memory: 1 << 20,
                requests: 3,
                traps: 2,
                trap: Some("short".into()),
            }
        );
    }

    #[test]
    fn a_line_is_cut_between_two_characters_and_the_file_stays_as_long_as_it_is() {
        let tally = Tally::new().unwrap();
        let long = format!("x{}", "ä".repeat(200));
        tally.trap(1, &long).unwrap();
        let told = tally.told().unwrap().trap.unwrap();
        assert_eq!(told.len(), LINE - 1);
        assert!(long.starts_with(&told));
        assert!(tally.0.set_len(SIZE + 1).is_err());
        assert!(tally.0.write_all_at(b"x", SIZE).is_err());
    }

    #[test]
    fn what_is_no_text_is_read_all_the_same() {
        let tally = Tally::new().unwrap();
        tally.0.write_all_at(&[0xff; LINE], TRAP).unwrap();
        assert_eq!(tally.told().unwrap().trap.unwrap().chars().count(), LINE);
    }
}
