//! Waiting for clocks, sockets, streams and files at once.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno as Kernel, ioctl_fionread};
use wasmtime_wasi::p1::types::{
    Clockid, Errno, Error, Event, EventFdReadwrite, Eventrwflags, Eventtype, Fd, Filesize, Size,
    Subclockflags, Subscription, SubscriptionClock, SubscriptionU,
};
use wasmtime_wasi::p1::wasi_snapshot_preview1::WasiSnapshotPreview1 as _;
use wiggle::{GuestMemory, GuestPtr};

use super::descriptors::Descriptor;
use super::{Preview1, special, streams};
use crate::rest;

/// How many things a guest may wait for at once: 65,536. Each takes memory of the runner's.
const MOST: Size = 1 << 16;

/// How long a wait is after which the program's pages are worth to be fetched again: 100 ms.
const LONG: Duration = Duration::from_millis(100);

/// What one subscription waits for.
enum Wait {
    /// A moment; `None` is never.
    Until(Option<Instant>),
    /// A descriptor that the kernel knows, by the guest's number.
    On(Fd, PollFlags),
    /// Nothing: the answer is known.
    Over(Result<EventFdReadwrite, Errno>),
}

/// A subscription, and what it waits for.
struct Waiting {
    userdata: u64,
    kind: Eventtype,
    wait: Wait,
}

// === impl Preview1 ===

impl Preview1 {
    /// `poll_oneoff`.
    pub(super) async fn poll(
        &mut self,
        memory: &mut GuestMemory<'_>,
        subscriptions: GuestPtr<Subscription>,
        events: GuestPtr<Event>,
        count: Size,
    ) -> Result<Size, Error> {
        if count == 0 || count > MOST {
            return Err(Errno::Inval.into());
        }
        let mut all = Vec::new();
        for subscription in subscriptions.as_array(count).iter() {
            let subscription = memory.read(subscription?)?;
            all.push(self.waiting(memory, subscription).await?);
        }
        let happened = self.wait(&all)?;
        for (event, at) in happened.iter().zip(events.as_array(count).iter()) {
            memory.write(at?, event.clone())?;
        }
        Ok(Size::try_from(happened.len())?)
    }

    async fn waiting(
        &mut self,
        memory: &mut GuestMemory<'_>,
        subscription: Subscription,
    ) -> Result<Waiting, Error> {
        let (kind, wait) = match subscription.u {
            SubscriptionU::Clock(clock) => (Eventtype::Clock, self.clock(memory, &clock)?),
            SubscriptionU::FdRead(it) => {
                let wait = self.input(memory, it.file_descriptor).await?;
                (Eventtype::FdRead, wait)
            }
            SubscriptionU::FdWrite(it) => (Eventtype::FdWrite, self.output(it.file_descriptor)),
        };
        Ok(Waiting {
            userdata: subscription.userdata,
            kind,
            wait,
        })
    }

    /// The end of a clock's time, on the kernel's clock: what guests are told as time begins elsewhere.
    fn clock(
        &mut self,
        memory: &mut GuestMemory<'_>,
        clock: &SubscriptionClock,
    ) -> Result<Wait, Error> {
        match clock.id {
            Clockid::Monotonic | Clockid::Realtime => {}
            Clockid::ProcessCputimeId | Clockid::ThreadCputimeId => {
                return Err(Errno::Inval.into());
            }
        }
        let absolute = Subclockflags::SUBSCRIPTION_CLOCK_ABSTIME;
        let left = if clock.flags.contains(absolute) {
            let now = self.wasmtime.clock_time_get(memory, clock.id, 0)?;
            clock.timeout.saturating_sub(now)
        } else {
            clock.timeout
        };
        let end = Instant::now().checked_add(Duration::from_nanos(left));
        Ok(Wait::Until(end))
    }

    async fn input(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Result<Wait, Error> {
        Ok(match self.descriptors.get(fd) {
            Ok(Descriptor::Stdin) if self.input.left() > 0 => {
                let left = Filesize::try_from(self.input.left())?;
                Wait::Over(Ok(event(left, false)))
            }
            Ok(Descriptor::Stdin | Descriptor::Listener(_) | Descriptor::Connection(_)) => {
                Wait::On(fd, PollFlags::IN)
            }
            Ok(Descriptor::File(file)) => self.rest(memory, file.number).await?,
            Ok(Descriptor::Fifo(fifo)) if special::ways(fifo).0 => Wait::On(fd, PollFlags::IN),
            Ok(
                Descriptor::Stdout
                | Descriptor::Stderr
                | Descriptor::Directory(_)
                | Descriptor::Fifo(_),
            )
            | Err(_) => Wait::Over(Err(Errno::Badf)),
        })
    }

    fn output(&self, fd: Fd) -> Wait {
        match self.descriptors.get(fd) {
            Ok(Descriptor::Stdout | Descriptor::Stderr | Descriptor::Connection(_)) => {
                Wait::On(fd, PollFlags::OUT)
            }
            Ok(Descriptor::File(_)) => Wait::Over(Ok(event(1, false))),
            Ok(Descriptor::Fifo(fifo)) if special::ways(fifo).1 => Wait::On(fd, PollFlags::OUT),
            Ok(
                Descriptor::Stdin
                | Descriptor::Listener(_)
                | Descriptor::Directory(_)
                | Descriptor::Fifo(_),
            )
            | Err(_) => Wait::Over(Err(Errno::Badf)),
        }
    }

    /// A file can always be read; what there is to be said is how much is left of it.
    async fn rest(&mut self, memory: &mut GuestMemory<'_>, file: Fd) -> Result<Wait, Error> {
        let stat = self.wasmtime.fd_filestat_get(memory, file).await?;
        let position = self.wasmtime.fd_tell(memory, file)?;
        let left = stat.size.saturating_sub(position);
        Ok(Wait::Over(Ok(event(left, left == 0))))
    }

    /// Waits for the first of them, and says which have come to pass.
    fn wait(&self, all: &[Waiting]) -> Result<Vec<Event>, Error> {
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        // Each descriptor once, for everything that is waited for on it: `poll` takes no more entries than
        // RLIMIT_NOFILE, however few descriptors they name.
        let mut whats = BTreeMap::new();
        let mut end = None;
        for waiting in all {
            match &waiting.wait {
                Wait::Until(None) => {}
                Wait::Until(Some(moment)) => {
                    end = Some(end.map_or(*moment, |end: Instant| end.min(*moment)));
                }
                Wait::Over(_) => end = Some(Instant::now()),
                Wait::On(fd, what) => {
                    let whole = whats.entry(u32::from(*fd)).or_insert(PollFlags::empty());
                    *whole |= *what;
                }
            }
        }
        let mut fds = Vec::with_capacity(whats.len());
        for (fd, what) in &whats {
            fds.push(match self.descriptors.get((*fd).into())? {
                Descriptor::Stdin => PollFd::new(&stdin, *what),
                Descriptor::Stdout => PollFd::new(&stdout, *what),
                Descriptor::Stderr => PollFd::new(&stderr, *what),
                Descriptor::Listener(socket) => PollFd::new::<TcpListener>(socket, *what),
                Descriptor::Connection(socket) => PollFd::new::<TcpStream>(socket, *what),
                Descriptor::Fifo(fifo) => PollFd::new(fifo, *what),
                Descriptor::File(_) | Descriptor::Directory(_) => {
                    return Err(Errno::Badf.into());
                }
            });
        }
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_none_or(|left| left >= LONG) {
                rest::end_of_start();
            }
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut fds, left.as_ref()) {
                Ok(_) => {}
                Err(Kernel::INTR) => continue,
                Err(error) => return Err(streams::errno(error).into()),
            }
            let polled = whats.keys().copied().zip(&fds).collect();
            let happened = happened(all, &polled);
            if !happened.is_empty() {
                return Ok(happened);
            }
        }
    }
}

/// The events of those whose time has come; `polled` has every descriptor of [`Wait::On`].
fn happened(all: &[Waiting], polled: &BTreeMap<u32, &PollFd<'_>>) -> Vec<Event> {
    let now = Instant::now();
    let mut happened = Vec::new();
    for waiting in all {
        let outcome = match &waiting.wait {
            Wait::Until(moment) => moment
                .is_some_and(|moment| moment <= now)
                .then(|| Ok(event(0, false))),
            Wait::Over(outcome) => Some(outcome.clone()),
            Wait::On(fd, what) => polled
                .get(&u32::from(*fd))
                .and_then(|fd| outcome(fd, *what)),
        };
        if let Some(outcome) = outcome {
            let error = outcome.as_ref().err().copied().unwrap_or(Errno::Success);
            happened.push(Event {
                userdata: waiting.userdata,
                error,
                type_: waiting.kind,
                fd_readwrite: outcome.unwrap_or_else(|_| event(0, false)),
            });
        }
    }
    happened
}

/// What the kernel said of a descriptor to one who waits for `what`, if it said anything.
fn outcome(fd: &PollFd<'_>, what: PollFlags) -> Option<Result<EventFdReadwrite, Errno>> {
    // These it says unasked.
    let unasked = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
    let said = fd.revents() & (what | unasked);
    if said.is_empty() {
        return None;
    }
    if said.contains(PollFlags::NVAL) {
        return Some(Err(Errno::Badf));
    }
    // A listener has connections and not bytes; one is enough to be worth a call.
    let ready = ioctl_fionread(fd).unwrap_or(1);
    Some(Ok(event(ready, said.contains(PollFlags::HUP))))
}

fn event(nbytes: Filesize, hung_up: bool) -> EventFdReadwrite {
    let mut flags = Eventrwflags::empty();
    flags.set(Eventrwflags::FD_READWRITE_HANGUP, hung_up);
    EventFdReadwrite { nbytes, flags }
}
