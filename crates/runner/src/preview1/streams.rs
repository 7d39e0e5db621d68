//! Reading and writing of sockets, FIFOs and standard streams, by the system call of the same name.

use std::fs::File;
use std::io::IoSlice;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{Errno as Kernel, pread, read as read_fd, retry_on_intr, writev};
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, accept_with, recv, sendmsg,
    shutdown as shut_down,
};
use wasmtime_wasi::p1::types::{
    CiovecArray, Errno, Error, Fdflags, Fdstat, Filesize, Filestat, Filetype, IovecArray, Riflags,
    Rights, Sdflags, Size,
};
use wiggle::GuestMemory;

use super::ahead::Ahead;

/// How many buffers one call takes: `UIO_MAXIOV`. What is beyond is for the next call.
const BUFFERS: usize = 1024;

/// Reads from a standard stream, of which `ahead` was read already, into the first buffer that has room.
pub(super) fn read(
    memory: &mut GuestMemory<'_>,
    buffers: IovecArray,
    ahead: &mut Ahead,
    from: &impl AsFd,
) -> Result<Size, Error> {
    let Some(buffer) = first(memory, buffers)? else {
        return Ok(0);
    };
    let count = ahead.read(buffer, |into| {
        loop {
            match retry_on_intr(|| read_fd(from, &mut *into)) {
                Ok(count) => return Ok(count),
                // Somebody else, who has the same open file, made it non-blocking; a guest cannot.
                Err(Kernel::AGAIN) => wait(from, PollFlags::IN)?,
                Err(error) => return Err(Error::from(errno(error))),
            }
        }
    })?;
    Ok(Size::try_from(count)?)
}

/// Writes all buffers to a standard stream, as far as they go at once.
pub(super) fn write(
    memory: &mut GuestMemory<'_>,
    buffers: CiovecArray,
    to: &impl AsFd,
) -> Result<Size, Error> {
    let slices = slices(memory, buffers)?;
    loop {
        match retry_on_intr(|| writev(to, &slices)) {
            Ok(count) => return Ok(Size::try_from(count)?),
            // The same.
            Err(Kernel::AGAIN) => wait(to, PollFlags::OUT)?,
            Err(error) => return Err(errno(error).into()),
        }
    }
}

/// Reads from a FIFO into the first buffer that has room.
pub(super) fn take(
    memory: &mut GuestMemory<'_>,
    buffers: IovecArray,
    from: &File,
) -> Result<Size, Error> {
    let Some(buffer) = first(memory, buffers)? else {
        return Ok(0);
    };
    let count = retry_on_intr(|| read_fd(from, &mut *buffer)).map_err(errno)?;
    Ok(Size::try_from(count)?)
}

/// Writes all buffers to a FIFO, as far as they go at once.
pub(super) fn put(
    memory: &mut GuestMemory<'_>,
    buffers: CiovecArray,
    to: &File,
) -> Result<Size, Error> {
    let slices = slices(memory, buffers)?;
    let count = retry_on_intr(|| writev(to, &slices)).map_err(errno)?;
    Ok(Size::try_from(count)?)
}

/// Reads from a place of a file into the first buffer that has room.
pub(super) fn read_at(
    memory: &mut GuestMemory<'_>,
    buffers: IovecArray,
    from: &File,
    offset: Filesize,
) -> Result<Size, Error> {
    let Some(buffer) = first(memory, buffers)? else {
        return Ok(0);
    };
    let count = retry_on_intr(|| pread(from, &mut *buffer, offset)).map_err(errno)?;
    Ok(Size::try_from(count)?)
}

/// Sends all buffers, as far as they go at once.
pub(super) fn send(
    memory: &mut GuestMemory<'_>,
    buffers: CiovecArray,
    to: &TcpStream,
) -> Result<Size, Error> {
    let slices = slices(memory, buffers)?;
    let mut nothing = SendAncillaryBuffer::default();
    let sent = retry_on_intr(|| sendmsg(to, &slices, &mut nothing, SendFlags::NOSIGNAL));
    Ok(Size::try_from(sent.map_err(errno)?)?)
}

/// Receives into the first buffer that has room.
pub(super) fn receive(
    memory: &mut GuestMemory<'_>,
    buffers: IovecArray,
    from: &TcpStream,
    flags: Riflags,
) -> Result<Size, Error> {
    let Some(buffer) = first(memory, buffers)? else {
        return Ok(0);
    };
    let mut how = RecvFlags::empty();
    how.set(RecvFlags::PEEK, flags.contains(Riflags::RECV_PEEK));
    how.set(RecvFlags::WAITALL, flags.contains(Riflags::RECV_WAITALL));
    let (count, _) = retry_on_intr(|| recv(from, &mut *buffer, how)).map_err(errno)?;
    Ok(Size::try_from(count)?)
}

/// The next connection.
pub(super) fn accept(listener: &TcpListener, flags: Fdflags) -> Result<TcpStream, Error> {
    let mut how = SocketFlags::CLOEXEC;
    how.set(SocketFlags::NONBLOCK, flags.contains(Fdflags::NONBLOCK));
    let accepted = retry_on_intr(|| accept_with(listener, how)).map_err(errno)?;
    Ok(accepted.into())
}

/// Ends one direction of a connection, or both.
pub(super) fn shutdown(connection: &TcpStream, how: Sdflags) -> Result<(), Error> {
    let how = match (how.contains(Sdflags::RD), how.contains(Sdflags::WR)) {
        (true, true) => Shutdown::Both,
        (true, false) => Shutdown::Read,
        (false, true) => Shutdown::Write,
        (false, false) => return Err(Errno::Inval.into()),
    };
    Ok(shut_down(connection, how).map_err(errno)?)
}

/// What can be done with a socket.
pub(super) fn fdstat(socket: &impl AsFd) -> Result<Fdstat, Error> {
    let mut fs_flags = Fdflags::empty();
    fs_flags.set(Fdflags::NONBLOCK, is_nonblocking(socket));
    let fs_rights_base = Rights::FD_READ
        | Rights::FD_WRITE
        | Rights::FD_FDSTAT_SET_FLAGS
        | Rights::FD_FILESTAT_GET
        | Rights::POLL_FD_READWRITE
        | Rights::SOCK_ACCEPT
        | Rights::SOCK_SHUTDOWN;
    Ok(Fdstat {
        fs_filetype: Filetype::SocketStream,
        fs_flags,
        fs_rights_base,
        fs_rights_inheriting: fs_rights_base,
    })
}

/// Makes a socket blocking or not; there is nothing else to set.
pub(super) fn set_flags(socket: &impl AsFd, flags: Fdflags) -> Result<(), Error> {
    if flags.intersects(Fdflags::DSYNC | Fdflags::SYNC | Fdflags::RSYNC) {
        return Err(Errno::Inval.into());
    }
    let nonblocking = flags.contains(Fdflags::NONBLOCK);
    Ok(rustix::io::ioctl_fionbio(socket, nonblocking).map_err(errno)?)
}

/// A socket's attributes: that it is one.
pub(super) fn filestat() -> Filestat {
    Filestat {
        dev: 0,
        ino: 0,
        filetype: Filetype::SocketStream,
        nlink: 0,
        size: 0,
        atim: 0,
        mtim: 0,
        ctim: 0,
    }
}

/// An error of the kernel in the words of preview 1.
pub(super) fn errno(error: Kernel) -> Errno {
    const KNOWN: &[(Kernel, Errno)] = &[
        (Kernel::ACCESS, Errno::Acces),
        (Kernel::AGAIN, Errno::Again),
        (Kernel::BADF, Errno::Badf),
        (Kernel::CONNABORTED, Errno::Connaborted),
        (Kernel::CONNRESET, Errno::Connreset),
        (Kernel::DQUOT, Errno::Dquot),
        (Kernel::EXIST, Errno::Exist),
        (Kernel::FBIG, Errno::Fbig),
        (Kernel::HOSTUNREACH, Errno::Hostunreach),
        (Kernel::INTR, Errno::Intr),
        (Kernel::INVAL, Errno::Inval),
        (Kernel::ISDIR, Errno::Isdir),
        (Kernel::LOOP, Errno::Loop),
        (Kernel::MFILE, Errno::Mfile),
        (Kernel::MSGSIZE, Errno::Msgsize),
        (Kernel::NAMETOOLONG, Errno::Nametoolong),
        (Kernel::NETDOWN, Errno::Netdown),
        (Kernel::NETUNREACH, Errno::Netunreach),
        (Kernel::NFILE, Errno::Nfile),
        (Kernel::NOBUFS, Errno::Nobufs),
        (Kernel::NODEV, Errno::Nodev),
        (Kernel::NOENT, Errno::Noent),
        (Kernel::NOMEM, Errno::Nomem),
        (Kernel::NOSPC, Errno::Nospc),
        (Kernel::NOSYS, Errno::Nosys),
        (Kernel::NOTCONN, Errno::Notconn),
        (Kernel::NOTDIR, Errno::Notdir),
        (Kernel::NXIO, Errno::Nxio),
        (Kernel::OPNOTSUPP, Errno::Notsup),
        (Kernel::PERM, Errno::Perm),
        (Kernel::PIPE, Errno::Pipe),
        (Kernel::ROFS, Errno::Rofs),
        (Kernel::SPIPE, Errno::Spipe),
        (Kernel::TIMEDOUT, Errno::Timedout),
    ];
    let known = KNOWN.iter().find(|(kernel, _)| *kernel == error);
    known.map_or(Errno::Io, |(_, errno)| *errno)
}

/// The first buffer that has room.
///
/// Filling only that is a short read, which every caller expects; buffers may overlap, which Rust does not.
fn first<'a>(
    memory: &'a mut GuestMemory<'_>,
    buffers: IovecArray,
) -> Result<Option<&'a mut [u8]>, Error> {
    for buffer in buffers.iter() {
        let buffer = memory.read(buffer?)?;
        if buffer.buf_len > 0 {
            return Ok(memory.as_slice_mut(buffer.buf.as_array(buffer.buf_len))?);
        }
    }
    Ok(None)
}

fn slices<'a>(
    memory: &'a GuestMemory<'_>,
    buffers: CiovecArray,
) -> Result<Vec<IoSlice<'a>>, Error> {
    let mut slices = Vec::new();
    for buffer in buffers.iter() {
        let buffer = memory.read(buffer?)?;
        if buffer.buf_len == 0 {
            continue;
        }
        if slices.len() == BUFFERS {
            break;
        }
        // There is no shared memory: threads are not offered.
        if let Some(bytes) = memory.as_slice(buffer.buf.as_array(buffer.buf_len))? {
            slices.push(IoSlice::new(bytes));
        }
    }
    Ok(slices)
}

pub(super) fn is_nonblocking(fd: &impl AsFd) -> bool {
    fcntl_getfl(fd).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK))
}

fn wait(fd: &impl AsFd, until: PollFlags) -> Result<(), Error> {
    let mut fds = [PollFd::new(fd, until)];
    retry_on_intr(|| poll(&mut fds, None)).map_err(errno)?;
    Ok(())
}
