//! The network of the calling thread's namespace.

use std::io;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// The index that the kernel gives to the loopback interface of every network namespace.
const LOOPBACK: i32 = 1;

/// Brings the loopback interface up.
///
/// # Errors
///
/// The kernel's: `EPERM` without `CAP_NET_ADMIN` in the namespace.
///
/// # References
///
/// [rtnetlink(7)](https://man7.org/linux/man-pages/man7/rtnetlink.7.html).
pub fn loopback_up() -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None, // NETLINK_ROUTE
    )?;
    let up = libc::IFF_UP.cast_unsigned();
    let mut request = Vec::with_capacity(32);
    // struct nlmsghdr: length, type, flags, sequence, sender.
    request.extend(32_u32.to_ne_bytes());
    request.extend(libc::RTM_NEWLINK.to_ne_bytes());
    request.extend(5_u16.to_ne_bytes()); // NLM_F_REQUEST | NLM_F_ACK
    request.extend(1_u32.to_ne_bytes());
    request.extend(0_u32.to_ne_bytes());
    // struct ifinfomsg: family and padding, type, index, flags, which flags to change.
    request.extend([0, 0]);
    request.extend(0_u16.to_ne_bytes());
    request.extend(LOOPBACK.to_ne_bytes());
    request.extend(up.to_ne_bytes());
    request.extend(up.to_ne_bytes());
    send(&socket, &request, SendFlags::empty())?;

    let mut answer = [0; 256];
    let (_, len) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // struct nlmsghdr, then struct nlmsgerr, which begins with a negative errno or 0.
    let error = answer[..len].get(16..20).and_then(|at| at.try_into().ok());
    match error.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
