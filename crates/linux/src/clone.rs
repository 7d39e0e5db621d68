//! `clone3`: a process that is a copy of this one.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::WaitIdOptions;

/// What the child is to have of its own.
#[derive(Debug, Default, Clone, Copy)]
pub struct Clone3<'a> {
    /// `CLONE_NEW*` flags.
    pub namespaces: u64,
    /// The cgroup v2 directory to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
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

/// Every namespace flag that `clone3` takes.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWCGROUP) as u64;

/// Waits also for children whose end is announced by no signal (`__WALL`), as waitid(2) takes it since Linux 4.7.
pub const WAIT_FOR_ALL: WaitIdOptions =
    WaitIdOptions::from_bits_retain(libc::__WALL.cast_unsigned());

/// Makes a child that runs `child(given)` in a copy of this process's memory; the caller gets the
/// child's pid, in its own PID namespace, and a pidfd that closes on exec.
///
/// Handled signals are back to their defaults in the child; blocked ones stay blocked. Its end is announced by its
/// pidfd alone until it executes a program, and with `SIGCHLD` from then on; so it is with what it makes beside itself
/// (`CLONE_PARENT`). Who waits for any child without [`WAIT_FOR_ALL`] does not find it until then.
///
/// # Safety
///
/// `child` runs in a copy of a process whose other threads are not there: it must take no lock
/// and call nothing that may, the allocator included, and it must not unwind.
///
/// # Errors
///
/// The kernel's: `EAGAIN` at a limit of processes, `ENOSPC` at a limit of namespaces, `EBUSY`
/// when the cgroup has controllers enabled for its children.
///
/// # References
///
/// [clone3(2)](https://man7.org/linux/man-pages/man2/clone3.2.html), Linux 5.7.
pub unsafe fn clone3<T>(
    args: Clone3<'_>,
    child: fn(&T) -> !,
    given: &T,
) -> io::Result<(i32, OwnedFd)> {
    if args.namespaces & !NAMESPACES != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    let mut raw = CloneArgs {
        flags: args.namespaces | CLONE_CLEAR_SIGHAND | u64::from(libc::CLONE_PIDFD.cast_unsigned()),
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        // No signal: execve(2) makes it `SIGCHLD` (`de_thread` in fs/exec.c).
        exit_signal: 0,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = args.cgroup {
        raw.flags |= CLONE_INTO_CGROUP;
        raw.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: the kernel reads `size_of::<CloneArgs>()` bytes of `raw` and writes one descriptor
    // number to `pidfd`; both live until the call is over. Without CLONE_VM and without a stack
    // of its own the child goes on with a copy of this stack, as after fork(2), and the flags
    // that would share memory or descriptors are not among `NAMESPACES`.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const raw, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => child(given),
        pid => {
            // SAFETY: the call succeeded, so the kernel has put a new descriptor here that
            // nobody else knows.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = i32::try_from(pid).map_err(io::Error::other)?;
            Ok((pid, pidfd))
        }
    }
}
