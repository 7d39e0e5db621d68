//! The filters of system calls of the compiler and the runner: what they answer, call by call. What the kernel makes of
//! the runner's is in `crates/linux/tests/filter.rs`.

use duet_step::Insn;
use libc::{EPERM, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS, c_long};

/// The compiler is a program: nobody can ask its crate. Nor the runner's.
#[path = "../../../compiler/src/filter.rs"]
mod program;
#[path = "../../../runner/src/walls/calls.rs"]
mod runner;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const HERE: u32 = if cfg!(target_arch = "x86_64") {
    X86_64
} else {
    0xc000_00b7
};

/// Runs it over one `struct seccomp_data`, as the kernel would.
fn verdict(program: &[Insn], arch: u32, call: u32, arguments: [u64; 6]) -> u32 {
    let low = |argument: u64| u32::try_from(argument & 0xffff_ffff).unwrap();
    let high = |argument: u64| u32::try_from(argument >> 32).unwrap();
    let mut data = vec![call, arch, 0, 0];
    data.extend(arguments.iter().flat_map(|&it| [low(it), high(it)]));
    let (mut loaded, mut at) = (0, 0);
    loop {
        let Insn { code, jt, jf, k } = program[at];
        let test = match code {
            0x20 => {
                loaded = data[usize::try_from(k).unwrap() / 4];
                at += 1;
                continue;
            }
            0x54 => {
                loaded &= k;
                at += 1;
                continue;
            }
            0x06 => return k,
            0x15 => loaded == k,
            0x35 => loaded >= k,
            0x45 => loaded & k != 0,
            other => panic!("instruction {other:#x}"),
        };
        at += 1 + usize::from(if test { jt } else { jf });
    }
}

#[test]
fn the_compiler_can_compute_and_nothing_else() {
    let program = program::program();
    let refused = SECCOMP_RET_ERRNO | EPERM.cast_unsigned();
    let missing = SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
    let (read, write, execute) = (1, 2, 4);
    let thread = u64::from(libc::CLONE_THREAD.cast_unsigned());
    let name = u64::from(libc::PR_SET_NAME.cast_unsigned());
    let table: [(c_long, [u64; 3], u32); 36] = [
        (libc::SYS_read, [0; 3], SECCOMP_RET_ALLOW),
        (libc::SYS_write, [1, 0, 9], SECCOMP_RET_ALLOW),
        (libc::SYS_futex, [0; 3], SECCOMP_RET_ALLOW),
        (libc::SYS_exit_group, [0; 3], SECCOMP_RET_ALLOW),
        (libc::SYS_mmap, [0, 9, read | write], SECCOMP_RET_ALLOW),
        (libc::SYS_mmap, [0, 9, read | execute], refused),
        (libc::SYS_mmap, [0, 9, execute | 1 << 32], refused),
        (libc::SYS_mprotect, [0, 9, write], SECCOMP_RET_ALLOW),
        (libc::SYS_mprotect, [0, 9, execute], refused),
        (libc::SYS_pkey_mprotect, [0, 9, execute], refused),
        (libc::SYS_clone, [thread, 0, 0], SECCOMP_RET_ALLOW),
        (libc::SYS_clone, [0; 3], refused),
        (libc::SYS_clone3, [0; 3], missing),
        (libc::SYS_prctl, [name, 0, 0], SECCOMP_RET_ALLOW),
        (libc::SYS_prctl, [0; 3], refused),
        (libc::SYS_openat, [0; 3], refused),
        (libc::SYS_openat2, [0; 3], refused),
        (libc::SYS_open_by_handle_at, [0; 3], refused),
        (libc::SYS_memfd_create, [0; 3], refused),
        (libc::SYS_socket, [0; 3], refused),
        (libc::SYS_sendmsg, [0; 3], refused),
        (libc::SYS_recvmsg, [0; 3], refused),
        (libc::SYS_execve, [0; 3], refused),
        (libc::SYS_execveat, [0; 3], refused),
        (libc::SYS_ptrace, [0; 3], refused),
        (libc::SYS_process_vm_writev, [0; 3], refused),
        (libc::SYS_pidfd_getfd, [0; 3], refused),
        (libc::SYS_kill, [0; 3], refused),
        (libc::SYS_ioctl, [0; 3], refused),
        (libc::SYS_mount, [0; 3], refused),
        (libc::SYS_unshare, [0; 3], refused),
        (libc::SYS_setns, [0; 3], refused),
        (libc::SYS_bpf, [0; 3], refused),
        (libc::SYS_io_uring_setup, [0; 3], refused),
        (libc::SYS_userfaultfd, [0; 3], refused),
        (libc::SYS_prlimit64, [0; 3], refused),
    ];
    for (call, [a, b, c], expected) in table {
        let (call, arguments) = (u32::try_from(call).unwrap(), [a, b, c, 0, 0, 0]);
        let answer = verdict(&program, HERE, call, arguments);
        assert_eq!(answer, expected, "{call} {arguments:?}");
        // By another way into the kernel it would be another call.
        let other = verdict(&program, I386, call, arguments);
        assert_eq!(other, SECCOMP_RET_KILL_PROCESS, "{call}");
        let second = verdict(&program, HERE, call | 0x4000_0000, arguments);
        assert_eq!(second, refused, "{call}");
    }
    // Of all numbers that there are or may be, it knows as many as it says.
    let known =
        (0..1024).filter(|&call| verdict(&program, HERE, call, [0; 6]) == SECCOMP_RET_ALLOW);
    // Two more with these arguments: memory without rights.
    assert_eq!(known.count(), 35 + 2);
}

#[test]
fn the_runner_can_do_what_a_guest_may_and_a_thread_needs() {
    const OURS: u32 = 77;
    let refused = SECCOMP_RET_ERRNO | EPERM.cast_unsigned();
    let missing = SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
    let lost = SECCOMP_RET_ERRNO | libc::EOPNOTSUPP.cast_unsigned();
    let append = u64::from(libc::RWF_APPEND.cast_unsigned());
    for (loses_appends, knows_self) in [(false, true), (true, false)] {
        let kernel = runner::Kernel {
            loses_appends,
            knows_self,
        };
        let program = runner::program(OURS, kernel);
        let answer = |call: c_long, arguments| {
            verdict(&program, HERE, u32::try_from(call).unwrap(), arguments)
        };
        let appends = [0, 0, 0, 0, 0, append];
        let expected = if loses_appends {
            lost
        } else {
            SECCOMP_RET_ALLOW
        };
        let ourselves = if knows_self {
            SECCOMP_RET_ALLOW
        } else {
            missing
        };
        let others = if knows_self { refused } else { missing };
        assert_eq!(answer(libc::SYS_pwritev2, appends), expected);
        assert_eq!(answer(libc::SYS_pwritev2, [0; 6]), SECCOMP_RET_ALLOW);
        for (call, arguments, expected) in [
            (libc::SYS_tgkill, [77, 9, 6, 0, 0, 0], SECCOMP_RET_ALLOW),
            (libc::SYS_tgkill, [78, 9, 6, 0, 0, 0], refused),
            (
                libc::SYS_clone,
                [0x3d_0f00, 0, 0, 0, 0, 0],
                SECCOMP_RET_ALLOW,
            ),
            // A thread with a namespace, a process of the same memory, and a process.
            (
                libc::SYS_clone,
                [0x3d_0f00 | 0x4000_0000, 0, 0, 0, 0, 0],
                refused,
            ),
            (libc::SYS_clone, [0x4111, 0, 0, 0, 0, 0], refused),
            (libc::SYS_clone, [17, 0, 0, 0, 0, 0], refused),
            // Descriptors are numbers of 32 bits: the kernel does not look at what is above.
            (
                libc::SYS_process_madvise,
                [0xffff_d8f0, 0, 0, 0, 0, 0],
                ourselves,
            ),
            (libc::SYS_process_madvise, [!9999, 0, 0, 0, 0, 0], ourselves),
            (libc::SYS_process_madvise, [7, 0, 0, 0, 0, 0], others),
        ] {
            assert_eq!(answer(call, arguments), expected, "{call} {arguments:?}");
        }
        for call in (0..1024).chain([u32::MAX]) {
            let other = verdict(&program, I386, call, [0; 6]);
            assert_eq!(other, SECCOMP_RET_KILL_PROCESS, "{call}");
            let second = verdict(&program, HERE, call | 0x4000_0000, [0; 6]);
            assert_eq!(second, missing, "{call}");
        }
        // Its length is what a start pays for, some 0.2 µs an instruction.
        assert!(program.len() < 200, "{}", program.len());
    }
}
