//! The system calls of a process whose guest runs: a list, and what is asked about some of them.
//!
//! The list is what is linked into the runner, less what only its start needs, and the nearest relatives of that, which
//! another release of a library may call instead. Most calls are on it or not, whatever their arguments are: the kernel
//! notes down what becomes of those when the filter is installed (Linux 5.11), and does not run it for them. So nothing
//! is asked about a call that guests make often.
//!
//! What the runner comes to call besides belongs here: until then it fails with `EPERM`.

use duet_linux::appends;
use duet_linux::filter::{
    ALLOW, BPF_JEQ, BPF_JSET, Insn, answer, argument, decide, jump, load, mask, refused, to,
};
use libc::{c_int, c_long};

/// What may be done without a question.
const ALLOWED: &[c_long] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpeername,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_linkat,
    libc::SYS_listen,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_memfd_create,
    libc::SYS_mkdirat,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_renameat,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// The same by their older names, which most newer machines do not have.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    libc::SYS_accept,
    libc::SYS_epoll_wait,
    libc::SYS_open,
    // A thread that wants to end the process while another one does waits with it for ever.
    libc::SYS_pause,
    libc::SYS_poll,
    libc::SYS_readlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[];

/// What may be done with descriptors: duplicate them, close them on exec, write at the end, wait or not; and seal
/// the memory that a module's data is in.
const FCNTL: [c_int; 8] = [
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_ADD_SEALS,
    libc::F_GET_SEALS,
];

/// What may be asked of devices: whether it is a terminal and how large, how much can be read; to wait or not, and to
/// close on exec; and which number an interface of the network has, for a name server that is given with one. Nothing
/// is typed into a terminal (`TIOCSTI`).
const IOCTL: [u32; 7] = [
    0x5401,      // TCGETS
    0x802c_542a, // TCGETS2
    0x5413,      // TIOCGWINSZ
    0x541b,      // FIONREAD
    0x5421,      // FIONBIO
    0x5451,      // FIOCLEX
    0x8933,      // SIOCGIFINDEX
];

/// The process itself, in the place of a descriptor of it.
const PIDFD_SELF: c_int = -10_000;

/// From here on (Linux 5.1) a call may not be there on a kernel that we run on, and whoever makes it knows another way:
/// to them it is missing. `clone3` is among these, whose flags are where no filter can look, `io_uring` and `pidfd_open`.
const RECENT: usize = 424;

/// What becomes of a call: one of these, or what the question of an index from [`ASK`] on says.
const REFUSE: u8 = 0;
const MISSING: u8 = 1;
const PASS: u8 = 2;
const ASK: u8 = 3;

/// On to the next instruction.
const NEXT: u8 = 0;

/// What a kernel does that makes a difference here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel {
    /// It [loses appends](appends::are_lost).
    pub(crate) loses_appends: bool,
    /// It knows [`PIDFD_SELF`]. Others say that it is no descriptor, which wasmtime does not expect: a server's pool
    /// would give nothing back. To them the call has to be missing, and wasmtime makes another.
    pub(crate) knows_self: bool,
}

/// The filter of process `process`, which this is.
pub(crate) fn program(process: u32, kernel: Kernel) -> Vec<Insn> {
    let mut which = [REFUSE; 512];
    which[RECENT..].fill(MISSING);
    let mut set = |call: c_long, becomes| {
        if let Some(it) = usize::try_from(call)
            .ok()
            .and_then(|call| which.get_mut(call))
        {
            *it = becomes;
        }
    };
    for &call in ALLOWED.iter().chain(OLDER) {
        set(call, PASS);
    }
    let mut blocks = vec![
        vec![answer(refused(libc::EPERM))],
        vec![answer(refused(libc::ENOSYS))],
        vec![answer(ALLOW)],
    ];
    for ((calls, question), index) in questions(process, kernel).into_iter().zip(ASK..) {
        for &call in calls {
            set(call, index);
        }
        blocks.push(question);
    }
    decide(&blocks, &which)
}

/// What is asked about calls.
fn questions(process: u32, kernel: Kernel) -> Vec<(&'static [c_long], Vec<Insn>)> {
    let mut questions: Vec<(&[c_long], _)> = vec![
        (&[libc::SYS_mmap, libc::SYS_mprotect], no_code()),
        (&[libc::SYS_clone], thread()),
        (
            &[libc::SYS_prctl],
            one_of(0, &[libc::PR_SET_NAME, libc::PR_SET_THP_DISABLE].map(int)),
        ),
        // Its own limits, and nobody else's.
        (&[libc::SYS_prlimit64], one_of(0, &[0])),
        // Whether a thread is there is asked by its number, and for nothing; signals go to threads of its own.
        (&[libc::SYS_kill], one_of(1, &[0])),
        (&[libc::SYS_tgkill], one_of(0, &[process])),
        (&[libc::SYS_fcntl], one_of(1, &FCNTL.map(int))),
        (&[libc::SYS_ioctl], one_of(1, &IOCTL)),
        (&[libc::SYS_socket], socket()),
        (&[libc::SYS_socketpair], pair()),
    ];
    if kernel.knows_self {
        questions.push((&[libc::SYS_process_madvise], one_of(0, &[int(PIDFD_SELF)])));
    }
    if kernel.loses_appends {
        questions.push((&[libc::SYS_pwritev2], appends::refusal().to_vec()));
    }
    questions
}

/// No memory becomes code, and no file: before Linux 6.3 this alone forbids the first, and it alone the second.
fn no_code() -> Vec<Insn> {
    const PROTECTION: u32 = 2;
    vec![
        load(argument(PROTECTION)),
        jump(BPF_JSET, int(libc::PROT_EXEC), to(REFUSE), to(PASS)),
    ]
}

/// A new thread of this process, and nothing else that a clone can be: no process, and no namespace of its own.
fn thread() -> Vec<Insn> {
    const FLAGS: u32 = 0;
    let thread = libc::CLONE_THREAD
        | libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SETTLS
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_SETTID
        | libc::CLONE_CHILD_CLEARTID;
    vec![
        load(argument(FLAGS)),
        jump(BPF_JSET, !int(thread), to(REFUSE), NEXT),
        jump(BPF_JSET, int(libc::CLONE_THREAD), to(PASS), to(REFUSE)),
    ]
}

/// The domain of a socket, its type and its protocol.
const DOMAIN: u32 = 0;
const TYPE: u32 = 1;
const PROTOCOL: u32 = 2;

/// The bits of a type that are not its flags.
const KIND: u32 = 0xf;

/// TCP and UDP; and what glibc asks for the addresses of this machine, to put those of another one in order.
fn socket() -> Vec<Insn> {
    vec![
        load(argument(DOMAIN)),
        jump(BPF_JEQ, int(libc::AF_INET), 4, NEXT),
        jump(BPF_JEQ, int(libc::AF_INET6), 3, NEXT),
        jump(BPF_JEQ, int(libc::AF_NETLINK), NEXT, to(REFUSE)),
        load(argument(PROTOCOL)),
        jump(BPF_JEQ, int(libc::NETLINK_ROUTE), to(PASS), to(REFUSE)),
        load(argument(TYPE)),
        mask(KIND),
        jump(BPF_JEQ, int(libc::SOCK_STREAM), 1, NEXT),
        jump(BPF_JEQ, int(libc::SOCK_DGRAM), NEXT, to(REFUSE)),
        load(argument(PROTOCOL)),
        jump(BPF_JEQ, int(libc::IPPROTO_IP), to(PASS), NEXT),
        jump(BPF_JEQ, int(libc::IPPROTO_TCP), to(PASS), NEXT),
        jump(BPF_JEQ, int(libc::IPPROTO_UDP), to(PASS), to(REFUSE)),
    ]
}

/// Two ends of a stream, which lead nowhere else. One of datagrams could be connected to another's.
fn pair() -> Vec<Insn> {
    vec![
        load(argument(DOMAIN)),
        jump(BPF_JEQ, int(libc::AF_UNIX), NEXT, to(REFUSE)),
        load(argument(TYPE)),
        mask(KIND),
        jump(BPF_JEQ, int(libc::SOCK_STREAM), to(PASS), to(REFUSE)),
    ]
}

/// Passes if the argument is one of `values`.
fn one_of(index: u32, values: &[u32]) -> Vec<Insn> {
    let mut question = vec![load(argument(index))];
    question.extend(
        values
            .iter()
            .map(|value| jump(BPF_JEQ, *value, to(PASS), NEXT)),
    );
    if let Some(last) = question.last_mut() {
        last.jf = to(REFUSE);
    }
    question
}

/// As the kernel compares it: the lower half of its register.
fn int(value: c_int) -> u32 {
    value.cast_unsigned()
}
