//! The pod's socket: its name, who binds it, and whether somebody still answers there.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use containerd_shim::StartOpts;
use containerd_shim_protos::api::ConnectRequest;
use containerd_shim_protos::shim_sync::{Client, TaskClient};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, connect, getsockopt, listen, socket,
};
use ttrpc::context;

use crate::bootstrap::Bootstrap;
use crate::error::Error;

/// How long a start waits for a shim to say that it lives: 2 s. After that it is told the address all the same.
///
/// An answer takes well under a millisecond; the rest is for a machine that starts a
/// hundred pods at once.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How long `delete` waits for the same: 500 ms, because all of it may take a second.
const SWEEP_LIMIT: Duration = Duration::from_millis(500);

/// How soon to try again for the lock of the sockets' directory: 5 ms, a few times what a
/// `start` keeps it.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The longest path a Unix socket address holds, without its NUL.
const PATH_LIMIT_BYTES: usize = 107;

/// What the names of Duet's sockets begin with, among those of other shims.
const OURS: &str = "duet-";

/// A pod's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Socket {
    path: PathBuf,
}

/// A socket as it was found once: not another that has taken its path since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    inode: u64,
    changed: (i64, i64),
}

/// Who has the pod's socket.
#[derive(Debug)]
pub(crate) enum Claim {
    /// This process: nobody served the pod.
    Ours(UnixListener),
    /// A shim that lives.
    Served,
}

/// What was found behind a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behind {
    /// A shim that answers.
    Shim,
    /// There is no socket, or nobody holds it: its shim is dead.
    Nobody,
    /// Somebody holds it and says nothing: a shim that is slow, or hangs.
    Mute {
        /// The process that listens there, in case that it is to be ended.
        listener: i32,
    },
}

/// What the kernel says when somebody wants to connect.
enum Door {
    /// Somebody listens.
    Open(UnixStream),
    /// So many wait already that there is no room for another.
    Full,
    /// There is no socket, or nobody holds it any more.
    Shut,
}

/// What came of asking who holds a socket.
enum Answer {
    /// A shim's.
    Lives,
    /// None in time.
    Silence,
    /// The connection was closed: whoever held it has let go.
    Left,
}

// === impl Socket ===

impl Socket {
    /// The socket of the pod `key`: `<dir>/duet-<sha256 of containerd's socket/namespace/key>`, in
    /// the folder where other shims have theirs, and cut to the length of their names.
    pub(crate) fn of(told: &Bootstrap, namespace: &str, key: &str) -> Result<Self, Error> {
        let address = StartOpts {
            address: told.grpc_address.clone(),
            namespace: namespace.to_owned(),
            socket_dir: told.socket_dir.clone(),
            ..StartOpts::default()
        }
        .socket_address(key);
        let theirs = Path::new(address.strip_prefix("unix://").unwrap_or(&address));
        let hash = theirs.file_name().unwrap_or_default().to_string_lossy();
        let mut name = format!("{OURS}{hash}");
        name.truncate(hash.len());
        let path = theirs.with_file_name(name);
        if path.as_os_str().len() > PATH_LIMIT_BYTES {
            return Err(Error::SocketLength {
                path,
                limit_bytes: PATH_LIMIT_BYTES,
            });
        }
        Ok(Self { path })
    }

    /// The socket at a known path.
    pub(crate) fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// As containerd writes it.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Binds the socket, unless a living shim has it.
    ///
    /// Whether a shim is dead, the kernel says: it refuses connections to a socket that no process holds. Slow
    /// is not dead, and a shim that is given to another start by mistake, or loses its socket, leaves its pod behind.
    ///
    /// What a dead shim left is removed. That happens under a lock on the directory, because two pods
    /// that find the same dead socket must not remove each other's new one; the question whether
    /// a shim answers does not, because every pod of the node waits for the lock.
    pub(crate) fn claim(&self, id: &str) -> Result<Claim, Error> {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        let file = |verb, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { verb, path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(file("creating", dir))?;
        let deadline = Instant::now() + ANSWER_LIMIT;
        loop {
            let lock = File::open(dir).map_err(file("opening", dir))?;
            let lock = Flock::lock(lock, FlockArg::LockExclusive)
                .map_err(|(_, errno)| file("locking", dir)(errno.into()))?;
            let door = self.knock().map_err(file("connecting to", &self.path))?;
            if matches!(door, Door::Shut) {
                self.remove().map_err(file("removing", &self.path))?;
                let bound = UnixListener::bind(&self.path);
                let listener = bound.map_err(file("binding", &self.path))?;
                fs::set_permissions(&self.path, Permissions::from_mode(0o600))
                    .map_err(file("protecting", &self.path))?;
                return Ok(Claim::Ours(listener));
            }
            drop(lock);
            match door.ask(id, deadline) {
                // One that ends just now, or a birth that a killed one has left for a moment.
                Answer::Left if Instant::now() < deadline => thread::sleep(LOCK_PAUSE),
                Answer::Lives | Answer::Silence | Answer::Left => return Ok(Claim::Served),
            }
        }
    }

    /// Finds out who is behind the socket, and removes it if that is nobody.
    ///
    /// If another process claims sockets all the while, it is left where it is.
    pub(crate) fn sweep(&self, id: &str) -> io::Result<Behind> {
        let deadline = Instant::now() + SWEEP_LIMIT;
        loop {
            let door = self.remove_if_dead()?;
            let listener = match &door {
                Door::Open(stream) => getsockopt(stream, PeerCredentials)?.pid(),
                // Nobody was reached who could be named.
                Door::Full => 0,
                Door::Shut => return Ok(Behind::Nobody),
            };
            match door.ask(id, deadline) {
                Answer::Lives => return Ok(Behind::Shim),
                Answer::Left if Instant::now() < deadline => thread::sleep(LOCK_PAUSE),
                Answer::Silence | Answer::Left => return Ok(Behind::Mute { listener }),
            }
        }
    }

    /// Removes the socket if nobody holds it; says what was found there.
    fn remove_if_dead(&self) -> io::Result<Door> {
        let dir = match File::open(self.path.parent().unwrap_or(Path::new("/"))) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Door::Shut),
            opened => opened?,
        };
        // The directory is every pod's: whoever has it now is hardly about our socket. Whom we ask has it
        // as long as he likes to answer; the lock is not kept for him.
        let lock = lock_within(dir, SWEEP_LIMIT);
        let door = self.knock()?;
        if matches!(door, Door::Shut) && lock.is_some() {
            self.remove()?;
        }
        Ok(door)
    }

    /// Removes the socket if nobody holds it, as far as that can be done.
    pub(crate) fn remove_dead(&self) {
        // For who has an error already that says more than a second one could.
        drop(self.remove_if_dead());
    }

    /// Connects, and waits for nobody: not even for a place, as a plain connection does.
    fn knock(&self) -> io::Result<Door> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let own = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        match connect(own.as_raw_fd(), &UnixAddr::new(&self.path)?) {
            Ok(()) => {
                let stream = UnixStream::from(own);
                stream.set_nonblocking(false)?;
                Ok(Door::Open(stream))
            }
            Err(Errno::EAGAIN) => Ok(Door::Full),
            Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(Door::Shut),
            Err(errno) => Err(errno.into()),
        }
    }

    /// What tells this socket from a later one at the same path.
    pub(crate) fn identity(&self) -> Option<Identity> {
        let found = fs::symlink_metadata(&self.path).ok()?;
        Some(Identity {
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }

    /// Removes the socket, if it is still this one. For who holds it: nobody else takes it from the path then.
    pub(crate) fn remove_own(&self, own: Option<Identity>) -> io::Result<()> {
        if own.is_some() && own == self.identity() {
            self.remove()?;
        }
        Ok(())
    }

    /// Removes the sockets in this one's folder whose shims are dead.
    ///
    /// containerd runs no `delete` for a shim that died before it could connect to it.
    pub(crate) fn sweep_neighbours(&self) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        // Under it, none of ours is bound and does not listen yet.
        let Some(_lock) = lock_within(File::open(dir)?, SWEEP_LIMIT) else {
            // The next pod's end will do.
            return Ok(());
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().into_string().unwrap_or_default();
            if name.starts_with(OURS) && entry.file_type()?.is_socket() {
                names.push(name);
            }
        }
        // Whoever is listed is not even asked: every living shim would wake up for it.
        let bound = fs::read("/proc/net/unix")?;
        let bound = String::from_utf8_lossy(&bound);
        names.retain(|name| !bound.contains(name.as_str()));
        for name in names {
            let path = dir.join(name);
            let asked = UnixStream::connect(&path);
            if asked.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
                Self::at(path).remove()?;
            }
        }
        Ok(())
    }

    /// Removes the socket; that it is gone already is fine.
    fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

// === impl Door ===

impl Door {
    /// Asks whether a shim lives there.
    ///
    /// It is asked, because a connection proves little: the kernel accepts it for any
    /// process that still holds the listener.
    fn ask(self, id: &str, deadline: Instant) -> Answer {
        let stream = match self {
            Door::Open(stream) => stream,
            Door::Full => return Answer::Silence,
            Door::Shut => return Answer::Left,
        };
        let request = ConnectRequest {
            id: id.to_owned(),
            ..ConnectRequest::default()
        };
        // No time at all is no limit to ttrpc.
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = context::with_duration(left.max(LOCK_PAUSE));
        let asked = Client::new(OwnedFd::from(stream).into_raw_fd())
            .and_then(|client| TaskClient::new(client).connect(limit, &request));
        match asked {
            Ok(_) | Err(ttrpc::Error::RpcStatus(_)) => Answer::Lives,
            // Its client says both by one error.
            Err(_) if Instant::now() >= deadline => Answer::Silence,
            Err(_) => Answer::Left,
        }
    }
}

/// Makes this process the one that listens, in the eyes of who connects: it was `start`.
pub(crate) fn listen_as_ourselves(listener: &UnixListener) -> io::Result<()> {
    Ok(listen(listener, Backlog::MAXCONN)?)
}

/// Locks the directory, unless others have it for all of `limit`: `delete` must not wait for them.
fn lock_within(mut dir: File, limit: Duration) -> Option<Flock<File>> {
    let deadline = Instant::now() + limit;
    loop {
        dir = match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Some(lock),
            Err((dir, _)) if Instant::now() < deadline => dir,
            Err(_) => return None,
        };
        thread::sleep(LOCK_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::bootstrap::Reply;
    use crate::options::Options;

    fn told(socket_dir: Option<&str>) -> Bootstrap {
        Bootstrap {
            reply: Reply::Json(2),
            ttrpc_address: String::new(),
            grpc_address: "/run/containerd/containerd.sock".to_owned(),
            socket_dir: socket_dir.map(ToOwned::to_owned),
            debug: false,
            options: Options::default(),
        }
    }

    #[test]
    fn the_name_tells_whose_it_is_and_is_no_longer_than_others() {
        // printf %s /run/containerd/containerd.sock/k8s.io/web-1 | sha256sum
        let hash = "f584ec2740b3f1866089a3d3cc055d405fab7e0faf16258890f45bf7d733bad4";
        let name = format!("duet-{}", &hash[..59]);
        let socket = Socket::of(&told(None), "k8s.io", "web-1").unwrap();
        assert_eq!(socket.address(), format!("unix:///run/containerd/s/{name}"));
        let socket = Socket::of(&told(Some("/run/k3s/s")), "k8s.io", "web-1").unwrap();
        assert_eq!(socket.path(), Path::new("/run/k3s/s").join(name));
    }

    #[test]
    fn a_directory_that_is_too_deep_is_refused() {
        let dir = format!("/{}", "d".repeat(43));
        let error = Socket::of(&told(Some(&dir)), "k8s.io", "web-1").unwrap_err();
        assert!(error.to_string().contains(&dir), "{error}");
    }

    #[test]
    fn a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let socket = Socket::at(dir.path().join("s/dead"));
        let Claim::Ours(first) = socket.claim("x").unwrap() else {
            panic!("nobody was there")
        };
        drop(first);
        assert!(matches!(socket.claim("x").unwrap(), Claim::Ours(_)));
        let mode = fs::metadata(socket.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        socket.remove().unwrap();
        socket.remove().unwrap();
    }

    #[test]
    fn sweeping_removes_a_dead_socket_and_can_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let socket = Socket::at(dir.path().join("dead"));
        drop(UnixListener::bind(socket.path()).unwrap());
        for _ in 0..2 {
            assert_eq!(socket.sweep("x").unwrap(), Behind::Nobody);
            assert!(!socket.path().exists());
        }
        assert_eq!(
            Socket::at("/nonexistent/duet/s").sweep("x").unwrap(),
            Behind::Nobody
        );
    }

    #[test]
    fn a_pods_end_takes_the_dead_sockets_of_others_along_and_no_living_one() {
        let dir = tempfile::tempdir().unwrap();
        // Names that no other run of this test has at the same time.
        let at = |name: &str| dir.path().join(format!("{name}-{}", std::process::id()));
        let bind = |name: &str| UnixListener::bind(at(name)).unwrap();
        let (_living, _foreign) = (bind("duet-living"), bind("living"));
        drop((bind("duet-dead"), bind("dead")));
        fs::write(at("duet-file"), "").unwrap();
        Socket::at(at("duet-own")).sweep_neighbours().unwrap();
        let there = |name: &str| at(name).exists();
        assert!(there("duet-living") && there("living") && there("dead"));
        assert!(!there("duet-dead"));
        // The kernel refuses a connection to a file as well, but it was never a socket.
        assert!(there("duet-file"));
    }

    #[test]
    fn whoever_holds_a_socket_keeps_it_however_slow() {
        let dir = tempfile::tempdir().unwrap();
        let socket = Socket::at(dir.path().join("slow"));
        let slow = UnixListener::bind(socket.path()).unwrap();
        let held = socket.identity();
        let listener = i32::try_from(std::process::id()).unwrap();
        assert_eq!(socket.sweep("x").unwrap(), Behind::Mute { listener });
        assert!(matches!(socket.claim("x").unwrap(), Claim::Served));
        // Nor is room for one that waits needed to see that it lives.
        listen(&slow, Backlog::new(0).unwrap()).unwrap();
        let mut waiting = Vec::new();
        while let Door::Open(stream) = socket.knock().unwrap() {
            waiting.push(stream);
        }
        assert_eq!(socket.sweep("x").unwrap(), Behind::Mute { listener: 0 });
        assert!(matches!(socket.claim("x").unwrap(), Claim::Served));
        assert_eq!(socket.identity(), held);
    }

    #[test]
    fn a_shim_removes_its_own_socket_and_no_successors() {
        let dir = tempfile::tempdir().unwrap();
        let socket = Socket::at(dir.path().join("own"));
        let Claim::Ours(_first) = socket.claim("x").unwrap() else {
            panic!("nobody was there")
        };
        let first = socket.identity();
        // By hand: no other shim does that.
        socket.remove().unwrap();
        let Claim::Ours(_second) = socket.claim("x").unwrap() else {
            panic!("nobody was there")
        };
        socket.remove_own(first).unwrap();
        socket.remove_own(None).unwrap();
        assert!(socket.path().exists());
        socket.remove_own(socket.identity()).unwrap();
        assert!(!socket.path().exists());
    }

    #[test]
    fn a_shim_that_ends_while_it_is_asked_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let socket = Socket::at(dir.path().join("ending"));
        let listener = UnixListener::bind(socket.path()).unwrap();
        let path = socket.path().to_owned();
        let ending = thread::spawn(move || {
            let asked = listener.accept().unwrap();
            fs::remove_file(path).unwrap();
            drop(asked);
        });
        assert!(matches!(socket.claim("x").unwrap(), Claim::Ours(_)));
        ending.join().unwrap();
        assert!(socket.path().exists());
    }

    #[test]
    fn nobody_waits_for_a_shim_of_another_pod_that_does_not_answer() {
        let dir = tempfile::tempdir().unwrap();
        let socket = Socket::at(dir.path().join("mute"));
        // Soon after the connection, and long before either has waited for an answer.
        let free = || lock_within(File::open(dir.path()).unwrap(), SWEEP_LIMIT / 2).is_some();
        for asks in ["start", "delete"] {
            let listener = UnixListener::bind(socket.path()).unwrap();
            let asked = thread::scope(|scope| {
                let asking = scope.spawn(|| match asks {
                    "start" => drop(socket.claim("x").unwrap()),
                    // In how much time it is answered is not what this is about.
                    _ => assert_ne!(socket.sweep("x").unwrap(), Behind::Shim),
                });
                let asked = listener.accept().unwrap();
                assert!(free(), "while {asks} asks");
                drop((asked, listener));
                asking.join().is_ok()
            });
            assert!(asked, "{asks}");
            socket.remove().unwrap();
        }
    }

    #[test]
    fn a_shim_that_came_while_its_predecessor_was_asked_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let socket = Socket::at(dir.path().join("replaced"));
        let old = UnixListener::bind(socket.path()).unwrap();
        thread::scope(|scope| {
            let asking = scope.spawn(|| socket.sweep("x").unwrap());
            let asked = old.accept().unwrap();
            socket.remove().unwrap();
            let _new = UnixListener::bind(socket.path()).unwrap();
            drop((asked, old));
            assert!(matches!(asking.join().unwrap(), Behind::Mute { .. }));
            assert!(socket.path().exists());
        });
    }

    #[test]
    fn sweeping_waits_for_a_start_of_another_pod() {
        let dir = tempfile::tempdir().unwrap();
        let socket = Socket::at(dir.path().join("dead"));
        drop(UnixListener::bind(socket.path()).unwrap());
        let file = File::open(dir.path()).unwrap();
        let busy = Flock::lock(file, FlockArg::LockExclusive).unwrap();
        thread::scope(|scope| {
            let swept = scope.spawn(|| {
                // It does not wait for ever.
                while socket.path().exists() {
                    assert_eq!(socket.sweep("x").unwrap(), Behind::Nobody);
                }
            });
            thread::sleep(2 * LOCK_PAUSE);
            assert!(socket.path().exists(), "swept while another had the lock");
            drop(busy);
            swept.join().unwrap();
        });
    }
}
