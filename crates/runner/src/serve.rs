//! `wasi:http` servers: a listener, and for each request an instance.
//!
//! `wasmtime_wasi_http::handler` would do the same for previews 2 and 3 at once, but needs
//! wasmtime's concurrent components, which are where most of its recent advisories are and which
//! make every call dearer. Preview 2 has one request in an instance at a time; that is a page of code.
//!
//! Told to stop, a server closes its listener and its idle connections, finishes the requests it
//! has, and leaves with 0. A second signal, or the end of its patience, ends it as it would a command.

mod instances;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use duet_linux::text;
use duet_wasm::{Handoff, Http};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use wasmtime::component::Component;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use crate::end::{End, say, words};
use crate::serve::instances::Instances;
pub(crate) use crate::serve::instances::load;
use crate::signals::Signals;

/// How many connections may wait to be accepted: as many as the kernel allows by default.
const BACKLOG: u32 = 4096;

/// How many threads serve at most: 8. A container with more processors to itself than that is a
/// better case for more containers.
const THREADS: usize = 8;

/// Serves until told to stop.
pub(crate) fn run(component: &Component, handoff: &Handoff, signals: Signals) -> End {
    let instances = match Instances::prepare(component, handoff) {
        Ok(instances) => Arc::new(instances),
        Err(error) => return End::Unstarted(format!("{error:#}")),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return End::Unfit(error.to_string()),
    };
    let end = runtime.block_on(async {
        match listen(handoff) {
            Ok(listener) => serve(listener, instances, handoff, signals).await,
            Err(end) => end,
        }
    });
    runtime.shutdown_background();
    end
}

fn runtime() -> io::Result<Runtime> {
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS);
    let mut builder = if threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    builder.worker_threads(threads).enable_all().build()
}

/// Opens the listener where the annotation, else the guest's environment, else the default says.
fn listen(handoff: &Handoff) -> Result<TcpListener, End> {
    let variable = handoff
        .variables()
        .find(|(name, _)| *name == Http::VARIABLE);
    let (address, by) = match (&handoff.http.address, variable) {
        (Some(address), _) => (address.as_str(), "io.containerd.duet.v1.http.listen"),
        (None, Some((name, address))) => (address, name),
        (None, None) => (Http::ADDRESS, "the default"),
    };
    let parsed: SocketAddr = address.parse().map_err(|_| {
        End::Unstarted(format!(
            "{by} is {address:?}, expected an address such as {}",
            Http::ADDRESS
        ))
    })?;
    let open = || {
        let socket = if parsed.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        // A container that is started again finds its predecessor's connections in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(parsed)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|error| End::Unstarted(format!("cannot listen on {address} ({by}): {error}")))
}

async fn serve(
    listener: TcpListener,
    instances: Arc<Instances>,
    handoff: &Handoff,
    signals: Signals,
) -> End {
    let told = match signals.as_bytes().and_then(told) {
        Ok(told) => told,
        Err(error) => return End::Unfit(error.to_string()),
    };
    // What only starting needed can go; memory that cannot be given back is kept.
    drop(text::unmap_own());
    let connections = GracefulShutdown::new();
    let server = auto::Builder::new(TokioExecutor::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            ready = told.readable() => match ready {
                Ok(()) => break,
                Err(error) => return End::Unfit(error.to_string()),
            },
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors or memory, or a client that is gone already: the next may be luckier.
                say(&format!("{}: cannot accept: {error}", handoff.name));
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        // Answers are small and somebody waits for each.
        drop(stream.set_nodelay(true));
        let instances = Arc::clone(&instances);
        let service = service_fn(move |request| answer(Arc::clone(&instances), request));
        let connection = server
            .serve_connection(TokioIo::new(stream), service)
            .into_owned();
        let connection = connections.watch(connection);
        // What a client does to its connection is no news; what a guest does is reported in `answer`.
        tokio::spawn(async move { drop(connection.await) });
    }
    // From here on nobody is waiting for us to be patient.
    signals.end_at_once();
    drop(listener);
    let patience = Duration::from_millis(handoff.http.drain_ms);
    let drained = async {
        connections.shutdown().await;
        instances.finished().await;
    };
    match timeout(patience, drained).await {
        Ok(()) => End::Exit(0),
        Err(_) => {
            say(&format!(
                "{}: requests were still in flight after {patience:?}",
                handoff.name
            ));
            End::Exit(143)
        }
    }
}

fn told(pipe: UnixStream) -> io::Result<tokio::net::UnixStream> {
    pipe.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(pipe)
}

async fn answer(
    instances: Arc<Instances>,
    request: Request<Incoming>,
) -> Result<Response<HyperOutgoingBody>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    Ok(instances.serve(request).await.unwrap_or_else(|error| {
        say(&format!(
            "{}: {method} {path}: {}",
            instances.name(),
            words(&error)
        ));
        let text = Full::new(Bytes::from_static(b"the server failed to answer\n"));
        let mut response = Response::new(text.map_err(|never| match never {}).boxed_unsync());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    }))
}
