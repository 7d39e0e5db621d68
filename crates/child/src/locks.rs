//! The finished tree, locked against root of the container's user namespace.
//!
//! The kernel locks mounts - their flags, and what they cover - where a mount namespace is copied
//! for another user namespace than that of its owner (`lock_mnt_tree` in `fs/namespace.c`). What a
//! birth has mounted belongs to the container's root, who could take `ro` from a volume and unmount
//! what hides a path. So it is copied for a user namespace below the container's, and from there
//! back: its root is also root of every one below.

use core::ffi::CStr;

use duet_step::{Op, Reg};

use crate::code::Code;
use crate::devices::minor;
use crate::fault::{Fault, unless};
use crate::paths::resolve;
use crate::run::Child;
use crate::syscalls::{self, Fd};

const NEWNS: u32 = libc::CLONE_NEWNS.cast_unsigned();
const NEWUSER: u32 = libc::CLONE_NEWUSER.cast_unsigned();

impl Child<'_> {
    /// Locks what is mounted.
    pub(crate) fn lock_mounts(&mut self) -> Result<(), Fault> {
        let Some(below) = self.copy_below()? else {
            return Ok(());
        };
        syscalls::setns(below.number(), NEWNS)?;
        drop(below);
        syscalls::unshare(NEWNS)?;
        self.reopen()
    }

    /// A copy of the mount namespace that belongs to a user namespace below the caller's.
    ///
    /// Made by a process that shares the descriptors, opens what it was born into and ends:
    /// whoever makes a user namespace is in it and does not come back.
    fn copy_below(&self) -> Result<Option<Fd>, Fault> {
        // The number that it will have.
        let place = syscalls::dup_above(self.code.channel, Code::FIRST_OWN)?;
        let number = u32::try_from(place.number()).map_err(|_| Fault::check(libc::EBADF))?;
        let cloned = match syscalls::clone_for_descriptors(NEWUSER | NEWNS) {
            Err(fault) if fault.errno == libc::EPERM && self.none_may_make_another()? => {
                return Ok(None);
            }
            cloned => cloned?,
        };
        let Some(pid) = cloned else {
            let own = self.own_namespace(c"mnt");
            let put = own.and_then(|own| syscalls::dup_to(own.number(), number));
            // Errnos fit: all are below 134.
            syscalls::exit(put.map_or_else(|fault| fault.errno, |()| 0));
        };
        match syscalls::wait(pid)? {
            0 => Ok(Some(place)),
            errno => Err(Fault {
                op: Op::Openat2,
                errno,
            }),
        }
    }

    /// Whether the node lets no user namespace make another, by a setting of Debian's kernels. Then the
    /// tree stays as it is, which is as runc leaves it. Any other refusal ends the birth: an image or a
    /// neighbour may have brought it about.
    fn none_may_make_another(&self) -> Result<bool, Fault> {
        let knob = self.proc(c"sys/kernel/unprivileged_userns_clone", libc::O_RDONLY);
        match unless(libc::ENOENT, knob)? {
            Some(knob) => Ok(syscalls::read_byte(knob.number())? == Some(b'0')),
            None => Ok(false),
        }
    }

    /// Opens again, in the copy, what is still needed: a file that was opened in the tree before
    /// would show its path in a tree that is no more.
    fn reopen(&mut self) -> Result<(), Fault> {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let root = syscalls::openat2(libc::AT_FDCWD, c"/", flags, 0)?;
        self.keep(Reg::Root, root.number())?;
        self.null = None;
        if self.register(Reg::Dev).is_ok() {
            let dev = resolve(root.number(), c"/dev")?;
            self.keep(Reg::Dev, dev.number())?;
        }
        let Ok(console) = self.register(Reg::Console) else {
            return Ok(());
        };
        // Only where it is the same terminal: another devpts may be mounted over the container's.
        let Some(pts) = unless(libc::ENOENT, resolve(root.number(), c"/dev/pts"))? else {
            return Ok(());
        };
        let known = syscalls::identity(console)?;
        let (.., device) = known;
        let mut digits = [0; 11];
        let name = decimal(minor(device), &mut digits)?;
        let place = syscalls::open_name(pts.number(), name, libc::O_PATH, 0);
        let Some(place) = unless(libc::ENOENT, place)? else {
            return Ok(());
        };
        if syscalls::identity(place.number())? != known {
            return Ok(());
        }
        let flags = libc::O_RDWR | libc::O_NOCTTY;
        let again = syscalls::open_name(pts.number(), name, flags, 0)?;
        self.keep(Reg::Console, again.number())
    }
}

/// A number as the name of a file.
fn decimal(mut number: u32, buffer: &mut [u8; 11]) -> Result<&CStr, Fault> {
    let mut start = buffer.len();
    for (at, digit) in buffer.iter_mut().enumerate().rev().skip(1) {
        *digit = b'0'.wrapping_add(u8::try_from(number % 10).unwrap_or(0));
        start = at;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    let name = buffer.get(start..).unwrap_or_default();
    CStr::from_bytes_with_nul(name).map_err(|_| Fault::check(libc::EINVAL))
}
