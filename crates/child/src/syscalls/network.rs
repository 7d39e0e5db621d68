//! The one interface that every network namespace is born with.

use core::ffi::{c_int, c_short};

use duet_step::Op;

use super::{Fd, done, ioctl_word};
use crate::fault::{Fault, answer};
use crate::raw::{Word, call};

/// The kernel's `struct ifreq`, used for flags.
#[repr(C)]
struct Ifreq {
    name: [u8; libc::IFNAMSIZ],
    flags: c_short,
    /// The rest of the union, whose largest member is `struct ifmap`.
    rest: [u8; 22],
}

/// Brings `lo` up.
///
/// An ioctl and not rtnetlink, which `duet-linux` uses: there is no message to build and no answer
/// to take apart.
pub(crate) fn loopback_up() -> Result<(), Fault> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: integers only.
    let socket = answer(Op::Step, unsafe {
        call!(libc::SYS_socket, libc::AF_INET, kind, 0_i32)
    })?;
    let socket = Fd(c_int::try_from(socket).map_err(|_| Fault::check(libc::EBADF))?);
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(b"lo") {
        *to = *from;
    }
    let request = Ifreq {
        name,
        flags: c_short::try_from(libc::IFF_UP).map_err(|_| Fault::check(libc::EINVAL))?,
        rest: [0; 22],
    };
    let set = ioctl_word(libc::SIOCSIFFLAGS);
    // SAFETY: SIOCSIFFLAGS reads one `struct ifreq`, 40 bytes, which `request` is.
    done(Op::Ioctl, unsafe {
        call!(libc::SYS_ioctl, socket.0, set, &request)
    })
}
