//! Makes and deletes network interfaces over rtnetlink, which needs no program on the machine.
//!
//! # References
//!
//! [rtnetlink(7)](https://man7.org/linux/man-pages/man7/rtnetlink.7.html)

use rustix::io::{Errno, Result};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
/// `NLM_F_REQUEST | NLM_F_ACK`
const ASK: u16 = 1 | 4;
/// `NLM_F_EXCL | NLM_F_CREATE`
const NEW: u16 = 0x200 | 0x400;

/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Makes a bridge; `EXIST` if the name is taken.
pub(super) fn add_bridge(name: &str) -> Result<()> {
    let mut body = interface(0);
    body.extend(attribute(IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat())?);
    let kind = attribute(IFLA_INFO_KIND, b"bridge\0")?;
    body.extend(attribute(IFLA_LINKINFO, &kind)?);
    ask(RTM_NEWLINK, ASK | NEW, &body)
}

/// Deletes the interface with this index.
pub(super) fn delete(index: i32) -> Result<()> {
    ask(RTM_DELLINK, ASK, &interface(index))
}

/// `struct ifinfomsg`: family and padding, type, index, flags, change.
fn interface(index: i32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend([0; 8]);
    body
}

/// `struct rtattr` and its payload, padded to four bytes.
fn attribute(kind: u16, payload: &[u8]) -> Result<Vec<u8>> {
    let length = u16::try_from(payload.len() + 4).map_err(|_| Errno::INVAL)?;
    let mut bytes = Vec::new();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Ok(bytes)
}

/// Sends one request and reads the kernel's answer to it.
fn ask(kind: u16, flags: u16, body: &[u8]) -> Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // Protocol 0 of this family is NETLINK_ROUTE.
        None,
    )?;
    let length = u32::try_from(HEADER + body.len()).map_err(|_| Errno::INVAL)?;
    // struct nlmsghdr: length, type, flags, sequence, port.
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0_u8; 512];
    let (_, length) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    // struct nlmsgerr follows the header: 0, or a negative errno.
    let code = answer
        .get(HEADER..HEADER + 4)
        .filter(|_| length >= HEADER + 4)
        .and_then(|code| code.try_into().ok())
        .map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw_os_error(code.saturating_neg())),
        None => Err(Errno::IO),
    }
}

#[cfg(test)]
mod tests {
    use super::attribute;

    #[test]
    fn attributes_are_padded_but_their_length_is_not() {
        let bytes = attribute(3, b"duet0\0").unwrap();
        assert_eq!(bytes.len(), 12);
        assert_eq!(bytes[..2], 10_u16.to_ne_bytes());
        assert_eq!(bytes[4..], *b"duet0\0\0\0");
    }
}
