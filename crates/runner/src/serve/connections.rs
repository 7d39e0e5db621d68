//! The connections of a server, and how they end when it is told to stop: none of them while a request is
//! on its way.
//!
//! A client whose connection is kept alive may send the next request at the very moment at which it is
//! closed. So a server that leaves says so in its answers (`connection: close`, and `GOAWAY` for HTTP/2), and
//! closes a connection only after it was quiet for a moment and nothing has come that is unread or half a request.
//! `GOAWAY` is said at once: what a client of HTTP/2 sends before it has read that is answered as well. So is what one
//! sends that is told to go because it has asked nothing for long.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use duet_wasm::Http;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustix::io::ioctl_fionread;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::serve::addressee;
use crate::serve::idle::Idle;
use crate::serve::requests::Requests;
use crate::serve::streams::Streams;

/// How long a connection is quiet before it may be closed: 20 ms, more than what was sent before we were
/// told to stop takes in a cluster.
pub(crate) const QUIET: Duration = Duration::from_millis(20);

/// How long the rest of what a client has begun to say is waited for: 250 ms. The kernel of a client that writes
/// in pieces holds all but the first back until we acknowledge it, and ours may take 200 ms for that
/// (`TCP_DELACK_MAX`).
const REST: Duration = Duration::from_millis(250);

/// How long a client of HTTP/2 that has asked nothing more may take to say that it has read `GOAWAY`: a second. One that
/// is there says so when it comes to reading; what it has sent until then is answered.
const FAREWELL: Duration = Duration::from_secs(1);

/// When the kernel asks a client that says nothing whether it is there, and how long it waits at least for one that
/// does not take what was sent: 75 s.
const GONE: Duration = Duration::from_secs(75);

/// How long the end of an answer may take when its request's time is over: a second. Until then a guest that was late is
/// ended and its client told.
const TAIL: Duration = Duration::from_secs(1);

/// How long a head of HTTP/1.1 may be, in bytes: 64 KiB, and hyper's buffer is no larger. It would have 408 KiB.
const HEAD: usize = 64 << 10;

/// How much of the body of a request a client of HTTP/2 may send that nobody has read, in bytes: 64 KiB of a stream, so
/// that a few that are not read, for want of a place perhaps, do not take all of what its connection may send, hyper's
/// MiB.
const WINDOW: u32 = 64 << 10;

/// How much of an answer over HTTP/2 waits in h2, in bytes, beside a piece of it (`outgoing.rs`); the rest waits for its
/// turn.
const UNSENT: usize = 64 << 10;

/// How many streams a client of HTTP/2 may have at a time: 100, the least that is usual (RFC 9113, 6.5.2). Proxies that
/// need more have more connections.
const STREAMS: u32 = 100;

/// What a client of HTTP/2 says first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Attends to connections.
pub(crate) struct Connections {
    server: auto::Builder<Streams>,
    requests: Arc<Requests>,
    /// How long what was sent may stay unread.
    patience: Option<Duration>,
    /// How long a request may take, the end of its answer included.
    most: Option<Duration>,
    /// How long a client may take from one request to the end of the next one's head, and at most until it is seen
    /// which HTTP it speaks. Each connection is a descriptor and a buffer.
    idle: Duration,
    leaving: watch::Sender<bool>,
}

/// One of them.
struct Line {
    /// Never waited for: all who use it are one task.
    stream: Mutex<TcpStream>,
    /// Whether something was read since somebody last looked.
    heard: AtomicBool,
    /// Whether nothing was said since something was read, or at all.
    unanswered: AtomicBool,
    /// Whether the client speaks HTTP/2: it has said all of the [`PREFACE`].
    second: AtomicBool,
    /// Whether it is seen which HTTP the client speaks.
    known: AtomicBool,
    /// Whether there ever was a request, its head at least.
    asked: AtomicBool,
    /// Since when it has asked, or asked nothing.
    idle: Arc<Idle>,
}

/// The end of a line that hyper has.
struct End {
    line: Arc<Line>,
    /// How much of the [`PREFACE`] was heard.
    preface: usize,
}

// === impl Connections ===

impl Connections {
    pub(crate) fn new(requests: Arc<Requests>, http: &Http) -> Self {
        let most = http.timeout.map(|limit| limit.saturating_add(TAIL));
        let mut server = auto::Builder::new(Streams { most });
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(http.idle)
            .max_buf_size(HEAD);
        server
            .http2()
            .initial_stream_window_size(WINDOW)
            .max_send_buf_size(UNSENT)
            .max_concurrent_streams(STREAMS);
        Self {
            server,
            requests,
            // The kernel counts what is on its way, too: less than a minute would end clients that only stumble.
            patience: http.timeout.map(|patience| patience.max(GONE)),
            most,
            idle: http.idle,
            leaving: watch::Sender::new(false),
        }
    }

    /// Answers what comes from `stream`, HTTP/1.1 or HTTP/2, until one of both sides ends it.
    pub(crate) fn attend(&self, stream: TcpStream) {
        // Answers are small and somebody waits for each.
        drop(stream.set_nodelay(true));
        // Who asks and does not read the answer, and who is gone without a word: the kernel ends the connection.
        let socket = SockRef::from(&stream);
        drop(socket.set_tcp_user_timeout(self.patience));
        drop(socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(GONE)));
        let line = Arc::new(Line {
            stream: Mutex::new(stream),
            heard: AtomicBool::new(false),
            // Who was let in and has said nothing yet is about to.
            unanswered: AtomicBool::new(true),
            second: AtomicBool::new(false),
            known: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            idle: Idle::new(),
        });
        let (requests, spoken) = (Arc::clone(&self.requests), Arc::clone(&line));
        let service = service_fn(move |mut request: Request<Incoming>| {
            spoken.asked.store(true, Ordering::Relaxed);
            let named = addressee::name(&mut request, || spoken.here());
            // Of who only sends what is for nobody nothing counts as asked.
            let asked = named.is_ok().then(|| spoken.idle.asked());
            let answer = Arc::clone(&requests).answer(request, named, asked);
            async { Ok::<_, Infallible>(answer.await) }
        });
        let connection = self
            .server
            .serve_connection(
                TokioIo::new(End {
                    line: Arc::clone(&line),
                    preface: 0,
                }),
                service,
            )
            .into_owned();
        let mut leaving = self.leaving.subscribe();
        let (limit, most) = (self.idle, self.most);
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            let is_silent = tokio::select! {
                // Both times may be over when this is asked: first whoever is late is told.
                biased;
                // What a client does to its connection is no news; what a guest does is reported elsewhere.
                _ = connection.as_mut() => return,
                _ = leaving.wait_for(|leaving| *leaving) => false,
                () = line.silent(limit, most) => true,
            };
            if is_silent {
                // What it has asked for it does not take.
                if !line.second.load(Ordering::Relaxed) || line.idle.asking().is_some() {
                    return;
                }
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    biased;
                    _ = connection.as_mut() => return,
                    _ = leaving.wait_for(|leaving| *leaving) => {}
                    // Nor does it go when it is told to.
                    () = line.idle.over(limit) => return,
                }
            }
            line.heard.store(false, Ordering::Relaxed);
            let told = Instant::now();
            while !line.second.load(Ordering::Relaxed) {
                if timeout(QUIET, connection.as_mut()).await.is_ok() {
                    return;
                }
                if !line.speaks(told.elapsed() < REST) {
                    break;
                }
            }
            let second = line.second.load(Ordering::Relaxed);
            if !second && !line.asked.load(Ordering::Relaxed) {
                // The rest of a first head did not come. hyper would wait for it: only after a request it takes what is no
                // whole one for none.
                return;
            }
            connection.as_mut().graceful_shutdown();
            loop {
                tokio::select! {
                    biased;
                    _ = connection.as_mut() => return,
                    () = line.silent(limit, most) => return,
                    // Nor would it end before the client has said that it knows.
                    () = line.idle.over(FAREWELL), if second => {}
                }
                if !line.is_unread() {
                    return;
                }
            }
        });
    }

    /// Says to all clients that this server leaves.
    pub(crate) fn leave(&self) {
        self.requests.leave();
        self.leaving.send_replace(true);
    }

    /// Waits until all connections have ended.
    pub(crate) async fn ended(&self) {
        self.leaving.closed().await;
    }
}

// === impl Line ===

impl Line {
    /// Has it said something since this was last asked, or is there something unread? Who has begun to say
    /// something has to say the rest while there is `time`; what is inside a guest is not forgotten by whoever
    /// asks.
    fn speaks(&self, time: bool) -> bool {
        let heard = self.heard.swap(false, Ordering::Relaxed);
        let said = if self.unanswered.load(Ordering::Relaxed) {
            time
        } else {
            heard
        };
        said || self.is_unread()
    }

    /// Has it said something that nobody has read?
    fn is_unread(&self) -> bool {
        // A line that cannot be asked has nothing to say.
        ioctl_fionread(&*self.stream()).is_ok_and(|bytes| bytes > 0)
    }

    /// Returns when for `limit` after it was opened nobody knows what is spoken, or nothing is asked by HTTP/2; or when
    /// `most` has passed since the last request came, and what was answered is not taken.
    async fn silent(&self, limit: Duration, most: Option<Duration>) {
        let opened = Instant::now();
        let pause = most.map_or(limit, |most| most.min(limit));
        loop {
            let first = self.known.load(Ordering::Relaxed) && !self.second.load(Ordering::Relaxed);
            let rest = match (first, self.idle.asking()) {
                // What a client takes for its next request hyper counts.
                (true, None) => None,
                (true, Some(since)) => most.map(|most| most.saturating_sub(since.elapsed())),
                // Its stream was reset by then. What is still there is in h2, which nobody else gets it out of.
                (false, Some(since)) => {
                    most.map(|most| (most + TAIL).saturating_sub(since.elapsed()))
                }
                (false, None) => Some(limit.saturating_sub(self.idle.idle(opened))),
            };
            if rest == Some(Duration::ZERO) {
                return;
            }
            sleep(rest.map_or(pause, |rest| rest.min(pause))).await;
        }
    }

    /// The address that the client has connected to.
    fn here(&self) -> io::Result<SocketAddr> {
        self.stream().local_addr()
    }

    fn stream(&self) -> MutexGuard<'_, TcpStream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl End ===

impl End {
    /// Looks at what was said, until it is no beginning of a [`PREFACE`] or all of one.
    fn look(&mut self, said: &[u8]) {
        let rest = PREFACE.get(self.preface..).unwrap_or_default();
        if said.len() < rest.len() && rest.starts_with(said) {
            self.preface += said.len();
        } else {
            self.line.known.store(true, Ordering::Relaxed);
            let second = said.starts_with(rest);
            self.line.second.store(second, Ordering::Relaxed);
        }
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut *self.line.stream()).poll_read(context, buffer);
        let said = buffer.filled().get(before..).unwrap_or_default();
        if !said.is_empty() {
            self.line.heard.store(true, Ordering::Relaxed);
            self.line.unanswered.store(true, Ordering::Relaxed);
            if !self.line.known.load(Ordering::Relaxed) {
                self.look(said);
            }
        }
        read
    }
}

// Without `poll_write_vectored`: a head and a small body are one buffer, which is sent for less.
impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.line.unanswered.store(false, Ordering::Relaxed);
        Pin::new(&mut *self.line.stream()).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.line.stream()).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.line.stream()).poll_shutdown(context)
    }
}
