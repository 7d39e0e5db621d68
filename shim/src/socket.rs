//! The pod's socket: its name, who binds it, and whether somebody still answers there.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
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
use nix::fcntl::{Flock, FlockArg};
use ttrpc::context;

use crate::bootstrap::Bootstrap;
use crate::error::Error;

/// How long a shim may take to say that it lives: 2 s.
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

/// Who has the pod's socket.
#[derive(Debug)]
pub(crate) enum Claim {
    /// This process: nobody served the pod.
    Ours(UnixListener),
    /// A shim that answers.
    Served,
}

/// What was found behind a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behind {
    /// A shim that answers.
    Shim,
    /// Nobody accepts, or there is no socket.
    Nobody,
    /// Somebody holds it and says nothing.
    Mute,
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
    /// What a dead shim left is removed. That happens under a lock on the directory, because two pods
    /// that find the same dead socket must not remove each other's new one; the question whether
    /// a shim is dead does not, because every pod of the node waits for the lock.
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
        let mut asked = None;
        loop {
            let lock = File::open(dir).map_err(file("opening", dir))?;
            let lock = Flock::lock(lock, FlockArg::LockExclusive)
                .map_err(|(_, errno)| file("locking", dir)(errno.into()))?;
            if asked.is_some() && asked == self.identity() {
                self.remove().map_err(file("removing", &self.path))?;
            }
            match UnixListener::bind(&self.path) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => asked = self.identity(),
                bound => {
                    let listener = bound.map_err(file("binding", &self.path))?;
                    fs::set_permissions(&self.path, Permissions::from_mode(0o600))
                        .map_err(file("protecting", &self.path))?;
                    return Ok(Claim::Ours(listener));
                }
            }
            drop(lock);
            if self.answers(id, ANSWER_LIMIT) {
                return Ok(Claim::Served);
            }
        }
    }

    /// Whether a shim answers here.
    ///
    /// It is asked, because a connection proves nothing: the kernel accepts it for any
    /// process that still holds the listener.
    pub(crate) fn answers(&self, id: &str, limit: Duration) -> bool {
        let request = ConnectRequest {
            id: id.to_owned(),
            ..ConnectRequest::default()
        };
        Client::connect(&self.address())
            .and_then(|client| {
                TaskClient::new(client).connect(context::with_duration(limit), &request)
            })
            .is_ok()
    }

    /// Finds out who is behind the socket, and removes it if that is nobody who answers.
    ///
    /// If another process claims sockets all the while, it is left where it is.
    pub(crate) fn sweep(&self, id: &str) -> io::Result<Behind> {
        let dir = match File::open(self.path.parent().unwrap_or(Path::new("/"))) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Behind::Nobody),
            opened => opened?,
        };
        // The directory is every pod's: whoever has it now is hardly about our socket. Whom we ask has it
        // as long as he likes to answer; the lock is not kept for him.
        let again = dir.try_clone()?;
        let lock = lock_within(dir, SWEEP_LIMIT);
        if UnixStream::connect(&self.path).is_err() {
            if lock.is_some() {
                self.remove()?;
            }
            return Ok(Behind::Nobody);
        }
        let asked = self.identity();
        drop(lock);
        if self.answers(id, SWEEP_LIMIT) {
            return Ok(Behind::Shim);
        }
        if let Some(_lock) = lock_within(again, SWEEP_LIMIT)
            && asked == self.identity()
        {
            self.remove()?;
        }
        Ok(Behind::Mute)
    }

    /// What tells this socket from a later one at the same path: inode and time of change.
    fn identity(&self) -> Option<(u64, i64, i64)> {
        let found = fs::symlink_metadata(&self.path).ok()?;
        Some((found.ino(), found.ctime(), found.ctime_nsec()))
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
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
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
    fn a_listener_that_never_answers_is_dead_too() {
        let dir = tempfile::tempdir().unwrap();
        let socket = Socket::at(dir.path().join("mute"));
        let _mute = UnixListener::bind(socket.path()).unwrap();
        assert!(!socket.answers("x", Duration::from_millis(50)));
        assert_eq!(socket.sweep("x").unwrap(), Behind::Mute);
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
        let free = || lock_within(File::open(dir.path()).unwrap(), Duration::ZERO).is_some();
        // `delete` looks whether anybody accepts, and then asks.
        for (asks, connections) in [("start", 1), ("delete", 2)] {
            let listener = UnixListener::bind(socket.path()).unwrap();
            let asked = thread::scope(|scope| {
                let asking = scope.spawn(|| match asks {
                    "start" => drop(socket.claim("x").unwrap()),
                    _ => assert_eq!(socket.sweep("x").unwrap(), Behind::Mute),
                });
                let accept = |_| listener.accept().unwrap();
                let asked: Vec<_> = (0..connections).map(accept).collect();
                assert!(free(), "while {asks} asks");
                drop(asked);
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
            let asked = [old.accept().unwrap(), old.accept().unwrap()];
            socket.remove().unwrap();
            let _new = UnixListener::bind(socket.path()).unwrap();
            drop(asked);
            assert_eq!(asking.join().unwrap(), Behind::Mute);
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
