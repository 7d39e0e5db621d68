//! The cgroup in which the compiler works: outside of the pod's, which neither pays for it nor waits
//! for it, and with limits of its own.
//!
//! ```text
//!   /duet-compilers                       what those of all pods have together, removed after the last
//!   /duet-compilers/<pid of the shim>     made for its first compilation, removed after its last
//! ```
//!
//! One for all that a pod has compiled at the same time, and one around those of all pods (decision 55). The inner one
//! is in the record of each member, so that whoever cleans up after a killed shim finds it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use duet_cgroup::{Cgroup, Host};
use duet_spec::LinuxResources;
use duet_wasm::Room;

use crate::children::{Children, Launch};
use crate::confined::Confined;

/// Where the compilers of all pods work, below the root of each hierarchy.
const ALL: &str = "/duet-compilers";

/// What a pod's compilers may take together: 3 GiB, one and a half times of what one takes from itself.
const MEMORY: i64 = 3 << 30;

/// What those of all pods may take together where it is more than that: a quarter of the node's memory.
const PART: i64 = 4;

/// How many threads a pod's may have: 64. One compiler has three: two that compile, one that waits for them.
const THREADS: i64 = 64;

/// The share of a busy processor that all have together: half of what a cgroup has that says nothing. A start waits
/// for them, and beside all pods of a node, which are one cgroup of more, that is little enough.
const SHARES: u64 = 512;

/// How long who is killed may take to end: 30 s. A compiler has gigabytes to give back, perhaps on a busy node.
const END_LIMIT: Duration = Duration::from_secs(30);

/// How long it is before who has entered after the others were killed is killed as well.
const ROUND: Duration = Duration::from_millis(100);

/// Makes the cgroup, and removes it.
#[derive(Debug)]
pub(crate) struct Workshop {
    host: Host,
    children: Arc<Children>,
    path: PathBuf,
    place: Mutex<Place>,
    /// Somebody has left.
    left: Condvar,
}

/// The cgroup, and how many work in it.
#[derive(Default)]
struct Place {
    cgroup: Option<Shop>,
    rooms: usize,
    closed: bool,
}

/// The cgroup of a pod's compilers, and the one around those of all pods, which the last to leave removes.
struct Shop {
    own: Confined,
    all: Option<Cgroup>,
}

/// One who works there.
struct Tenant {
    workshop: Arc<Workshop>,
    /// The compiler is the shim's child, and not a stranger to be reaped.
    _launch: Launch,
}

// === impl Workshop ===

impl Workshop {
    /// Where the compilers of the shim with this pid work.
    pub(crate) fn path_of(shim: u32) -> PathBuf {
        Path::new(ALL).join(shim.to_string())
    }

    /// Makes nothing yet.
    pub(crate) fn new(host: Host, children: Arc<Children>) -> Self {
        Self::at(host, children, Self::path_of(std::process::id()))
    }

    fn at(host: Host, children: Arc<Children>, path: PathBuf) -> Self {
        Self {
            host,
            children,
            path,
            place: Mutex::default(),
            left: Condvar::new(),
        }
    }

    /// Where it will be, below the root of each hierarchy.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Ends who works there. Nobody works there afterwards.
    ///
    /// Each leaves when its compiler was reaped. A killed one is in no list before it has given all of its memory
    /// back, and its cgroup cannot be removed as long.
    pub(crate) fn close(&self) {
        let deadline = Instant::now() + END_LIMIT;
        let mut place = self.place();
        place.closed = true;
        while place.rooms > 0 && Instant::now() < deadline {
            if let Some(Err(error)) = place.cgroup.as_ref().map(|it| it.own.cgroup.kill()) {
                tracing::debug!(%error, "a compiler takes long to end");
            }
            let waited = self
                .left
                .wait_timeout_while(place, ROUND, |it| it.rooms > 0);
            (place, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        place.cgroup = None;
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        // A count and what it counts for: a panic between the two leaves a cgroup for the next.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self) -> io::Result<Shop> {
        let own = Confined::at(&self.host, &self.path).map_err(io::Error::other)?;
        // From here on the outer one stays: there is one in it.
        let all = around(&self.host, &self.path);
        let shop = Shop { own, all };
        if let Some(all) = &shop.all {
            // By each: whoever made it may not have come to it yet.
            match all.update(&common_limits()?) {
                // Others have it full: then it has its limit.
                Ok(()) | Err(duet_cgroup::Error::InUse { .. }) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let limited = shop.own.cgroup.limit(&limits()?);
        limited.map_err(io::Error::other)?;
        Ok(shop)
    }
}

/// Removes what is around the workshop at `path`, which is gone, if no other is in it.
///
/// For who cleans up after a killed shim. One of before there was such a thing is below the root itself.
pub fn leave_workshops(host: &Host, path: &Path) {
    if let Some(all) = around(host, path) {
        all.remove_if_empty();
    }
}

fn around(host: &Host, path: &Path) -> Option<Cgroup> {
    // The root is nobody's to open.
    Cgroup::open(host, path.parent()?).ok()
}

// === impl Shop ===

impl Drop for Shop {
    fn drop(&mut self) {
        if let Err(error) = self.own.remove() {
            // Its own end says so again.
            tracing::debug!(%error, "a workshop is not removed at once");
        }
        if let Some(all) = &self.all {
            all.remove_if_empty();
        }
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
        let dirs = place.cgroup.iter().flat_map(|it| it.own.entrances());
        Ok(Room {
            tasks: dirs.collect(),
            kept: Box::new(Tenant {
                workshop: Arc::clone(workshop),
                _launch: workshop.children.launch(),
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
            self.workshop.left.notify_all();
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

/// Those of a pod's compilers.
fn limits() -> serde_json::Result<LinuxResources> {
    serde_json::from_value(serde_json::json!({
        "memory": {"limit": MEMORY},
        "pids": {"limit": THREADS},
    }))
}

/// Those of all pods' compilers.
fn common_limits() -> serde_json::Result<LinuxResources> {
    let memory = rustix::system::sysinfo();
    let node = u64::from(memory.mem_unit).saturating_mul(memory.totalram);
    let part = i64::try_from(node).map_or(MEMORY, |node| node / PART);
    serde_json::from_value(serde_json::json!({
        "memory": {"limit": part.max(MEMORY)},
        "cpu": {"shares": SHARES},
    }))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Read as _;
    use std::process::{Command, Stdio};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use duet_wasm::{Preview, Workshop as _};

    use super::*;
    use crate::{Ground, Programs};

    /// Held by whoever has the workshop of this process; `None`, and a line that says so, for all but root.
    fn alone() -> Option<MutexGuard<'static, ()>> {
        static ALONE: Mutex<()> = Mutex::new(());
        let root = rustix::process::geteuid().is_root();
        if !root {
            eprintln!("skipped: needs root");
            assert!(
                std::env::var_os("DUET_TEST_REQUIRE").is_none(),
                "DUET_TEST_REQUIRE is set: nothing may be skipped"
            );
        }
        root.then(|| ALONE.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[test]
    fn whoever_still_compiles_is_ended_by_the_last_who_lets_go_of_the_ground() {
        let Some(_alone) = alone() else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let script = format!(
            "#!/bin/sh
             for tasks in $DUET_TASKS; do echo 0 >$tasks; done
             cat /proc/self/cgroup >{}; exec sleep 1000",
            path("begun").display()
        );
        // By another program: what another test's thread forks would have it open for writing for a moment.
        let write = "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\"";
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", write]).arg(path("compiler")).arg(script);
        assert!(shell.status().unwrap().success());
        fs::write(path("app.wasm"), b"\0asm\x01\0\0\0").unwrap();
        let made = Command::new("mkfifo").arg(path("begun")).status().unwrap();
        assert!(made.success(), "{made}");
        let programs = Programs {
            runner: path("runner"),
            compiler: path("compiler"),
            tools: path("tools"),
            cache: path("cache"),
            duet: path("duet"),
            address: "/no/containerd".to_owned(),
        };
        let ground = Arc::new(Ground::new("test".to_owned(), programs).unwrap());
        let module = File::open(path("app.wasm")).unwrap();
        let cache = ground.cache(None).unwrap();
        // Whoever creates the container does not wait for it.
        let late = cache.compiled(&module, "/app.wasm", Preview::Two, Instant::now());
        assert!(late.is_err(), "{late:?}");
        let cgroups = fs::read_to_string(path("begun")).unwrap();
        let place = ground.workshop().to_str().unwrap().to_owned();
        assert!(cgroups.contains(&place), "{place} is not in {cgroups}");

        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap();
        let places: Vec<_> = hierarchies
            .map(|hierarchy| hierarchy.unwrap().path())
            .chain([PathBuf::from("/sys/fs/cgroup")])
            .map(|hierarchy| hierarchy.join(&place[1..]))
            .filter(|place| place.exists())
            .collect();
        let kept = Arc::clone(&ground);
        drop(ground);
        let is_busy = |place: &PathBuf| {
            let inside = fs::read_to_string(place.join("cgroup.procs"));
            !inside.unwrap().is_empty()
        };
        assert!(places.iter().any(is_busy), "nobody is in {places:?}");
        drop(kept);
        for place in places {
            assert!(!place.exists(), "{}", place.display());
        }
    }

    /// The directories below the root of each hierarchy.
    fn dirs(path: &Path) -> Vec<PathBuf> {
        let below = path.strip_prefix("/").unwrap();
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap();
        let hierarchies = hierarchies.map(|hierarchy| hierarchy.unwrap().path());
        let dirs = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]);
        let dirs = dirs.map(|hierarchy| hierarchy.join(below));
        dirs.filter(|dir| dir.exists()).collect()
    }

    /// What is written in one of the files of a cgroup.
    fn limit(path: &Path, files: [&str; 2]) -> String {
        let dirs = dirs(path);
        let places = dirs.iter().flat_map(|dir| files.map(|file| dir.join(file)));
        let mut values = places.filter_map(|file| fs::read_to_string(file).ok());
        values.next().unwrap().trim().to_owned()
    }

    /// Around workshops of this test's own: others may be at work on this machine.
    fn of_a_test(name: &str) -> PathBuf {
        PathBuf::from(format!("/duet-test-{}-{name}", std::process::id()))
    }

    fn workshop(all: &Path, shim: usize) -> Tenancy {
        let path = all.join(shim.to_string());
        let host = Host::detect().unwrap();
        Tenancy(Arc::new(Workshop::at(host, Arc::default(), path)))
    }

    #[test]
    fn workshops_of_many_pods_have_the_share_of_one_and_what_is_around_them_goes_with_the_last() {
        let Some(_alone) = alone() else {
            return;
        };
        let all = of_a_test("shops");
        let [one, other] = [1, 2].map(|shim| workshop(&all, shim));
        let room = one.open().unwrap();
        let second = other.open().unwrap();
        let shares = ["cpu.shares", "cpu.weight"];
        let memory = ["memory.limit_in_bytes", "memory.max"];
        assert!(["512", "59"].contains(&limit(&all, shares).as_str()));
        let common: i64 = limit(&all, memory).parse().unwrap();
        assert!(common >= MEMORY, "{common}");
        for shop in [&one, &other] {
            let own = shop.0.path();
            assert!(["1024", "100"].contains(&limit(own, shares).as_str()));
            assert_eq!(limit(own, memory), MEMORY.to_string());
            assert_eq!(limit(own, ["pids.max"; 2]), THREADS.to_string());
        }
        drop(room);
        assert_eq!(dirs(one.0.path()), Vec::<PathBuf>::new());
        assert_ne!(dirs(&all), Vec::<PathBuf>::new());
        // Whoever cleans up removes nobody's.
        leave_workshops(&one.0.host, one.0.path());
        assert_ne!(dirs(other.0.path()), Vec::<PathBuf>::new());
        drop(second);
        assert_eq!(dirs(&all), Vec::<PathBuf>::new());
    }

    #[test]
    fn those_who_come_never_fail_by_those_who_go() {
        let Some(_alone) = alone() else {
            return;
        };
        let all = of_a_test("race");
        thread::scope(|scope| {
            for shim in 0..8 {
                let tenancy = workshop(&all, shim);
                scope.spawn(move || {
                    for _ in 0..60 {
                        let room = tenancy.open().unwrap();
                        for tasks in &room.tasks {
                            assert!(tasks.exists(), "{}", tasks.display());
                        }
                    }
                });
            }
        });
        assert_eq!(dirs(&all), Vec::<PathBuf>::new());
    }

    #[test]
    fn whoever_worked_there_has_left_when_it_is_closed() {
        let Some(_alone) = alone() else {
            return;
        };
        let host = Host::detect().unwrap();
        let workshop = Arc::new(Workshop::new(host, Arc::default()));
        let room = Tenancy(Arc::clone(&workshop)).open().unwrap();
        let tasks = room.tasks.clone();
        let mut worker = Command::new("sh")
            .args([
                "-c",
                "for file; do echo 0 >$file; done; echo; exec sleep 1000",
                "sh",
            ])
            .args(&tasks)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        worker.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let has_left = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let status = worker.wait().unwrap();
                assert_eq!(
                    std::os::unix::process::ExitStatusExt::signal(&status),
                    Some(9)
                );
                has_left.store(true, Ordering::Relaxed);
                drop(room);
            });
            workshop.close();
            assert!(has_left.load(Ordering::Relaxed));
        });
        for file in tasks {
            assert!(!file.exists(), "{}", file.display());
        }
        let refused = Tenancy(workshop).open().unwrap_err();
        assert_eq!(refused.to_string(), "the pod ends");
    }
}
