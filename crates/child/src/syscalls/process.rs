//! Namespaces, session, names, signals, and the two ways a child ends.

use core::ffi::{CStr, c_int, c_long};

use duet_step::{Op, Scheduler};

use super::{Fd, done};
use crate::fault::{Fault, answer};
use crate::raw::{Word, call};

/// `setns`.
pub(crate) fn setns(namespace: c_int, flags: u32) -> Result<(), Fault> {
    // SAFETY: integers only.
    done(Op::Setns, unsafe {
        call!(libc::SYS_setns, namespace, flags)
    })
}

/// `unshare`.
pub(crate) fn unshare(flags: u32) -> Result<(), Fault> {
    // SAFETY: integers only; no memory is unshared from threads, there is one.
    done(Op::Unshare, unsafe { call!(libc::SYS_unshare, flags) })
}

/// The kernel's `struct clone_args`, version 2.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `clone3` with `CLONE_PARENT`: nothing in the new process; its number and pidfd in this one.
pub(crate) fn clone_beside(namespaces: u32) -> Result<Option<(u32, Fd)>, Fault> {
    let mut pidfd: c_int = -1;
    let flags = (libc::CLONE_PARENT | libc::CLONE_PIDFD).cast_unsigned() | namespaces;
    let args = CloneArgs {
        flags: flags.into(),
        pidfd: core::ptr::from_mut(&mut pidfd) as u64,
        // The signal that announces its end is, with CLONE_PARENT, that of this process.
        ..CloneArgs::default()
    };
    // SAFETY: the kernel reads `size_of::<CloneArgs>()` bytes of `args` and writes one number to
    // `pidfd`, which both live until the call is over. Without CLONE_VM and without a stack of
    // its own the new process goes on with a copy of this stack; `plan` puts only CLONE_NEW*
    // flags here, none of which shares memory or descriptors.
    let pid = answer(Op::Clone3, unsafe {
        call!(libc::SYS_clone3, &args, core::mem::size_of::<CloneArgs>())
    })?;
    match u32::try_from(pid) {
        Ok(0) => Ok(None),
        Ok(pid) => Ok(Some((pid, Fd(pidfd)))),
        Err(_) => Err(Fault::check(libc::EINVAL)),
    }
}

/// `clone3` with `CLONE_FILES` and `CLONE_VFORK`: nothing in the new process, which shares the
/// descriptors and must end soon; its number in this one, when it has.
pub(crate) fn clone_for_descriptors(namespaces: u32) -> Result<Option<u32>, Fault> {
    let flags = (libc::CLONE_FILES | libc::CLONE_VFORK).cast_unsigned() | namespaces;
    let args = CloneArgs {
        flags: flags.into(),
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        ..CloneArgs::default()
    };
    // SAFETY: the kernel reads `size_of::<CloneArgs>()` bytes of `args`, which live until the call
    // is over. Without CLONE_VM the new process goes on with a copy of this memory, stack included;
    // of the descriptors, which it does share, it closes those alone that it has opened.
    let pid = answer(Op::Clone3, unsafe {
        call!(libc::SYS_clone3, &args, core::mem::size_of::<CloneArgs>())
    })?;
    match u32::try_from(pid) {
        Ok(0) => Ok(None),
        Ok(pid) => Ok(Some(pid)),
        Err(_) => Err(Fault::check(libc::EINVAL)),
    }
}

/// `wait4` for a child's end: the code that it gave to [`exit`].
pub(crate) fn wait(child: u32) -> Result<c_int, Fault> {
    let mut status: c_int = 0;
    let null = core::ptr::null_mut::<u64>();
    loop {
        // SAFETY: the kernel writes one number to `status`, which is borrowed mutably, and no
        // `struct rusage`, for the last argument is null.
        match answer(Op::Step, unsafe {
            call!(libc::SYS_wait4, child, &mut status, 0_i32, null)
        }) {
            Err(fault) if fault.errno == libc::EINTR => {}
            Err(fault) => return Err(fault),
            // It was killed.
            Ok(_) if status & 0x7f != 0 => return Err(Fault::check(libc::EINTR)),
            Ok(_) => return Ok((status >> 8) & 0xff),
        }
    }
}

/// Kills a process.
pub(crate) fn kill(process: &Fd) -> Result<(), Fault> {
    let null = core::ptr::null_mut::<u64>();
    // SAFETY: integers, and no `siginfo_t`: the kernel makes one up.
    done(Op::Step, unsafe {
        call!(
            libc::SYS_pidfd_send_signal,
            process.0,
            libc::SIGKILL,
            null,
            0_u32
        )
    })
}

/// A call that takes integers only.
pub(crate) fn plain(op: Op, number: PlainCall, args: [u32; 3]) -> Result<usize, Fault> {
    let [a, b, c] = args;
    // SAFETY: none of the calls in `PlainCall` takes an address.
    answer(op, unsafe { call!(number.number(), a, b, c) })
}

/// Calls without addresses, for [`plain`].
#[derive(Clone, Copy)]
pub(crate) enum PlainCall {
    Setsid,
    Umask,
    Fchdir,
    IoprioSet,
    Personality,
    Setresuid,
    Setresgid,
}

impl PlainCall {
    fn number(self) -> c_long {
        match self {
            Self::Setsid => libc::SYS_setsid,
            Self::Umask => libc::SYS_umask,
            Self::Fchdir => libc::SYS_fchdir,
            Self::IoprioSet => libc::SYS_ioprio_set,
            Self::Personality => libc::SYS_personality,
            Self::Setresuid => libc::SYS_setresuid,
            Self::Setresgid => libc::SYS_setresgid,
        }
    }
}

/// `chdir`.
pub(crate) fn chdir(path: &CStr) -> Result<(), Fault> {
    // SAFETY: the path ends with NUL and is only read.
    done(Op::Chdir, unsafe { call!(libc::SYS_chdir, path) })
}

/// `getcwd`: the first byte of the answer, which is `/` for a cwd below the root.
pub(crate) fn cwd_begins_with(buffer: &mut [u8]) -> Result<Option<u8>, Fault> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`, which is borrowed
    // mutably for the call.
    answer(Op::Chdir, unsafe {
        call!(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len())
    })?;
    Ok(buffer.first().copied())
}

/// `sethostname`.
pub(crate) fn sethostname(name: &[u8]) -> Result<(), Fault> {
    // SAFETY: the kernel reads `name.len()` bytes of `name`.
    done(Op::Step, unsafe {
        call!(libc::SYS_sethostname, name.as_ptr(), name.len())
    })
}

/// `setdomainname`.
pub(crate) fn setdomainname(name: &[u8]) -> Result<(), Fault> {
    // SAFETY: the kernel reads `name.len()` bytes of `name`.
    done(Op::Step, unsafe {
        call!(libc::SYS_setdomainname, name.as_ptr(), name.len())
    })
}

/// `setrlimit` of the caller.
pub(crate) fn setrlimit(resource: u32, soft: u64, hard: u64) -> Result<(), Fault> {
    let limit = [soft, hard];
    let null = core::ptr::null_mut::<u64>();
    // SAFETY: `struct rlimit64` is these two numbers; the kernel reads them, and writes
    // nothing, for the last argument is null.
    done(Op::Step, unsafe {
        call!(libc::SYS_prlimit64, 0_i32, resource, &limit, null)
    })
}

/// The kernel's `struct sched_attr`, version 1.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    util_min: u32,
    util_max: u32,
}

/// `sched_setattr` of the caller.
pub(crate) fn sched_setattr(scheduler: &Scheduler) -> Result<(), Fault> {
    let size = core::mem::size_of::<SchedAttr>();
    let attr = SchedAttr {
        size: u32::try_from(size).map_err(|_| Fault::check(libc::EINVAL))?,
        policy: scheduler.policy,
        flags: scheduler.flags,
        nice: scheduler.nice,
        priority: scheduler.priority,
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
        ..SchedAttr::default()
    };
    // SAFETY: the kernel reads as many bytes of `attr` as its first field says, which is its size.
    done(Op::Step, unsafe {
        call!(libc::SYS_sched_setattr, 0_i32, &attr, 0_u32)
    })
}

/// `sched_setaffinity` of the caller; bit n of the words is processor n.
pub(crate) fn sched_setaffinity(words: &[u32]) -> Result<(), Fault> {
    // SAFETY: the kernel reads as many bytes of `words` as it is told, which is all of them.
    done(Op::Step, unsafe {
        call!(
            libc::SYS_sched_setaffinity,
            0_i32,
            core::mem::size_of_val(words),
            words.as_ptr()
        )
    })
}

/// `set_mempolicy` of the caller; bit n of the words is node n.
pub(crate) fn set_mempolicy(mode: u32, words: &[u32]) -> Result<(), Fault> {
    // The kernel counts one bit more than it reads (`get_nodes` of `mm/mempolicy.c`).
    let bits = words.len().wrapping_mul(32).wrapping_add(1);
    // SAFETY: the kernel reads `bits - 1` bits in longs, which are the words: there is an even number of
    // them. Of none it reads nothing.
    done(Op::Step, unsafe {
        call!(libc::SYS_set_mempolicy, mode, words.as_ptr(), bits)
    })
}

/// Joins a new session keyring of this name.
pub(crate) fn join_session_keyring(name: &CStr) -> Result<(), Fault> {
    const JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: the name ends with NUL and is only read.
    done(Op::Step, unsafe {
        call!(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name)
    })
}

/// Puts signal `number` back to its default.
pub(crate) fn default_signal(number: u32) -> Result<(), Fault> {
    // `struct kernel_sigaction` is at most handler, flags, restorer, mask: four words, and
    // SIG_DFL with no flags and an empty mask is all zeros.
    let action = [0_usize; 4];
    let null = core::ptr::null_mut::<usize>();
    // SAFETY: the kernel reads `action`, which is as long as its struct, and writes nothing.
    done(Op::Step, unsafe {
        call!(libc::SYS_rt_sigaction, number, &action, null, 8_usize)
    })
}

/// Blocks these signals, bit n - 1 for signal n, and lets every other through.
pub(crate) fn block_signals(signals: u64) -> Result<(), Fault> {
    let null = core::ptr::null_mut::<u64>();
    // SAFETY: the kernel's signal set is the eight bytes of `signals`, which it reads; it writes
    // nothing, for the third argument is null.
    done(Op::Step, unsafe {
        call!(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &signals,
            null,
            8_usize
        )
    })
}

/// `execve`; returns only when it failed.
///
/// # Safety
///
/// `argv` and `envp` point to arrays of pointers to NUL-terminated strings that end with null.
pub(crate) unsafe fn execve(
    path: &CStr,
    argv: *const *const u8,
    envp: *const *const u8,
) -> Result<(), Fault> {
    // SAFETY: the path ends with NUL; the arrays are the caller's promise.
    done(Op::Execve, unsafe {
        call!(libc::SYS_execve, path, argv, envp)
    })
}

/// `execveat` of an open file; returns only when it failed.
///
/// # Safety
///
/// As [`execve`].
pub(crate) unsafe fn fexecve(
    file: c_int,
    argv: *const *const u8,
    envp: *const *const u8,
) -> Result<(), Fault> {
    // SAFETY: an empty text that ends with NUL; the arrays are the caller's promise.
    done(Op::Execve, unsafe {
        call!(
            libc::SYS_execveat,
            file,
            c"",
            argv,
            envp,
            libc::AT_EMPTY_PATH
        )
    })
}

/// Ends the process.
pub(crate) fn exit(code: c_int) -> ! {
    loop {
        // SAFETY: an integer; the call does not return.
        unsafe { call!(libc::SYS_exit_group, code) };
    }
}
