//! The guest's own http requests, one connection each: HTTP/1.1, and HTTP/2 where a server of https offers it.
//!
//! | File | What for |
//! | --- | --- |
//! | `reach.rs` | which address of a name it is |
//! | `tls.rs` | https |
//! | `codes.rs` | why a body broke off |
//! | `roots.rs` | whose certificates are believed |
//! | `tasks.rs` | what runs beside a connection of HTTP/2 |

pub(crate) mod codes;
mod reach;
pub(crate) mod roots;
mod tasks;
mod tls;

use std::error::Error as _;
use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep, timeout};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::p2::bindings::http::types as p2;
use wasmtime_wasi_http::p3::bindings::http::types as p3;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use tasks::Tasks;
use tls::{Heard, Said};

/// How long each stage of a request may take unless the guest says otherwise: 10 minutes, as in wasmtime.
const PATIENCE: Duration = Duration::from_secs(600);

/// How much a server of HTTP/2 may send that nobody has read, in bytes: as much as one of HTTP/1.1 by hyper's buffer.
/// hyper has 2 MiB, of memory that the container's limit knows nothing of before the kernel does.
const WINDOW: u32 = 256 << 10;

/// How much of a request waits for such a server, in bytes.
const UNSENT: usize = 64 << 10;

/// How large the pieces are in which a guest's bodies leave it, requests' and answers' alike, in bytes. Three of them wait
/// for whoever takes them, of memory that the container's limit knows nothing of; wasmtime has 1 MiB. The Rust of
/// `wasm32-wasip2` and C write 4 KiB at a time, whatever this is.
const PIECE: usize = 32 << 10;

/// Sends the guest's requests.
#[derive(Debug)]
pub(crate) struct Outgoing;

type Sent = (
    Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);

/// What an error of a connection is for a guest. Both previews have the same names for it, in types of their own.
macro_rules! of_hyper {
    ($preview:ident, $error:expr) => {
        if $error.is_incomplete_message() {
            $preview::ErrorCode::HttpResponseIncomplete
        } else if $error.source().is_some_and(|it| it.is::<std::io::Error>()) {
            $preview::ErrorCode::ConnectionTerminated
        } else {
            $preview::ErrorCode::HttpProtocolError
        }
    };
}

/// The same for a connection that does not come about.
macro_rules! of_connect {
    ($preview:ident, $error:expr) => {
        match $error.kind() {
            ErrorKind::TimedOut => $preview::ErrorCode::ConnectionTimeout,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                $preview::ErrorCode::DestinationUnavailable
            }
            // By a firewall or a policy of the node's.
            ErrorKind::PermissionDenied => $preview::ErrorCode::DestinationIpProhibited,
            // No port is left.
            ErrorKind::AddrNotAvailable => $preview::ErrorCode::ConnectionLimitReached,
            _ if is_out_of_descriptors($error) => $preview::ErrorCode::ConnectionLimitReached,
            _ => $preview::ErrorCode::ConnectionRefused,
        }
    };
}

fn is_out_of_descriptors(error: &std::io::Error) -> bool {
    let error = Errno::from_io_error(error);
    matches!(error, Some(Errno::MFILE | Errno::NFILE))
}

// === impl Outgoing ===

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        Box::new(send(request, options.unwrap_or_default()))
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        PIECE
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        PIECE
    }

    // The defaults write to a log that nobody reads.
    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> p2::ErrorCode {
        of_hyper!(p2, error)
    }

    fn p2_error_from_connect(&mut self, error: &std::io::Error) -> p2::ErrorCode {
        of_connect!(p2, error)
    }

    fn p3_error_from_hyper(&mut self, error: &hyper::Error) -> p3::ErrorCode {
        of_hyper!(p3, error)
    }

    fn p3_error_from_connect(&mut self, error: &std::io::Error) -> p3::ErrorCode {
        of_connect!(p3, error)
    }
}

/// A connection to whoever is asked: who takes its request, and what moves its bytes until the guest has the whole
/// answer or drops it.
struct Line {
    sender: Sender,
    driver: Driver,
    said: Said,
}

enum Sender {
    First(http1::SendRequest<WasiBody>),
    Second(http2::SendRequest<WasiBody>),
}

type Driver = AbortOnDropJoinHandle<Result<(), Error>>;

// === impl Line ===

impl Line {
    async fn open(host: &str, port: u16, secret: bool) -> Result<Self, Error> {
        let stream = reach::connect(host, port).await?;
        stream.set_nodelay(true).map_err(Error::Connect)?;
        let said = Said::default();
        if !secret {
            return Self::first(stream, said).await;
        }
        let stream = tls::handshake(host, stream).await?;
        let is_second = tls::is_second(&stream);
        let stream = Heard::new(stream, host, &said);
        if is_second {
            Self::second(stream, said).await
        } else {
            Self::first(stream, said).await
        }
    }

    async fn first<S>(stream: S, said: Said) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let heard = said.clone();
        let driver = spawn(async move { connection.await.map_err(|error| heard.behind(error)) });
        let sender = Sender::First(sender);
        Ok(Self {
            sender,
            driver,
            said,
        })
    }

    async fn second<S>(stream: S, said: Said) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let tasks = Tasks::default();
        let keeper = tasks.keeper();
        let (sender, connection) = http2::Builder::new(tasks)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_send_buf_size(UNSENT)
            .handshake(TokioIo::new(stream))
            .await?;
        let heard = said.clone();
        let driver = spawn(async move {
            let ended = connection.await;
            // Its request may still be on its way.
            keeper.finished().await;
            ended.map_err(|error| heard.behind(error))
        });
        let sender = Sender::Second(sender);
        Ok(Self {
            sender,
            driver,
            said,
        })
    }
}

// === impl Sender ===

impl Sender {
    async fn send(
        &mut self,
        mut request: Request<WasiBody>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        match self {
            Self::First(sender) => {
                // Only a proxy is sent the whole URI; for everybody else the host is in its header.
                let path = request.uri().path_and_query();
                // An empty one says that it is `/`, and would be written as nothing.
                let path = path.filter(|path| path.as_str() != "/").cloned();
                *request.uri_mut() = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
                sender.send_request(request).await
            }
            Self::Second(sender) => {
                // Here the host is in the URI.
                request.headers_mut().remove(HOST);
                *request.version_mut() = Version::HTTP_2;
                sender.send_request(request).await
            }
        }
    }
}

async fn send(mut request: Request<WasiBody>, options: RequestOptions) -> Result<Sent, Error> {
    forget_user(&mut request)?;
    let authority = request
        .uri()
        .authority()
        .ok_or(Error::HttpRequestUriInvalid)?
        .clone();
    let secret = request.uri().scheme() == Some(&Scheme::HTTPS);
    let port = authority
        .port_u16()
        .unwrap_or(if secret { 443 } else { 80 });
    // An IPv6 address has brackets in a URI and none in a lookup.
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');

    let limit = options.connect_timeout.unwrap_or(PATIENCE);
    let mut line = timeout(limit, Line::open(host, port, secret))
        .await
        .unwrap_or(Err(Error::ConnectionTimeout))?;

    let limit = options.first_byte_timeout.unwrap_or(PATIENCE);
    let response = timeout(limit, line.sender.send(request))
        .await
        .map_err(|_| Error::ConnectionReadTimeout)?
        .map_err(|error| line.said.behind(error))?;
    let limit = options.between_bytes_timeout.unwrap_or(PATIENCE);
    let response = response.map(|body| Patient::new(body, limit, line.said).boxed_unsync());
    let driver = line.driver;
    let end = async move {
        // wasmtime asks once whether the connection has ended, and takes an error of its end for
        // want of the answer that is there. What the answer lacks, its body says.
        yield_now().await;
        driver.await
    };
    Ok((response, Box::new(end)))
}

/// Takes from a request the user and password in its authority: they are for whoever asks, and no server is told of them
/// in a `Host` or `:authority` (RFC 9110, 4.2.4 and 7.2). wasmtime writes the one as it writes the other.
fn forget_user(request: &mut Request<WasiBody>) -> Result<(), Error> {
    let authority = request.uri().authority().map(Authority::as_str);
    let Some((_, bare)) = authority.and_then(|authority| authority.rsplit_once('@')) else {
        return Ok(());
    };
    let host = HeaderValue::from_str(bare).map_err(|_| Error::HttpRequestUriInvalid)?;
    let bare = Authority::try_from(bare).map_err(|_| Error::HttpRequestUriInvalid)?;
    let mut parts = request.uri().clone().into_parts();
    parts.authority = Some(bare);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Error::HttpRequestUriInvalid)?;
    request.headers_mut().insert(HOST, host);
    Ok(())
}

/// A body that may not be silent for too long while somebody waits for more of it.
///
/// What a guest does between two pieces is its own time: it may compute for an hour and find the second piece there. A
/// command computes on the one thread that moves its bytes, too, so that what came meanwhile is still the kernel's
/// when the guest asks for it.
struct Patient {
    body: Incoming,
    limit: Duration,
    silence: Silence,
    over: Pin<Box<Sleep>>,
    said: Said,
}

/// Since when nothing has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Silence {
    /// Nobody has asked since the last piece.
    Unheard,
    /// Since the guest asked, for which `over` is set.
    Asked,
    /// The time is over; `over` is set for what the kernel may have.
    Over,
}

/// How long it is waited for what the kernel may have when the time is over: 100 ms, as long as a quota of processor time
/// holds a container back.
const LAST_CALL: Duration = Duration::from_millis(100);

// === impl Patient ===

impl Patient {
    fn new(body: Incoming, limit: Duration, said: Said) -> Self {
        Self {
            body,
            limit,
            silence: Silence::Unheard,
            over: Box::pin(sleep(limit)),
            said,
        }
    }

    fn wait_for(&mut self, time: Duration, silence: Silence) {
        self.silence = silence;
        self.over.as_mut().reset(Instant::now() + time);
    }
}

impl Body for Patient {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.silence = Silence::Unheard;
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| self.said.behind(error))));
        }
        if self.silence == Silence::Unheard {
            let limit = self.limit;
            self.wait_for(limit, Silence::Asked);
        }
        loop {
            ready!(self.over.as_mut().poll(context));
            // Who comes later than that was away, and nobody looked meanwhile whether anything came.
            let is_late = self.over.deadline().elapsed() > LAST_CALL;
            if self.silence == Silence::Over && !is_late {
                return Poll::Ready(Some(Err(Error::ConnectionReadTimeout)));
            }
            self.wait_for(LAST_CALL, Silence::Over);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
