//! The numbers of the kernel that the rules speak of.

use std::io;
use std::os::fd::AsFd;

/// `SIGKILL`.
pub(crate) const KILL: i32 = 9;

/// `SIGTERM`.
pub(crate) const TERM: i32 = 15;

/// "No such process": it ended and was reaped.
pub(crate) const ESRCH: i32 = 3;

/// "Device or resource busy": a cgroup takes no processes, for it has others below it.
pub(crate) const EBUSY: i32 = 16;

/// Sends `signal` to a process, and not to whoever has its number by now.
pub(crate) fn send(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    duet_linux::process::send_signal(pidfd, signal)
}
