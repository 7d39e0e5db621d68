//! The network of the calling thread's namespace.

use std::io;

use crate::rtnetlink::Rtnetlink;

/// The index that the kernel gives to the loopback interface of every network namespace.
const LOOPBACK: u32 = 1;

/// Brings the loopback interface up.
///
/// # Errors
///
/// The kernel's: `EPERM` without `CAP_NET_ADMIN` in the namespace.
pub fn loopback_up() -> io::Result<()> {
    Rtnetlink::open()?.set_up(LOOPBACK)
}
