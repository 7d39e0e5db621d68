//! TERM, INT and QUIT for a process 1 that has nobody else to ask.
//!
//! The kernel drops signals that process 1 of a PID namespace has no handler for. So there is one, and
//! it leaves the process there and then: a guest that spins in a loop is ended as fast as an idle one,
//! without epochs or fuel in its code and without a thread that waits. Until then they are blocked: one that
//! is blocked is not dropped.
//!
//! XFSZ has one that does nothing: a guest cannot handle it, and is told `EFBIG` instead of being killed.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
use signal_hook::{flag, low_level};

/// The signals that end a container, each with the exit code a shell would show.
const ENDING: [(i32, i32); 3] = [(SIGTERM, 143), (SIGINT, 130), (SIGQUIT, 131)];

/// The handlers, which end the process until told otherwise.
#[derive(Debug)]
pub(crate) struct Signals {
    at_once: Arc<AtomicBool>,
    came: Arc<AtomicBool>,
}

// === impl Signals ===

impl Signals {
    /// Installs the handlers.
    pub(crate) fn install() -> io::Result<Self> {
        let at_once = Arc::new(AtomicBool::new(true));
        for (signal, code) in ENDING {
            flag::register_conditional_shutdown(signal, code, Arc::clone(&at_once))?;
        }
        flag::register(SIGXFSZ, Arc::default())?;
        duet_linux::signals::unblock(ENDING.map(|(signal, _)| signal))?;
        let came = Arc::default();
        Ok(Self { at_once, came })
    }

    /// From now on a signal is a byte in the returned pipe.
    pub(crate) fn as_bytes(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        for (signal, _) in ENDING {
            low_level::pipe::register(signal, theirs.try_clone()?)?;
            flag::register(signal, Arc::clone(&self.came))?;
        }
        self.at_once.store(false, Ordering::Relaxed);
        Ok(ours)
    }

    /// What is true when one came after [`Self::as_bytes`], for who cannot read.
    pub(crate) fn came(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.came)
    }

    /// From now on a signal ends the process at once again.
    pub(crate) fn end_at_once(&self) {
        self.at_once.store(true, Ordering::Relaxed);
    }
}
