//! What a handler prints, in whole lines and with the number of its request: many of them write to the
//! container's one log at the same time.

use std::io::{self, Write as _};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

/// How long a line may become before it is cut: 16 KiB, as container runtimes cut theirs.
const LINE: usize = 16 << 10;

/// How much a guest may write at once: 64 KiB.
const PERMIT: usize = 64 << 10;

/// What an instance prints.
#[derive(Debug)]
pub(crate) struct Logs {
    pub(crate) stdout: Log,
    pub(crate) stderr: Log,
}

/// One of the two streams.
#[derive(Debug, Clone, Copy)]
enum Stream {
    Stdout,
    Stderr,
}

/// A stream of an instance. Clones are the same stream.
#[derive(Debug, Clone)]
pub(crate) struct Log(Arc<Mutex<Pending>>);

/// What was not written yet: the beginning of a line.
#[derive(Debug)]
struct Pending {
    stream: Stream,
    request: u64,
    line: Vec<u8>,
}

// === impl Logs ===

impl Logs {
    /// For what is printed while `request` is answered.
    pub(crate) fn new(request: u64) -> Self {
        Self {
            stdout: Log::new(Stream::Stdout, request),
            stderr: Log::new(Stream::Stderr, request),
        }
    }

    /// What is printed from now on belongs to this request.
    pub(crate) fn begin(&self, request: u64) {
        self.stdout.pending().request = request;
        self.stderr.pending().request = request;
    }

    /// The request is over: lines that nobody has ended are.
    pub(crate) fn end(&self) {
        for log in [&self.stdout, &self.stderr] {
            // Nobody is left to tell if this fails.
            drop(log.pending().end());
        }
    }
}

// === impl Log ===

impl Log {
    fn new(stream: Stream, request: u64) -> Self {
        Self(Arc::new(Mutex::new(Pending {
            stream,
            request,
            line: Vec::new(),
        })))
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // Bytes: after a panic there may be some too few.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print(&self, bytes: &[u8]) -> io::Result<()> {
        self.pending().print(bytes)
    }
}

// === impl Pending ===

impl Pending {
    /// Writes the lines that `bytes` completes, and keeps the rest.
    fn print(&mut self, bytes: &[u8]) -> io::Result<()> {
        let whole = self.lines(bytes);
        self.write(&whole)
    }

    fn lines(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut whole = Vec::new();
        for mut part in bytes.split_inclusive(|byte| *byte == b'\n') {
            // Its end needs no room.
            while self.line.len() + part.strip_suffix(b"\n").unwrap_or(part).len() > LINE {
                let (fits, rest) = part.split_at(LINE - self.line.len());
                self.line.extend_from_slice(fits);
                self.complete(&mut whole);
                part = rest;
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.complete(&mut whole);
            }
        }
        whole
    }

    /// Writes a line that nobody has ended.
    fn end(&mut self) -> io::Result<()> {
        let mut whole = Vec::new();
        if !self.line.is_empty() {
            self.complete(&mut whole);
        }
        self.write(&whole)
    }

    fn complete(&mut self, whole: &mut Vec<u8>) {
        let line = mem::take(&mut self.line);
        whole.extend_from_slice(format!("[{}] ", self.request).as_bytes());
        whole.extend_from_slice(&line);
        if !line.ends_with(b"\n") {
            whole.push(b'\n');
        }
    }

    fn write(&self, whole: &[u8]) -> io::Result<()> {
        if whole.is_empty() {
            return Ok(());
        }
        match self.stream {
            Stream::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(whole).and_then(|()| stdout.flush())
            }
            Stream::Stderr => io::stderr().lock().write_all(whole),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Nobody is left to tell if this fails.
        drop(self.end());
    }
}

impl IsTerminal for Log {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Log {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Log {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.print(&bytes).map_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                StreamError::Closed
            } else {
                StreamError::LastOperationFailed(error.into())
            }
        })
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PERMIT)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Log {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Log {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.print(bytes).map(|()| bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_where_it_is_said_however_it_comes() {
        let long = [
            vec![b'x'; LINE],
            b"y\n".to_vec(),
            b"z".repeat(LINE),
            b"\n".to_vec(),
        ]
        .concat();
        let expected = [
            b"[7] ".to_vec(),
            vec![b'x'; LINE],
            b"\n[7] y\n[7] ".to_vec(),
            b"z".repeat(LINE),
            b"\n".to_vec(),
        ]
        .concat();
        for size in [1, 4096, LINE, LINE + 1, 3 * LINE] {
            let mut pending = Pending {
                stream: Stream::Stdout,
                request: 7,
                line: Vec::new(),
            };
            let whole: Vec<_> = long
                .chunks(size)
                .flat_map(|chunk| pending.lines(chunk))
                .collect();
            assert!(whole == expected, "pieces of {size}");
        }
    }
}
