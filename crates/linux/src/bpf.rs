//! `bpf`: programs that decide which devices a cgroup may use.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// One eBPF instruction, laid out as the kernel's `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Insn {
    /// Opcode.
    pub code: u8,
    /// Destination register in the low four bits, source register in the high four.
    pub registers: u8,
    /// Signed offset.
    pub offset: i16,
    /// Signed immediate.
    pub immediate: i32,
}

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_DETACH: i32 = 9;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
/// Several programs may be attached, and all must agree.
const F_ALLOW_MULTI: u32 = 2;

/// `union bpf_attr` as `BPF_PROG_LOAD` reads it, up to what Linux 5.14 knows and we need.
#[repr(C)]
#[derive(Clone, Copy)]
struct Load {
    kind: u32,
    insn_count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// `union bpf_attr` as `BPF_PROG_ATTACH` and `BPF_PROG_DETACH` read it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replace: u32,
}

/// Loads a `BPF_PROG_TYPE_CGROUP_DEVICE` program; it lives as long as the descriptor or a
/// cgroup it is attached to. `name` is what `bpftool` shows, at most 15 of its bytes.
///
/// # Errors
///
/// The kernel's: `EPERM` without `CAP_BPF` or `CAP_SYS_ADMIN`, `EINVAL` or `EACCES` for a program
/// that the verifier refuses.
///
/// # References
///
/// [bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html), Linux 4.15.
pub fn load_device_program(name: &str, program: &[Insn]) -> io::Result<OwnedFd> {
    let mut short = [0; 16];
    for (to, from) in short.iter_mut().take(15).zip(name.bytes()) {
        *to = if from.is_ascii_alphanumeric() {
            from
        } else {
            b'_'
        };
    }
    let load = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        insn_count: u32::try_from(program.len()).map_err(io::Error::other)?,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        name: short,
        // SAFETY: a record of integers, for which zero is a value.
        ..unsafe { zeroed() }
    };
    // SAFETY: `load` points to `program.len()` instructions laid out as `struct bpf_insn` and to
    // a text that ends with NUL, and both outlive the call, which only reads them.
    let program = unsafe { bpf(PROG_LOAD, &load) }?;
    let program = RawFd::try_from(program).map_err(io::Error::other)?;
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}

/// Attaches a device program to a cgroup v2 directory, beside those that are there.
///
/// # Errors
///
/// The kernel's.
pub fn attach(cgroup: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let attach = pair(cgroup.as_fd(), program.as_fd(), F_ALLOW_MULTI);
    // SAFETY: the record holds integers only.
    unsafe { bpf(PROG_ATTACH, &attach) }.map(|_| ())
}

/// Detaches a device program from a cgroup v2 directory.
///
/// # Errors
///
/// `ENOENT` when it is not attached there.
pub fn detach(cgroup: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let detach = pair(cgroup.as_fd(), program.as_fd(), 0);
    // SAFETY: the record holds integers only.
    unsafe { bpf(PROG_DETACH, &detach) }.map(|_| ())
}

fn pair(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>, flags: u32) -> Attach {
    Attach {
        target: cgroup.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        kind: CGROUP_DEVICE,
        flags,
        replace: 0,
    }
}

/// # Safety
///
/// Every address in `attr` is valid for what `command` does with it.
unsafe fn bpf<T>(command: i32, attr: &T) -> io::Result<libc::c_long> {
    let attr = std::ptr::from_ref(attr);
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `attr`, and the commands used here
    // write nothing back; addresses inside are the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
