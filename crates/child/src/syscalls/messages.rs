//! Terminals, and what is sent to the parent.

use core::ffi::c_int;
use core::mem::size_of;

use duet_step::{Message, Op};

use super::{Fd, done};
use crate::fault::{Fault, answer};
use crate::raw::{Word, call};

/// `ioctl` without a third argument, or with a number as one: the answer is a descriptor or 0.
pub(crate) fn ioctl_number(file: c_int, request: u32, value: c_int) -> Result<usize, Fault> {
    // SAFETY: used with TIOCSCTTY and TIOCGPTPEER only, which take a number.
    answer(Op::Ioctl, unsafe {
        call!(libc::SYS_ioctl, file, request, value)
    })
}

/// The user's end of a terminal, close-on-exec, without becoming the controlling terminal.
pub(crate) fn terminal_peer(master: &Fd) -> Result<Fd, Fault> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let peer = ioctl_number(master.0, ioctl_word(libc::TIOCGPTPEER), flags)?;
    c_int::try_from(peer)
        .map(Fd)
        .map_err(|_| Fault::check(libc::EBADF))
}

/// An ioctl's number, whose type differs between C libraries.
pub(crate) fn ioctl_word(request: libc::Ioctl) -> u32 {
    u32::try_from(request).unwrap_or(0)
}

/// Unlocks a terminal's user end.
pub(crate) fn terminal_unlock(master: &Fd) -> Result<(), Fault> {
    let unlocked: c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    done(Op::Ioctl, unsafe {
        call!(
            libc::SYS_ioctl,
            master.0,
            ioctl_word(libc::TIOCSPTLCK),
            &unlocked
        )
    })
}

/// Sets a terminal's size.
pub(crate) fn terminal_size(terminal: &Fd, rows: u16, cols: u16) -> Result<(), Fault> {
    // `struct winsize`: rows, columns, and two sizes in pixels that nobody uses.
    let size = [rows, cols, 0, 0];
    // SAFETY: TIOCSWINSZ reads one `struct winsize`, four 16-bit numbers.
    done(Op::Ioctl, unsafe {
        call!(
            libc::SYS_ioctl,
            terminal.0,
            ioctl_word(libc::TIOCSWINSZ),
            &size
        )
    })
}

#[repr(C)]
struct Iovec {
    base: *const Message,
    len: usize,
}

/// The kernel's `struct user_msghdr`.
#[repr(C)]
struct MsgHdr {
    name: *const u8,
    name_len: c_int,
    iov: *const Iovec,
    iov_len: usize,
    control: *const Control,
    control_len: usize,
    flags: u32,
}

/// One `struct cmsghdr` with one descriptor, padded to the alignment of the next.
#[repr(C)]
struct Control {
    len: usize,
    level: c_int,
    kind: c_int,
    fd: c_int,
    padding: c_int,
}

/// Sends a message, and a descriptor with it.
pub(crate) fn send_with(channel: c_int, message: &Message, file: &Fd) -> Result<(), Fault> {
    let iov = Iovec {
        base: message,
        len: size_of::<Message>(),
    };
    let control = Control {
        len: size_of::<Control>() - size_of::<c_int>(),
        level: libc::SOL_SOCKET,
        kind: libc::SCM_RIGHTS,
        fd: file.0,
        padding: 0,
    };
    let header = MsgHdr {
        name: core::ptr::null(),
        name_len: 0,
        iov: &iov,
        iov_len: 1,
        control: &control,
        control_len: size_of::<Control>(),
        flags: 0,
    };
    // SAFETY: the header, what it points to and the message live until the call is over, with
    // the lengths they have; the kernel only reads them.
    done(Op::Sendmsg, unsafe {
        call!(libc::SYS_sendmsg, channel, &header, libc::MSG_NOSIGNAL)
    })
}

/// Sends a message. By `write`, for a seccomp filter may be in force that knows no `sendmsg`.
pub(crate) fn send(channel: c_int, message: &Message) -> Result<(), Fault> {
    // SAFETY: the kernel reads the 16 bytes of `message`, four numbers without padding.
    done(Op::Write, unsafe {
        call!(libc::SYS_write, channel, message, size_of::<Message>())
    })
}
