//! Copies bytes between two descriptors that do not block.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::spawn_blocking;

use crate::drain::Copying;
use crate::polled::polled;

/// How much is read at once: 64 KiB, a FIFO's usual capacity, so that a full one empties in
/// one turn.
const CHUNK: usize = 64 * 1024;

/// Copies until `from` ends or `to` is no longer read, and lets go of both. What was written is told.
///
/// A FIFO is read only after it was reported ready. One that never had a writer is not, while
/// `read` would answer 0 at once, as at the end. What a file has no room for is lost, and the next is tried again:
/// nobody who writes ends for that.
///
/// # Errors
///
/// The errno, unless it is one that means the end: `EPIPE` of the reader, `EIO` of a terminal
/// that nobody has open.
pub(crate) async fn copy(from: impl AsFd + AsRawFd, to: OwnedFd, told: &Copying) -> io::Result<()> {
    let from = polled(from, Interest::READABLE)?;
    let to = Writer::new(to)?;
    // A terminal gives line by line, and often: this is made once. What is not used of it takes no memory.
    let mut buffer = vec![0; CHUNK];
    let mut lost = false;
    loop {
        let mut ready = from.readable().await?;
        told.takes();
        let count = match ready.try_io(|fd| Ok(rustix::io::read(fd, &mut buffer[..])?)) {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(count)) => count,
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(Err(error)) if Errno::from_io_error(&error) == Some(Errno::IO) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {
                told.passed();
                continue;
            }
        };
        match to.write_all(&buffer[..count], told).await {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                tracing::debug!("output is lost: nobody has it open any more");
                return Ok(());
            }
            Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) && !to.is_plain() => {
                return Ok(());
            }
            Err(error) if to.is_plain() => {
                if !lost {
                    tracing::warn!(%error, to = to.path(), "output is lost");
                }
                lost = true;
            }
            done => {
                done?;
                lost = false;
            }
        }
        told.passed();
    }
}

/// Reads until `from` ends, for nobody; whether there was anything.
pub(crate) async fn discard(from: impl AsFd + AsRawFd) -> io::Result<bool> {
    let from = polled(from, Interest::READABLE)?;
    let mut buffer = vec![0; CHUNK];
    let mut any = false;
    loop {
        let mut ready = from.readable().await?;
        match ready.try_io(|fd| Ok(rustix::io::read(fd, &mut buffer[..])?)) {
            Ok(Ok(0)) => return Ok(any),
            Ok(Ok(_)) => any = true,
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
}

/// Something to write to: epoll knows pipes and terminals, and refuses files and other devices, which never make their
/// writers wait long, but may on a disk that hangs.
#[derive(Debug)]
pub(crate) enum Writer {
    /// A pipe or a terminal.
    Polled(AsyncFd<Arc<OwnedFd>>),
    /// A file. A thread of its own writes it.
    Plain(Arc<OwnedFd>),
}

// === impl Writer ===

impl Writer {
    /// Registers `fd`, which must not block.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let fd = Arc::new(fd);
        match polled(Arc::clone(&fd), Interest::WRITABLE) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => {
                Ok(Writer::Plain(fd))
            }
            polled => Ok(Writer::Polled(polled?)),
        }
    }

    fn is_plain(&self) -> bool {
        matches!(self, Writer::Plain(_))
    }

    /// Where a file is now.
    fn path(&self) -> String {
        let fd = match self {
            Writer::Polled(fd) => fd.as_raw_fd(),
            Writer::Plain(fd) => fd.as_raw_fd(),
        };
        let path = std::fs::read_link(format!("/proc/self/fd/{fd}"));
        path.unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Writes all of `bytes`, waiting for room, and tells of each piece.
    pub(crate) async fn write_all(&self, mut bytes: &[u8], told: &Copying) -> io::Result<()> {
        let fd = match self {
            Writer::Plain(file) => {
                let (file, bytes) = (Arc::clone(file), bytes.to_vec());
                let writing = spawn_blocking(move || write_file(&file, &bytes));
                writing.await.map_err(io::Error::other)??;
                told.moved();
                return Ok(());
            }
            Writer::Polled(fd) => fd,
        };
        while !bytes.is_empty() {
            let mut ready = fd.writable().await?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                Ok(Ok(count)) => {
                    bytes = &bytes[count..];
                    told.moved();
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
        Ok(())
    }
}

fn write_file(file: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
