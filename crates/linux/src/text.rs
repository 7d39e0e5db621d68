//! The program's own pages: `madvise(2)`, which neither rustix nor nix wraps safely.

use std::io;

unsafe extern "C" {
    /// The first byte of the program. Linkers define it: see ld(1) on `PROVIDE`.
    static __executable_start: u8;
    /// The byte after its machine code.
    static etext: u8;
}

/// Unmaps the pages of the program's machine code and of what lies before it.
///
/// What is needed again comes back page by page, from the page cache. A program that has a
/// lot to do when it starts and little afterwards maps less from then on; for one that goes on as
/// before it costs a few dozen page faults. Breakpoints and uprobes that were set before are lost, and a
/// program whose file is written to while it runs would go on in the new bytes: upgrades replace the file.
///
/// # Errors
///
/// The kernel's: `EINVAL` for a program that is locked in memory.
///
/// # References
///
/// [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html), `MADV_DONTNEED`;
/// [end(3)](https://man7.org/linux/man-pages/man3/end.3.html), `etext`.
pub fn unmap_own() -> io::Result<()> {
    const PAGE: usize = 4 << 10;
    let begin = (&raw const __executable_start).addr();
    let end = (&raw const etext).addr() & !(PAGE - 1);
    let begin = begin.next_multiple_of(PAGE);
    // SAFETY: between the two the linker puts headers, constants and machine code, which are mapped from
    // the program's file and never written to, so that what comes back is what was there.
    let failed = unsafe {
        libc::madvise(
            begin as *mut _,
            end.saturating_sub(begin),
            libc::MADV_DONTNEED,
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_goes_on_after_its_pages_are_gone() {
        static WORDS: [&str; 3] = ["still", "to be", "read"];
        let before = WORDS.concat();
        unmap_own().unwrap();
        assert_eq!(WORDS.concat(), before);
    }
}
