//! `mount_setattr`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// A change of a mount.
pub(crate) enum Change<'a> {
    /// `MOUNT_ATTR_*` bits to set.
    Attributes(u64),
    /// Owners as in this user namespace; once, and not for every file system.
    IdMap(BorrowedFd<'a>),
}

/// `MOUNT_ATTR_IDMAP`.
const IDMAP: u64 = 0x0010_0000;

/// Changes the mount at `mount`, and those below it when `recursive`.
pub(crate) fn set(mount: BorrowedFd<'_>, change: Change<'_>, recursive: bool) -> io::Result<()> {
    let mut attr = MountAttr {
        set: 0,
        clear: 0,
        propagation: 0,
        userns: 0,
    };
    match change {
        Change::Attributes(bits) => attr.set = bits,
        Change::IdMap(namespace) => {
            attr.set = IDMAP;
            attr.userns = u64::from(namespace.as_raw_fd().cast_unsigned());
        }
    }
    let below = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty text that ends with NUL; the kernel reads
    // `size_of::<MountAttr>()` bytes of `attr` and writes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | below,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
