//! `wasi:http` servers: a listener, and for each request an instance.
//!
//! `wasmtime_wasi_http::handler` would do the same for previews 2 and 3 at once, but needs
//! wasmtime's concurrent components for both, which are where most of its recent advisories are and which
//! make every call dearer. An instance has one request at a time, whatever its preview; that is a page of code.
//!
//! Told to stop, a server lets nobody else in, or leaves them to a successor, answers all requests that were sent to it, closes its
//! connections and leaves with 0. A second signal, or the end of its patience, ends it as it would a command.
//!
//! | File | What for |
//! | --- | --- |
//! | `listener.rs` | where it listens, with what, and for whom besides |
//! | `connections.rs` | who speaks to us, and when that may end |
//! | `idle.rs` | clients that are there and want nothing |
//! | `streams.rs` | how long a stream of HTTP/2 may take |
//! | `addressee.rs` | whom a request is for |
//! | `requests.rs` | how many at a time, for how long, and what the guest leaves unanswered |
//! | `instances.rs` | guests, made or used again |
//! | `clock.rs` | interrupts those that compute |
//! | `log.rs`, `lines.rs` | what they print |

mod addressee;
mod clock;
mod connections;
mod idle;
mod instances;
mod lines;
mod listener;
mod log;
mod requests;
mod streams;

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use duet_wasm::Handoff;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{SockFilter, SockRef};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use wasmtime::component::Component;

use crate::end::End;
use crate::imports::unlinked;
use crate::outputs;
use crate::rest;
use crate::serve::connections::{Connections, QUIET};
pub(crate) use crate::serve::instances::load;
use crate::serve::listener::{Listener, Then};
pub(crate) use crate::serve::log::Logs;
use crate::serve::requests::Requests;
use crate::signals::Signals;
use crate::threads::{MOST, to_be_had};

/// How many threads serve at most: 8. A container with more processors to itself than that is a
/// better case for more containers.
const THREADS: usize = 8;

/// How long a thread that has read a file waits for the next one: for ever. Where there is one, tokio lets files wait
/// for it when the container may have no more; where there is none, it panics.
const KEPT: Duration = Duration::MAX;

/// Drops the segments that ask for a new connection, and no others: those of a handshake that has begun
/// must arrive. Whoever was not heard asks again after a second, and is refused or finds our successor.
const NOBODY_NEW: [SockFilter; 5] = [
    // The flags are the byte at 13 of a TCP header.
    SockFilter::new(LOAD_BYTE, 0, 0, 13),
    SockFilter::new(AND, 0, 0, SYN | ACK),
    SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
    SockFilter::new(RETURN, 0, 0, 0),
    SockFilter::new(RETURN, 0, 0, u32::MAX),
];
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;
/// `BPF_LD | BPF_B | BPF_ABS`; these four are from `linux/bpf_common.h`.
const LOAD_BYTE: u16 = 0x30;
/// `BPF_ALU | BPF_AND | BPF_K`
const AND: u16 = 0x54;
/// `BPF_JMP | BPF_JEQ | BPF_K`
const JUMP_IF_EQUAL: u16 = 0x15;
/// `BPF_RET | BPF_K`
const RETURN: u16 = 0x06;

/// Serves until told to stop. It is said in the log that its instances are `unpooled`, with the reason.
pub(crate) fn run(
    component: &Component,
    unpooled: Option<String>,
    handoff: &Handoff,
    signals: Signals,
    listeners: Option<OwnedFd>,
) -> End {
    small_pages();
    let (threads, has_threads) = shares();
    let requests = match Requests::prepare(component, handoff, signals.came(), has_threads) {
        Ok(requests) => Arc::new(requests),
        Err(error) => return unlinked(&error),
    };
    let runtime = match runtime(threads) {
        Ok(runtime) => runtime,
        Err(error) => return End::Unfit(error.to_string()),
    };
    if has_threads {
        // From now on there is one, whatever becomes of the others.
        drop(runtime.spawn_blocking(|| ()));
    }
    more_descriptors();
    let end = runtime.block_on(async {
        if let Err(error) = outputs::open() {
            return End::Unfit(format!("standard output and error: {error}"));
        }
        // Before anybody can connect: whoever does is answered, also by a server that is told to stop at once.
        let told = match signals.as_bytes().and_then(told) {
            Ok(told) => told,
            Err(error) => return End::Unfit(error.to_string()),
        };
        if let Err(why) = requests.have_room().await {
            return End::Unstarted(why);
        }
        if let Some(why) = unpooled {
            requests.say(&format!("{}: {why}", handoff.name));
        }
        match Listener::open(handoff, listeners) {
            Ok(listener) => serve(listener, requests, handoff, signals, told).await,
            Err(end) => end,
        }
    });
    runtime.shutdown_background();
    end
}

/// Has each instance take what it touches, page by page. Where huge pages are for everybody its first byte would take
/// two megabytes of what it is born with, which nobody has asked whether it fits (decision 54), and zeroing them time.
fn small_pages() {
    // Whoever forbids this by a filter has what the kernel does by itself.
    rustix::thread::disable_transparent_huge_pages(true).ok();
}

/// As many connections as the container may have: the lower limit is for programs that use `select`.
fn more_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: maximum,
        maximum,
    };
    // Raising one's own limit to what it may be is always allowed.
    setrlimit(Resource::Nofile, all).ok();
}

fn threads() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS)
}

/// How many threads there are to serve, and whether there is one that reads files.
///
/// tokio panics if it cannot have one of those that it is told to take. Two are left: one for the clock, and one that
/// reads files.
fn shares() -> (usize, bool) {
    let wanted = threads();
    // With one processor it is this thread that serves.
    let others = if wanted < 2 { 0 } else { wanted };
    let free = to_be_had(others + 2);
    (free.saturating_sub(2).min(others), free >= 2)
}

fn runtime(threads: usize) -> io::Result<Runtime> {
    let mut builder = if threads < 2 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads);
        builder
    };
    builder
        // Guests that compute may be all that a thread has to do for whole ticks of the clock: it looks
        // for others after a few, not after the 61 turns of those who take microseconds.
        .event_interval(4)
        .max_blocking_threads(MOST)
        .thread_keep_alive(KEPT)
        .enable_all()
        .build()
}

async fn serve(
    listener: Listener,
    requests: Arc<Requests>,
    handoff: &Handoff,
    signals: Signals,
    told: tokio::net::UnixStream,
) -> End {
    rest::end_of_start();
    let connections = Connections::new(Arc::clone(&requests), &handoff.http);
    tokio::select! {
        never = accept(&listener.socket, &connections, &requests, handoff) => match never {},
        ready = told.readable() => if let Err(error) = ready {
            return End::Unfit(error.to_string());
        }
    }
    // From here on nobody is waiting for us to be patient.
    signals.end_at_once();
    let patience = handoff.http.drain;
    let drained = async {
        connections.leave();
        match listener.then {
            Then::Close => close(listener.socket, &connections, &requests, handoff).await,
            // Those at the door are its successor's, whenever that comes.
            Then::Leave => drop(listener.socket),
        }
        connections.ended().await;
        requests.finished().await;
        if let Some(outputs) = outputs::opened() {
            outputs.emptied().await;
        }
    };
    match timeout(patience, drained).await {
        Ok(()) => End::Exit(0),
        Err(_) => {
            requests.say(&format!(
                "{}: requests were still open after {patience:?} (http.drain)",
                handoff.name
            ));
            End::Exit(143)
        }
    }
}

/// Attends to whoever connects.
async fn accept(
    listener: &TcpListener,
    connections: &Connections,
    requests: &Requests,
    handoff: &Handoff,
) -> Infallible {
    let mut is_said = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.attend(stream);
                is_said = false;
            }
            Err(error) => {
                // Out of descriptors or memory, or a client that is gone already: the next may be luckier.
                if !std::mem::replace(&mut is_said, true) {
                    requests.say(&format!("{}: cannot accept: {error}", handoff.name));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Lets nobody else in, but attends to all who are at the door already: closing a listener resets the
/// connections that nobody has accepted, and what was sent over them.
async fn close(
    listener: TcpListener,
    connections: &Connections,
    requests: &Requests,
    handoff: &Handoff,
) {
    // Without a filter some may be turned away whom the kernel had let in.
    drop(SockRef::from(&listener).attach_filter(&NOBODY_NEW));
    let moment = accept(&listener, connections, requests, handoff);
    timeout(QUIET, moment).await.ok();
    // The last of them need no second turn of the runtime to be seen.
    let Ok(listener) = listener.into_std() else {
        return;
    };
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let stream = stream
                    .set_nonblocking(true)
                    .and_then(|()| TcpStream::from_std(stream));
                // One that cannot be attended to was lost when it was accepted.
                stream
                    .into_iter()
                    .for_each(|stream| connections.attend(stream));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // Those who leave make room for those at the door.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

fn told(pipe: UnixStream) -> io::Result<tokio::net::UnixStream> {
    pipe.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(pipe)
}
