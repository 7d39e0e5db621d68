//! Where the server's log goes: JSON lines into the FIFO `log` of its bundle, which
//! containerd reads and copies into its own.
//!
//! Losing a line is better than losing the pod: a write never blocks (a full FIFO drops
//! the line) and never ends the program (`EPIPE`, when containerd is down, is ignored;
//! Rust's runtime ignores `SIGPIPE` already). The FIFO itself outlives containerd's
//! restarts, so one opening serves for good.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::OFlag;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The FIFO, opened as soon as somebody reads it.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

/// One line on its way.
#[derive(Debug)]
struct Line<'a>(MutexGuard<'a, Option<File>>);

/// Sends the program's log to the FIFO of `bundle` from now on.
pub(crate) fn start(bundle: &Path, debug: bool) {
    let log = Log::new(bundle.join("log"));
    let level = if debug {
        LevelFilter::DEBUG
    } else {
        LevelFilter::INFO
    };
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_max_level(level)
        .with_writer(log)
        .finish();
    // Only a second call could fail, and a program that logs already is what was wanted.
    drop(tracing::subscriber::set_global_default(subscriber));
}

// === impl Log ===

impl Log {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: Mutex::new(None),
        }
    }

    /// Fails with `ENXIO` as long as nobody reads.
    fn open(&self) -> Option<File> {
        OpenOptions::new()
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&self.path)
            .ok()
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.is_none() {
            *file = self.open();
        }
        Line(file)
    }
}

// === impl Line ===

impl Write for Line<'_> {
    /// Writes the line if there is room for all of it (`PIPE_BUF` makes that one decision of
    /// the kernel), else drops it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(mut file) = self.0.as_ref() {
            drop(file.write(line));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Read as _;

    use nix::sys::stat::Mode;

    fn fifo() -> (tempfile::TempDir, Log) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        (dir, Log::new(path))
    }

    fn reader(log: &Log) -> File {
        OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&log.path)
            .unwrap()
    }

    fn say(log: &Log, text: &str) {
        log.make_writer().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn nothing_blocks_and_nothing_dies_without_a_reader() {
        let (_dir, log) = fifo();
        say(&log, "lost\n");
        let mut first = reader(&log);
        say(&log, "heard\n");
        let mut text = [0; 64];
        assert_eq!(first.read(&mut text).unwrap(), 6);
        drop(first);
        say(&log, "nobody there: EPIPE\n");
        let mut second = reader(&log);
        say(&log, "heard again\n");
        assert_eq!(second.read(&mut text).unwrap(), 12);
    }

    #[test]
    fn a_full_fifo_drops_lines() {
        let (_dir, log) = fifo();
        let _reader = reader(&log);
        for _ in 0..10_000 {
            say(&log, "a line that nobody reads\n");
        }
    }
}
