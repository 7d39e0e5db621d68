//! The two outputs of a server's container, which all of its requests share.
//!
//! A write to a full pipe waits, and with it the thread that serves: as many handlers as there are such threads would keep
//! everybody else out for as long as nobody reads the container's log. So nothing is written that a pipe has no
//! room for: it waits here, in the order in which it came, and who has said it waits for it without a thread.
//! What there is room for is written at once.
//!
//! The pipe is asked before each write. To make it refuse by itself (`O_NONBLOCK`) would be to make it so for
//! everybody else who has it open; `RWF_NOWAIT` is known to pipes since Linux 6.4 only.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

/// How much a pipe has room for if it has any: 4 KiB, a page, and `PIPE_BUF`.
const PIECE: usize = 4096;

/// How much may wait before what the server itself has to say is lost: 1 MiB. Handlers wait with their words, and so
/// there is an end of those; the server does not.
const MOST: usize = 1 << 20;

static OPENED: OnceLock<Outputs> = OnceLock::new();

/// Standard output and standard error.
#[derive(Debug, Clone)]
pub(crate) struct Outputs {
    pub(crate) stdout: Arc<Output>,
    /// The same one if it leads to the same pipe: two would not know of each other's room.
    pub(crate) stderr: Arc<Output>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Output {
    way: Way,
    is_terminal: bool,
    runtime: Handle,
    waiting: Mutex<Waiting>,
}

/// How it is written to.
#[derive(Debug)]
enum Way {
    /// When it has room.
    Pipe(AsyncFd<OwnedFd>),
    /// At once: a file has room or fails. A terminal may let us wait, and does not say how much it has room for.
    Other(OwnedFd),
}

/// What could not be written yet.
#[derive(Debug, Default)]
struct Waiting {
    bytes: VecDeque<u8>,
    /// How many bytes have ever waited here.
    came: u64,
    /// How many of those wait no longer.
    gone: u64,
    wakers: Vec<(Ticket, Waker)>,
}

/// When what was put is written: when so many bytes are that have waited. At 0 it did not have to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// Opens the outputs of this process for a server whose runtime this is; from now on all that is said goes this way.
pub(crate) fn open() -> io::Result<()> {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let [one, other] = [fstat(stdout.as_fd())?, fstat(stderr.as_fd())?];
    let stdout = Arc::new(Output::open(stdout.as_fd(), stdout.is_terminal())?);
    let stderr = if (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino) {
        Arc::clone(&stdout)
    } else {
        Arc::new(Output::open(stderr.as_fd(), stderr.is_terminal())?)
    };
    // There is one server in a process.
    OPENED.set(Outputs { stdout, stderr }).ok();
    Ok(())
}

/// Those of a server.
pub(crate) fn opened() -> Option<&'static Outputs> {
    OPENED.get()
}

// === impl Outputs ===

impl Outputs {
    /// Waits until nothing waits.
    pub(crate) async fn emptied(&self) {
        for output in [&self.stdout, &self.stderr] {
            let last = Ticket(output.waiting().came);
            output.written(last).await;
        }
    }
}

// === impl Output ===

impl Output {
    fn open(fd: BorrowedFd<'_>, is_terminal: bool) -> io::Result<Self> {
        let own = fd.try_clone_to_owned()?;
        let kind = FileType::from_raw_mode(fstat(&own)?.st_mode);
        let way = if kind == FileType::Fifo {
            Way::Pipe(polled(own)?)
        } else {
            Way::Other(own)
        };
        Ok(Self {
            way,
            is_terminal,
            runtime: Handle::current(),
            waiting: Mutex::default(),
        })
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Writes `bytes` after all that was put before. What there is no room for waits.
    pub(crate) fn put(self: &Arc<Self>, bytes: &[u8]) -> io::Result<Ticket> {
        self.put_behind(self.waiting(), bytes)
    }

    /// The same for what nobody waits for, unless too much waits already.
    pub(crate) fn put_if_possible(self: &Arc<Self>, bytes: &[u8]) {
        let waiting = self.waiting();
        if waiting.bytes.len() < MOST {
            drop(self.put_behind(waiting, bytes));
        }
    }

    fn put_behind(
        self: &Arc<Self>,
        mut waiting: MutexGuard<'_, Waiting>,
        bytes: &[u8],
    ) -> io::Result<Ticket> {
        let mut rest = bytes;
        if waiting.bytes.is_empty() {
            let written = self.write(bytes)?;
            rest = bytes.get(written..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(Ticket::default());
            }
            drop(self.runtime.spawn(Arc::clone(self).drain()));
        }
        waiting.bytes.extend(rest);
        waiting.came += u64::try_from(rest.len()).unwrap_or(u64::MAX);
        Ok(Ticket(waiting.came))
    }

    /// Whether what was put is written, or lost with whoever was to read it.
    pub(crate) fn is_written(&self, ticket: Ticket) -> bool {
        // Most never had to wait.
        ticket == Ticket::default() || self.waiting().is_gone(ticket)
    }

    /// The same for who waits until it is.
    pub(crate) fn poll_written(&self, ticket: Ticket, context: &Context<'_>) -> Poll<()> {
        if ticket == Ticket::default() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting();
        if waiting.is_gone(ticket) {
            return Poll::Ready(());
        }
        let mut known = waiting.wakers.iter();
        let waker = context.waker();
        if !known.any(|(other, known)| *other == ticket && known.will_wake(waker)) {
            waiting.wakers.push((ticket, waker.clone()));
        }
        Poll::Pending
    }

    /// Waits until it is.
    pub(crate) async fn written(&self, ticket: Ticket) {
        poll_fn(|context| self.poll_written(ticket, context)).await;
    }

    /// Writes what waits when there is room for it, until nothing does.
    async fn drain(self: Arc<Self>) {
        // Nothing else lets anybody wait.
        let Way::Pipe(pipe) = &self.way else { return };
        while let Ok(mut ready) = pipe.writable().await {
            if self.write_waiting() {
                return;
            }
            // What has come meanwhile counts: this is about the readiness that was met.
            ready.clear_ready();
        }
    }

    /// Writes what there is room for; whether that was all.
    fn write_waiting(&self) -> bool {
        let mut waiting = self.waiting();
        loop {
            let (front, _) = waiting.bytes.as_slices();
            let length = front.len();
            // Nobody is there to read it who could be told.
            let written = self.write(front).unwrap_or(waiting.bytes.len());
            waiting.bytes.drain(..written);
            waiting.gone += u64::try_from(written).unwrap_or(u64::MAX);
            if waiting.bytes.is_empty() {
                // It may have been much.
                waiting.bytes = VecDeque::new();
                break;
            }
            if written < length {
                break;
            }
        }
        let gone = Ticket(waiting.gone);
        for (_, waker) in waiting.wakers.extract_if(.., |(ticket, _)| *ticket <= gone) {
            waker.wake();
        }
        waiting.bytes.is_empty()
    }

    /// Writes what there is room for, and says how much that was.
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            let done = match &self.way {
                Way::Pipe(pipe) => {
                    if !has_room(pipe.get_ref())? {
                        break;
                    }
                    let piece = rest.get(..PIECE).unwrap_or(rest);
                    rustix::io::write(pipe.get_ref(), piece)
                }
                Way::Other(file) => rustix::io::write(file, rest),
            };
            match done {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                // Somebody else who has it open has made it refuse.
                Err(Errno::AGAIN) => match &self.way {
                    Way::Pipe(_) => break,
                    Way::Other(file) => drop(poll(&mut [PollFd::new(file, PollFlags::OUT)], None)),
                },
                Err(error) => return Err(error.into()),
            }
        }
        Ok(written)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Bytes: after a panic there may be some too many.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe for who lends a descriptor that may be closed; this one is owned"
)]
fn polled(pipe: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(pipe, Interest::WRITABLE)
}

// === impl Waiting ===

impl Waiting {
    fn is_gone(&self, ticket: Ticket) -> bool {
        ticket <= Ticket(self.gone)
    }
}

/// Whether a write of a [`PIECE`] does not have to wait. One that fails does not either.
fn has_room(pipe: &OwnedFd) -> io::Result<bool> {
    let mut asked = [PollFd::new(pipe, PollFlags::OUT)];
    loop {
        match poll(&mut asked, Some(&Timespec::default())) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
