//! The requests of a server: how many at a time, for how long, and what becomes of those that the guest
//! does not answer.

use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use duet_wasm::{Handoff, Http};
use http::header::{CONNECTION, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use wasmtime::component::Component;
use wasmtime_wasi_http::{Error, WasiBody};

use crate::end::{is_trap, say, words};
use crate::serve::idle::Asked;
use crate::serve::instances::Instances;
use crate::serve::log::Said;
use crate::tally;

/// What a guest answers, or the name of its error.
type Answer = Result<Response<WasiBody>, String>;
/// Where a guest's answer goes.
pub(crate) type Sender = oneshot::Sender<Answer>;

/// When those who find no place may come again: after a second, the shortest time that the header knows.
const AGAIN: HeaderValue = HeaderValue::from_static("1");

/// Has requests answered.
pub(crate) struct Requests {
    instances: Instances,
    name: String,
    http: Http,
    /// One permit for each request that may be inside the guest.
    places: Arc<Semaphore>,
    waiting: AtomicU32,
    /// Whether clients are told to look for another server.
    leaving: AtomicBool,
    /// How many there were.
    count: AtomicU64,
}

/// Why a request has no answer of the guest's.
enum Unanswered {
    /// There was no place for it.
    Busy,
    /// It was not done in its time.
    Late(Duration),
    /// The guest trapped, left or said nothing.
    Failed(wasmtime::Error),
}

/// What there is to say about a request.
pub(crate) struct About {
    pub(crate) id: u64,
    pub(crate) said: Arc<Said>,
    method: Method,
    uri: Uri,
    /// The guest did not come to its end. Set before it is dropped: for whoever reads its answer.
    broken: AtomicBool,
    /// Its connection is not idle while it is there.
    _asked: Option<Asked>,
}

/// A piece of an answer, until it is written: hyper is done with a stream of HTTP/2 when it has handed on the last.
pub(crate) struct Piece {
    bytes: Bytes,
    /// Whose answer it is of.
    _about: Option<Arc<About>>,
}

/// The body of an answer.
pub(crate) enum Answered {
    /// One of ours.
    Text(Full<Bytes>),
    /// The guest's, who may not come to its end.
    Guest(WasiBody, Arc<About>),
}

// === impl Requests ===

impl Requests {
    pub(crate) fn prepare(
        component: &Component,
        handoff: &Handoff,
        told: Arc<AtomicBool>,
        has_threads: bool,
    ) -> wasmtime::Result<Self> {
        let places = usize::try_from(handoff.http.concurrency.max(1)).unwrap_or(usize::MAX);
        Ok(Self {
            instances: Instances::prepare(component, handoff, told, has_threads)?,
            name: handoff.name.clone(),
            http: handoff.http.clone(),
            places: Arc::new(Semaphore::new(places)),
            waiting: AtomicU32::new(0),
            leaving: AtomicBool::new(false),
            count: AtomicU64::new(0),
        })
    }

    /// Whether there is room for an instance, or why not.
    pub(crate) async fn have_room(&self) -> Result<(), String> {
        self.instances.have_room().await
    }

    /// Answers one request, whatever the guest does: with 400 one that is not for anybody.
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        named: Result<(), &'static str>,
        asked: Option<Asked>,
    ) -> Response<Answered> {
        // HTTP/2 has another way to say it, and no such header.
        let can_close = request.version() < Version::HTTP_2;
        let mut response = match named {
            Ok(()) => self.outcome(request, asked).await,
            // What a client says wrong is no news, and nothing for the guest.
            Err(why) => text(StatusCode::BAD_REQUEST, why),
        };
        if can_close && self.leaving.load(Ordering::Relaxed) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }

    /// From now on the answer to each request is the last of its connection.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    async fn outcome(
        self: &Arc<Self>,
        request: Request<Incoming>,
        asked: Option<Asked>,
    ) -> Response<Answered> {
        match self.serve(request, asked).await {
            Ok(response) => response,
            Err(Unanswered::Busy) => {
                let mut response = text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the server has no place for this request\n",
                );
                response.headers_mut().insert(RETRY_AFTER, AGAIN);
                response
            }
            Err(Unanswered::Late(_)) => text(
                StatusCode::GATEWAY_TIMEOUT,
                "the server did not answer in time\n",
            ),
            Err(Unanswered::Failed(_)) => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the server failed to answer\n",
            ),
        }
    }

    /// Waits until no request is inside the guest.
    pub(crate) async fn finished(&self) {
        // It is never closed.
        drop(self.places.acquire_many(self.http.concurrency.max(1)).await);
    }

    async fn serve(
        self: &Arc<Self>,
        request: Request<Incoming>,
        asked: Option<Asked>,
    ) -> Result<Response<Answered>, Unanswered> {
        let about = Arc::new(About {
            id: self.count.fetch_add(1, Ordering::Relaxed) + 1,
            said: Arc::default(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            broken: AtomicBool::new(false),
            _asked: asked,
        });
        let deadline = self.http.timeout.map(|limit| Instant::now() + limit);
        let place = self.place(deadline).await?;
        tally::request();
        let (sender, mut answered) = oneshot::channel();
        let (server, of) = (Arc::clone(self), Arc::clone(&about));
        let mut call = Detached(Some(Box::pin(async move {
            let called = server.call(&of, request, sender, deadline).await;
            if let Err(why) = &called {
                server.report(&of, why);
            }
            // While its words wait for a reader it keeps its place: there must be an end of them.
            of.said.until_written(place);
            called
        })));
        // Most guests are done when their answer is there: then it all was one task.
        let answer = tokio::select! {
            biased;
            called = &mut call => {
                called?;
                answered.try_recv().ok()
            }
            answer = &mut answered => match answer {
                Ok(answer) => Some(answer),
                Err(_) => {
                    call.await?;
                    None
                }
            }
        };
        // What follows is no error of the call, which reported nothing.
        let why = match answer {
            Some(Ok(response)) => return Ok(response.map(|body| Answered::Guest(body, about))),
            Some(Err(code)) => format!("the guest answered with an error: {code}"),
            None => "the guest returned without an answer".to_owned(),
        };
        let why = Unanswered::Failed(wasmtime::Error::msg(why));
        self.report(&about, &why);
        Err(why)
    }

    /// Waits for a place inside the guest, if there is room to wait.
    async fn place(&self, deadline: Option<Instant>) -> Result<OwnedSemaphorePermit, Unanswered> {
        let places = Arc::clone(&self.places);
        if let Ok(place) = places.try_acquire_owned() {
            return Ok(place);
        }
        let _waiting = Waiting::enter(&self.waiting, self.http.queue).ok_or(Unanswered::Busy)?;
        let place = within(deadline, Arc::clone(&self.places).acquire_owned()).await;
        // It is never closed.
        place.and_then(Result::ok).ok_or(Unanswered::Busy)
    }

    async fn call(
        &self,
        about: &About,
        request: Request<Incoming>,
        sender: Sender,
        deadline: Option<Instant>,
    ) -> Result<(), Unanswered> {
        let mut call = pin!(self.instances.call(about, request, sender));
        if let Some(called) = within(deadline, call.as_mut()).await {
            return called.map_err(Unanswered::Failed);
        }
        about.breaks();
        Err(Unanswered::Late(self.http.timeout.unwrap_or_default()))
    }

    /// On the container's stderr, with the number of the request as what its handler printed.
    fn report(&self, about: &About, why: &Unanswered) {
        let why = match why {
            Unanswered::Busy => return,
            Unanswered::Late(limit) => format!("stopped after {limit:?} (http.timeout)"),
            Unanswered::Failed(error) => {
                let words = words(error);
                if is_trap(error) {
                    tally::trap(&words);
                }
                words
            }
        };
        let About {
            id, method, uri, ..
        } = about;
        let text = format!("{}: {method} {}: {why}", self.name, uri.path());
        if self.http.plain_log {
            self.say(&text);
        } else {
            let lines: Vec<_> = text.lines().map(|line| format!("[{id}] {line}")).collect();
            self.say(&lines.join("\n"));
        }
    }

    /// On the container's stderr. That may be a terminal that nobody reads: the clock goes on, which hears a signal
    /// all the same.
    pub(crate) fn say(&self, text: &str) {
        let _ticking = self.instances.ticking();
        say(text);
    }
}

// === impl About ===

impl About {
    /// The guest will not come to its end, and is dropped after this.
    pub(crate) fn breaks(&self) {
        self.broken.store(true, Ordering::Release);
    }
}

// === impl Piece ===

impl Piece {
    fn of(bytes: Bytes, about: Option<Arc<About>>) -> Self {
        Self {
            bytes,
            _about: about,
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

// === impl Answered ===

impl Body for Answered {
    type Data = Piece;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Error>>> {
        match self.get_mut() {
            Self::Text(text) => Pin::new(text)
                .poll_frame(context)
                .map_ok(|frame| frame.map_data(|bytes| Piece::of(bytes, None)))
                .map_err(|never| match never {}),
            Self::Guest(body, about) => match ready!(Pin::new(body).poll_frame(context)) {
                // For wasmtime a body whose guest is gone is at its end, and the client would take it for whole.
                None if about.broken.load(Ordering::Acquire) => {
                    Poll::Ready(Some(Err(Error::ConnectionTerminated)))
                }
                frame => {
                    let of = |bytes| Piece::of(bytes, Some(Arc::clone(about)));
                    Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(of))))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_end_stream(),
            Self::Guest(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => text.size_hint(),
            Self::Guest(body, _) => body.size_hint(),
        }
    }
}

/// `None`: its time was over first.
async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Answered> {
    let body = Full::new(Bytes::from_static(text.as_bytes()));
    let mut response = Response::new(Answered::Text(body));
    *response.status_mut() = status;
    response
}

/// One of those who wait for a place.
struct Waiting<'a>(&'a AtomicU32);

// === impl Waiting ===

impl<'a> Waiting<'a> {
    /// Joins them, unless there are `most`.
    fn enter(waiting: &'a AtomicU32, most: u32) -> Option<Self> {
        let me = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < most).then_some(me)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call that goes on when nobody waits for it any more: because its answer is there, or because the
/// client has gone. A handler is not ended at a place that it cannot know.
struct Detached<F: Future<Output = Result<(), Unanswered>> + Send + 'static>(Option<Pin<Box<F>>>);

impl<F: Future<Output = Result<(), Unanswered>> + Send + 'static> Future for Detached<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(call) = &mut self.0 else {
            return Poll::Ready(Ok(()));
        };
        let polled = call.as_mut().poll(context);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl<F: Future<Output = Result<(), Unanswered>> + Send + 'static> Drop for Detached<F> {
    fn drop(&mut self) {
        if let (Some(call), Ok(runtime)) = (self.0.take(), runtime::Handle::try_current()) {
            // Its errors are reported by itself.
            drop(runtime.spawn(call));
        }
    }
}
