//! `rt_sigaction`, to ask.

/// Whether this process ignores the signal. A number that is no signal is not ignored.
///
/// Not through libc's `sigaction`, which denies that signals 32 and 33 exist, for it uses them
/// itself; a process inherits their being ignored all the same.
pub(crate) fn ignores(signal: i32) -> bool {
    // `struct kernel_sigaction`: handler, flags, restorer, mask, of a word each.
    let mut action = [0_usize; 4];
    let nothing = std::ptr::null::<usize>();
    // SAFETY: with a null second argument nothing changes; the answer is at most as long as
    // `action`, with a signal set of the eight bytes that the last argument says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            nothing,
            action.as_mut_ptr(),
            8_usize,
        )
    };
    result == 0 && action[0] == libc::SIG_IGN
}
