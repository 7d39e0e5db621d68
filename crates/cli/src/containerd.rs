//! Duet's own containerd: started by the first `duet run` that needs it, shared by others
//! that come meanwhile, stopped by the last that leaves.
//!
//! Two locks in the root directory say who is there:
//!
//! | Lock | Held | Means |
//! | --- | --- | --- |
//! | `door.lock` | exclusively, while entering or leaving | nobody else enters or leaves |
//! | `users.lock` | shared, while a pod runs | who can take it exclusively is alone |

mod config;
mod network;
mod process;

use crate::cri::Cri;
use crate::error::Error;
use crate::image::{archive, layer::Layer};
use crate::run::import;
use crate::screen::step;
use crate::{machine, program, volumes};
#[cfg(test)]
pub(crate) use config::OLDEST;
use config::Version;
pub(crate) use config::check_class;
pub(crate) use network::check_ports;
use process::Daemon;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long containerd may take until its CRI is ready: 30 s. A second is usual; loading
/// plugins from a cold disk takes longest.
const READY: Duration = Duration::from_secs(30);

/// The longest path a unix socket may have, in bytes, and what containerd appends to it.
const LONGEST_SOCKET: usize = 107 - ".ttrpc".len();

/// The statfs type of overlayfs, on which overlayfs cannot lie.
const OVERLAYFS: u64 = 0x794c_7630;

/// A running containerd that Duet may use.
#[derive(Debug)]
pub(crate) struct Private {
    places: Places,
    snapshotter: &'static str,
    daemon: Option<Daemon>,
    pause: String,
    runtime: String,
    alone: Alone,
    users: File,
}

/// Whether other `duet run`s were there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alone {
    Yes,
    No,
}

/// Where things are.
#[derive(Debug, Clone)]
struct Places {
    root: PathBuf,
    /// Sockets, configuration: gone when the last pod is.
    state: PathBuf,
}

// === impl Places ===

impl Places {
    fn new(root: &Path) -> Self {
        let state = if root == Path::new("/var/lib/duet") {
            PathBuf::from("/run/duet")
        } else {
            root.join("run")
        };
        Self {
            root: root.to_owned(),
            state,
        }
    }

    fn socket(&self) -> PathBuf {
        self.state.join("containerd.sock")
    }

    fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// The addresses that CNI has given out.
    fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }

    /// The tag of the pause image that the running containerd was configured with.
    fn pause(&self) -> PathBuf {
        self.state.join("pause-image")
    }
}

// === impl Private ===

impl Private {
    /// Starts containerd below `root`, or joins those who use it already.
    ///
    /// On an error nothing is left running.
    pub(crate) async fn enter(root: &Path, runtime: &str) -> Result<Self, Error> {
        let places = Places::new(root);
        if places.socket().as_os_str().len() > LONGEST_SOCKET {
            return Err(Error::Argument(format!(
                "--root {}: the path is too long for a socket below it ({LONGEST_SOCKET} bytes)",
                root.display()
            )));
        }
        fs::create_dir_all(root).map_err(Error::at("could not create", root))?;
        let door = lock(&root.join("door.lock"), FlockOperation::LockExclusive).await?;
        let users_path = root.join("users.lock");
        let (users, alone) = match lock_now(&users_path)? {
            Some(users) => (users, Alone::Yes),
            None => (
                lock(&users_path, FlockOperation::LockShared).await?,
                Alone::No,
            ),
        };
        let snapshotter = snapshotter(root)?;
        let mut private = Self {
            snapshotter,
            daemon: None,
            pause: String::new(),
            runtime: runtime.to_owned(),
            alone,
            users,
            places,
        };
        if alone == Alone::Yes {
            let started = private.start().await;
            if let Err(error) = started {
                private.stop()?;
                return Err(error);
            }
            // From here others may join.
            flock(&private.users, FlockOperation::LockShared)
                .map_err(|errno| Error::io("could not lock", &users_path, errno.into()))?;
        } else {
            let pause = private.places.pause();
            private.pause =
                fs::read_to_string(&pause).map_err(Error::at("could not read", &pause))?;
        }
        drop(door);
        Ok(private)
    }

    async fn start(&mut self) -> Result<(), Error> {
        let places = self.places.clone();
        let runtime = self.runtime.as_str();
        process::end_stale(&places.state)?;
        network::remove_stale(&places.state)?;
        machine::unmount_below(&places.state)?;
        let containerd = program::find("containerd").ok_or_else(|| {
            Error::Missing(
                "containerd is not in PATH; install it (apt install containerd) or name a \
                 running one with --address"
                    .to_owned(),
            )
        })?;
        let version = Version::of(&containerd)?;
        let path = config::search_path()?;
        config::runtime_exists(runtime, &path)?;
        for directory in [&places.root, &places.state] {
            fs::create_dir_all(directory).map_err(Error::at("could not create", directory))?;
        }
        let plugins = network::plugins()?;
        let networks = network::write(&places.state, &places.leases())?;
        self.pause = pause_name()?;
        let pause = places.pause();
        fs::write(&pause, &self.pause).map_err(Error::at("could not write", &pause))?;
        let text = config::Settings {
            root: &places.root.join("containerd"),
            state: &places.state.join("containerd"),
            socket: &places.socket(),
            pause_image: &self.pause,
            snapshotter: self.snapshotter,
            networks: &networks,
            plugins: &plugins,
            restrict_oom_score: config::oom_score_is_restricted(),
            runtime,
        }
        .text(version);
        let file = places.state.join("config.toml");
        fs::write(&file, text).map_err(Error::at("could not write", &file))?;
        let log = places.root.join("containerd.log");
        let mut daemon = Daemon::start(&containerd, &file, &log, &path, &places.state)?;
        step(
            "containerd",
            &format!("{version} started, log in {}", log.display()),
        );
        let ready = ready(&mut daemon, &places.socket()).await;
        self.daemon = Some(daemon);
        let mut cri = ready?;
        // Pods of a `duet` that was killed.
        for sandbox in cri.sandboxes(None).await? {
            step(
                "containerd",
                &format!("removes the left-over sandbox {}", sandbox.id),
            );
            cri.remove_sandbox(&sandbox.id).await?;
        }
        remove_stale_pods(&places.pods())
    }

    /// Makes the pause image known, once per version of `duet`.
    pub(crate) async fn prepare(&self) -> Result<(), Error> {
        let mut cri = Cri::connect(&self.places.socket()).await?;
        if self.alone == Alone::No || cri.image(&self.pause).await?.is_some() {
            return Ok(());
        }
        let file = self.places.state.join("pause.tar");
        let archive = pause_archive(&self.pause)?;
        fs::write(&file, archive).map_err(Error::at("could not write", &file))?;
        import(
            &mut cri,
            &self.places.socket(),
            Some(self.snapshotter),
            &file,
        )
        .await?;
        fs::remove_file(&file).map_err(Error::at("could not remove", &file))
    }

    /// Leaves; the last to leave stops containerd and removes its state.
    pub(crate) async fn leave(mut self) -> Result<(), Error> {
        let root = self.places.root.clone();
        let _door = lock(&root.join("door.lock"), FlockOperation::LockExclusive).await?;
        match flock(&self.users, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                // Whoever started it may have left, and it may have died since.
                let ended = match &mut self.daemon {
                    Some(daemon) => daemon.ended()?.map(|ended| format!("ended with {ended}")),
                    None => process::running(&self.places.state)?
                        .is_none()
                        .then(|| "has ended".to_owned()),
                };
                if let Some(ended) = ended {
                    step("containerd", &format!("{ended}; started again to clean up"));
                    self.daemon = None;
                    let cleaned = self.start().await;
                    let stopped = self.stop();
                    return cleaned.and(stopped);
                }
                self.stop()
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                // It now belongs to the others; as a process it goes to init when Duet ends.
                step("containerd", "left running for another `duet run`");
                Ok(())
            }
            Err(errno) => Err(Error::io(
                "could not lock",
                &root.join("users.lock"),
                errno.into(),
            )),
        }
    }

    /// Ends the daemon and removes what it has left; what serves the next start stays.
    fn stop(mut self) -> Result<(), Error> {
        match self.daemon.take() {
            Some(daemon) => daemon.end()?,
            None => process::end_stale(&self.places.state)?,
        }
        network::remove_stale(&self.places.state)?;
        machine::unmount_below(&self.places.state)?;
        machine::unmount_below(&self.places.root)?;
        // Nobody holds a lease without a pod.
        remove_all(&self.places.leases())?;
        remove_all(&self.places.state)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.places.socket()
    }

    pub(crate) fn pods(&self) -> PathBuf {
        self.places.pods()
    }

    pub(crate) fn snapshotter(&self) -> &'static str {
        self.snapshotter
    }
}

/// `path` from the root, without asking the file system.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(Error::at("could not make absolute", path))
}

/// overlayfs, unless `root` itself lies on it (a container's own file system does).
fn snapshotter(root: &Path) -> Result<&'static str, Error> {
    let found = rustix::fs::statfs(root)
        .map_err(|errno| Error::io("could not ask for the file system of", root, errno.into()))?;
    Ok(if u64::try_from(found.f_type) == Ok(OVERLAYFS) {
        "native"
    } else {
        "overlayfs"
    })
}

fn remove_all(directory: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("could not remove", directory, error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Opens a lock file and waits for the lock, off the runtime's thread.
async fn lock(path: &Path, kind: FlockOperation) -> Result<File, Error> {
    let path = path.to_owned();
    let work = tokio::task::spawn_blocking(move || {
        let file = open_lock(&path)?;
        flock(&file, kind).map_err(|errno| Error::io("could not lock", &path, errno.into()))?;
        Ok(file)
    });
    work.await.map_err(|error| Error::System {
        action: "could not wait for a lock",
        source: std::io::Error::other(error),
    })?
}

/// The lock, exclusively, if nobody holds it.
fn lock_now(path: &Path) -> Result<Option<File>, Error> {
    let file = open_lock(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(Error::io("could not lock", path, errno.into())),
    }
}

fn open_lock(path: &Path) -> Result<File, Error> {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .map_err(Error::at("could not open", path))
}

/// Waits until CRI answers that runtime and network are ready.
async fn ready(daemon: &mut Daemon, socket: &Path) -> Result<Cri, Error> {
    let deadline = Instant::now() + READY;
    loop {
        if let Some(ended) = daemon.ended()? {
            return Err(Error::Containerd {
                why: format!("it ended with {ended}; {}", daemon.last_words()),
            });
        }
        let last = match answers(socket).await {
            Ok(cri) => return Ok(cri),
            Err(why) => why,
        };
        if Instant::now() >= deadline {
            let words = daemon.last_words();
            return Err(Error::Containerd {
                why: format!("not ready after {READY:?} ({last}); {words}"),
            });
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn answers(socket: &Path) -> Result<Cri, String> {
    if !socket.exists() {
        return Err("its socket is not there".to_owned());
    }
    let mut cri = Cri::connect(socket).await.map_err(|error| error.chain())?;
    let status = cri.status().await.map_err(|error| error.chain())?;
    let conditions = status.status.map(|status| status.conditions);
    for condition in conditions.unwrap_or_default() {
        let needed = matches!(condition.r#type.as_str(), "RuntimeReady" | "NetworkReady");
        if needed && !condition.status {
            return Err(format!("{}: {}", condition.r#type, condition.message));
        }
    }
    Ok(cri)
}

/// The pause image's name: its tag changes with the program in it.
fn pause_name() -> Result<String, Error> {
    let path = Path::new("/proc/self/exe");
    let program = fs::read(path).map_err(Error::at("could not read", path))?;
    let digest = archive::digest(&program);
    let short = digest.get("sha256:".len().."sha256:".len() + 16);
    Ok(format!(
        "localhost/duet/pause:{}",
        short.unwrap_or("latest")
    ))
}

/// An image whose one file is `duet` itself.
fn pause_archive(name: &str) -> Result<Vec<u8>, Error> {
    let mut layer = Layer::new();
    layer.add(Path::new("/proc/self/exe"), Path::new("/duet"), Some(0o755))?;
    let (os, architecture) = archive::PLATFORM.split_once('/').unwrap_or_default();
    let config = archive::Config {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        entrypoint: vec!["/duet".to_owned(), "pause".to_owned()],
        ..archive::Config::default()
    };
    archive::bytes(name, &config, layer.finish()?)
}

/// Volumes and logs of pods whose `duet` was killed.
fn remove_stale_pods(pods: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(pods) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::at("could not read", pods))?,
    };
    for entry in entries {
        let path = entry.map_err(Error::at("could not read", pods))?.path();
        if let Some(uid) = path.file_name() {
            machine::remove_cgroup(&Path::new("/duet").join(uid))?;
        }
        volumes::remove(&path)?;
    }
    Ok(())
}
