//! An OCI seccomp profile becomes a short BPF program.
//!
//! ```text
//! profile ──> per architecture: number ─> what to do ──> ranges ──> binary search in BPF
//! ```
//!
//! libseccomp makes one comparison per system call, which the kernel then simulates for every
//! number when the filter is installed. Sorted ranges and a binary search make a program a third
//! of the size that installs in about a tenth of the time, so nothing needs to be cached.
#![forbid(unsafe_code)]

mod emit;
mod names;
mod rules;

use duet_step::Insn;
use oci_spec::runtime::LinuxSeccomp;

pub use names::Arch;

/// The longest program the kernel takes, in instructions (`BPF_MAXINSNS`).
pub const MAX_INSNS: usize = 4096;

/// A profile ready to be installed with `seccomp(2)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The program: 1 to [`MAX_INSNS`] instructions.
    pub program: Vec<Insn>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    /// Names in the profile that no listed architecture knows. They are skipped, as every
    /// runtime does, because profiles name the calls of newer kernels.
    pub unknown: Vec<String>,
}

/// Why a profile cannot become a program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An architecture that this build has no numbers for.
    #[error("linux.seccomp.architectures: {0} is not offered")]
    Architecture(String),
    /// An action that needs somebody outside to answer.
    #[error("linux.seccomp: action {0} is not offered")]
    Action(String),
    /// An argument index that no system call has.
    #[error("linux.seccomp.syscalls: {name}: args.index = {index}, the last is 5")]
    ArgumentIndex {
        /// The system call.
        name: String,
        /// The index that was asked for.
        index: usize,
    },
    /// An errno that does not fit the 12 bits the kernel keeps.
    #[error("linux.seccomp: errnoRet = {0}, the largest is 4095")]
    Errno(u32),
    /// A filter flag that a container cannot use.
    #[error("linux.seccomp.flags: {0} is not offered")]
    Flag(String),
    /// More instructions than the kernel takes.
    #[error("linux.seccomp: the profile needs {0} BPF instructions, the kernel takes 4096")]
    TooLong(usize),
}

/// Compiles a profile for a process of architecture `native`.
///
/// System calls newer than every one the profile names answer `ENOSYS` instead of a denying
/// default action, so that libc can fall back to older calls, as runc does.
///
/// # Errors
///
/// [`Error`] names the field of the profile and its value.
pub fn compile(profile: &LinuxSeccomp, native: Arch) -> Result<Filter, Error> {
    let (tables, unknown) = rules::tables(profile, native)?;
    let program = emit::program(&tables);
    if program.len() > MAX_INSNS {
        return Err(Error::TooLong(program.len()));
    }
    Ok(Filter {
        program,
        flags: rules::flags(profile)?,
        unknown,
    })
}
