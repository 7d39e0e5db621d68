//! The system calls of a compiler that has its module: memory, threads, and what is open.
//!
//! Written here and not made from a profile by `duet-seccomp`: what reads OCI's profiles does not belong
//! into the program that reads a stranger's bytes, and a list and four questions need no binary search.

use duet_linux::filter::{
    ALLOW, ARCH, ARCHITECTURE, BPF_JEQ, BPF_JGE, BPF_JSET, Insn, KILL, NUMBER, X32, answer,
    argument, jump, load, number, refused,
};
use libc::EPERM;

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

const REFUSE: u32 = refused(EPERM);

/// The program.
pub(crate) fn program() -> Vec<Insn> {
    let mut program = vec![
        load(ARCHITECTURE),
        jump(BPF_JEQ, ARCH, 1, 0),
        answer(KILL),
        load(NUMBER),
        jump(BPF_JGE, X32, 0, 1),
        answer(REFUSE),
    ];
    for call in ALLOWED {
        program.extend([jump(BPF_JEQ, number(call), 0, 1), answer(ALLOW)]);
    }
    // `clone3` has its flags where a filter cannot look, so it does not exist, and threads are made by `clone`.
    program.extend([
        jump(BPF_JEQ, number(libc::SYS_clone3), 0, 1),
        answer(refused(libc::ENOSYS)),
    ]);
    let executable = libc::PROT_EXEC.cast_unsigned();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        program.extend(unless_set(call, 2, executable));
    }
    program.extend([
        jump(BPF_JEQ, number(libc::SYS_clone), 0, 4),
        load(argument(0)),
        jump(BPF_JSET, libc::CLONE_THREAD.cast_unsigned(), 0, 1),
        answer(ALLOW),
        answer(REFUSE),
    ]);
    // A thread's name, and nothing else that prctl can do.
    program.extend([
        jump(BPF_JEQ, number(libc::SYS_prctl), 0, 4),
        load(argument(0)),
        jump(BPF_JEQ, libc::PR_SET_NAME.cast_unsigned(), 0, 1),
        answer(ALLOW),
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
        answer(ALLOW),
        answer(REFUSE),
    ]
}
