//! `PR_SET_MDWE`: no memory becomes code that was not.

/// From now on no memory of this process can be made executable, and none be mapped to be written and executed. What
/// is executable already stays so, and a file can still be mapped as code.
///
/// It cannot be taken back, and what the process executes inherits it. False if it is not so: before Linux 6.3, or
/// where a filter forbids to ask.
///
/// # References
///
/// [PR_SET_MDWE(2const)](https://man7.org/linux/man-pages/man2/PR_SET_MDWE.2const.html).
pub fn seal() -> bool {
    let none: libc::c_ulong = 0;
    let refuse = libc::c_ulong::from(libc::PR_MDWE_REFUSE_EXEC_GAIN);
    // SAFETY: the call reads and writes no memory and changes none; whoever wants to make code later is refused
    // by an error.
    let result = unsafe { libc::prctl(libc::PR_SET_MDWE, refuse, none, none, none) };
    result == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes what could be code, and tries to make it that.
    fn made() -> std::io::Result<()> {
        let (length, write) = (4096, libc::PROT_READ | libc::PROT_WRITE);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: at an address of the kernel's choice, where nothing else is.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), length, write, flags, -1, 0) };
        assert_ne!(page, libc::MAP_FAILED);
        // SAFETY: the page is this function's own.
        let result = unsafe { libc::mprotect(page, length, libc::PROT_READ | libc::PROT_EXEC) };
        let made = if result == 0 {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error())
        };
        // SAFETY: the same page, which nobody has a reference to.
        unsafe { libc::munmap(page, length) };
        made
    }

    #[test]
    fn what_was_written_is_no_code_afterwards() {
        made().unwrap();
        let error = seal().then(|| made().unwrap_err().raw_os_error());
        // SAFETY: only asks.
        let kernel = unsafe { libc::prctl(libc::PR_GET_MDWE, 0, 0, 0, 0) };
        // An older kernel does not know the question either.
        assert_eq!(
            error,
            (kernel == 1).then_some(Some(libc::EACCES)),
            "{kernel}"
        );
    }
}
