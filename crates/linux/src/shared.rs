//! A number in a file that two processes share: `mmap(2)`, which neither rustix nor nix wraps safely.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::ptr;
use std::sync::atomic::AtomicU64;

/// Maps the number at byte `offset` of `file`, which is 8-byte aligned there, until the process ends. What is stored
/// is in the file at once, for whoever reads it, without a system call.
///
/// A file that is cut off afterwards takes the process with it at the next look (`SIGBUS`): one that cannot
/// shrink is wanted (`F_SEAL_SHRINK`).
///
/// # Errors
///
/// `EINVAL` if there is no number at that place of the file's first 4 KiB; the kernel's, if the file is not open for
/// reading and writing or cannot be mapped.
///
/// # References
///
/// [mmap(2)](https://man7.org/linux/man-pages/man2/mmap.2.html).
pub fn number(file: &File, offset: usize) -> io::Result<&'static AtomicU64> {
    const PAGE: usize = 4 << 10;
    const SIZE: usize = size_of::<AtomicU64>();
    let end = offset.saturating_add(SIZE);
    let is_there = end <= PAGE && file.metadata()?.len() >= end as u64;
    if !is_there || !offset.is_multiple_of(align_of::<AtomicU64>()) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: at an address of the kernel's choice, where nothing else is.
    let mapped = unsafe {
        libc::mmap(
            ptr::null_mut(),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `end` is within the page that was mapped.
    let number = unsafe { mapped.byte_add(offset) }.cast();
    // SAFETY: it is aligned, for the page is and so is the offset; nobody unmaps it; and whoever else has the file
    // mapped or writes to it makes another number of it, which an atomic one may always become.
    Ok(unsafe { AtomicU64::from_ptr(number) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn what_is_counted_is_in_the_file() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(24).unwrap();
        let number = number(&file, 8).unwrap();
        number.fetch_add(7, Ordering::Relaxed);
        let mut bytes = [0; 24];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes[..8], [0; 8]);
        assert_eq!(bytes[8..16], 7_u64.to_ne_bytes());
        file.write_all_at(&9_u64.to_ne_bytes(), 8).unwrap();
        assert_eq!(number.load(Ordering::Relaxed), 9);
    }

    #[test]
    fn where_there_is_no_number_none_is_mapped() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(16).unwrap();
        for offset in [4, 9, 16, 4096, usize::MAX] {
            let error = number(&file, offset).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{offset}");
        }
    }
}
