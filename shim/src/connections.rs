//! The callers' connections, counted: so that the shim can stay until they have left.
//!
//! containerd's ttrpc client (Go) may take the end of a connection for the answer to its last
//! request even if the answer came first: it waits for both at once and picks either. For
//! `Shutdown` containerd does not mind; `ShutdownSandbox` and a refused `CreateSandbox` would be
//! reported as `ttrpc: closed`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use ttrpc::asynchronous::transport::Listener;

/// How many connections are open.
#[derive(Debug, Clone)]
pub(crate) struct Connections(watch::Sender<usize>);

/// One that is counted as long as it lives.
struct Counted {
    stream: UnixStream,
    open: Connections,
}

// === impl Connections ===

impl Connections {
    /// None yet.
    pub(crate) fn none() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Accepts and counts.
    pub(crate) fn accept(
        &self,
        listener: std::os::unix::net::UnixListener,
    ) -> io::Result<Listener> {
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let open = self.clone();
        let accepted = stream::unfold((listener, open), async |(listener, open)| {
            let accepted = listener.accept().await;
            let counted = accepted.map(|(stream, _)| Counted::new(stream, open.clone()));
            Some((counted, (listener, open)))
        });
        Ok(Listener::new(accepted))
    }

    /// Waits until there are some.
    pub(crate) async fn opened(&self) {
        // Fails only without a sender, and that is here.
        drop(self.0.subscribe().wait_for(|open| *open > 0).await);
    }

    /// Waits until there are none.
    pub(crate) async fn closed(&self) {
        drop(self.0.subscribe().wait_for(|open| *open == 0).await);
    }
}

// === impl Counted ===

impl Counted {
    fn new(stream: UnixStream, open: Connections) -> Self {
        open.0.send_modify(|open| *open += 1);
        Self { stream, open }
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut UnixStream> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.0.send_modify(|open| *open -= 1);
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(context, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn they_are_closed_when_the_callers_have_left() {
        let open = Connections::none();
        open.closed().await;
        let (one, _other) = UnixStream::pair().unwrap();
        let counted = Counted::new(one, open.clone());
        let waiting = tokio::spawn(async move { open.closed().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(counted);
        waiting.await.unwrap();
    }
}
