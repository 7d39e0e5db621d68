//! Paths, files and descriptors.

use core::ffi::{CStr, c_int};
use core::mem::{MaybeUninit, size_of};

use duet_step::Op;

use super::{Fd, done, fd};
use crate::fault::{Fault, answer};
use crate::raw::{Word, call};

/// `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`: how a path of the container is walked.
pub(crate) const IN_ROOT: u64 = 0x10 | 0x02;
/// `RESOLVE_NO_MAGICLINKS`: how a path is walked once the root is the container's.
pub(crate) const NO_MAGICLINKS: u64 = 0x02;
/// `RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV`: how a file of procfs is walked.
pub(crate) const PROCFS: u64 = 0x08 | 0x02 | 0x01;
const CLOSE_RANGE_CLOEXEC: u32 = 1 << 2;

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// `openat2`, close-on-exec.
pub(crate) fn openat2(dir: c_int, path: &CStr, flags: c_int, resolve: u64) -> Result<Fd, Fault> {
    let how = OpenHow {
        flags: u64::from((flags | libc::O_CLOEXEC).cast_unsigned()),
        mode: 0,
        resolve,
    };
    let mut patience = 64_u32;
    loop {
        // SAFETY: the path ends with NUL, and the kernel reads `size_of::<OpenHow>()` bytes of
        // `how`, which lives until the call is over.
        let opened = fd(Op::Openat2, unsafe {
            call!(libc::SYS_openat2, dir, path, &how, size_of::<OpenHow>())
        });
        match opened {
            // Something in the system was renamed or mounted while a `..` was walked, and the
            // kernel could not tell that it was not on this path.
            Err(fault) if fault.errno == libc::EAGAIN && patience > 0 => {
                patience = patience.wrapping_sub(1)
            }
            Ok(_) | Err(_) => return opened,
        }
    }
}

/// `openat` of one name that must not be a symbolic link, close-on-exec.
pub(crate) fn open_name(dir: c_int, name: &CStr, flags: c_int, mode: u32) -> Result<Fd, Fault> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: the name ends with NUL and is only read; the rest are integers.
    fd(Op::Openat2, unsafe {
        call!(libc::SYS_openat, dir, name, flags, mode)
    })
}

/// `mkdirat`.
pub(crate) fn mkdirat(dir: c_int, name: &CStr, mode: u32) -> Result<(), Fault> {
    // SAFETY: the name ends with NUL and is only read; the rest are integers.
    done(Op::Mkdirat, unsafe {
        call!(libc::SYS_mkdirat, dir, name, mode)
    })
}

/// `mknodat` of a device in the kernel's 32-bit encoding.
pub(crate) fn mknodat(dir: c_int, name: &CStr, mode: u32, device: u32) -> Result<(), Fault> {
    // SAFETY: the name ends with NUL and is only read; the rest are integers.
    done(Op::Mknodat, unsafe {
        call!(libc::SYS_mknodat, dir, name, mode, device)
    })
}

/// `symlinkat`.
pub(crate) fn symlinkat(target: &CStr, dir: c_int, name: &CStr) -> Result<(), Fault> {
    // SAFETY: both texts end with NUL and are only read.
    done(Op::Symlinkat, unsafe {
        call!(libc::SYS_symlinkat, target, dir, name)
    })
}

/// `unlinkat` of something that is not a directory.
pub(crate) fn unlinkat(dir: c_int, name: &CStr) -> Result<(), Fault> {
    // SAFETY: the name ends with NUL and is only read.
    done(Op::Unlinkat, unsafe {
        call!(libc::SYS_unlinkat, dir, name, 0_i32)
    })
}

/// `readlinkat`: how many bytes of `buffer` the target took.
pub(crate) fn readlinkat(dir: c_int, name: &CStr, buffer: &mut [u8]) -> Result<usize, Fault> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`, which is borrowed
    // mutably for the call.
    answer(Op::Read, unsafe {
        call!(
            libc::SYS_readlinkat,
            dir,
            name,
            buffer.as_mut_ptr(),
            buffer.len()
        )
    })
}

/// `fchownat` of a name in a directory, not following it.
pub(crate) fn fchownat(dir: c_int, name: &CStr, uid: u32, gid: u32) -> Result<(), Fault> {
    // SAFETY: the name ends with NUL and is only read; the rest are integers.
    done(Op::Fchownat, unsafe {
        call!(
            libc::SYS_fchownat,
            dir,
            name,
            uid,
            gid,
            libc::AT_SYMLINK_NOFOLLOW
        )
    })
}

/// `fchmodat` of a path below a directory.
pub(crate) fn fchmodat(dir: c_int, path: &CStr, mode: u32) -> Result<(), Fault> {
    // SAFETY: the path ends with NUL and is only read; the rest are integers.
    done(Op::Fchmodat, unsafe {
        call!(libc::SYS_fchmodat, dir, path, mode)
    })
}

/// `fchown` of an open file; `u32::MAX` leaves an id.
pub(crate) fn fchown(file: c_int, uid: u32, gid: u32) -> Result<(), Fault> {
    // SAFETY: integers only.
    done(Op::Fchownat, unsafe {
        call!(libc::SYS_fchown, file, uid, gid)
    })
}

/// What `fstat` says about a descriptor: mode and device number.
pub(crate) fn fstat(file: c_int) -> Result<(u32, u64), Fault> {
    let stat = stat(file)?;
    Ok((stat.st_mode, stat.st_rdev))
}

/// Which file it is: file system, number in it, device number.
pub(crate) fn identity(file: c_int) -> Result<(u64, u64, u64), Fault> {
    let stat = stat(file)?;
    Ok((stat.st_dev, stat.st_ino, stat.st_rdev))
}

fn stat(file: c_int) -> Result<libc::stat, Fault> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `libc::stat` is laid out as the kernel's on this target, and `stat` is room for
    // one of them.
    done(Op::Fstat, unsafe {
        call!(libc::SYS_fstat, file, stat.as_mut_ptr())
    })?;
    // SAFETY: the call succeeded, so the kernel has filled it in.
    Ok(unsafe { stat.assume_init() })
}

/// The magic number of the file system behind a descriptor.
pub(crate) fn fstatfs(file: c_int) -> Result<i64, Fault> {
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `libc::statfs` is laid out as the kernel's on this target, and `stat` is room for
    // one of them.
    done(Op::Fstat, unsafe {
        call!(libc::SYS_fstatfs, file, stat.as_mut_ptr())
    })?;
    // SAFETY: the call succeeded, so the kernel has filled it in.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_type)
}

/// Whether the effective user may execute the open file.
pub(crate) fn executable(file: c_int) -> Result<(), Fault> {
    let flags = libc::AT_EACCESS | libc::AT_EMPTY_PATH;
    // SAFETY: an empty text that ends with NUL, and integers.
    done(Op::Access, unsafe {
        call!(libc::SYS_faccessat2, file, c"", libc::X_OK, flags)
    })
}

/// `write`, whole or not at all.
pub(crate) fn write(file: c_int, bytes: &[u8]) -> Result<(), Fault> {
    // SAFETY: the kernel reads `bytes.len()` bytes of `bytes`.
    let written = answer(Op::Write, unsafe {
        call!(libc::SYS_write, file, bytes.as_ptr(), bytes.len())
    })?;
    if written == bytes.len() {
        Ok(())
    } else {
        Err(Fault {
            op: Op::Write,
            errno: libc::EIO,
        })
    }
}

/// `read` of one byte, if there is one.
pub(crate) fn read_byte(file: c_int) -> Result<Option<u8>, Fault> {
    let mut byte = 0_u8;
    loop {
        // SAFETY: the kernel writes at most one byte to `byte`, which is borrowed mutably.
        match answer(Op::Read, unsafe {
            call!(libc::SYS_read, file, &mut byte, 1_usize)
        }) {
            Err(fault) if fault.errno == libc::EINTR => {}
            Err(fault) => return Err(fault),
            Ok(count) => return Ok((count == 1).then_some(byte)),
        }
    }
}

/// Copies a descriptor to `number`, which survives exec.
pub(crate) fn dup_to(from: c_int, number: u32) -> Result<(), Fault> {
    // SAFETY: integers only; what was open at `number` is nobody's in this process.
    done(Op::Dup3, unsafe {
        call!(libc::SYS_dup3, from, number, 0_i32)
    })
}

/// Copies a descriptor to the first free number from `least` up, close-on-exec.
///
/// The kernel says `EINVAL` if `least` itself is not below the limit: that is `EMFILE` as well.
pub(crate) fn dup_above(from: c_int, least: c_int) -> Result<Fd, Fault> {
    // SAFETY: integers only.
    let copied = fd(Op::Dup3, unsafe {
        call!(libc::SYS_fcntl, from, libc::F_DUPFD_CLOEXEC, least)
    });
    copied.map_err(|fault| match fault.errno {
        libc::EINVAL => Fault {
            errno: libc::EMFILE,
            ..fault
        },
        _ => fault,
    })
}

/// Closes `first ..= last`.
pub(crate) fn close_range(first: u32, last: u32) -> Result<(), Fault> {
    // SAFETY: integers only; in this process nobody owns a descriptor by its number.
    done(Op::Step, unsafe {
        call!(libc::SYS_close_range, first, last, 0_u32)
    })
}

/// Sets close-on-exec from `first` up.
pub(crate) fn cloexec_from(first: u32) -> Result<(), Fault> {
    // SAFETY: integers only.
    done(Op::Step, unsafe {
        call!(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC)
    })
}
