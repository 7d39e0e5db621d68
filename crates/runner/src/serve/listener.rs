//! Where a server listens, with what, and for whom besides.
//!
//! The socket is always a runner's own, made in the container's network namespace with the rights of its user. If
//! the container asks for it, the pod has a duplicate: then a server that is gone, however it went, leaves those
//! who wait at its door to the next one at this address.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use duet_linux::channel::{Heard, Received, pass, receive};
use duet_wasm::listeners::{FIND, KEEP, YES};
use duet_wasm::{Handoff, Http, ServesAt};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket};

use crate::end::{End, say};

/// How many connections may wait to be accepted: as many as the kernel allows by default.
const BACKLOG: u32 = 4096;

/// How often a server whose address is taken asks the pod for the listener there. One that starts at the same moment
/// has bound it, and tells the pod just now.
const QUESTIONS: u32 = 10;

/// How long it waits before it asks again.
const PAUSE: Duration = Duration::from_millis(10);

/// How long the shim may take for an answer: 5 s. It has to look into a table.
const ANSWER: Duration = Duration::from_secs(5);

/// A listening socket, and what becomes of it.
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) then: Then,
}

/// What becomes of a listener when its server leaves.
pub(super) enum Then {
    /// It is closed, when everybody who is at the door was let in.
    Close,
    /// It stays with the pod.
    Leave,
}

/// The way to the listeners of the pod.
struct Pod(OwnedFd);

// === impl Listener ===

impl Listener {
    /// Opens it where the annotation, else the guest's environment, else the default says; or takes over the one
    /// that the pod keeps there.
    pub(super) fn open(handoff: &Handoff, listeners: Option<OwnedFd>) -> Result<Self, End> {
        let ServesAt {
            address,
            without_ipv6,
            by,
        } = handoff.serves_at();
        let parse = |address: &str| {
            address.parse().map_err(|_| {
                End::Unstarted(format!(
                    "{by} is {address:?}, expected an address such as {}",
                    Http::WITHOUT_IPV6
                ))
            })
        };
        let parsed = parse(address)?;
        let without_ipv6 = without_ipv6.map(parse).transpose()?;
        let listen = || match (listen(parsed), without_ipv6) {
            // Where there is a server already, there is IPv6, or nobody needs it.
            (Err(error), Some(instead)) if error.kind() != io::ErrorKind::AddrInUse => {
                listen(instead)
            }
            (listening, _) => listening,
        };
        let failed = |what: &str, error: &io::Error| {
            End::Unstarted(format!("cannot {what} {address} ({by}): {error}"))
        };
        let Some(pod) = listeners.map(Pod) else {
            let socket = listen().map_err(|error| failed("listen on", &error))?;
            let then = Then::Close;
            return Ok(Self { socket, then });
        };
        let mut left = QUESTIONS;
        loop {
            let error = match listen() {
                Ok(socket) => {
                    let then = pod.keep(&socket, address, &handoff.name);
                    return Ok(Self { socket, then });
                }
                Err(error) => error,
            };
            if error.kind() != io::ErrorKind::AddrInUse || left == 0 {
                return Err(failed("listen on", &error));
            }
            let found = pod.find();
            if let Some(socket) = found.map_err(|error| failed("take over", &error))? {
                let then = Then::Leave;
                return Ok(Self { socket, then });
            }
            left -= 1;
            sleep(PAUSE);
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        let socket = TcpSocket::new_v6()?;
        // `[::]` is every address, whatever the network says of it (`net.ipv6.bindv6only`).
        SockRef::from(&socket).set_only_v6(false)?;
        socket
    };
    // A container that is started again finds its predecessor's connections in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

// === impl Pod ===

impl Pod {
    /// Leaves a duplicate with the pod. If it does not take it, it is as without a pod.
    fn keep(&self, socket: &TcpListener, address: &str, name: &str) -> Then {
        let why = match self.ask(KEEP, Some(socket)) {
            Ok((YES, _)) => return Then::Leave,
            Ok(_) => "it has as many as a pod may have, or has ended".to_owned(),
            Err(error) => error.to_string(),
        };
        say(&format!(
            "{name}: the pod does not keep the listener of {address}: {why}"
        ));
        Then::Close
    }

    /// The listener that the pod keeps.
    fn find(&self) -> io::Result<Option<TcpListener>> {
        let (YES, Some(socket)) = self.ask(FIND, None)? else {
            return Ok(None);
        };
        let socket = std::net::TcpListener::from(socket);
        // A server that was not answered in time took it for its own, and let nobody else in when it left.
        SockRef::from(&socket).detach_filter().ok();
        // As whoever made it has it, for it is one: but nobody needs to believe that.
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket).map(Some)
    }

    fn ask(&self, wish: u8, with: Option<&TcpListener>) -> io::Result<(u8, Option<OwnedFd>)> {
        let with: Vec<_> = with.iter().map(|socket| socket.as_fd()).collect();
        pass(&self.0, &[wish], &with)?;
        match receive::<1>(&self.0, Instant::now() + ANSWER)? {
            Heard::Message(Received { bytes, descriptor }) => {
                let [answer] = bytes;
                Ok((answer, descriptor))
            }
            Heard::Closed => Err(io::ErrorKind::UnexpectedEof.into()),
            Heard::Silence => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
