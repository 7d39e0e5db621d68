//! Follows the log files of a pod and hands out whole lines.

use super::line::{End, Line};
use crate::error::Error;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::fs::File;
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use tokio::io::unix::AsyncFd;

/// A line longer than this is handed out in pieces: 1 MiB. A container that never writes
/// a newline must not fill the memory of its reader.
const LONGEST_LINE: usize = 1 << 20;

/// How much is read at once.
const CHUNK: usize = 1 << 16;

/// The log files of one directory.
#[derive(Debug)]
pub(crate) struct Follower {
    directory: PathBuf,
    changes: AsyncFd<OwnedFd>,
    logs: Vec<Log>,
}

/// One file, and what was read but not handed out.
#[derive(Debug)]
struct Log {
    container: String,
    file: File,
    record: Vec<u8>,
    joined: Vec<u8>,
}

// === impl Follower ===

impl Follower {
    /// Watches `directory`, which exists.
    pub(crate) fn new(directory: &Path) -> Result<Self, Error> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe for descriptors that may change; an OwnedFd cannot"
        )]
        let watch = || -> io::Result<AsyncFd<OwnedFd>> {
            let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            inotify::add_watch(&changes, directory, WatchFlags::MODIFY)?;
            AsyncFd::new(changes)
        };
        Ok(Self {
            directory: directory.to_owned(),
            changes: watch().map_err(Error::at("could not watch", directory))?,
            logs: Vec::new(),
        })
    }

    /// Follows the file `name` of `container` from its beginning; containerd has made it.
    pub(crate) fn add(&mut self, container: &str, name: &str) -> Result<(), Error> {
        let path = self.directory.join(name);
        let file = File::open(&path).map_err(Error::at("could not open the log", &path))?;
        self.logs.push(Log {
            container: container.to_owned(),
            file,
            record: Vec::new(),
            joined: Vec::new(),
        });
        Ok(())
    }

    /// Returns when a file has changed.
    pub(crate) async fn changed(&self) -> Result<(), Error> {
        let failed = Error::at("could not watch", &self.directory);
        let wait = async {
            let mut ready = self.changes.readable().await?;
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut events = inotify::Reader::new(self.changes.get_ref(), &mut buffer);
            // What changed does not matter: every file is read to its end.
            loop {
                match events.next() {
                    Ok(_) => {}
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(errno) => return Err(errno.into()),
                }
            }
            ready.clear_ready();
            Ok(())
        };
        wait.await.map_err(failed)
    }

    /// Hands out what has been written since the last call, as (container, line).
    pub(crate) fn drain(
        &mut self,
        mut line: impl FnMut(&str, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for log in &mut self.logs {
            log.drain(&mut line)?;
        }
        Ok(())
    }

    /// Forgets a container that has ended; containerd says so only when its log is complete.
    pub(crate) fn finish(
        &mut self,
        container: &str,
        mut line: impl FnMut(&str, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (ended, left) = std::mem::take(&mut self.logs)
            .into_iter()
            .partition(|log| log.container == container);
        self.logs = left;
        let ended: Vec<Log> = ended;
        for mut log in ended {
            log.drain(&mut line)?;
            if !log.joined.is_empty() {
                line(&log.container, &log.joined)?;
            }
        }
        Ok(())
    }
}

// === impl Log ===

impl Log {
    fn drain(
        &mut self,
        line: &mut impl FnMut(&str, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = match self.file.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(read) => chunk.get(..read).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(Error::System {
                        action: "could not read a container's log",
                        source,
                    });
                }
            };
            self.take(read, line)?;
        }
    }

    fn take(
        &mut self,
        read: &[u8],
        line: &mut impl FnMut(&str, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for piece in read.split_inclusive(|byte| *byte == b'\n') {
            let Some(piece) = piece.strip_suffix(b"\n") else {
                self.record.extend_from_slice(piece);
                continue;
            };
            self.record.extend_from_slice(piece);
            let record = std::mem::take(&mut self.record);
            let (text, end) = match Line::parse(&record) {
                Some(parsed) => (parsed.text, parsed.end),
                None => (record.as_slice(), End::Full),
            };
            self.joined.extend_from_slice(text);
            if end == End::Full || self.joined.len() >= LONGEST_LINE {
                line(&self.container, &self.joined)?;
                self.joined.clear();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, Log};

    fn lines(pieces: &[&str]) -> Vec<String> {
        let mut log = Log {
            container: "c".to_owned(),
            file: std::fs::File::open("/dev/null").unwrap(),
            record: Vec::new(),
            joined: Vec::new(),
        };
        let mut lines = Vec::new();
        for piece in pieces {
            let mut keep = |_: &str, line: &[u8]| -> Result<(), Error> {
                lines.push(String::from_utf8_lossy(line).into_owned());
                Ok(())
            };
            log.take(piece.as_bytes(), &mut keep).unwrap();
        }
        lines
    }

    #[test]
    fn partial_records_are_joined_wherever_the_read_was_cut() {
        let time = "2026-11-21T10:00:00.1Z";
        let text = format!("{time} stdout P one, \n{time} stdout F two\n{time} stderr F \n");
        let (left, right) = text.split_at(40);
        assert_eq!(lines(&[&text]), ["one, two", ""]);
        assert_eq!(lines(&[left, right]), ["one, two", ""]);
    }

    #[test]
    fn what_is_no_record_is_shown_as_it_is() {
        assert_eq!(lines(&["oops\n"]), ["oops"]);
    }
}
