//! Network devices and their addresses.
//!
//! # References
//!
//! [rtnetlink(7)](https://man7.org/linux/man-pages/man7/rtnetlink.7.html),
//! [netlink(7)](https://man7.org/linux/man-pages/man7/netlink.7.html).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libc::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

use crate::namespace::{Kind, aside, enter};

/// A socket of rtnetlink. It stays in the network namespace in which it was opened, whoever uses it, and
/// keeps that.
#[derive(Debug)]
pub struct Rtnetlink(OwnedFd);

/// What is known of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in its network namespace.
    pub index: u32,
    /// Its name, which is not always the one by which it was found.
    pub name: String,
    /// The number of the device that it is a port of.
    pub master: Option<u32>,
    /// Whether it is up.
    pub up: bool,
}

/// An address of a device, as the kernel has told of it and takes it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    family: u8,
    prefix: u8,
    attributes: Vec<u8>,
}

/// `struct nlmsghdr`, `struct ifinfomsg` and `struct ifaddrmsg`.
const HEADER: usize = 16;
const INTERFACE: usize = 16;
const ADDRESS: usize = 8;

/// How much is read at a time: more than the kernel puts into one answer (`netlink_dump`).
const ANSWER: usize = 64 << 10;

/// How often a list is asked for that changes while it is told.
const TRIES: usize = 8;

/// Of an address, what makes it the same one elsewhere: `linux/if_addr.h`. The name of the device is left
/// out, for that may change.
const SAME: [u16; 4] = [
    libc::IFA_ADDRESS,
    libc::IFA_LOCAL,
    libc::IFA_BROADCAST,
    IFA_RT_PRIORITY,
];
const IFA_RT_PRIORITY: u16 = 9;

/// Likewise of its flags.
const SAME_FLAGS: u32 = libc::IFA_F_NODAD
    | libc::IFA_F_HOMEADDRESS
    | libc::IFA_F_MANAGETEMPADDR
    | libc::IFA_F_NOPREFIXROUTE
    | libc::IFA_F_MCAUTOJOIN;

// === impl Rtnetlink ===

impl Rtnetlink {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None, // NETLINK_ROUTE
        )?;
        Ok(Self(socket))
    }

    /// Opens one in another network namespace; the calling thread stays where it is.
    ///
    /// # Errors
    ///
    /// The kernel's: `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` for another kind of namespace.
    pub fn open_in(namespace: impl AsFd + Send) -> io::Result<Self> {
        aside(|| {
            enter(namespace, Kind::Net.flag())?;
            Self::open()
        })
    }

    /// Looks for a device by its name, or by another that it has beside that (`IFLA_ALT_IFNAME`).
    ///
    /// # Errors
    ///
    /// The kernel's: `ENODEV` when there is none.
    pub fn link(&self, name: &str) -> io::Result<Link> {
        let mut body = interface(0, 0);
        attribute(&mut body, libc::IFLA_IFNAME, &text(name));
        self.send(libc::RTM_GETLINK, 0, &body)?;
        let mut found = None;
        self.hear(|kind, body| {
            if kind == libc::RTM_NEWLINK {
                found = link(body);
            }
        })?;
        found.ok_or_else(garbled)
    }

    /// The numbers of all devices.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn indices(&self) -> io::Result<Vec<u32>> {
        self.list(libc::RTM_GETLINK, &interface(0, 0), |kind, body| {
            let found = (kind == libc::RTM_NEWLINK).then(|| numbers(body)).flatten();
            found.map(|(index, _)| index)
        })
    }

    /// The addresses of a device that were given to it for good and are known beyond its own link
    /// (`IFA_F_PERMANENT`, `RT_SCOPE_UNIVERSE`), in the kernel's order.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn lasting_addresses(&self, index: u32) -> io::Result<Vec<Address>> {
        self.list(libc::RTM_GETADDR, &[0; ADDRESS], |kind, body| {
            let of = (kind == libc::RTM_NEWADDR).then(|| lasting(body)).flatten();
            of.filter(|(of, _)| *of == index)
                .map(|(_, address)| address)
        })
    }

    /// Puts a device into another network namespace, under this name (`%d` in it is a number that the
    /// kernel finds) and, if one is given, this number. It is down there, and has no address.
    ///
    /// If the name is taken it may be there under its old one. A number can be given since Linux 5.13.
    ///
    /// # Errors
    ///
    /// The kernel's: `EINVAL` for a device that cannot move, `EEXIST` when the name is taken, `EBUSY` when
    /// the number is.
    pub fn hand_over(
        &self,
        index: u32,
        namespace: impl AsFd,
        name: &str,
        number: Option<u32>,
    ) -> io::Result<()> {
        let namespace = namespace.as_fd().as_raw_fd().cast_unsigned();
        let mut body = interface(index, 0);
        attribute(&mut body, libc::IFLA_IFNAME, &text(name));
        attribute(&mut body, libc::IFLA_NET_NS_FD, &namespace.to_ne_bytes());
        if let Some(number) = number {
            attribute(&mut body, libc::IFLA_NEW_IFINDEX, &number.to_ne_bytes());
        }
        self.ask(libc::RTM_NEWLINK, 0, &body)
    }

    /// Gives a device an address.
    ///
    /// # Errors
    ///
    /// The kernel's: `EEXIST` when it has it, `EACCES` for one of IPv6 where that is switched off.
    pub fn add_address(&self, index: u32, address: &Address) -> io::Result<()> {
        let mut body = vec![address.family, address.prefix, 0, 0];
        body.extend(index.to_ne_bytes());
        body.extend(&address.attributes);
        self.ask(libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &body)
    }

    /// Brings a device up.
    ///
    /// # Errors
    ///
    /// The kernel's: `EPERM` without `CAP_NET_ADMIN` in the namespace.
    pub fn set_up(&self, index: u32) -> io::Result<()> {
        let up = interface(index, libc::IFF_UP.cast_unsigned());
        self.ask(libc::RTM_NEWLINK, 0, &up)
    }

    /// Makes a device a port of another one.
    ///
    /// # Errors
    ///
    /// The kernel's: `EINVAL` when there is no such device, `EOPNOTSUPP` when it takes no ports.
    pub fn set_master(&self, index: u32, master: u32) -> io::Result<()> {
        let mut body = interface(index, 0);
        attribute(&mut body, libc::IFLA_MASTER, &master.to_ne_bytes());
        self.ask(libc::RTM_NEWLINK, 0, &body)
    }

    /// A request whose answer is an errno or none.
    fn ask(&self, kind: u16, flags: i32, body: &[u8]) -> io::Result<()> {
        self.send(kind, flags | NLM_F_ACK, body)?;
        self.hear(|_, _| ()).map(drop)
    }

    /// A request for a list; again if that has changed meanwhile.
    fn list<T>(
        &self,
        kind: u16,
        body: &[u8],
        each: impl Fn(u16, &[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..TRIES {
            let mut all = Vec::new();
            self.send(kind, NLM_F_DUMP, body)?;
            let mut whole = true;
            loop {
                match self.hear(|kind, body| all.extend(each(kind, body)))? {
                    Heard::More { changed } => whole &= !changed,
                    Heard::All { changed } if whole && !changed => return Ok(all),
                    Heard::All { .. } => break,
                }
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    fn send(&self, kind: u16, flags: i32, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
        let flags = u16::try_from(flags | NLM_F_REQUEST).unwrap_or(0);
        // Length, type, flags, sequence, sender.
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        send(&self.0, &message, SendFlags::empty())?;
        Ok(())
    }

    /// Reads one datagram of the answer, which is there by the time a request was sent.
    fn hear(&self, each: impl FnMut(u16, &[u8])) -> io::Result<Heard> {
        let mut answer = vec![0; ANSWER];
        let (_, length) = recv(&self.0, &mut answer[..], RecvFlags::TRUNC)?;
        read(answer.get(..length).ok_or_else(garbled)?, each)
    }
}

/// Reads one datagram of an answer.
fn read(answer: &[u8], mut each: impl FnMut(u16, &[u8])) -> io::Result<Heard> {
    let mut changed = false;
    for message in Messages(answer) {
        changed |= i32::from(message.flags) & NLM_F_DUMP_INTR != 0;
        match i32::from(message.kind) {
            // Both begin with a negative errno, or 0 for what was done: struct nlmsgerr, and how a list ended
            // (netlink_dump), which may be before its end.
            libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                let code = message.body.first_chunk().ok_or_else(garbled)?;
                return match i32::from_ne_bytes(*code) {
                    0 => Ok(Heard::All { changed }),
                    code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                };
            }
            _ => each(message.kind, message.body),
        }
    }
    Ok(Heard::More { changed })
}

/// What one datagram of an answer was.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// The kernel has more to tell, or this was all that was asked for.
    More { changed: bool },
    /// The last one.
    All { changed: bool },
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
}

/// The messages of a datagram.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let [a, b, c, d, e, f, g, h, ..] = *self.0.first_chunk::<HEADER>()?;
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok()?;
        let body = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([e, f]),
            flags: u16::from_ne_bytes([g, h]),
            body,
        })
    }
}

/// The attributes of a message: kind and payload.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [a, b, c, d] = *self.0.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let payload = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]), payload))
    }
}

/// `struct ifinfomsg`, of the device with this number, with flags to set.
fn interface(index: u32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    // Which of them to change.
    body.extend(flags.to_ne_bytes());
    body
}

/// What a `struct ifinfomsg` and its attributes say.
fn link(body: &[u8]) -> Option<Link> {
    let (index, flags) = numbers(body)?;
    let (mut name, mut master) = (None, None);
    for (kind, payload) in Attributes(body.get(INTERFACE..)?) {
        match kind {
            libc::IFLA_IFNAME => {
                let text = CStr::from_bytes_until_nul(payload).ok()?;
                name = Some(text.to_str().ok()?.to_owned());
            }
            libc::IFLA_MASTER => master = Some(u32::from_ne_bytes(*payload.first_chunk()?)),
            _ => {}
        }
    }
    Some(Link {
        index,
        name: name?,
        master,
        up: flags & libc::IFF_UP.cast_unsigned() != 0,
    })
}

/// The number of a device and its flags, which a `struct ifinfomsg` has.
fn numbers(body: &[u8]) -> Option<(u32, u32)> {
    let words: &[u8; INTERFACE] = body.first_chunk()?;
    let (words, _) = words.as_chunks::<4>();
    let [_, index, flags, _] = *words.first_chunk()?;
    Some((u32::from_ne_bytes(index), u32::from_ne_bytes(flags)))
}

/// The address that a `struct ifaddrmsg` and its attributes are about, and the number of its device.
fn lasting(body: &[u8]) -> Option<(u32, Address)> {
    let (head, rest) = body.split_first_chunk::<ADDRESS>()?;
    let [family, prefix, flags, scope, a, b, c, d] = *head;
    let mut flags = u32::from(flags);
    let mut attributes = Vec::new();
    for (kind, payload) in Attributes(rest) {
        if kind == libc::IFA_FLAGS {
            // All of them, where the byte has but eight.
            flags = u32::from_ne_bytes(*payload.first_chunk()?);
        } else if SAME.contains(&kind) {
            attribute(&mut attributes, kind, payload);
        }
    }
    if flags & libc::IFA_F_PERMANENT == 0 || scope != libc::RT_SCOPE_UNIVERSE {
        return None;
    }
    let same = flags & SAME_FLAGS;
    attribute(&mut attributes, libc::IFA_FLAGS, &same.to_ne_bytes());
    let address = Address {
        family,
        prefix,
        attributes,
    };
    Some((u32::from_ne_bytes([a, b, c, d]), address))
}

/// `struct rtattr` and its payload, padded to four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    let length = u16::try_from(payload.len() + 4).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(payload);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn text(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

fn garbled() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_their_length_is_not() {
        let mut body = Vec::new();
        attribute(&mut body, 3, b"duet0\0");
        attribute(&mut body, 8, &[1, 2, 3, 4]);
        assert_eq!(body.len(), 20);
        assert_eq!(body[..2], 10_u16.to_ne_bytes());
        let read: Vec<_> = Attributes(&body).collect();
        assert_eq!(read, [(3, &b"duet0\0"[..]), (8, &[1, 2, 3, 4])]);
    }

    #[test]
    fn what_the_kernel_would_not_send_is_read_to_where_it_makes_sense() {
        for length in [0_u32, 15, 16, 17, u32::MAX] {
            let mut message = length.to_ne_bytes().to_vec();
            message.resize(HEADER, 0);
            let read = Messages(&message).count();
            assert_eq!(read, usize::from(length == 16), "{length}");
        }
        assert_eq!(Attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(Attributes(&[9, 0, 1, 0, 1]).count(), 0);
        assert_eq!(numbers(&[0; 15]), None);
        assert_eq!(lasting(&[0; 7]), None);
    }

    #[test]
    fn a_device_is_told_of_with_its_name_and_its_master() {
        let mut body = interface(7, libc::IFF_UP.cast_unsigned());
        assert_eq!(link(&body), None);
        attribute(&mut body, libc::IFLA_IFNAME, b"eth0\0");
        attribute(&mut body, libc::IFLA_MASTER, &9_u32.to_ne_bytes());
        let expected = Link {
            index: 7,
            name: "eth0".to_owned(),
            master: Some(9),
            up: true,
        };
        assert_eq!(link(&body), Some(expected));
    }

    #[test]
    fn a_list_that_was_broken_off_is_none() {
        let datagram = |kind: i32, code: i32| {
            let mut datagram = 20_u32.to_ne_bytes().to_vec();
            datagram.extend(u16::try_from(kind).unwrap().to_ne_bytes());
            datagram.resize(HEADER, 0);
            datagram.extend(code.to_ne_bytes());
            datagram
        };
        for kind in [libc::NLMSG_DONE, libc::NLMSG_ERROR] {
            let all = read(&datagram(kind, 0), |_, _| ()).unwrap();
            assert_eq!(all, Heard::All { changed: false });
            let broken = read(&datagram(kind, -libc::ENOBUFS), |_, _| ()).unwrap_err();
            assert_eq!(broken.raw_os_error(), Some(libc::ENOBUFS));
        }
    }

    #[test]
    fn an_address_keeps_what_makes_it_the_same_one() {
        let of = |scope, flags: u32| {
            let mut body = vec![2, 24, 0x80, scope];
            body.extend(7_u32.to_ne_bytes());
            attribute(&mut body, libc::IFA_LOCAL, &[10, 0, 0, 1]);
            attribute(&mut body, libc::IFA_LABEL, b"eth0\0");
            attribute(&mut body, libc::IFA_FLAGS, &flags.to_ne_bytes());
            lasting(&body)
        };
        // Temporary ones, and those of a link or a host, stay behind.
        assert_eq!(of(0, 0), None);
        assert_eq!(of(253, 0x80), None);
        let (index, address) = of(0, 0x80 | 0x200 | 0x01).unwrap();
        assert_eq!((index, address.family, address.prefix), (7, 2, 24));
        let mut expected = Vec::new();
        attribute(&mut expected, libc::IFA_LOCAL, &[10, 0, 0, 1]);
        attribute(&mut expected, libc::IFA_FLAGS, &0x200_u32.to_ne_bytes());
        assert_eq!(address.attributes, expected);
    }
}
