//! `loop(4)`: a file as a block device.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// `LOOP_CTL_GET_FREE` of `linux/loop.h`.
const GET_FREE: libc::Ioctl = 0x4C82;

/// `LOOP_CONFIGURE`.
const CONFIGURE: libc::Ioctl = 0x4C0A;

/// `LO_FLAGS_*`.
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// How often a free device may turn out to be taken: each time somebody else has got theirs.
const TRIES: usize = 100;

/// How a file is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Use {
    /// Nothing is written to it.
    pub read_only: bool,
    /// Past the page cache, where its file system can do that.
    pub direct: bool,
}

/// A loop device that has a file. It lets go of it when this is dropped and nothing of it is
/// mounted any more.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _device: File,
}

/// `struct loop_config`, with the `struct loop_info64` in it.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Config>() == 304, "as the kernel has it");

// === impl LoopDevice ===

impl LoopDevice {
    /// Gives a free device the file at `path`.
    ///
    /// # Errors
    ///
    /// The kernel's: `ENOENT` without the file or `/dev/loop-control`, `EACCES`, `EBUSY` when all devices
    /// that were free were taken meanwhile.
    pub fn attach(path: &Path, usage: Use) -> io::Result<Self> {
        let open = |path: &Path| {
            let mut how = OpenOptions::new();
            how.read(true).write(!usage.read_only).open(path)
        };
        let file = open(path)?;
        let control = File::options()
            .read(true)
            .write(true)
            .open("/dev/loop-control")?;
        let mut taken = io::Error::from_raw_os_error(libc::EBUSY);
        for _ in 0..TRIES {
            let path = PathBuf::from(format!("/dev/loop{}", free(&control)?));
            let device = open(&path)?;
            match configure(&device, &file, usage) {
                Ok(()) => {
                    return Ok(LoopDevice {
                        path,
                        _device: device,
                    });
                }
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => taken = error,
                Err(error) => return Err(error),
            }
        }
        Err(taken)
    }

    /// Its node below `/dev`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The number of a device that has no file, made if all have one.
fn free(control: &File) -> io::Result<i32> {
    // SAFETY: the descriptor is open for as long as the borrow lasts, and LOOP_CTL_GET_FREE takes no
    // argument, so that the kernel reads and writes nothing of ours.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(number)
}

fn configure(device: &File, file: &File, usage: Use) -> io::Result<()> {
    let flag = |wanted: bool, flag: u32| if wanted { flag } else { 0 };
    let config = Config {
        fd: file.as_raw_fd().unsigned_abs(),
        block_size: 0,
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: AUTOCLEAR | flag(usage.read_only, READ_ONLY) | flag(usage.direct, DIRECT_IO),
        // Who asks is told the path of the file all the same, by the kernel.
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: both descriptors are open for as long as the borrows last; LOOP_CONFIGURE reads a struct
    // loop_config, which Config is, field by field and in its size, and writes nothing.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, &raw const config) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::{Read as _, Write as _};

    #[test]
    fn a_file_that_is_missing_takes_no_device() {
        let error = LoopDevice::attach(Path::new("/nonexistent"), Use::default()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn a_device_has_what_is_in_the_file_and_lets_go_of_it() {
        if !rustix::process::geteuid().is_root() {
            assert!(
                std::env::var_os("DUET_TEST_REQUIRE").is_none(),
                "DUET_TEST_REQUIRE is set: nothing may be skipped"
            );
            eprintln!("skipped: needs root");
            return;
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 4096]).unwrap();
        for read_only in [false, true] {
            let usage = Use {
                read_only,
                direct: true,
            };
            let device = LoopDevice::attach(file.path(), usage).unwrap();
            let name = device.path().file_name().unwrap().to_owned();
            let facts = Path::new("/sys/block").join(&name);
            let fact = |name: &str| fs::read_to_string(facts.join(name));
            let backing = fact("loop/backing_file").unwrap();
            assert_eq!(Path::new(backing.trim_end()), file.path());
            assert_eq!(fact("loop/autoclear").unwrap(), "1\n");
            assert_eq!(fact("ro").unwrap() == "1\n", read_only);
            let mut bytes = [0; 512];
            let mut read = File::open(device.path()).unwrap();
            read.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, [7; 512]);
            drop((read, device));
            // Another may have it by now, but not with our file; and udev may look at it for a moment more.
            let is_ours = |left: String| Path::new(left.trim_end()) == file.path();
            while fact("loop/backing_file").is_ok_and(is_ours) {
                std::thread::yield_now();
            }
        }
    }
}
