//! An OCI seccomp profile becomes a short BPF program.
//!
//! ```text
//! profile ──> per architecture: number ─> what to do ──> ranges ──> binary search in BPF
//! ```
//!
//! libseccomp makes one comparison per system call, which the kernel then simulates for every
//! number when the filter is installed. Sorted ranges and a binary search make a program a third
//! of the size that installs in about a tenth of the time. The last profile is kept compiled: the
//! containers of a pod have the same one, and so have all execs of a container.
#![forbid(unsafe_code)]

mod emit;
mod names;
mod rules;

use std::sync::{Mutex, PoisonError};

use duet_step::Insn;
use oci_spec::runtime::LinuxSeccomp;

pub use names::Arch;

/// The longest program the kernel takes, in instructions (`BPF_MAXINSNS`).
pub const MAX_INSNS: usize = 4096;

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
const NEW_LISTENER: u32 = 8;

/// A profile ready to be installed with `seccomp(2)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The program: 1 to [`MAX_INSNS`] instructions.
    pub program: Vec<Insn>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    /// Whether the kernel makes a listener with it (`SECCOMP_FILTER_FLAG_NEW_LISTENER`), which
    /// somebody must answer.
    pub listener: bool,
    /// Names in the profile that no listed architecture knows. They are skipped, as every
    /// runtime does, because profiles name the calls of newer kernels.
    pub unknown: Vec<String>,
}

/// Why a profile cannot become a program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `SCMP_ACT_NOTIFY` where nobody could answer.
    #[error("linux.seccomp: SCMP_ACT_NOTIFY is not supported {0}")]
    Notify(&'static str),
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
    #[error("linux.seccomp.flags: {0}: not supported by Duet")]
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
    static LAST: Mutex<Option<Compiled>> = Mutex::new(None);
    // It is replaced as a whole, so also whole after a panic.
    let last = || LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(compiled) = last().as_ref()
        && compiled.native == native
        && compiled.profile == *profile
    {
        return Ok(compiled.filter.clone());
    }
    // Not under the lock: one container does not wait for another's profile.
    let filter = compile_anew(profile, native)?;
    *last() = Some(Compiled {
        profile: profile.clone(),
        native,
        filter: filter.clone(),
    });
    Ok(filter)
}

/// A profile and what it became.
struct Compiled {
    profile: LinuxSeccomp,
    native: Arch,
    filter: Filter,
}

fn compile_anew(profile: &LinuxSeccomp, native: Arch) -> Result<Filter, Error> {
    let (tables, unknown) = rules::tables(profile, native)?;
    let program = emit::program(&tables);
    if program.len() > MAX_INSNS {
        return Err(Error::TooLong(program.len()));
    }
    let flags = rules::flags(profile)?;
    Ok(Filter {
        program,
        flags,
        listener: flags & NEW_LISTENER != 0,
        unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_given_only_for_the_same_profile() {
        let profile = |names: &[&str]| -> LinuxSeccomp {
            let profile = serde_json::json!({
                "defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]
            });
            serde_json::from_value(profile).unwrap()
        };
        let (one, other) = (profile(&["read"]), profile(&["read", "reboot"]));
        for profile in [&one, &one, &other, &one] {
            for native in [Arch::X86_64, Arch::Aarch64] {
                let anew = compile_anew(profile, native).unwrap();
                assert_eq!(compile(profile, native).unwrap(), anew);
            }
        }
        assert_ne!(compile(&one, Arch::X86_64), compile(&other, Arch::X86_64));
    }
}
