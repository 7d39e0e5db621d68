//! Copies bytes between two descriptors that do not block.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::drain::Copying;
use crate::polled::polled;

/// How much is read at once: 64 KiB, a FIFO's usual capacity, so that a full one empties in
/// one turn.
const CHUNK: usize = 64 * 1024;

/// Copies until `from` ends or `to` is no longer read, and closes both. What was written is told.
///
/// A FIFO is read only after it was reported ready. One that never had a writer is not, while
/// `read` would answer 0 at once, as at the end.
///
/// # Errors
///
/// The errno, unless it is one that means the end: `EPIPE` of the reader, `EIO` of a terminal
/// that nobody has open.
pub(crate) async fn copy(from: OwnedFd, to: OwnedFd, told: &Copying) -> io::Result<()> {
    let from = polled(from, Interest::READABLE)?;
    let to = Writer::new(to)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let mut ready = from.readable().await?;
        let count = match ready.try_io(|fd| Ok(rustix::io::read(fd, &mut buffer[..])?)) {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(count)) => count,
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(Err(error)) if Errno::from_io_error(&error) == Some(Errno::IO) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => continue,
        };
        match to.write_all(&buffer[..count], told).await {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => return Ok(()),
            done => done?,
        }
    }
}

/// Reads until `from` ends, for nobody; whether there was anything.
pub(crate) async fn discard(from: OwnedFd) -> io::Result<bool> {
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

/// Something to write to: epoll knows pipes and terminals, and refuses files, which never make
/// their writers wait.
#[derive(Debug)]
pub(crate) enum Writer {
    /// A pipe or a terminal.
    Polled(AsyncFd<OwnedFd>),
    /// A file.
    Plain(OwnedFd),
}

// === impl Writer ===

impl Writer {
    /// Registers `fd`, which must not block.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        use rustix::fs::{FileType, fstat};
        if FileType::from_raw_mode(fstat(&fd)?.st_mode) == FileType::RegularFile {
            return Ok(Writer::Plain(fd));
        }
        Ok(Writer::Polled(polled(fd, Interest::WRITABLE)?))
    }

    /// Writes all of `bytes`, waiting for room, and tells of each piece.
    pub(crate) async fn write_all(&self, mut bytes: &[u8], told: &Copying) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = match self {
                Writer::Plain(file) => rustix::io::write(file, bytes).map_err(io::Error::from),
                Writer::Polled(fd) => {
                    let mut ready = fd.writable().await?;
                    match ready.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                        Ok(written) => written,
                        Err(_would_block) => continue,
                    }
                }
            };
            match written {
                Ok(count) => {
                    bytes = &bytes[count..];
                    told.moved();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
