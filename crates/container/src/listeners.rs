//! The listening sockets that outlive their containers: those of `wasi:http` servers that ask for it.
//!
//! The runner makes the socket, with the rights of the container's user, and hands the shim a duplicate; it may be
//! one that a guest got the better of. What it sends can block whoever takes it, closes it, or closes the channel
//! while it is unread: a file of a FUSE file system, a connection with `SO_LINGER`. So each server has a thread that
//! does nothing else, which ends when the server has its listener, and what is kept is a listening TCP socket.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use duet_linux::channel::{Heard, Received, pair, pass, receive, send_byte};
use duet_wasm::Handoff;
use duet_wasm::listeners::{FIND, KEEP, NO, YES};
use rustix::net::sockopt::{
    set_socket_linger, socket_acceptconn, socket_domain, socket_protocol, socket_type,
};
use rustix::net::{AddressFamily, SocketType, getsockname, ipproto};

use crate::error::{Error, WasmError};

/// How many listeners a pod keeps at most: 8. Each is an address, and whoever waits there.
const MOST: usize = 8;

/// How many wishes a server may have: 32. It has one, and a few if it begins while another leaves.
const WISHES: usize = 32;

/// How long is slept at a time while a server says nothing, which it may do for as long as it stands at its gate.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How much stack the thread of a server has: 128 KiB, of which it touches a few pages.
const STACK: usize = 128 << 10;

/// The listeners of a pod.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Mutex<Shelf>);

#[derive(Debug, Default)]
struct Shelf {
    /// The pod has ended.
    over: bool,
    kept: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    place: Place,
    listener: OwnedFd,
}

/// Where a server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// The file of the network namespace. Nothing else is called so while a listener is kept: that keeps the
    /// namespace.
    network: (u64, u64),
    address: SocketAddr,
    /// Where instead if the network has no IPv6.
    without_ipv6: Option<SocketAddr>,
}

/// A server's way to the listeners of its pod, before it is born.
#[derive(Debug)]
pub(crate) struct Way {
    ours: OwnedFd,
    theirs: OwnedFd,
    address: SocketAddr,
    without_ipv6: Option<SocketAddr>,
}

// === impl Way ===

impl Way {
    /// Opens one for who serves as `handoff` says; none if that is no address, which the runner will tell.
    ///
    /// # Errors
    ///
    /// When there is no descriptor left, or no port is named.
    pub(crate) fn open(handoff: &Handoff) -> Result<Option<Self>, Error> {
        let serves = handoff.serves_at();
        let without_ipv6 = serves.without_ipv6.and_then(|address| address.parse().ok());
        let address = match serves.address.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => {
                return Err(Error::Invalid {
                    field: "annotations.io.containerd.duet.v1.http.listener",
                    value: "pod".to_owned(),
                    why: "needs a fixed port in http.listen or DUET_HTTP_ADDR; port 0 is a different one at each start",
                });
            }
            Ok(address) => address,
            Err(_) => return Ok(None),
        };
        let (ours, theirs) = pair().map_err(|source| WasmError::File {
            step: "open the way to the listeners of the pod for",
            path: handoff.name.clone().into(),
            source,
        })?;
        Ok(Some(Self {
            ours,
            theirs,
            address,
            without_ipv6,
        }))
    }
}

impl AsFd for Way {
    /// The server's end.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.theirs.as_fd()
    }
}

// === impl Listeners ===

impl Listeners {
    /// Attends to the server that was born with this way, as the process `pid`, until it has what it wants. One
    /// that nobody attends to keeps its listener to itself, and says so.
    pub(crate) fn attend(self: &Arc<Self>, way: Way, pid: i32, container: &str) {
        let Way {
            ours,
            theirs,
            address,
            without_ipv6,
        } = way;
        // Its own end is the last one: without it, ours is closed.
        drop(theirs);
        let (this, id) = (Arc::clone(self), container.to_owned());
        let begun = fs::metadata(format!("/proc/{pid}/ns/net")).and_then(|network| {
            let network = (network.dev(), network.ino());
            let place = Place {
                network,
                address,
                without_ipv6,
            };
            let thread = thread::Builder::new().name("duet-listener".into());
            thread.stack_size(STACK).spawn(move || {
                if let Err(error) = this.serve(&ours, place) {
                    tracing::warn!(container = %id, %error, "unexpected message from a server's runner; its listener is not kept");
                }
            })
        });
        if let Err(error) = begun {
            tracing::warn!(%container, %error, "no listener is kept for it");
        }
    }

    /// The pod is over: nothing is kept any longer.
    pub(crate) fn close(&self) {
        let kept = {
            let mut shelf = self.shelf();
            shelf.over = true;
            std::mem::take(&mut shelf.kept)
        };
        drop(kept);
    }

    fn serve(&self, server: &OwnedFd, place: Place) -> io::Result<()> {
        let mut wishes = 0;
        while wishes < WISHES {
            let message = match receive::<1>(server, Instant::now() + DAY) {
                Ok(Heard::Message(message)) => message,
                Ok(Heard::Silence) => continue,
                Ok(Heard::Closed) => return Ok(()),
                Err(error) => return Err(error),
            };
            wishes += 1;
            let Received {
                bytes: [wish],
                descriptor,
            } = message;
            let answered = match (wish, descriptor) {
                (KEEP, Some(listener)) => {
                    let kept = self.keep(listener, place)?;
                    send_byte(server, if kept { YES } else { NO })
                }
                (FIND, None) => match self.find(place)? {
                    Some(listener) => pass(server, &[YES], &[listener.as_fd()]),
                    None => send_byte(server, NO),
                },
                (wish, _) => {
                    let why = format!("unknown request {wish:#04x}");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
            };
            match answered {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                answered => answered?,
            }
        }
        Err(io::Error::other("more than 32 requests"))
    }

    /// Keeps a listener, unless the pod is over or has enough of them.
    ///
    /// # Errors
    ///
    /// When it is no listening TCP socket at this place.
    fn keep(&self, listener: OwnedFd, place: Place) -> io::Result<bool> {
        let bound = listens(&listener)?;
        if bound != place.address && Some(bound) != place.without_ipv6 {
            let why = format!(
                "a listener of {bound} where {} was asked for",
                place.address
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let mut shelf = self.shelf();
        // Two cannot listen at one place: what is here has been closed by who else has it.
        let (old, rest) = std::mem::take(&mut shelf.kept)
            .into_iter()
            .partition(|kept: &Kept| kept.place == place);
        shelf.kept = rest;
        let takes = !shelf.over && shelf.kept.len() < MOST;
        if takes {
            shelf.kept.push(Kept { place, listener });
        }
        drop(shelf);
        let _: Vec<Kept> = old;
        Ok(takes)
    }

    /// A duplicate of what is kept at a place.
    fn find(&self, place: Place) -> io::Result<Option<OwnedFd>> {
        let shelf = self.shelf();
        let mut kept = shelf.kept.iter();
        match kept.find(|kept| kept.place == place) {
            // Whoever else has it may have ended it.
            Some(kept) if listens(&kept.listener).is_ok() => kept.listener.try_clone().map(Some),
            Some(_) | None => Ok(None),
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // Every change is whole after each step, so also after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Whoever else had it may have made it something that its last owner waits for.
        set_socket_linger(&self.listener, None).ok();
    }
}

/// Where a TCP socket listens.
fn listens(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let domain = socket_domain(socket)?;
    let is_tcp = (domain == AddressFamily::INET || domain == AddressFamily::INET6)
        && socket_type(socket)? == SocketType::STREAM
        && socket_protocol(socket)? == Some(ipproto::TCP);
    if !is_tcp || !socket_acceptconn(socket)? {
        let why = "a descriptor that is not a listening TCP socket";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(getsockname(socket)?.try_into()?)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd as _;

    use super::*;

    /// A server as the shim sees it.
    struct Server {
        channel: OwnedFd,
        thread: thread::JoinHandle<io::Result<()>>,
    }

    impl Server {
        fn of(listeners: &Arc<Listeners>, address: SocketAddr) -> Self {
            Self::in_network(listeners, address, 1)
        }

        fn in_network(listeners: &Arc<Listeners>, address: SocketAddr, network: u64) -> Self {
            let (ours, channel) = pair().unwrap();
            let this = Arc::clone(listeners);
            let place = Place {
                network: (0, network),
                address,
                without_ipv6: Some(SocketAddr::from(([127, 0, 0, 2], address.port()))),
            };
            let thread = thread::spawn(move || this.serve(&ours, place));
            Self { channel, thread }
        }

        /// The answer, or nothing if the shim has left.
        fn ask(&self, wish: u8, with: &[BorrowedFd<'_>]) -> Option<(u8, Option<OwnedFd>)> {
            pass(&self.channel, &[wish], with).ok()?;
            match receive::<1>(&self.channel, Instant::now() + DAY).unwrap() {
                Heard::Message(Received { bytes, descriptor }) => Some((bytes[0], descriptor)),
                Heard::Closed => None,
                Heard::Silence => panic!("a day has passed"),
            }
        }

        fn keep(&self, listener: &impl AsFd) -> Option<bool> {
            let (answer, none) = self.ask(KEEP, &[listener.as_fd()])?;
            assert!(none.is_none());
            Some(answer == YES)
        }

        fn find(&self) -> Option<TcpListener> {
            let (answer, found) = self.ask(FIND, &[]).unwrap();
            assert_eq!(answer == YES, found.is_some());
            found.map(TcpListener::from)
        }

        /// Ends it: what the shim thinks of it.
        fn end(self) -> Result<(), String> {
            drop(self.channel);
            let thought = self.thread.join().unwrap();
            thought.map_err(|error| error.to_string())
        }
    }

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[test]
    fn who_connects_between_two_servers_is_the_seconds() {
        let listeners = Arc::default();
        let (listener, address) = listener();
        let first = Server::of(&listeners, address);
        assert!(first.find().is_none());
        assert_eq!(first.keep(&listener), Some(true));
        drop(listener);
        first.end().unwrap();
        let client = TcpStream::connect(address).unwrap();
        // Neither at another address, nor in another network.
        let other = SocketAddr::from(([127, 0, 0, 1], 1));
        assert!(Server::of(&listeners, other).find().is_none());
        let elsewhere = Server::in_network(&listeners, address, 2);
        assert!(elsewhere.find().is_none());
        let second = Server::of(&listeners, address);
        let (_, accepted) = second.find().unwrap().accept().unwrap();
        assert_eq!(accepted, client.local_addr().unwrap());
        second.end().unwrap();
        // With the pod its listeners end, and it takes none any more.
        listeners.close();
        // Programs that other tests start have a copy of it for a moment.
        while TcpStream::connect(address).is_ok() {
            thread::yield_now();
        }
        let late = Server::of(&listeners, address);
        assert!(late.find().is_none());
        let again = loop {
            match TcpListener::bind(address) {
                Ok(again) => break again,
                Err(_) => thread::yield_now(),
            }
        };
        assert_eq!(late.keep(&again), Some(false));
    }

    #[test]
    fn a_pod_keeps_so_many_and_one_for_each_place() {
        let listeners = Arc::default();
        let all: Vec<_> = (0..=MOST).map(|_| listener()).collect();
        let keep = |(listener, address): &(TcpListener, SocketAddr)| {
            Server::of(&listeners, *address).keep(listener).unwrap()
        };
        let (last, others) = all.split_last().unwrap();
        assert!(others.iter().all(keep));
        assert!(!keep(last));
        assert!(others.iter().all(keep));
        // One that was ended by whoever else has it is none.
        let (listener, address) = &others[0];
        rustix::net::shutdown(listener, rustix::net::Shutdown::Both).unwrap();
        assert!(Server::of(&listeners, *address).find().is_none());
    }

    #[test]
    fn where_there_is_no_ipv6_a_listener_is_kept_at_the_other_address() {
        let listeners = Arc::default();
        let instead = TcpListener::bind("127.0.0.2:0").unwrap();
        let port = instead.local_addr().unwrap().port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(Server::of(&listeners, address).keep(&instead), Some(true));
        let found = Server::of(&listeners, address).find().unwrap();
        assert_eq!(found.local_addr().unwrap(), instead.local_addr().unwrap());
    }

    #[test]
    fn what_is_no_listener_is_not_kept_and_ends_the_conversation() {
        let listeners = Arc::default();
        let (listening, address) = listener();
        let bound = UdpSocket::bind(address).unwrap();
        let connected = TcpStream::connect(address).unwrap();
        let (_, elsewhere) = listener();
        let (channel, _other) = pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let none = "a descriptor that is not a listening TCP socket";
        let refused = |with: &[BorrowedFd<'_>], wish, address| {
            let server = Server::of(&listeners, address);
            assert!(server.ask(wish, with).is_none());
            server.end().unwrap_err()
        };
        assert_eq!(refused(&[bound.as_fd()], KEEP, address), none);
        assert_eq!(refused(&[connected.as_fd()], KEEP, address), none);
        assert_eq!(refused(&[channel.as_fd()], KEEP, address), none);
        let why = refused(&[file.as_fd()], KEEP, address);
        assert!(why.contains("non-socket"), "{why}");
        let words = format!("a listener of {address} where {elsewhere} was asked for");
        assert_eq!(refused(&[listening.as_fd()], KEEP, elsewhere), words);
        assert_eq!(refused(&[], KEEP, address), "unknown request 0x6b");
        assert_eq!(
            refused(&[file.as_fd()], FIND, address),
            "unknown request 0x66"
        );
        assert_eq!(refused(&[], 0, address), "unknown request 0x00");
        assert!(Server::of(&listeners, address).find().is_none());
    }

    #[test]
    fn who_never_stops_asking_is_left() {
        let listeners = Arc::default();
        let (_listener, address) = listener();
        let server = Server::of(&listeners, address);
        assert!((0..WISHES).all(|_| server.find().is_none()));
        assert!(server.ask(FIND, &[]).is_none());
        assert_eq!(server.end().unwrap_err(), "more than 32 requests");
    }

    #[test]
    fn a_server_that_hangs_up_leaves_nobody_waiting() {
        let listeners: Arc<Listeners> = Arc::default();
        let (listener, address) = listener();
        let server = Server::of(&listeners, address);
        // It does not wait for its answer.
        pass(&server.channel, &[KEEP], &[listener.as_fd()]).unwrap();
        server.end().unwrap();
        let next = Server::of(&listeners, address);
        assert_ne!(next.find().unwrap().as_raw_fd(), listener.as_raw_fd());
    }

    #[test]
    fn a_port_that_is_another_each_time_has_no_successor() {
        let way = |address: &str| {
            let handoff = Handoff {
                name: "/app.wasm".into(),
                format: duet_wasm::Format::Component,
                preview: duet_wasm::Preview::Two,
                argv: Vec::new(),
                env: vec![format!("DUET_HTTP_ADDR={address}")],
                cwd: "/".into(),
                http: duet_wasm::Http::default(),
                config: std::collections::BTreeMap::new(),
                listen: Vec::new(),
                mounts: Vec::new(),
            };
            Way::open(&handoff)
        };
        assert!(way("[::]:80").unwrap().is_some());
        // The runner says what is wrong with it.
        assert!(way("nowhere").unwrap().is_none());
        let refused = way("127.0.0.1:0").unwrap_err().to_string();
        assert!(
            refused.contains("io.containerd.duet.v1.http.listener"),
            "{refused}"
        );
    }
}
