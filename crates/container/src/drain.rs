//! What a process wrote last, on its way to who reads it: it is there before the end is told.
//!
//! What the shim copies has arrived when it is written. What the process wrote into a FIFO itself is its reader's as
//! soon as that has begun to read: until then a client may give up the opening of its end (containerd's does, when it
//! is told that an exec is over), and what was written would be nobody's (decision 49).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::ioctl_fionread;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

/// How long the end of a process may wait for a reader that takes nothing: 2 s.
///
/// The copy goes on after that, until the process is deleted.
const STALL_LIMIT: Duration = Duration::from_secs(2);

/// How long the end of a process may wait for its readers at all: 10 s. Somebody may have opened a terminal anew since
/// its leader has ended, and write without an end.
const EXIT_LIMIT: Duration = Duration::from_secs(10);

/// How long the deletion of a process may wait after that: 10 s, as runc's shim. What is not read then is lost.
const DELETE_LIMIT: Duration = Duration::from_secs(10);

/// How long an output that nobody reads outlasts its process: 10 s. Nobody waits for that.
const LATE_LIMIT: Duration = Duration::from_secs(10);

/// How soon to look again whether a FIFO's reader has begun, at first and at last: 1 ms, 20 ms. No event tells it.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// The outputs of a process, between its end and the moment in which that may be known.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    /// What is copied.
    pub(crate) copied: Vec<Copied>,
    /// FIFOs, open both ways: letting go of them is what their readers see as the end.
    pub(crate) holds: Vec<OwnedFd>,
}

/// An output that the shim copies, as seen by who waits for it.
#[derive(Debug, Clone)]
pub(crate) struct Copied {
    /// Whether the copy has something in its hands. Changes with all that is passed on, and closes with the end of the copy.
    moved: watch::Receiver<bool>,
    /// Where it comes from, if that is a pipe. Somebody else may have it open for long: then it counts that nothing is in it.
    pipe: Option<Arc<OwnedFd>>,
}

/// The same, as the copy itself has it.
#[derive(Debug)]
pub(crate) struct Copying {
    moved: watch::Sender<bool>,
}

/// A copy, from both sides; from `pipe` if it is one.
pub(crate) fn copying(pipe: Option<Arc<OwnedFd>>) -> (Copying, Copied) {
    let (moved, receiver) = watch::channel(false);
    let copied = Copied {
        moved: receiver,
        pipe,
    };
    (Copying { moved }, copied)
}

// === impl Drain ===

impl Drain {
    /// Waits until everything is where its readers will find it, and lets go of it; but not longer than readers may
    /// take. What is copied after that keeps its FIFO. Needs the runtime.
    pub(crate) async fn done(self) {
        let Drain { copied, holds } = self;
        let end = Instant::now() + EXIT_LIMIT;
        let mut late = Vec::new();
        for mut output in copied {
            if !output.over(STALL_LIMIT, end).await {
                tracing::warn!("output is still unread after its process ended");
                late.push(output);
            }
        }
        let end = end.min(Instant::now() + STALL_LIMIT);
        if late.is_empty() {
            return release_all(holds, end).await;
        }
        // The hold may be the only reader, without whom what is copied has nowhere to go. The copy ends at the latest
        // when the process is deleted.
        tokio::spawn(async move {
            for mut output in late {
                while !output.is_over() && output.moved.changed().await.is_ok() {}
            }
            release_all(holds, Instant::now()).await;
        });
    }
}

// === impl Copied ===

impl Copied {
    /// Whether everything was passed on.
    pub(crate) fn is_over(&self) -> bool {
        // In this order: the copy says what it holds before it reads.
        let empty = self.pipe.as_ref().is_some_and(|pipe| unread(pipe) == 0);
        self.moved.has_changed().is_err() || empty && !*self.moved.borrow()
    }

    /// Waits until everything was passed on, at most until `end` and as long as something is within each `stall`;
    /// whether it was.
    async fn over(&mut self, stall: Duration, end: Instant) -> bool {
        while !self.is_over() {
            let limit = end.min(Instant::now() + stall);
            match timeout_at(limit, self.moved.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_ended)) => return true,
                Err(_limit) => return false,
            }
        }
        true
    }

    /// The last wait for it, before the copy is ended.
    pub(crate) async fn finish(&mut self) {
        if !self.over(DELETE_LIMIT, Instant::now() + DELETE_LIMIT).await {
            tracing::warn!("output is lost: nobody has read it since its process ended");
        }
    }
}

// === impl Copying ===

impl Copying {
    /// Something may be taken.
    pub(crate) fn takes(&self) {
        self.moved.send_if_modified(|holds| {
            *holds = true;
            // Nothing has moved yet.
            false
        });
    }

    /// Some of it was passed on.
    pub(crate) fn moved(&self) {
        self.moved.send_replace(true);
    }

    /// What was taken is passed on.
    pub(crate) fn passed(&self) {
        self.moved.send_replace(false);
    }
}

async fn release_all(holds: Vec<OwnedFd>, end: Instant) {
    for hold in holds {
        release(hold, end).await;
    }
}

/// Lets go of a FIFO whose process has ended when its reader has begun to read, but not later than at `end`. Where nobody
/// reads, a writer stays for who comes late: with it stays what was written, and after it there is an end to see.
async fn release(hold: OwnedFd, end: Instant) {
    let path = format!("/proc/self/fd/{}", hold.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // The hold reads, so this does not fail for want of a reader.
    let writer = open(path, flags, Mode::empty());
    drop(hold);
    let Ok(writer) = writer else { return };
    let mut left = unread(&writer);
    let mut pause = PAUSE;
    while is_read(&writer) {
        if left == 0 || Instant::now() >= end {
            return;
        }
        sleep(pause).await;
        pause = LONGEST_PAUSE.min(2 * pause);
        let now = unread(&writer);
        if now < left {
            return;
        }
        left = now;
    }
    tokio::spawn(async move {
        let end = Instant::now() + LATE_LIMIT;
        while !is_read(&writer) && Instant::now() < end {
            sleep(LONGEST_PAUSE).await;
        }
    });
}

/// How many bytes a pipe or a FIFO holds.
fn unread(pipe: impl AsFd) -> u64 {
    ioctl_fionread(pipe).unwrap_or(0)
}

/// Whether a FIFO has a reader, asked by its writer.
fn is_read(writer: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(writer, PollFlags::empty())];
    let asked = poll(&mut fds, Some(&Timespec::default()));
    let [fd] = &fds;
    asked.is_err() || !fd.revents().contains(PollFlags::ERR)
}

#[cfg(test)]
#[path = "drain/tests.rs"]
mod tests;
