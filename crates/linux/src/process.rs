//! Processes, held by descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::SystemTime;

use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, PidfdGetfdFlags, Resource, Signal, WaitId, WaitIdOptions,
    getrlimit, kill_process_group, pidfd_getfd, set_child_subreaper, set_dumpable_behavior,
};
use rustix::thread::{CoreSchedulingScope, create_core_scheduling_cookie};

use crate::clone::WAIT_FOR_ALL;
use crate::pidfd_signal;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0–255 as the process chose, or 128 + n if signal n killed it.
    pub code: u8,
    /// When it was reaped.
    pub at: SystemTime,
}

/// A descriptor of a process, which closes on exec.
///
/// # Errors
///
/// `ESRCH` when no such process is there; `EINVAL` for a number that is no pid.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// The number of a process in the PID namespace of the procfs at `/proc`, whoever has made its
/// descriptor.
///
/// # Errors
///
/// When procfs is not at `/proc`; `ESRCH` when the process was reaped, or is not in that namespace.
///
/// # References
///
/// [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html), `fdinfo`.
pub fn number(pidfd: impl AsFd) -> io::Result<i32> {
    let file = pidfd.as_fd().as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/thread-self/fdinfo/{file}"))?;
    let told = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    let number = told.and_then(|told| told.trim().parse().ok());
    // 0 is a process of another namespace, -1 one that is no more.
    let number = number.filter(|number| *number > 0);
    number.ok_or_else(|| rustix::io::Errno::SRCH.into())
}

/// Sends a signal, real-time ones included; 0 only asks whether the process is there.
///
/// # Errors
///
/// `ESRCH` when the process has been reaped, `EINVAL` for a number that is no signal.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    pidfd_signal::send(pidfd.as_fd(), signal)
}

/// Has this process, and all that will be born of it, share a core's threads with nobody else.
///
/// # Errors
///
/// `EINVAL` where the kernel was built without core scheduling, `ENODEV` where no core has threads.
///
/// # References
///
/// [Core Scheduling](https://docs.kernel.org/admin-guide/hw-vuln/core-scheduling.html), Linux 5.14.
pub fn share_cores_with_nobody() -> io::Result<()> {
    let own = rustix::process::getpid();
    Ok(create_core_scheduling_cookie(
        own,
        CoreSchedulingScope::ThreadGroup,
    )?)
}

/// Kills a child of this process that leads a session of its own, and its process group.
///
/// A child that was not reaped keeps its number, so this reaches nobody else.
///
/// # Errors
///
/// `ESRCH` when nobody is in the group any more.
pub fn kill_group(leader: i32) -> io::Result<()> {
    let leader = Pid::from_raw(leader).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(kill_process_group(leader, Signal::KILL)?)
}

/// Takes a copy of a descriptor of another process; it closes on exec.
///
/// # Errors
///
/// `EBADF` when the process has no such descriptor, `EPERM` when the caller may not trace it.
///
/// # References
///
/// [pidfd_getfd(2)](https://man7.org/linux/man-pages/man2/pidfd_getfd.2.html), Linux 5.6.
pub fn take_descriptor(pidfd: impl AsFd, number: i32) -> io::Result<OwnedFd> {
    Ok(pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty())?)
}

/// Waits until a child of this process has ended, and reaps it.
///
/// # Errors
///
/// `ECHILD` when it is not a child of ours, or was reaped by someone else.
pub fn wait(pidfd: impl AsFd) -> io::Result<Exit> {
    loop {
        match reap(&pidfd, WaitIdOptions::EXITED) {
            Ok(Some(exit)) => return Ok(exit),
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Ok(None) | Err(_) => {}
        }
    }
}

/// Reaps a child of this process if it has ended.
///
/// # Errors
///
/// As [`wait`].
pub fn try_wait(pidfd: impl AsFd) -> io::Result<Option<Exit>> {
    reap(&pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
}

fn reap(pidfd: &impl AsFd, options: WaitIdOptions) -> io::Result<Option<Exit>> {
    // A birth that has executed nothing is none that others would find.
    let options = options | WAIT_FOR_ALL;
    let Some(status) = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options)? else {
        return Ok(None);
    };
    let at = SystemTime::now();
    // Of the number given to exit(2) the kernel keeps eight bits; signals end at 64.
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code & 0xff,
        (None, Some(signal)) => 128 + signal,
        (None, None) => return Ok(None),
    };
    let code = u8::try_from(code).map_err(io::Error::other)?;
    Ok(Some(Exit { code, at }))
}

/// Makes this process the parent of its descendants whose parent has ended.
///
/// # Errors
///
/// None that the kernel documents.
pub fn subreaper() -> io::Result<()> {
    // Any pid means "on"; there is no other way to say it in rustix.
    Ok(set_child_subreaper(Some(Pid::INIT))?)
}

/// The capabilities that the calling thread may put in force, and so those it can give to a
/// child: bit n is capability n of `linux/capability.h`.
///
/// # Errors
///
/// None that the kernel documents.
pub fn permitted_capabilities() -> io::Result<u64> {
    Ok(rustix::thread::capabilities(None)?.permitted.bits())
}

/// How far this process may raise a limit without `CAP_SYS_RESOURCE`, by the kernel's number of
/// the limit on x86-64 and aarch64; `None` for one that the kernel does not have.
#[must_use]
pub fn hard_limit(resource: u32) -> Option<u64> {
    const KNOWN: [Resource; 16] = [
        Resource::Cpu,
        Resource::Fsize,
        Resource::Data,
        Resource::Stack,
        Resource::Core,
        Resource::Rss,
        Resource::Nproc,
        Resource::Nofile,
        Resource::Memlock,
        Resource::As,
        Resource::Locks,
        Resource::Sigpending,
        Resource::Msgqueue,
        Resource::Nice,
        Resource::Rtprio,
        Resource::Rttime,
    ];
    let resource = KNOWN.get(usize::try_from(resource).ok()?)?;
    // No maximum is the highest number, for the kernel too.
    Some(getrlimit(*resource).maximum.unwrap_or(u64::MAX))
}

/// Forbids other processes to trace this one, or to open what it holds, unless they have
/// `CAP_SYS_PTRACE` over it. Its children begin like that, until they exec.
///
/// # Errors
///
/// None that the kernel documents.
pub fn hide() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
