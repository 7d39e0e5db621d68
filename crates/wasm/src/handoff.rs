//! What the shim tells the runner about its guest, in a sealed file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use serde::{Deserialize, Serialize};

use crate::{Format, Preview};

/// Everything the runner knows about its guest besides the code.
///
/// It travels in a memory file and not in the runner's own arguments and environment: what an image
/// or a pod writes there must configure the guest, never the process around it (`RUST_BACKTRACE`,
/// `GLIBC_TUNABLES`). Both sides are of one build (`program.rs`), so there is no versioning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handoff {
    /// The module as its user knows it (`/app.wasm`), for messages.
    pub name: String,
    /// Which loader to use.
    pub format: Format,
    /// What a component may ask for.
    #[serde(default)]
    pub preview: Preview,
    /// The guest's arguments, its own name first.
    pub argv: Vec<String>,
    /// The guest's environment, each `NAME=value`.
    pub env: Vec<String>,
    /// The guest's working directory, absolute.
    pub cwd: String,
    /// Where volumes are in its root, in the words of its spec.
    #[serde(default)]
    pub mounts: Vec<String>,
    /// How to serve, if the guest turns out to be an http handler.
    #[serde(default)]
    pub http: Http,
    /// What `wasi:config` tells, beside the environment.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// Where a preview 1 guest, which can open no socket, finds some open.
    #[serde(default)]
    pub listen: Vec<SocketAddr>,
}

/// How a `wasi:http` component is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Http {
    /// Address and port to listen on; absent: what the guest's `DUET_HTTP_ADDR` says, else
    /// [`Http::ADDRESS`].
    pub address: Option<String>,
    /// How many requests one instance may serve, one after the other: 1, a new instance for each.
    ///
    /// More is faster and shares the guest's memory between requests, which some language
    /// runtimes do not survive.
    pub reuse: u32,
    /// How many requests may be inside the guest at the same time: 64. Others wait their turn.
    pub concurrency: u32,
    /// How many may wait: 1024. Others are told to come again.
    pub queue: u32,
    /// How long a request may take, its waiting and the whole of its answer included: 5 minutes, as in
    /// Knative. Absent: as long as it likes.
    pub timeout: Option<Duration>,
    /// How long a client may take from one request to the end of the next one's head: 75 s, as in nginx.
    pub idle: Duration,
    /// How long requests in flight may take to finish after TERM: 10 s.
    ///
    /// Kubernetes kills after 30 s unless the pod says otherwise; ten leaves its preStop hook room.
    pub drain: Duration,
    /// Whether what handlers print is written as it comes, without the number of the request.
    pub plain_log: bool,
    /// Whether the pod keeps the listening socket for a successor, and descriptor 7 is the way to it.
    pub pod_listener: bool,
}

/// Where an http component serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServesAt<'a> {
    /// The address and the port, if they are any.
    pub address: &'a str,
    /// What to do with instead where there is no IPv6.
    pub without_ipv6: Option<&'static str>,
    /// Who says so.
    pub by: &'a str,
}

// === impl Handoff ===

impl Handoff {
    /// Writes the handoff into a memory file that nobody can change any more.
    ///
    /// # Errors
    ///
    /// When the kernel has no memory or descriptor for it.
    ///
    /// # References
    ///
    /// [memfd_create(2)](https://man7.org/linux/man-pages/man2/memfd_create.2.html), Linux 3.17.
    pub fn seal(&self) -> io::Result<File> {
        let mut file = memory_file("duet-handoff")?;
        file.write_all(&serde_json::to_vec(self)?)?;
        freeze(&file)?;
        Ok(file)
    }

    /// Reads what [`Handoff::seal`] wrote.
    ///
    /// # Errors
    ///
    /// When `file` cannot be read or holds something else.
    pub fn read(file: &File) -> io::Result<Self> {
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Where to serve, and who says so: the annotation, else the environment, else [`Http::ADDRESS`].
    #[must_use]
    pub fn serves_at(&self) -> ServesAt<'_> {
        let variable = self.variables().find(|(name, _)| *name == Http::VARIABLE);
        let (address, by) = match (&self.http.address, variable) {
            (Some(address), _) => (address.as_str(), "io.containerd.duet.v1.http.listen"),
            (None, Some((name, address))) => (address, name),
            (None, None) => {
                return ServesAt {
                    address: Http::ADDRESS,
                    without_ipv6: Some(Http::WITHOUT_IPV6),
                    by: "the default",
                };
            }
        };
        ServesAt {
            address,
            without_ipv6: None,
            by,
        }
    }

    /// The environment as pairs. An entry without `=` has an empty value, as in a shell's `export`.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env
            .iter()
            .map(|entry| entry.split_once('=').unwrap_or((entry, "")))
    }
}

// === impl Http ===

impl Http {
    /// Where an http component listens if nobody says otherwise: at every address of the pod, of IPv4 too.
    pub const ADDRESS: &str = "[::]:8080";
    /// The same where there is no IPv6.
    pub const WITHOUT_IPV6: &str = "0.0.0.0:8080";
    /// The variable of the guest's environment that says otherwise.
    pub const VARIABLE: &str = "DUET_HTTP_ADDR";
}

impl Default for Http {
    fn default() -> Self {
        Self {
            address: None,
            reuse: 1,
            concurrency: 64,
            queue: 1024,
            timeout: Some(Duration::from_secs(300)),
            idle: Duration::from_secs(75),
            drain: Duration::from_secs(10),
            plain_log: false,
            pod_listener: false,
        }
    }
}

/// An empty file in memory.
pub(crate) fn memory_file(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?.into())
}

/// Makes a memory file unchangeable, for us as well.
pub(crate) fn freeze(file: &File) -> io::Result<()> {
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    Ok(fcntl_add_seals(file, all)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handoff() -> Handoff {
        Handoff {
            name: "/app.wasm".into(),
            format: Format::Module,
            preview: Preview::Three,
            argv: vec!["app".into(), "ä b".into()],
            env: vec!["A=1=2".into(), "B".into()],
            cwd: "/srv".into(),
            mounts: vec!["/var/run/secrets".into()],
            http: Http::default(),
            config: [("colour".into(), "blue".into())].into(),
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 7000))],
        }
    }

    #[test]
    fn what_is_sealed_is_read_and_cannot_be_changed() {
        let file = handoff().seal().unwrap();
        assert_eq!(Handoff::read(&file).unwrap(), handoff());
        assert!(file.write_all_at(b"x", 0).is_err());
        assert!(file.set_len(0).is_err());
    }

    #[test]
    fn only_the_first_equals_sign_divides() {
        let handoff = handoff();
        let pairs: Vec<_> = handoff.variables().collect();
        assert_eq!(pairs, [("A", "1=2"), ("B", "")]);
    }
}
