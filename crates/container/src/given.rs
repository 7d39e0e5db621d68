//! Descriptors that a caller gives a process itself: an OCI command line has them from whoever
//! called it, where containerd names FIFOs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use duet_linux::channel;

use crate::error::Error;
use crate::plumbing::Plumbing;
use crate::stdio::{Ends, Pipes};

/// What the receiver of a terminal is told of it: runc's name of the file.
const NAME: &[u8] = b"/dev/ptmx";

/// Descriptors that take the place of the paths in a [`Stdio`](crate::Stdio). Nothing is copied,
/// and none is kept once the process is born.
#[derive(Debug, Clone)]
pub enum Given {
    /// Standard input, output and errors.
    Streams(Arc<[OwnedFd; 3]>),
    /// A connected stream socket that the master of the process's terminal is sent to, as OCI
    /// command lines do (`--console-socket`).
    Console(Arc<OwnedFd>),
}

// === impl Given ===

impl Given {
    /// Both sides of the process's stdio.
    pub(crate) fn open(&self) -> Result<(Plumbing, Ends), Error> {
        match self {
            Given::Streams(streams) => {
                let clone = |fd: &OwnedFd| {
                    let cloned = fd.try_clone().map_err(|source| Error::Host {
                        step: "duplicate a descriptor of the stdio",
                        source,
                    });
                    cloned.map(Some)
                };
                let [stdin, stdout, stderr] = &**streams;
                let ends = Ends {
                    stdin: clone(stdin)?,
                    stdout: clone(stdout)?,
                    stderr: clone(stderr)?,
                    complaints: None,
                };
                Ok((Plumbing::Pipes(Pipes::default()), ends))
            }
            Given::Console(socket) => Ok((Plumbing::Console(Arc::clone(socket)), Ends::default())),
        }
    }
}

impl PartialEq for Given {
    /// The same descriptors, not equal ones.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Given::Streams(ours), Given::Streams(theirs)) => Arc::ptr_eq(ours, theirs),
            (Given::Console(ours), Given::Console(theirs)) => Arc::ptr_eq(ours, theirs),
            (Given::Streams(_), Given::Console(_)) | (Given::Console(_), Given::Streams(_)) => {
                false
            }
        }
    }
}

impl Eq for Given {}

/// Sends the master of a terminal to who asked for it.
pub(crate) fn send(socket: &OwnedFd, master: &OwnedFd) -> io::Result<()> {
    channel::pass(socket, NAME, &[master.as_fd()])
}
