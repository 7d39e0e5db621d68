//! Device nodes and links, relative to the `/dev` that was just mounted.

use core::ffi::{CStr, c_int};

use duet_step::{Node, Reg, Text};

use crate::fault::{Fault, unless};
use crate::paths::{Owner, within};
use crate::run::Child;
use crate::syscalls::{self, Fd, IN_ROOT};

impl Child<'_> {
    /// Makes a device node in place of whatever has its name.
    pub(crate) fn node(&self, node: &Node) -> Result<(), Fault> {
        let base = self.register(node.base)?;
        let device = encode(node.major, node.minor)?;
        let (uid, gid) = node.parents;
        let parents = Owner { uid, gid };
        within(base, self.code.text(node.path)?, parents, |dir, name| {
            let made = syscalls::mknodat(dir, name, node.mode, device);
            if unless(libc::EEXIST, made)?.is_none() {
                syscalls::unlinkat(dir, name)?;
                syscalls::mknodat(dir, name, node.mode, device)?;
            }
            if (node.uid, node.gid) == (0, 0) {
                return Ok(());
            }
            syscalls::fchownat(dir, name, node.uid, node.gid)
        })
    }

    /// Makes a symbolic link, unless its name is taken.
    pub(crate) fn symlink(&self, base: Reg, target: Text, path: Text) -> Result<(), Fault> {
        let target = self.code.text(target)?;
        let (base, path) = (self.register(base)?, self.code.text(path)?);
        within(base, path, Owner::ROOT, |dir, name| {
            unless(libc::EEXIST, syscalls::symlinkat(target, dir, name)).map(|_| ())
        })
    }

    /// `/dev/null` as a place that can be bound elsewhere.
    pub(crate) fn null_place(&mut self) -> Result<c_int, Fault> {
        if self.null.is_none() {
            let null = self.open_null(libc::O_PATH)?;
            self.null = Some(syscalls::dup_above(null.number(), crate::Code::FIRST_OWN)?);
        }
        let null = self.null.as_ref().map(Fd::number);
        null.ok_or(Fault::check(libc::EBADF))
    }

    /// Gives the program `/dev/null` as one of its descriptors.
    pub(crate) fn null_to(&self, number: u32) -> Result<(), Fault> {
        let null = self.open_null(libc::O_RDWR)?;
        if u32::try_from(null.number()) == Ok(number) {
            let elsewhere = syscalls::dup_above(null.number(), crate::Code::FIRST_OWN)?;
            return syscalls::dup_to(elsewhere.number(), number);
        }
        syscalls::dup_to(null.number(), number)
    }

    /// The container's own `/dev/null`, if it is that: an image that puts something else in its
    /// place would otherwise be bound over what is to be hidden (CVE-2025-31133).
    fn open_null(&self, flags: c_int) -> Result<Fd, Fault> {
        let null = match self.register(Reg::Dev) {
            Ok(dev) => syscalls::open_name(dev, c"null", flags | libc::O_NOCTTY, 0)?,
            Err(_) => self.open_null_below_root(flags)?,
        };
        let (mode, device) = syscalls::fstat(null.number())?;
        if mode & libc::S_IFMT == libc::S_IFCHR && device == u64::from(encode(1, 3)?) {
            Ok(null)
        } else {
            Err(Fault::check(libc::ENODEV))
        }
    }

    fn open_null_below_root(&self, flags: c_int) -> Result<Fd, Fault> {
        let root = self.register(Reg::Root)?;
        let path: &CStr = c"/dev/null";
        let more = if flags == libc::O_PATH {
            0
        } else {
            libc::O_NOCTTY
        };
        let flags = flags | more | libc::O_NOFOLLOW;
        // Looked at before it is opened: opening some devices does something.
        let (mode, _) = syscalls::fstat(crate::paths::resolve(root, path)?.number())?;
        if mode & libc::S_IFMT != libc::S_IFCHR {
            return Err(Fault::check(libc::ENODEV));
        }
        syscalls::openat2(root, path, flags, IN_ROOT)
    }
}

/// The kernel's 32-bit device number: twelve bits of major, twenty of minor.
pub(crate) fn encode(major: u32, minor: u32) -> Result<u32, Fault> {
    if major >= 1 << 12 || minor >= 1 << 20 {
        return Err(Fault::check(libc::EINVAL));
    }
    Ok((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

/// The minor number in it.
pub(crate) fn minor(device: u64) -> u32 {
    let low = u32::try_from(device & 0xff).unwrap_or(0);
    let high = u32::try_from((device >> 12) & 0xfff00).unwrap_or(0);
    low | high
}
