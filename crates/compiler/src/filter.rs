//! The system calls of a compiler that has its module: memory, threads, and what is open.
//!
//! Written here and not made from a profile by `duet-seccomp`: what reads OCI's profiles does not belong
//! into the program that reads a stranger's bytes, and a list and four questions need no binary search.

use duet_step::Insn;
use libc::{
    BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, EPERM,
    SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS,
};

/// What a compiler may do without a question: 35 calls. None opens, names or makes anything, and two,
/// `newfstatat` and `statx`, can ask about a path.
const ALLOWED: [libc::c_long; 35] = [
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
];

/// `AUDIT_ARCH_*` of this program: the other ways into the kernel have other numbers for everything.
const ARCH: u32 = if cfg!(target_arch = "x86_64") {
    0xc000_003e
} else {
    0xc000_00b7
};

/// Where x86-64's second table of calls begins (`__X32_SYSCALL_BIT`); no call elsewhere has such a number.
const X32: u32 = 0x4000_0000;

/// Offsets into the kernel's `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

const REFUSE: u32 = SECCOMP_RET_ERRNO | EPERM.cast_unsigned();

/// The program.
pub(crate) fn program() -> Vec<Insn> {
    let mut program = vec![
        load(ARCHITECTURE),
        jump(BPF_JEQ, ARCH, 1, 0),
        answer(SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
        jump(BPF_JGE, X32, 0, 1),
        answer(REFUSE),
    ];
    for call in ALLOWED {
        program.extend([jump(BPF_JEQ, number(call), 0, 1), answer(SECCOMP_RET_ALLOW)]);
    }
    // `clone3` has its flags where a filter cannot look, so it does not exist, and threads are made by `clone`.
    let missing = SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
    program.extend([
        jump(BPF_JEQ, number(libc::SYS_clone3), 0, 1),
        answer(missing),
    ]);
    let executable = libc::PROT_EXEC.cast_unsigned();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        program.extend(unless_set(call, 2, executable));
    }
    program.extend([
        jump(BPF_JEQ, number(libc::SYS_clone), 0, 4),
        load(argument(0)),
        jump(BPF_JSET, libc::CLONE_THREAD.cast_unsigned(), 0, 1),
        answer(SECCOMP_RET_ALLOW),
        answer(REFUSE),
    ]);
    // A thread's name, and nothing else that prctl can do.
    program.extend([
        jump(BPF_JEQ, number(libc::SYS_prctl), 0, 4),
        load(argument(0)),
        jump(BPF_JEQ, libc::PR_SET_NAME.cast_unsigned(), 0, 1),
        answer(SECCOMP_RET_ALLOW),
        answer(REFUSE),
    ]);
    program.push(answer(REFUSE));
    program
}

/// Lets `call` pass if none of `bits` is set in its argument.
fn unless_set(call: libc::c_long, index: u32, bits: u32) -> [Insn; 5] {
    [
        jump(BPF_JEQ, number(call), 0, 4),
        load(argument(index)),
        jump(BPF_JSET, bits, 1, 0),
        answer(SECCOMP_RET_ALLOW),
        answer(REFUSE),
    ]
}

/// The low half of an argument, on a little-endian machine; what is asked of it here has no high half.
fn argument(index: u32) -> u32 {
    16 + 8 * index
}

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

fn load(offset: u32) -> Insn {
    insn(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset)
}

fn jump(test: u32, value: u32, yes: u8, no: u8) -> Insn {
    insn(BPF_JMP | test | BPF_K, yes, no, value)
}

fn answer(value: u32) -> Insn {
    insn(BPF_RET | BPF_K, 0, 0, value)
}

fn insn(code: u32, jt: u8, jf: u8, k: u32) -> Insn {
    Insn {
        code: u16::try_from(code).unwrap_or(u16::MAX),
        jt,
        jf,
        k,
    }
}
