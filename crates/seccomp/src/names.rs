//! System call numbers by name, and the calls that 32-bit x86 multiplexes.

use oci_spec::runtime::Arch as OciArch;
use std::str::FromStr;

/// An architecture as the kernel tells it apart in `seccomp_data`.
///
/// x32 shares x86-64's audit value; its numbers carry a bit of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86.
    X86,
    /// 64-bit x86 with 32-bit pointers.
    X32,
    /// 64-bit Arm.
    Aarch64,
    /// 32-bit Arm.
    Arm,
}

/// What marks an x32 number (`__X32_SYSCALL_BIT`).
pub(crate) const X32_BIT: u32 = 0x4000_0000;

// === impl Arch ===

impl Arch {
    /// The architecture this program was built for.
    #[must_use]
    pub fn native() -> Self {
        if cfg!(target_arch = "aarch64") {
            Self::Aarch64
        } else {
            Self::X86_64
        }
    }

    /// `AUDIT_ARCH_*` of `linux/audit.h`.
    pub(crate) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xC000_003E,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xC000_00B7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments are compared in their lower 32 bits only.
    pub(crate) fn narrow(self) -> bool {
        matches!(self, Self::X86 | Self::X32 | Self::Arm)
    }

    /// The architecture an OCI profile names, as seen from `native`; none for one whose calls can be
    /// made on no machine that Duet is built for.
    pub(crate) fn parse(arch: OciArch, native: Self) -> Option<Self> {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "a profile for many machines names those of all"
        )]
        match arch {
            OciArch::ScmpArchNative => Some(native),
            OciArch::ScmpArchX86_64 => Some(Self::X86_64),
            OciArch::ScmpArchX86 => Some(Self::X86),
            OciArch::ScmpArchX32 => Some(Self::X32),
            OciArch::ScmpArchAarch64 => Some(Self::Aarch64),
            OciArch::ScmpArchArm => Some(Self::Arm),
            _ => None,
        }
    }

    /// Whether a process of architecture `native` can make calls of this one.
    pub(crate) fn runs_on(self, native: Self) -> bool {
        match native {
            Self::X86_64 | Self::X86 | Self::X32 => {
                matches!(self, Self::X86_64 | Self::X86 | Self::X32)
            }
            Self::Aarch64 | Self::Arm => matches!(self, Self::Aarch64 | Self::Arm),
        }
    }

    /// The number of the call itself, if the architecture has one of its own for it.
    pub(crate) fn number(self, name: &str) -> Option<u32> {
        let number = |id: i32| u32::try_from(id).ok();
        match self {
            Self::X86_64 => syscalls::x86_64::Sysno::from_str(name)
                .ok()
                .and_then(|s| number(s.id())),
            Self::X86 => syscalls::x86::Sysno::from_str(name)
                .ok()
                .and_then(|s| number(s.id())),
            Self::X32 => x32_number(name),
            Self::Aarch64 => syscalls::aarch64::Sysno::from_str(name)
                .ok()
                .and_then(|s| number(s.id())),
            Self::Arm => syscalls::arm::Sysno::from_str(name)
                .ok()
                .and_then(|s| number(s.id())),
        }
    }

    /// The multiplexer and its first argument, if the architecture reaches the call that way too.
    pub(crate) fn multiplexed(self, name: &str) -> Option<(u32, u64)> {
        if self != Self::X86 {
            return None;
        }
        let find = |table: &[(&str, u64)]| {
            table
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, subcall)| *subcall)
        };
        find(SOCKETCALL)
            .map(|subcall| (SYS_SOCKETCALL, subcall))
            .or_else(|| find(IPC).map(|subcall| (SYS_IPC, subcall)))
    }
}

/// Calls that exist for x32 alone, at numbers of their own (`syscall_64.tbl`, ABI `x32`).
const X32_OWN: &[(&str, u32)] = &[
    ("rt_sigaction", 512),
    ("rt_sigreturn", 513),
    ("ioctl", 514),
    ("readv", 515),
    ("writev", 516),
    ("recvfrom", 517),
    ("sendmsg", 518),
    ("recvmsg", 519),
    ("execve", 520),
    ("ptrace", 521),
    ("rt_sigpending", 522),
    ("rt_sigtimedwait", 523),
    ("rt_sigqueueinfo", 524),
    ("sigaltstack", 525),
    ("timer_create", 526),
    ("mq_notify", 527),
    ("kexec_load", 528),
    ("waitid", 529),
    ("set_robust_list", 530),
    ("get_robust_list", 531),
    ("vmsplice", 532),
    ("move_pages", 533),
    ("preadv", 534),
    ("pwritev", 535),
    ("rt_tgsigqueueinfo", 536),
    ("recvmmsg", 537),
    ("sendmmsg", 538),
    ("process_vm_readv", 539),
    ("process_vm_writev", 540),
    ("setsockopt", 541),
    ("getsockopt", 542),
    ("io_setup", 543),
    ("io_submit", 544),
    ("execveat", 545),
    ("preadv2", 546),
    ("pwritev2", 547),
];

/// Calls of the 64-bit ABI alone (`syscall_64.tbl`, ABI `64`) that x32 has under no number.
const NOT_X32: &[&str] = &[
    "uselib",
    "_sysctl",
    "create_module",
    "get_kernel_syms",
    "query_module",
    "nfsservctl",
    "epoll_ctl_old",
    "epoll_wait_old",
    "vserver",
    "set_thread_area",
    "get_thread_area",
];

fn x32_number(name: &str) -> Option<u32> {
    if NOT_X32.contains(&name) {
        return None;
    }
    if let Some((_, number)) = X32_OWN.iter().find(|(known, _)| *known == name) {
        return Some(number | X32_BIT);
    }
    Arch::X86_64.number(name).map(|number| number | X32_BIT)
}

const SYS_SOCKETCALL: u32 = 102;
const SYS_IPC: u32 = 117;

/// `linux/net.h`, `SYS_*`.
const SOCKETCALL: &[(&str, u64)] = &[
    ("socket", 1),
    ("bind", 2),
    ("connect", 3),
    ("listen", 4),
    ("accept", 5),
    ("getsockname", 6),
    ("getpeername", 7),
    ("socketpair", 8),
    ("send", 9),
    ("recv", 10),
    ("sendto", 11),
    ("recvfrom", 12),
    ("shutdown", 13),
    ("setsockopt", 14),
    ("getsockopt", 15),
    ("sendmsg", 16),
    ("recvmsg", 17),
    ("accept4", 18),
    ("recvmmsg", 19),
    ("sendmmsg", 20),
];

/// `linux/ipc.h`.
const IPC: &[(&str, u64)] = &[
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];
