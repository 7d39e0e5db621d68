//! The socket between a birth's two halves.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, recvmsg, send, sendmsg, socket_with, socketpair,
    sockopt::{Timeout, set_socket_timeout},
};

/// A pair of connected `SOCK_SEQPACKET` sockets that close on exec.
///
/// # Errors
///
/// The kernel's: `EMFILE`.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// A message of `N` bytes.
#[derive(Debug)]
pub struct Received<const N: usize> {
    /// What was sent.
    pub bytes: [u8; N],
    /// The descriptor that came with it, closing on exec.
    pub descriptor: Option<OwnedFd>,
}

/// What waiting for a message came to.
#[derive(Debug)]
pub enum Heard<const N: usize> {
    /// A message.
    Message(Received<N>),
    /// The other end is closed.
    Closed,
    /// Nothing in time.
    Silence,
}

/// Waits for one message until `deadline`.
///
/// # Errors
///
/// The kernel's, and `InvalidData` for a message that is not `N` bytes long.
pub fn receive<const N: usize>(socket: impl AsFd, deadline: Instant) -> io::Result<Heard<N>> {
    if !readable(&socket, deadline)? {
        return Ok(Heard::Silence);
    }
    let mut bytes = [0; N];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut receive = || {
        let mut bytes = [IoSliceMut::new(&mut bytes)];
        recvmsg(&socket, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC)
    };
    let message = match receive() {
        // The other end died with something of ours unread, which is told once, and before what it said.
        Err(rustix::io::Errno::CONNRESET) => receive(),
        message => message,
    };
    let message = message?;
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            descriptor = files.last();
        }
    }
    match message.bytes {
        0 => Ok(Heard::Closed),
        len if len == N => Ok(Heard::Message(Received { bytes, descriptor })),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sends one byte; a peer that is gone is an error, not a signal.
///
/// # Errors
///
/// `EPIPE` when nobody is there.
pub fn send_byte(socket: impl AsFd, byte: u8) -> io::Result<()> {
    send(socket, &[byte], SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The most descriptors that go with a message of [`pass`].
const MOST: usize = 3;

/// Connects to the stream socket at `path` and sends `bytes`, the descriptor with the first of
/// them. Waits for the other side for `limit` at most, at each step.
///
/// # Errors
///
/// The kernel's: `ECONNREFUSED` when nobody listens, `EAGAIN` when the limit has passed.
pub fn deliver(path: &Path, bytes: &[u8], file: impl AsFd, limit: Duration) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    pass(&socket, bytes, &[file.as_fd()])
}

/// Sends `bytes` through a connected stream socket, up to three descriptors with the first of
/// them.
///
/// # Errors
///
/// The kernel's: `EPIPE` when nobody is there; `InvalidInput` for more descriptors.
pub fn pass(socket: impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let first = [IoSlice::new(bytes)];
    let mut sent = sendmsg(&socket, &first, &mut control, SendFlags::NOSIGNAL)?;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        sent += send(&socket, rest, SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

/// Receives what [`pass`] sends, to the end of the stream; the descriptors close on exec.
///
/// # Errors
///
/// The kernel's, `EMFILE` when there is no room for the descriptors, and `InvalidData` when more
/// than `limit` bytes come.
pub fn take(socket: impl AsFd, limit: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut taken, mut files) = (Vec::new(), Vec::new());
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sent) = message {
                files.extend(sent);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(rustix::io::Errno::MFILE.into());
        }
        if message.bytes == 0 {
            return Ok((taken, files));
        }
        taken.extend(bytes.iter().take(message.bytes));
        if taken.len() > limit {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// Waits until one of two can be read, or the deadline has passed: whether the first can. What was
/// there when the second became readable counts.
///
/// # Errors
///
/// The kernel's.
pub fn readable_before(
    first: impl AsFd,
    second: impl AsFd,
    deadline: Instant,
) -> io::Result<Option<bool>> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut both = [
            PollFd::new(&first, PollFlags::IN),
            PollFd::new(&second, PollFlags::IN),
        ];
        match poll(&mut both, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(0) => return Ok(None),
            Ok(_) => {}
        }
        let [one, _] = &both;
        if !one.revents().is_empty() {
            return Ok(Some(true));
        }
        // Whoever wrote and ended in between was polled in this order.
        return readable(&first, Instant::now()).map(Some);
    }
}

/// Waits until there is something to read, or an end, or the deadline has passed.
///
/// # Errors
///
/// The kernel's.
pub fn readable(file: impl AsFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
        }
    }
}
