//! The mount calls that work on descriptors.

use core::ffi::{CStr, c_int};
use core::mem::size_of;

use duet_step::Op;

use super::{Fd, done, fd};
use crate::fault::Fault;
use crate::raw::{Word, call};

const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
const OPEN_TREE_CLONE: u32 = 1;
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;

/// How `fsconfig` is called.
#[derive(Clone, Copy)]
pub(crate) enum Config<'a> {
    /// A word alone.
    Flag(&'a CStr),
    /// A word and its value.
    Text(&'a CStr, &'a CStr),
    /// The superblock, with what was said.
    Create,
}

/// `fsopen`.
pub(crate) fn fsopen(fstype: &CStr) -> Result<Fd, Fault> {
    // SAFETY: the name ends with NUL and is only read.
    fd(Op::Fsopen, unsafe {
        call!(libc::SYS_fsopen, fstype, FSOPEN_CLOEXEC)
    })
}

/// `fsconfig`.
pub(crate) fn fsconfig(context: &Fd, config: Config<'_>) -> Result<(), Fault> {
    const SET_FLAG: u32 = 0;
    const SET_STRING: u32 = 1;
    const CMD_CREATE: u32 = 6;
    let null = core::ptr::null::<u8>();
    done(
        Op::Fsconfig,
        match config {
            // SAFETY: the key ends with NUL and is only read; a flag has no value.
            Config::Flag(key) => unsafe {
                call!(libc::SYS_fsconfig, context.0, SET_FLAG, key, null, 0_i32)
            },
            // SAFETY: both texts end with NUL and are only read.
            Config::Text(key, value) => unsafe {
                call!(libc::SYS_fsconfig, context.0, SET_STRING, key, value, 0_i32)
            },
            // SAFETY: the command takes neither key nor value.
            Config::Create => unsafe {
                call!(libc::SYS_fsconfig, context.0, CMD_CREATE, null, null, 0_i32)
            },
        },
    )
}

/// `fsmount`: a detached mount.
pub(crate) fn fsmount(context: &Fd, attributes: u32) -> Result<Fd, Fault> {
    // SAFETY: integers only.
    fd(Op::Fsmount, unsafe {
        call!(libc::SYS_fsmount, context.0, FSMOUNT_CLOEXEC, attributes)
    })
}

/// A detached copy of the mount at an open descriptor.
pub(crate) fn clone_mount(at: c_int, recursive: bool) -> Result<Fd, Fault> {
    let below = if recursive { libc::AT_RECURSIVE } else { 0 };
    let flags = (libc::AT_EMPTY_PATH | libc::O_CLOEXEC | below).cast_unsigned() | OPEN_TREE_CLONE;
    // SAFETY: an empty text that ends with NUL, and integers.
    fd(Op::OpenTree, unsafe {
        call!(libc::SYS_open_tree, at, c"", flags)
    })
}

/// Attaches a detached mount at an open descriptor.
pub(crate) fn attach(mount: c_int, at: c_int) -> Result<(), Fault> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: empty texts that end with NUL, and integers.
    done(Op::MoveMount, unsafe {
        call!(libc::SYS_move_mount, mount, c"", at, c"", flags)
    })
}

/// Attaches a detached mount at a path of the tree the child was born in.
pub(crate) fn attach_path(mount: c_int, at: &CStr) -> Result<(), Fault> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH;
    // SAFETY: texts that end with NUL and are only read, and integers.
    done(Op::MoveMount, unsafe {
        call!(libc::SYS_move_mount, mount, c"", libc::AT_FDCWD, at, flags)
    })
}

#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Changes a mount's attributes and propagation.
pub(crate) fn mount_setattr(
    mount: c_int,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: u32,
) -> Result<(), Fault> {
    let attr = MountAttr {
        set,
        clear,
        propagation: propagation.into(),
        ..MountAttr::default()
    };
    let below = if recursive { libc::AT_RECURSIVE } else { 0 };
    let flags = libc::AT_EMPTY_PATH | below;
    let size = size_of::<MountAttr>();
    // SAFETY: an empty text that ends with NUL; the kernel reads `size` bytes of `attr`, which
    // is laid out as `struct mount_attr`.
    done(Op::MountSetattr, unsafe {
        call!(libc::SYS_mount_setattr, mount, c"", flags, &attr, size)
    })
}

/// `pivot_root(".", ".")`.
pub(crate) fn pivot_root() -> Result<(), Fault> {
    // SAFETY: texts that end with NUL and are only read.
    done(Op::PivotRoot, unsafe {
        call!(libc::SYS_pivot_root, c".", c".")
    })
}

/// Detaches the mount at the cwd.
pub(crate) fn detach_cwd() -> Result<(), Fault> {
    // SAFETY: a text that ends with NUL and is only read.
    done(Op::Umount2, unsafe {
        call!(libc::SYS_umount2, c".", libc::MNT_DETACH)
    })
}
