//! Files in memory.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// A file in memory that nobody can change any more, at its beginning. Closes on exec.
///
/// `name` is what `/proc/<pid>/fd` shows.
///
/// # Errors
///
/// The kernel's: `ENOMEM`, `EMFILE`.
pub fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    file.rewind()?;
    fcntl_add_seals(
        &file,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(file.into())
}

/// An empty file in memory, to be written by another program. Closes on exec.
///
/// # Errors
///
/// As [`sealed`].
pub fn empty(name: &str) -> io::Result<OwnedFd> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_sealed_file_can_be_read_and_not_written() {
        let mut file = File::from(sealed("test", b"hello").unwrap());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        let refused = file.write(b"!").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    }
}
