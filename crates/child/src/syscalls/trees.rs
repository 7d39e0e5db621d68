//! What copying a tree of files takes.

use core::ffi::{CStr, c_int};
use core::mem::{MaybeUninit, size_of};

use duet_step::Op;

use super::done;
use crate::fault::{Fault, answer};
use crate::raw::{Word, call};

/// What is copied of a file beside its contents.
pub(crate) struct Stat {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// In the kernel's 32-bit encoding.
    pub(crate) device: u32,
    /// Of the last access and change: seconds and nanoseconds.
    pub(crate) times: [[i64; 2]; 2],
}

/// What `fstatat` says about a name, not following it.
pub(crate) fn stat_name(dir: c_int, name: &CStr) -> Result<Stat, Fault> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the name ends with NUL and is only read; `libc::stat` is laid out as the kernel's
    // on this target, and `stat` is room for one of them.
    done(Op::Fstat, unsafe {
        call!(
            libc::SYS_newfstatat,
            dir,
            name,
            stat.as_mut_ptr(),
            libc::AT_SYMLINK_NOFOLLOW
        )
    })?;
    // SAFETY: the call succeeded, so the kernel has filled it in.
    let stat = unsafe { stat.assume_init() };
    Ok(Stat {
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        device: u32::try_from(stat.st_rdev).map_err(|_| Fault::check(libc::EOVERFLOW))?,
        times: [
            [stat.st_atime, stat.st_atime_nsec],
            [stat.st_mtime, stat.st_mtime_nsec],
        ],
    })
}

/// `utimensat` of a name, not following it.
pub(crate) fn utimensat(dir: c_int, name: &CStr, times: &[[i64; 2]; 2]) -> Result<(), Fault> {
    // SAFETY: the name ends with NUL and is only read; `struct timespec` is two 64-bit numbers on
    // this target, and the kernel reads two of them.
    done(Op::Utimensat, unsafe {
        call!(
            libc::SYS_utimensat,
            dir,
            name,
            times,
            libc::AT_SYMLINK_NOFOLLOW
        )
    })
}

/// `sendfile` of what follows: how many bytes it was.
pub(crate) fn sendfile(from: c_int, to: c_int) -> Result<usize, Fault> {
    const MOST: usize = 1 << 30;
    let null = core::ptr::null_mut::<i64>();
    // SAFETY: integers, and no offset: the file's own is used.
    answer(Op::CopyFileRange, unsafe {
        call!(libc::SYS_sendfile, to, from, null, MOST)
    })
}

/// Room for entries of a directory: several names, or the longest.
const ROOM: usize = 2048;
/// Where the name begins in `struct linux_dirent64`, behind inode, offset, length and type.
const NAME: usize = 8 + 8 + 2 + 1;
/// Where the length is.
const LENGTH: usize = 8 + 8;

/// Entries of a directory, some at a time.
pub(crate) struct Entries {
    bytes: [u8; ROOM],
    len: usize,
}

impl Entries {
    pub(crate) fn new() -> Self {
        Self {
            bytes: [0; ROOM],
            len: 0,
        }
    }

    /// Reads those that follow; whether there were any.
    pub(crate) fn read(&mut self, dir: c_int) -> Result<bool, Fault> {
        // SAFETY: the kernel writes at most `ROOM` bytes to `bytes`, which is borrowed mutably.
        self.len = answer(Op::Getdents64, unsafe {
            call!(
                libc::SYS_getdents64,
                dir,
                self.bytes.as_mut_ptr(),
                self.bytes.len()
            )
        })?;
        Ok(self.len > 0)
    }

    /// The names of those that were read.
    pub(crate) fn names(&self) -> impl Iterator<Item = &CStr> {
        let mut rest = self.bytes.get(..self.len).unwrap_or_default();
        core::iter::from_fn(move || {
            let length = rest.get(LENGTH..)?.first_chunk::<{ size_of::<u16>() }>()?;
            let length = usize::from(u16::from_ne_bytes(*length));
            let name = rest.get(NAME..length)?;
            rest = rest.get(length..)?;
            CStr::from_bytes_until_nul(name).ok()
        })
    }
}
