//! Capabilities, groups and filters.

use core::ffi::c_int;

use duet_step::{Insn, Op};

use super::done;
use crate::fault::{Fault, answer};
use crate::raw::{Word, call};

const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// `prctl` with numbers.
pub(crate) fn prctl(option: c_int, a: u32, b: u32) -> Result<usize, Fault> {
    // SAFETY: used with options that take numbers only: PR_SET_DUMPABLE, PR_SET_KEEPCAPS,
    // PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP and PR_CAP_AMBIENT.
    answer(Op::Prctl, unsafe {
        call!(libc::SYS_prctl, option, a, b, 0_u32, 0_u32)
    })
}

#[repr(C)]
struct FilterProgram {
    len: u16,
    first: *const Insn,
}

/// `seccomp(SECCOMP_SET_MODE_FILTER)`: the listener's number, if one was asked for.
pub(crate) fn seccomp(program: &[Insn], flags: u32) -> Result<Option<u32>, Fault> {
    const SET_MODE_FILTER: u32 = 1;
    const NEW_LISTENER: u32 = 8;
    let program = FilterProgram {
        len: u16::try_from(program.len()).map_err(|_| Fault::check(libc::EINVAL))?,
        first: program.as_ptr(),
    };
    // SAFETY: `Insn` is laid out as `struct sock_filter`, and the kernel reads `len` of them.
    let answer = answer(Op::Seccomp, unsafe {
        call!(libc::SYS_seccomp, SET_MODE_FILTER, flags, &program)
    })?;
    // It stays open, and closes on exec.
    Ok((flags & NEW_LISTENER != 0).then(|| u32::try_from(answer).unwrap_or(u32::MAX)))
}

/// `setgroups`.
pub(crate) fn setgroups(groups: &[u32]) -> Result<(), Fault> {
    // SAFETY: the kernel reads `groups.len()` numbers of `groups`.
    done(Op::Setgroups, unsafe {
        call!(libc::SYS_setgroups, groups.len(), groups.as_ptr())
    })
}

/// `capset` of the caller: effective, permitted and inheritable.
pub(crate) fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<(), Fault> {
    let header = [LINUX_CAPABILITY_VERSION_3, 0];
    let low = |mask: u64| u32::try_from(mask & u64::from(u32::MAX)).unwrap_or(0);
    let high = |mask: u64| u32::try_from(mask >> 32).unwrap_or(0);
    let data = [
        low(effective),
        low(permitted),
        low(inheritable),
        high(effective),
        high(permitted),
        high(inheritable),
    ];
    // SAFETY: version 3 reads a header of two numbers and two records of three.
    done(Op::Capset, unsafe {
        call!(libc::SYS_capset, &header, &data)
    })
}
