//! The compiler's filter of system calls: what it answers, call by call.

use duet_step::Insn;
use libc::{EPERM, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS, c_long};

/// The compiler is a program: nobody can ask its crate.
#[path = "../../../compiler/src/filter.rs"]
mod program;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;

/// Runs it over one `struct seccomp_data`, as the kernel would.
fn verdict(program: &[Insn], arch: u32, call: u32, arguments: [u64; 3]) -> u32 {
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
    let here = if cfg!(target_arch = "x86_64") {
        X86_64
    } else {
        0xc000_00b7
    };
    for (call, arguments, expected) in table {
        let call = u32::try_from(call).unwrap();
        let answer = verdict(&program, here, call, arguments);
        assert_eq!(answer, expected, "{call} {arguments:?}");
        // By another way into the kernel it would be another call.
        let other = verdict(&program, I386, call, arguments);
        assert_eq!(other, SECCOMP_RET_KILL_PROCESS, "{call}");
        let second = verdict(&program, here, call | 0x4000_0000, arguments);
        assert_eq!(second, refused, "{call}");
    }
    // Of all numbers that there are or may be, it knows as many as it says.
    let known =
        (0..1024).filter(|&call| verdict(&program, here, call, [0; 3]) == SECCOMP_RET_ALLOW);
    // Two more with these arguments: memory without rights.
    assert_eq!(known.count(), 35 + 2);
}
