//! `sigaction`, to ask.

use std::mem::MaybeUninit;

/// Whether this process ignores the signal. A number that is no signal is not ignored.
pub(crate) fn ignores(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with a null second argument nothing changes; `action` is room for the answer.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    if result != 0 {
        return false;
    }
    // SAFETY: the call succeeded, so it has filled in `action`.
    let action = unsafe { action.assume_init() };
    action.sa_sigaction == libc::SIG_IGN
}
