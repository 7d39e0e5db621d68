//! The cgroup in which the compiler works: outside of the pod's, which neither pays for it nor waits
//! for it, and with limits of its own.
//!
//! ```text
//!   /duet-compiler-<pid of the shim>      made for the first compilation, removed after the last
//! ```
//!
//! One for all that a pod has compiled at the same time. It is in the record of each member, so that whoever
//! cleans up after a killed shim finds it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use duet_cgroup::Host;
use duet_spec::LinuxResources;
use duet_wasm::Room;

use crate::children::{Children, Labour};
use crate::confined::Confined;

/// What compilers may take together: 3 GiB, one and a half times of what one takes from itself.
const MEMORY: i64 = 3 << 30;

/// How many threads they may have: 64. One compiler has three: two that compile, one that waits for them.
const THREADS: i64 = 64;

/// Their share of a busy processor: an eighth of what a cgroup has that says nothing.
const SHARES: u64 = 128;

/// Makes the cgroup, and removes it.
#[derive(Debug)]
pub(crate) struct Workshop {
    host: Host,
    children: Arc<Children>,
    path: PathBuf,
    place: Mutex<Place>,
}

/// The cgroup, and how many work in it.
#[derive(Default)]
struct Place {
    cgroup: Option<Confined>,
    rooms: usize,
    closed: bool,
}

/// One who works there.
struct Tenant {
    workshop: Arc<Workshop>,
    /// The compiler is the shim's child, and not a stranger to be reaped.
    _labour: Labour,
}

// === impl Workshop ===

impl Workshop {
    /// Where the compilers of the shim with this pid work.
    pub(crate) fn path_of(shim: u32) -> PathBuf {
        Path::new("/").join(format!("duet-compiler-{shim}"))
    }

    /// Makes nothing yet.
    pub(crate) fn new(host: Host, children: Arc<Children>) -> Self {
        Self {
            host,
            children,
            path: Self::path_of(std::process::id()),
            place: Mutex::default(),
        }
    }

    /// Where it will be, below the root of each hierarchy.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Ends who works there. Nobody works there afterwards.
    pub(crate) fn close(&self) {
        let mut place = self.place();
        place.closed = true;
        // Dropping it kills what is in it.
        place.cgroup = None;
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        // A count and what it counts for: a panic between the two leaves a cgroup for the next.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self) -> io::Result<Confined> {
        let confined = Confined::at(&self.host, &self.path).map_err(io::Error::other)?;
        let limited = confined.cgroup.limit(&limits()?);
        limited.map_err(io::Error::other)?;
        Ok(confined)
    }
}

/// The workshop as the cache knows it.
#[derive(Debug)]
pub(crate) struct Tenancy(pub(crate) Arc<Workshop>);

impl duet_wasm::Workshop for Tenancy {
    fn open(&self) -> io::Result<Room> {
        let workshop = &self.0;
        let mut place = workshop.place();
        if place.closed {
            return Err(io::Error::other("the pod ends"));
        }
        if place.cgroup.is_none() {
            place.cgroup = Some(workshop.make()?);
        }
        place.rooms += 1;
        let dirs = place.cgroup.iter().flat_map(Confined::entrances);
        Ok(Room {
            tasks: dirs.collect(),
            kept: Box::new(Tenant {
                workshop: Arc::clone(workshop),
                _labour: workshop.children.labour(),
            }),
        })
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        let mut place = self.workshop.place();
        place.rooms -= 1;
        if place.rooms == 0 {
            place.cgroup = None;
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("rooms", &self.rooms)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

fn limits() -> serde_json::Result<LinuxResources> {
    serde_json::from_value(serde_json::json!({
        "memory": {"limit": MEMORY},
        "cpu": {"shares": SHARES},
        "pids": {"limit": THREADS},
    }))
}
