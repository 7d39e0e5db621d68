//! What a handler prints, in whole lines and with the number of its request: many of them write to the
//! container's one log at the same time.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use crate::serve::lines::{Pending, Stream};

/// How much a guest may write at once: 64 KiB.
const PERMIT: usize = 64 << 10;

/// What an instance prints.
#[derive(Debug)]
pub(crate) struct Logs {
    pub(crate) stdout: Log,
    pub(crate) stderr: Log,
}

/// A stream of an instance. Clones are the same stream.
#[derive(Debug, Clone)]
pub(crate) struct Log(Arc<Mutex<Pending>>);

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
        self.stdout.pending().begin(request);
        self.stderr.pending().begin(request);
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
        Self(Arc::new(Mutex::new(Pending::new(stream, request))))
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // Bytes: after a panic there may be some too few.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print(&self, bytes: &[u8]) -> io::Result<()> {
        self.pending().print(bytes)
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
