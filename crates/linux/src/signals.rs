//! Signals of this process: blocked for a while, and how they are disposed of.

use std::io;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

use crate::dispositions;

/// All signals of the calling thread are blocked while this lives.
///
/// Dropping it puts the earlier mask back, so it belongs on the stack of one thread.
#[derive(Debug)]
pub struct Blocked {
    before: SigSet,
    /// A thread's mask is put back by the same thread.
    not_send: std::marker::PhantomData<*const ()>,
}

// === impl Blocked ===

impl Blocked {
    /// Blocks all signals of the calling thread.
    ///
    /// # Errors
    ///
    /// None that the kernel documents for these arguments.
    pub fn all() -> io::Result<Self> {
        let mut before = SigSet::empty();
        pthread_sigmask(
            SigmaskHow::SIG_SETMASK,
            Some(&SigSet::all()),
            Some(&mut before),
        )?;
        Ok(Self {
            before,
            not_send: std::marker::PhantomData,
        })
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // Fails for a bad `how` only.
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None).unwrap_or(());
    }
}

/// Lets signals come that were blocked for the calling thread, those that have come meanwhile at once.
///
/// # Errors
///
/// `EINVAL` for what is no signal.
pub fn unblock(signals: impl IntoIterator<Item = i32>) -> io::Result<()> {
    let mut set = SigSet::empty();
    for signal in signals {
        set.add(Signal::try_from(signal)?);
    }
    Ok(set.thread_unblock()?)
}

/// The signals that this process ignores: bit n - 1 for signal n.
///
/// `CLONE_CLEAR_SIGHAND` resets what is handled, not what is ignored, and Rust's runtime ignores
/// `SIGPIPE`: a child that is to be born as `execve` under a plain parent must undo that.
#[must_use]
pub fn ignored() -> u64 {
    let ignored = (1..=64).filter(|signal| dispositions::ignores(*signal));
    ignored.fold(0, |mask, signal| mask | 1 << (signal - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_ignores_sigpipe() {
        assert_eq!(ignored() >> (libc::SIGPIPE - 1) & 1, 1);
    }

    #[test]
    fn the_mask_is_put_back() {
        let before = SigSet::thread_get_mask().unwrap();
        let blocked = Blocked::all().unwrap();
        assert_ne!(SigSet::thread_get_mask().unwrap(), before);
        drop(blocked);
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }
}
