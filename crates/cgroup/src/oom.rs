//! Hears of OOM kills: an eventfd on v1; on v2 the files of the counts themselves, which the kernel makes readable
//! out of band (`POLLPRI`) when they change. Not inotify: root has 128 of those by default, for the whole node.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::io::Errno as RawErrno;

use crate::stats::Flat;
use crate::{Cgroup, Error, Mode};

/// The line that counts kills, on v1 as on v2.
const KILLS: &str = "oom_kill";

/// How often two counters are read until they are of one moment.
const TRIES: usize = 4;

/// How long after a v1 cgroup has run out of memory its end counts as that: 10 s. The kill, the end of who
/// was killed and systemd's answer to it take milliseconds, on a busy node a second.
const AFTERMATH: Duration = Duration::from_secs(10);

/// A descriptor that becomes readable when the cgroup runs out of memory, and the count of kills.
///
/// Register it with the reactor, and on readiness [`drain`](Self::drain) it and compare
/// [`kills`](Self::kills) with what it was: the v1 event comes *before* the kill, for the OOM of a
/// cgroup above this one too, and when the cgroup is removed. For the same reason ask once more when
/// a process has ended, before its exit is told to anyone.
#[derive(Debug)]
pub struct OomWatch {
    events: OwnedFd,
    /// `memory.oom_control` or `memory.events`, open since the start.
    counter: File,
    traces: Traces,
    seen: Mutex<Seen>,
}

/// What tells of a kill that was counted in a cgroup which is gone.
#[derive(Debug)]
enum Traces {
    /// Nothing needs to: only its owner removes it.
    None,
    /// v1: the eventfd, which rings when the cgroup runs out of memory, and once more when it is removed.
    Rings {
        /// Where the memory controller has it.
        dir: PathBuf,
        /// Rings when it is removed and never before, after the other one has.
        removal: OnceLock<OwnedFd>,
    },
    /// v2: `memory.events` of the cgroup above, which counts those below, also when they are gone. The root
    /// of the tree has none.
    Above(Option<File>),
}

/// What was last read: the answer once the cgroup is gone.
#[derive(Debug, Default)]
struct Seen {
    kills: u64,
    /// Those of all cgroups below the one above, at the same time.
    above: u64,
    /// How often the eventfd of v1 has rung since.
    rings: u64,
    /// When it last rang for something that was not counted then, nor just before.
    rang: Option<Instant>,
    /// When the count was last found to have risen.
    counted: Option<Instant>,
    gone: bool,
}

// === impl Cgroup ===

impl Cgroup {
    /// Starts to watch for OOM.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if no memory controller is mounted, [`Error::Gone`] if the cgroup was
    /// removed, [`Error::Watch`] or [`Error::Refused`] if the kernel refuses.
    ///
    /// # References
    ///
    /// [v1, section 10 "OOM Control"](https://docs.kernel.org/admin-guide/cgroup-v1/memory.html),
    /// [v2, `memory.events`](https://docs.kernel.org/admin-guide/cgroup-v2.html).
    pub fn oom(&self) -> Result<OomWatch, Error> {
        self.watch(false)
    }

    /// As [`Cgroup::oom`], of a cgroup that systemd removes as soon as nobody is in it: perhaps before
    /// its counter was read.
    ///
    /// Then one kill is taken for granted (decisions 32 and 39): on v2 if the counter above, which goes on counting what
    /// was killed here and is watched, too, has risen since the last look; on v1 if it has just run out of memory,
    /// for which [`OomWatch::announce_removal`] is wanted.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::oom`].
    pub fn oom_of_scope(&self) -> Result<OomWatch, Error> {
        self.watch(true)
    }

    /// How many of its processes were killed for want of memory since it was made, without a watch.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if no memory controller is mounted, [`Error::Gone`] if the cgroup was
    /// removed.
    pub fn oom_kills(&self) -> Result<u64, Error> {
        let (dir, name) = self.counter()?;
        let path = dir.join(name);
        let text = std::fs::read_to_string(&path);
        let text = text.map_err(|error| Error::on("read", &path, &error))?;
        Ok(Flat::parse(&text).get(KILLS))
    }

    /// Where the memory controller has it, and the file that counts kills there.
    fn counter(&self) -> Result<(&Path, &'static str), Error> {
        let Some(dir) = self.controller("memory") else {
            return Err(Error::unsupported(
                "OOM events",
                self.path().display(),
                "no memory controller is mounted",
            ));
        };
        Ok(match self.mode() {
            Mode::V1 | Mode::Hybrid => (dir, "memory.oom_control"),
            Mode::V2 => (dir, "memory.events"),
        })
    }

    fn watch(&self, swept: bool) -> Result<OomWatch, Error> {
        let (dir, name) = self.counter()?;
        let path = dir.join(name);
        let counter = File::open(&path).map_err(|error| Error::on("open", &path, &error))?;
        let events = match self.mode() {
            Mode::V1 | Mode::Hybrid => {
                let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
                let events = eventfd(0, flags).map_err(watch)?;
                register(dir, &events, &counter, "")?;
                events
            }
            Mode::V2 => {
                let events = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(watch)?;
                hear_of(&events, &counter)?;
                events
            }
        };
        let traces = match (self.mode(), dir.parent()) {
            _ if !swept => Traces::None,
            (Mode::V1 | Mode::Hybrid, _) => Traces::Rings {
                dir: dir.to_owned(),
                removal: OnceLock::new(),
            },
            (Mode::V2, None) => Traces::Above(None),
            (Mode::V2, Some(above)) => Traces::Above(count_above(&events, &above.join(name))?),
        };
        let watch = OomWatch {
            events,
            counter,
            traces,
            seen: Mutex::default(),
        };
        watch.kills();
        Ok(watch)
    }
}

/// Has an eventfd ring for the event that a file of a v1 cgroup stands for.
fn register(dir: &Path, events: &OwnedFd, file: &File, further: &str) -> Result<(), Error> {
    let request = format!("{} {} {further}", events.as_raw_fd(), file.as_raw_fd());
    let control = dir.join("cgroup.event_control");
    OpenOptions::new()
        .write(true)
        .open(&control)
        .and_then(|mut control| control.write_all(request.as_bytes()))
        .map_err(|error| Error::on("register with", &control, &error))
}

/// Has `events` become readable whenever a file of a v2 cgroup has changed since it was last read.
fn hear_of(events: &OwnedFd, file: &File) -> Result<(), Error> {
    let data = epoll::EventData::new_u64(0);
    epoll::add(events, file, data, epoll::EventFlags::PRI).map_err(watch)
}

/// Opens the counter of the cgroup above and watches it; the root of the tree has none.
fn count_above(events: &OwnedFd, path: &Path) -> Result<Option<File>, Error> {
    match File::open(path).map_err(|error| Error::on("open", path, &error)) {
        Ok(counter) => {
            hear_of(events, &counter)?;
            Ok(Some(counter))
        }
        Err(Error::Gone { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn watch(error: RawErrno) -> Error {
    Error::Watch {
        source: Errno::from_raw(error.raw_os_error()),
    }
}

/// Whether what happened then may have to do with what is found now.
fn is_recent(moment: Option<Instant>) -> bool {
    moment.is_some_and(|moment| moment.elapsed() < AFTERMATH)
}

/// Whether an eventfd has rung; it stays as it is.
fn has_rung(event: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(event, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1))
}

/// The count of a file; `None` once its cgroup is gone.
fn killed(counter: &File) -> Option<u64> {
    let mut buffer = [0; 512];
    let read = counter.read_at(&mut buffer, 0).ok()?;
    let text = std::str::from_utf8(&buffer[..read]).unwrap_or_default();
    Some(Flat::parse(text).get(KILLS))
}

// === impl OomWatch ===

impl OomWatch {
    /// How many processes of the cgroup were killed for want of memory since it was made.
    ///
    /// On v1 those of cgroups below it, which only a container that makes some can have, are not
    /// counted by the kernel. Once the cgroup is gone the answer is the last one, as soon as it
    /// [is settled](Self::is_settled).
    pub fn kills(&self) -> u64 {
        let mut seen = self.seen();
        if seen.gone {
            return seen.kills;
        }
        if let Some((kills, above)) = self.look() {
            if kills > seen.kills {
                seen.kills = kills;
                seen.rang = None;
                seen.counted = Some(Instant::now());
            } else if seen.rings > 0 && !is_recent(seen.counted) {
                seen.rang = Some(Instant::now());
            }
            seen.above = above;
            seen.rings = 0;
        } else if let Some(killed) = self.was_killed(&mut seen) {
            seen.gone = true;
            // Nobody can tell any more how many they were.
            seen.kills += u64::from(killed);
        }
        seen.kills
    }

    /// Whether nobody was killed whom [`kills`](Self::kills) cannot tell of yet.
    ///
    /// Not so while a v1 cgroup is gone and has rung once: for its removal, or for a kill, and the
    /// removal's ring takes its time. [`removal`](Self::removal) is readable when it has come.
    pub fn is_settled(&self) -> bool {
        self.kills();
        let seen = self.seen();
        seen.gone || seen.rings == 0
    }

    /// Whether somebody was killed between the last look and the removal; `None` while nobody knows.
    fn was_killed(&self, seen: &mut Seen) -> Option<bool> {
        match &self.traces {
            Traces::None => Some(false),
            Traces::Rings { .. } => {
                // Asked for first, because it is told of last.
                let removed = self.removal().is_some_and(has_rung);
                seen.rings += self.rings();
                match seen.rings {
                    _ if is_recent(seen.rang) => Some(true),
                    0 => Some(false),
                    1 => removed.then_some(false),
                    // Who allocates while a victim dies makes it ring again for the same kill.
                    2.. => Some(!is_recent(seen.counted)),
                }
            }
            Traces::Above(_) => Some(self.killed_above() > seen.above),
        }
    }

    /// Whether the removal is to be announced: of a v1 cgroup that systemd removes.
    pub fn wants_removal(&self) -> bool {
        matches!(self.traces, Traces::Rings { .. })
    }

    /// Has the kernel tell of the cgroup's removal by itself, if [that is wanted](Self::wants_removal).
    ///
    /// This waits for every processor of the machine (10 to 30 ms): the kernel replaces the list of
    /// thresholds, of which this is one that no use of memory crosses. The ring of its removal takes
    /// as long for the same reason, and so it comes after that of the other eventfd.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] if the cgroup was removed, [`Error::Watch`] or [`Error::Refused`] if the kernel refuses.
    pub fn announce_removal(&self) -> Result<(), Error> {
        let Traces::Rings { dir, removal } = &self.traces else {
            return Ok(());
        };
        let path = dir.join("memory.usage_in_bytes");
        let usage = File::open(&path).map_err(|error| Error::on("open", &path, &error))?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let event = eventfd(0, flags).map_err(watch)?;
        register(dir, &event, &usage, "-1")?;
        // A second one would say the same.
        drop(removal.set(event));
        Ok(())
    }

    /// Readable when the cgroup is removed and [`events`](Self::as_fd) have rung for it, if that was
    /// [announced](Self::announce_removal).
    pub fn removal(&self) -> Option<BorrowedFd<'_>> {
        match &self.traces {
            Traces::Rings { removal, .. } => removal.get().map(OwnedFd::as_fd),
            Traces::Above(_) | Traces::None => None,
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // A panic leaves nothing half done in there.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counts of this cgroup and of the one above at one moment; `None` once this is gone.
    fn look(&self) -> Option<(u64, u64)> {
        let mut above = self.killed_above();
        for _ in 0..TRIES {
            let kills = killed(&self.counter)?;
            let now = self.killed_above();
            if now == above {
                return Some((kills, above));
            }
            above = now;
        }
        // They go on dying; the next look is soon.
        Some((killed(&self.counter)?, above))
    }

    fn killed_above(&self) -> u64 {
        match &self.traces {
            Traces::Above(Some(above)) => killed(above).unwrap_or(0),
            Traces::Above(None) | Traces::Rings { .. } | Traces::None => 0,
        }
    }

    /// Takes the events that made the descriptor readable, so that it waits for the next.
    pub fn drain(&self) {
        if self.wants_removal() {
            let mut seen = self.seen();
            seen.rings += self.rings();
            return;
        }
        // Of v1 an eventfd. Of v2 what is read is the counts, which the kernel takes for having heard of them.
        self.rings();
        self.kills();
    }

    /// How often an eventfd has rung since it was last read.
    fn rings(&self) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(&self.events, &mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            // It has not.
            Ok(_) | Err(_) => 0,
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl std::os::fd::AsRawFd for OomWatch {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.events.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_v2_is_heard_of_whenever_it_has_changed_since_it_was_read() {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = rustix::process::geteuid().is_root();
        let Some(host) = crate::Host::parse(&mounts, "0::/\n").ok().filter(|_| root) else {
            eprintln!("skipped: needs root and a v2 tree");
            return;
        };
        let path = format!("/duet-test-{}-heard", std::process::id());
        let own = Cgroup::create(&host, Path::new(&path)).unwrap();
        let file = File::open(own.dir().join("cgroup.events")).unwrap();
        let events = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        hear_of(&events, &file).unwrap();
        let heard = |patience: Option<Timespec>| {
            let mut fds = [PollFd::new(&events, PollFlags::IN)];
            poll(&mut fds, patience.as_ref()).unwrap() == 1
        };
        let read = || {
            let mut text = [0; 128];
            let read = file.read_at(&mut text, 0).unwrap();
            String::from_utf8_lossy(&text[..read]).contains("populated 1")
        };
        assert!(!read());
        assert!(!heard(Some(Timespec::default())), "it is read");
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        std::fs::write(own.dir().join("cgroup.procs"), child.id().to_string()).unwrap();
        assert!(heard(None));
        assert!(read());
        assert!(!heard(Some(Timespec::default())), "it is read");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(heard(None));
        assert!(!read());
        own.remove().unwrap();
    }

    /// A watch of a cgroup that is gone, and a counter that still is there.
    fn gone(traces: Traces, seen: Seen) -> OomWatch {
        OomWatch {
            events: eventfd(0, EventfdFlags::NONBLOCK).unwrap(),
            // What cannot be read any more.
            counter: File::open("/").unwrap(),
            traces,
            seen: Mutex::new(seen),
        }
    }

    fn ring(event: &OwnedFd, times: u64) {
        let written = rustix::io::write(event, &times.to_ne_bytes());
        assert_eq!(written, Ok(8));
    }

    #[test]
    fn what_the_cgroup_above_counted_since_the_last_look_was_killed_here() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.events");
        std::fs::write(&path, "low 0\noom 9\noom_kill 3\n").unwrap();
        for (before, expected) in [(3, 5), (2, 6), (0, 6)] {
            let above = Traces::Above(Some(File::open(&path).unwrap()));
            let seen = Seen {
                kills: 5,
                above: before,
                ..Seen::default()
            };
            let watch = gone(above, seen);
            assert_eq!(watch.kills(), expected, "{before}");
            assert_eq!(watch.kills(), expected, "and no more than once");
        }
        assert_eq!(gone(Traces::Above(None), Seen::default()).kills(), 0);
    }

    /// The traces of one whose removal was announced, and told if it has `come`.
    fn rings(come: bool) -> Traces {
        let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        if come {
            ring(&event, 1);
        }
        Traces::Rings {
            dir: PathBuf::new(),
            removal: OnceLock::from(event),
        }
    }

    #[test]
    fn a_ring_that_is_not_for_the_removal_is_for_a_kill() {
        // How often it rang before and after the last drain, whether the removal was told, and the kills.
        for (drained, later, come, expected) in [
            (0, 0, false, Some(0)),
            (0, 1, true, Some(0)),
            (1, 0, true, Some(0)),
            (0, 1, false, None),
            (1, 0, false, None),
            (1, 1, false, Some(1)),
            (0, 2, true, Some(1)),
        ] {
            let case = format!("{drained}, {later}, {come}");
            let watch = gone(rings(come), Seen::default());
            if drained > 0 {
                ring(&watch.events, drained);
                watch.drain();
            }
            if later > 0 {
                ring(&watch.events, later);
            }
            assert_eq!(watch.is_settled(), expected.is_some(), "{case}");
            assert_eq!(watch.kills(), expected.unwrap_or(0), "{case}");
            assert_eq!(watch.kills(), expected.unwrap_or(0), "{case}: once");
        }
        let long_ago = Instant::now().checked_sub(AFTERMATH).unwrap();
        for (rang, expected) in [(Instant::now(), 1), (long_ago, 0)] {
            let seen = Seen {
                rang: Some(rang),
                ..Seen::default()
            };
            assert_eq!(gone(rings(true), seen).kills(), expected);
        }
    }

    #[test]
    fn a_ring_soon_after_a_kill_was_counted_is_for_that_kill() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.oom_control");
        std::fs::write(&path, "under_oom 0\noom_kill 1\n").unwrap();
        // How often it rings when the kill is counted already, while the cgroup is there and afterwards.
        for (there, afterwards) in [(1, 1), (0, 2), (2, 3)] {
            let mut watch = gone(rings(true), Seen::default());
            let missing = std::mem::replace(&mut watch.counter, File::open(&path).unwrap());
            ring(&watch.events, 1);
            watch.drain();
            assert_eq!(watch.kills(), 1);
            if there > 0 {
                ring(&watch.events, there);
                watch.drain();
            }
            assert_eq!(watch.kills(), 1, "{there}, {afterwards}: it is there");
            watch.counter = missing;
            ring(&watch.events, afterwards);
            assert!(watch.is_settled());
            assert_eq!(watch.kills(), 1, "{there}, {afterwards}: it is gone");
        }
    }

    #[test]
    fn a_kill_is_told_as_soon_as_the_removal_has_rung_too() {
        let watch = gone(rings(false), Seen::default());
        ring(&watch.events, 1);
        assert!(!watch.is_settled());
        ring(&watch.events, 1);
        assert!(watch.is_settled());
        assert_eq!(watch.kills(), 1);
    }

    #[test]
    fn what_only_its_owner_removes_leaves_no_traces() {
        let watch = gone(Traces::None, Seen::default());
        ring(&watch.events, 2);
        watch.drain();
        assert_eq!(watch.kills(), 0);
    }
}
