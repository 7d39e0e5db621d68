//! Real FIFOs and their readers.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, mknodat};

use super::*;

/// A FIFO and what the shim holds of it.
struct Output {
    _dir: tempfile::TempDir,
    path: PathBuf,
    hold: OwnedFd,
}

impl Output {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let hold = open(&path, flags, Mode::empty()).unwrap();
        Output {
            _dir: dir,
            path,
            hold,
        }
    }

    /// As a process does that ends then.
    fn write(&self, text: &[u8]) {
        assert_eq!(rustix::io::write(&self.hold, text).unwrap(), text.len());
    }

    fn reader(&self) -> File {
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(flags);
        options.open(&self.path).unwrap()
    }
}

/// All that is left, to the end. It comes when who was forked by another test meanwhile, with a copy of every writer,
/// has executed its program.
fn rest(mut reader: File) -> Vec<u8> {
    rustix::fs::fcntl_setfl(&reader, OFlags::empty()).unwrap();
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    rest
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(test);
}

fn hours() -> Instant {
    Instant::now() + Duration::from_secs(24 * 60 * 60)
}

#[test]
fn an_end_is_told_when_the_reader_of_what_was_written_has_begun() {
    let output = Output::new();
    output.write(&[b'x'; 1000]);
    let mut reader = output.reader();
    run(async {
        let told = Cell::new(false);
        let end = async {
            release(output.hold, hours()).await;
            told.set(true);
        };
        let reading = async {
            // A client of which nobody knows whether it will.
            tokio::task::yield_now().await;
            assert!(!told.get());
            assert_eq!(reader.read(&mut [0; 100]).unwrap(), 100);
        };
        // Its reader has the rest from the FIFO whenever it wants.
        tokio::join!(end, reading);
        assert_eq!(rest(reader), [b'x'; 900]);
    });
}

#[test]
fn a_reader_that_does_not_begin_has_its_time() {
    let output = Output::new();
    output.write(b"unread");
    let reader = output.reader();
    run(release(output.hold, Instant::now()));
    assert_eq!(rest(reader), b"unread");
}

#[test]
fn an_output_that_nobody_read_outlasts_its_process() {
    let output = Output::new();
    output.write(b"last words");
    let path = output.path.clone();
    run(async {
        // Nobody is there to be waited for.
        release(output.hold, hours()).await;
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
        let mut options = OpenOptions::new();
        let mut reader = options.read(true).custom_flags(flags).open(path).unwrap();
        let mut text = [0; 64];
        assert_eq!(reader.read(&mut text).unwrap(), 10);
        // And then there is an end.
        loop {
            match reader.read(&mut text) {
                Ok(count) => break assert_eq!(count, 0),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn an_output_that_is_read_ends_with_its_process() {
    let output = Output::new();
    let reader = output.reader();
    let drain = Drain {
        holds: vec![output.hold],
        ..Drain::default()
    };
    run(drain.done());
    assert_eq!(rest(reader), b"");
}

#[test]
fn what_is_copied_late_keeps_the_fifo_that_it_goes_to() {
    let output = Output::new();
    let (told, copied) = copying(None);
    let drain = Drain {
        copied: vec![copied],
        holds: vec![output.hold],
    };
    let has_reader = || {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK;
        open(&output.path, flags, Mode::empty()).is_ok()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(async {
        // Nobody reads: the end is told all the same.
        drain.done().await;
        // Containerd is away for as long as it likes.
        sleep(Duration::from_secs(3600)).await;
        assert!(has_reader());
        // The process is deleted.
        drop(told);
        while has_reader() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_copy_is_waited_for_as_long_as_something_moves() {
    run(async {
        let (told, mut copied) = copying(None);
        assert!(!copied.is_over());
        // Nothing moves, and there is no time left.
        assert!(!copied.over(Duration::ZERO, hours()).await);
        assert!(!copied.over(Duration::from_secs(60), Instant::now()).await);
        told.moved();
        drop(told);
        assert!(copied.over(Duration::from_secs(60), hours()).await);
        assert!(copied.is_over());
    });
}

#[test]
fn what_a_pipe_held_is_passed_on_though_somebody_keeps_it_open() {
    let (from, to) = rustix::pipe::pipe().unwrap();
    let from = Arc::new(from);
    run(async {
        let (told, mut copied) = copying(Some(Arc::clone(&from)));
        rustix::io::write(&to, b"x").unwrap();
        assert!(!copied.is_over());
        told.takes();
        rustix::io::read(&from, &mut [0; 8]).unwrap();
        assert!(!copied.is_over(), "it is on its way");
        told.passed();
        assert!(copied.over(Duration::from_secs(60), hours()).await);
        drop((to, told));
    });
}
