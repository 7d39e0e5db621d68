//! What a handler prints: many of them write to the container's one log at the same time.
//!
//! In whole lines, each with the number of its request, unless it is to be handed on as it comes. A handler whose words
//! have to wait for somebody to read what was said before waits with them, and nobody else does.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use crate::outputs::{Output, Outputs, Ticket};
use crate::serve::lines::Pending;

/// How much a guest may write at once: 16 KiB. So much of each stream may have to wait.
const PERMIT: usize = 16 << 10;

/// What an instance prints.
#[derive(Debug)]
pub(crate) struct Logs {
    pub(crate) stdout: Log,
    pub(crate) stderr: Log,
}

/// A stream of an instance. Clones are the same stream.
#[derive(Debug, Clone)]
pub(crate) struct Log(Arc<Mutex<Printed>>);

/// What it has printed.
#[derive(Debug)]
struct Printed {
    output: Arc<Output>,
    /// The line that has no end yet; `None`: it is handed on as it comes.
    line: Option<Pending>,
    /// When all of it is written.
    last: Ticket,
    said: Arc<Said>,
}

/// What was printed while a request was answered, as far as it may wait: when all of it is written.
#[derive(Debug, Default)]
pub(crate) struct Said(Mutex<Vec<(Arc<Output>, Ticket)>>);

// === impl Logs ===

impl Logs {
    /// For what is printed while `request` is answered.
    pub(crate) fn new(outputs: &Outputs, is_plain: bool, request: u64, said: &Arc<Said>) -> Self {
        let log = |output: &Arc<Output>| {
            Log(Arc::new(Mutex::new(Printed {
                output: Arc::clone(output),
                line: (!is_plain).then(|| Pending::new(request)),
                last: Ticket::default(),
                said: Arc::clone(said),
            })))
        };
        Self {
            stdout: log(&outputs.stdout),
            stderr: log(&outputs.stderr),
        }
    }

    /// What is printed from now on belongs to this request.
    pub(crate) fn begin(&self, request: u64, said: &Arc<Said>) {
        for log in [&self.stdout, &self.stderr] {
            let mut printed = log.printed();
            printed.said = Arc::clone(said);
            if let Some(line) = &mut printed.line {
                line.begin(request);
            }
        }
    }

    /// The request is over: lines that nobody has ended are.
    pub(crate) fn end(&self) {
        for log in [&self.stdout, &self.stderr] {
            log.printed().end();
        }
    }
}

// === impl Log ===

impl Log {
    fn printed(&self) -> MutexGuard<'_, Printed> {
        // Bytes: after a panic there may be some too few.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_written(&self, context: &Context<'_>) -> Poll<()> {
        let printed = self.printed();
        printed.output.poll_written(printed.last, context)
    }
}

impl IsTerminal for Log {
    fn is_terminal(&self) -> bool {
        let printed = self.printed();
        printed.line.is_none() && printed.output.is_terminal()
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
        // As wasmtime's own streams do: who did not ask first could have us keep as much as it likes.
        if bytes.len() > self.check_write()? {
            return Err(StreamError::trap("write exceeded budget"));
        }
        self.printed().print(&bytes).map_err(|error| {
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
        let printed = self.printed();
        // Asked of its own words alone: others' would have it asked in vain again and again.
        Ok(if printed.output.is_written(printed.last) {
            PERMIT
        } else {
            0
        })
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Log {
    async fn ready(&mut self) {
        std::future::poll_fn(|context| self.poll_written(context)).await;
    }
}

impl AsyncWrite for Log {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_written(context));
        let bytes = bytes.get(..PERMIT).unwrap_or(bytes);
        Poll::Ready(self.printed().print(bytes).map(|()| bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_written(context).map(Ok)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_written(context).map(Ok)
    }
}

// === impl Printed ===

impl Printed {
    fn print(&mut self, bytes: &[u8]) -> io::Result<()> {
        let whole = match &mut self.line {
            Some(line) => Cow::Owned(line.lines(bytes)),
            None => Cow::Borrowed(bytes),
        };
        self.put(&whole)
    }

    fn end(&mut self) {
        if let Some(whole) = self.line.as_mut().map(Pending::end) {
            // Nobody is left to tell if this fails.
            drop(self.put(&whole));
        }
    }

    fn put(&mut self, whole: &[u8]) -> io::Result<()> {
        if whole.is_empty() {
            return Ok(());
        }
        let ticket = self.output.put(whole)?;
        if ticket != Ticket::default() {
            self.last = ticket;
            self.said.note(&self.output, ticket);
        }
        Ok(())
    }
}

impl Drop for Printed {
    fn drop(&mut self) {
        self.end();
    }
}

// === impl Said ===

impl Said {
    fn note(&self, output: &Arc<Output>, ticket: Ticket) {
        let mut said = self.last();
        match said
            .iter_mut()
            .find(|(known, _)| Arc::ptr_eq(known, output))
        {
            Some((_, last)) => *last = ticket,
            None => said.push((Arc::clone(output), ticket)),
        }
    }

    /// Keeps what is `kept` until all of it is written.
    pub(crate) fn until_written(&self, kept: impl Send + 'static) {
        let said = std::mem::take(&mut *self.last());
        if said.iter().all(|(output, last)| output.is_written(*last)) {
            return;
        }
        let waits = async move {
            for (output, last) in said {
                output.written(last).await;
            }
            drop(kept);
        };
        drop(tokio::spawn(waits));
    }

    fn last(&self) -> MutexGuard<'_, Vec<(Arc<Output>, Ticket)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
