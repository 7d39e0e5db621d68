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

/// Sets `MOUNT_ATTR_*` bits of the mount at `mount`, and of those below it when `recursive`.
pub(crate) fn set(mount: BorrowedFd<'_>, bits: u64, recursive: bool) -> io::Result<()> {
    let attr = MountAttr {
        set: bits,
        clear: 0,
        propagation: 0,
        userns: 0,
    };
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
