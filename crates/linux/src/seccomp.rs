//! `seccomp(2)`: a filter for the calling thread.

use std::io;

use crate::filter::Insn;

/// The kernel's `struct sock_fprog`.
#[repr(C)]
struct Program {
    length: u16,
    instructions: *const Insn,
}

/// Installs a filter that the thread and what it starts cannot get rid of. It must have said
/// `no_new_privs` or have `CAP_SYS_ADMIN`.
///
/// The processor goes on guessing as it did (`SECCOMP_FILTER_FLAG_SPEC_ALLOW`): before Linux 5.16 a filter slows down who
/// has it, unless it says so.
///
/// # Errors
///
/// The kernel's: `EINVAL` for a program it does not take, `EACCES` without either of the two.
///
/// # References
///
/// [seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html), Linux 3.17.
pub fn install(program: &[Insn]) -> io::Result<()> {
    const SET_MODE_FILTER: libc::c_uint = 1;
    let program = Program {
        length: u16::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr(),
    };
    // SAFETY: the kernel reads `length` instructions, which is how many the slice has, each laid out as
    // `sock_filter` (`Insn` says so), and keeps a copy of its own; it writes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
