//! The runner's filter of system calls, in force: what the kernel answers to who has it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "calls that nobody wraps, and that must fail")]

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use duet_linux::seccomp;
use libc::{EBADF, EINVAL, ENOSYS, EPERM, c_int, c_long};
use rustix::fs::{AtFlags, Mode, linkat, mkdirat, readlinkat, renameat, symlinkat, unlinkat};
use rustix::thread::set_no_new_privs;

/// The runner is a program: nobody can ask its crate.
#[path = "../../runner/src/walls/calls.rs"]
mod calls;

/// Does it in a thread that has the filter, and keeps it from then on.
fn filtered<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let filtered = scope.spawn(|| {
            set_no_new_privs(true).unwrap();
            let kernel = calls::Kernel {
                loses_appends: true,
                knows_self: true,
            };
            seccomp::install(&calls::program(std::process::id(), kernel)).unwrap();
            work()
        });
        filtered.join().unwrap()
    })
}

/// The error of a call that fails, or 0.
fn errno(call: c_long, arguments: [c_long; 6]) -> c_int {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: no address among the arguments is one of a page that is there, so that the kernel reads and writes nothing
    // of ours should it let one through, and what it maps is where nothing was; and none of these calls ends, stops
    // or copies the process, whatever becomes of it.
    let result = unsafe { libc::syscall(call, a, b, c, d, e, f) };
    if result == -1 {
        io::Error::last_os_error().raw_os_error().unwrap()
    } else {
        0
    }
}

fn int(value: c_int) -> c_long {
    value.into()
}

#[test]
fn what_no_guest_needs_is_refused() {
    const NONE: [c_long; 6] = [0; 6];
    let us = c_long::from(std::process::id());
    let neighbour = 1;
    let page = 4096;
    let (read, code) = (int(libc::PROT_READ), int(libc::PROT_EXEC));
    let (inet, unix) = (int(libc::AF_INET), int(libc::AF_UNIX));
    let (stream, datagram, raw) = (
        int(libc::SOCK_STREAM),
        int(libc::SOCK_DGRAM),
        int(libc::SOCK_RAW),
    );
    let table: &[(&str, c_long, [c_long; 6], c_int)] = &[
        // Programs and processes.
        ("execve", libc::SYS_execve, NONE, EPERM),
        ("execveat", libc::SYS_execveat, [-1, 0, 0, 0, 0, 0], EPERM),
        (
            "namespace",
            libc::SYS_clone,
            [int(libc::CLONE_THREAD | libc::CLONE_NEWUSER), 0, 0, 0, 0, 0],
            EPERM,
        ),
        ("clone3", libc::SYS_clone3, NONE, ENOSYS),
        ("unshare", libc::SYS_unshare, NONE, EPERM),
        ("setns", libc::SYS_setns, [-1, 0, 0, 0, 0, 0], EPERM),
        ("chroot", libc::SYS_chroot, NONE, EPERM),
        ("setresuid", libc::SYS_setresuid, [-1; 6], EPERM),
        ("capset", libc::SYS_capset, NONE, EPERM),
        // Neighbours.
        (
            "ptrace",
            libc::SYS_ptrace,
            [libc::PTRACE_ATTACH.into(), -1, 0, 0, 0, 0],
            EPERM,
        ),
        (
            "process_vm_writev",
            libc::SYS_process_vm_writev,
            [us, 0, 0, 0, 0, 0],
            EPERM,
        ),
        (
            "kill",
            libc::SYS_kill,
            [us, int(libc::SIGURG), 0, 0, 0, 0],
            EPERM,
        ),
        (
            "tgkill",
            libc::SYS_tgkill,
            [neighbour, neighbour, 0, 0, 0, 0],
            EPERM,
        ),
        (
            "rt_sigqueueinfo",
            libc::SYS_rt_sigqueueinfo,
            [us, 0, 0, 0, 0, 0],
            EPERM,
        ),
        (
            "pidfd_open",
            libc::SYS_pidfd_open,
            [us, 0, 0, 0, 0, 0],
            ENOSYS,
        ),
        ("prlimit64", libc::SYS_prlimit64, [us, 0, 0, 0, 0, 0], EPERM),
        (
            "process_madvise",
            libc::SYS_process_madvise,
            [-1, 0, 0, 0, 0, 0],
            EPERM,
        ),
        (
            "setpriority",
            libc::SYS_setpriority,
            [0, us, 19, 0, 0, 0],
            EPERM,
        ),
        (
            "F_SETOWN",
            libc::SYS_fcntl,
            [-1, int(libc::F_SETOWN), neighbour, 0, 0, 0],
            EPERM,
        ),
        ("TIOCSTI", libc::SYS_ioctl, [-1, 0x5412, 0, 0, 0, 0], EPERM),
        // Code.
        (
            "mmap",
            libc::SYS_mmap,
            [0, page, read | code, -1, -1, 0],
            EPERM,
        ),
        ("mprotect", libc::SYS_mprotect, [0, 0, code, 0, 0, 0], EPERM),
        (
            "pkey_mprotect",
            libc::SYS_pkey_mprotect,
            [0, 0, code, 0, 0, 0],
            EPERM,
        ),
        (
            "personality",
            libc::SYS_personality,
            [0xffff_ffff, 0, 0, 0, 0, 0],
            EPERM,
        ),
        (
            "PR_SET_DUMPABLE",
            libc::SYS_prctl,
            [int(libc::PR_SET_DUMPABLE), 9, 0, 0, 0, 0],
            EPERM,
        ),
        // The kernel's other doors.
        ("mount", libc::SYS_mount, NONE, EPERM),
        ("fsopen", libc::SYS_fsopen, NONE, ENOSYS),
        (
            "open_tree",
            libc::SYS_open_tree,
            [-1, 0, 0, 0, 0, 0],
            ENOSYS,
        ),
        ("pivot_root", libc::SYS_pivot_root, NONE, EPERM),
        ("mknodat", libc::SYS_mknodat, [-1, 0, 0, 0, 0, 0], EPERM),
        ("fchmodat", libc::SYS_fchmodat, [-1, 0, 0, 0, 0, 0], EPERM),
        ("fchownat", libc::SYS_fchownat, [-1, 0, 0, 0, 0, 0], EPERM),
        (
            "open_by_handle_at",
            libc::SYS_open_by_handle_at,
            [-1, 0, 0, 0, 0, 0],
            EPERM,
        ),
        ("bpf", libc::SYS_bpf, [-1, 0, 0, 0, 0, 0], EPERM),
        ("io_uring_setup", libc::SYS_io_uring_setup, NONE, ENOSYS),
        (
            "userfaultfd",
            libc::SYS_userfaultfd,
            [-1, 0, 0, 0, 0, 0],
            EPERM,
        ),
        ("perf_event_open", libc::SYS_perf_event_open, NONE, EPERM),
        ("keyctl", libc::SYS_keyctl, [-1, 0, 0, 0, 0, 0], EPERM),
        ("init_module", libc::SYS_init_module, NONE, EPERM),
        ("seccomp", libc::SYS_seccomp, [-1, 0, 0, 0, 0, 0], EPERM),
        // Sockets.
        (
            "AF_PACKET",
            libc::SYS_socket,
            [int(libc::AF_PACKET), raw, 0, 0, 0, 0],
            EPERM,
        ),
        (
            "AF_VSOCK",
            libc::SYS_socket,
            [int(libc::AF_VSOCK), stream, 0, 0, 0, 0],
            EPERM,
        ),
        (
            "AF_ALG",
            libc::SYS_socket,
            [int(libc::AF_ALG), 5, 0, 0, 0, 0],
            EPERM,
        ),
        (
            "AF_UNIX",
            libc::SYS_socket,
            [unix, stream, 0, 0, 0, 0],
            EPERM,
        ),
        (
            "raw",
            libc::SYS_socket,
            [inet, raw, int(libc::IPPROTO_ICMP), 0, 0, 0],
            EPERM,
        ),
        (
            "ping",
            libc::SYS_socket,
            [inet, datagram, int(libc::IPPROTO_ICMP), 0, 0, 0],
            EPERM,
        ),
        (
            "sctp",
            libc::SYS_socket,
            [inet, stream, int(libc::IPPROTO_SCTP), 0, 0, 0],
            EPERM,
        ),
        (
            "netfilter",
            libc::SYS_socket,
            [
                int(libc::AF_NETLINK),
                raw,
                int(libc::NETLINK_NETFILTER),
                0,
                0,
                0,
            ],
            EPERM,
        ),
        (
            "datagrams",
            libc::SYS_socketpair,
            [unix, datagram, 0, 0, 0, 0],
            EPERM,
        ),
        // By the second table of x86-64 read is another call.
        ("x32", 0x4000_0000, NONE, ENOSYS),
        // What is let through fails by itself.
        ("read", libc::SYS_read, [-1, 0, 0, 0, 0, 0], EBADF),
        (
            "mmap of data",
            libc::SYS_mmap,
            [0, 0, read, 0, -1, 0],
            EBADF,
        ),
        (
            "F_GETFL",
            libc::SYS_fcntl,
            [-1, int(libc::F_GETFL), 0, 0, 0, 0],
            EBADF,
        ),
        ("FIONREAD", libc::SYS_ioctl, [-1, 0x541b, 0, 0, 0, 0], EBADF),
        (
            "its own limit",
            libc::SYS_prlimit64,
            [0, -1, 0, 0, 0, 0],
            EINVAL,
        ),
        (
            "a thread that is there",
            libc::SYS_tgkill,
            [us, us, 0, 0, 0, 0],
            0,
        ),
        (
            "a process that is there",
            libc::SYS_kill,
            [us, 0, 0, 0, 0, 0],
            0,
        ),
    ];
    let answers: Vec<_> = filtered(|| {
        let answer = |&(_, call, arguments, _): &_| errno(call, arguments);
        table.iter().map(answer).collect()
    });
    for ((name, _, _, expected), answer) in table.iter().zip(answers) {
        assert_eq!(answer, *expected, "{name}");
    }
}

#[test]
fn what_is_refused_to_who_has_it_is_not_to_others() {
    // Or else the table above would say nothing about these.
    assert!(Command::new("true").status().unwrap().success());
    let refused = filtered(|| Command::new("true").status().map(drop));
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    let code = [
        0,
        4096,
        int(libc::PROT_EXEC),
        int(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS),
        -1,
        0,
    ];
    assert_eq!(errno(libc::SYS_mmap, code), 0);
    assert_eq!(filtered(|| errno(libc::SYS_mmap, code)), EPERM);
}

#[test]
fn files_sockets_threads_and_names_are_there() {
    let folder = tempfile::tempdir().unwrap();
    filtered(|| {
        files(folder.path()).unwrap();
        sockets().unwrap();
        // Threads, which have the filter too.
        let other = thread::Builder::new().name("other".into()).spawn(|| {
            thread::sleep(Duration::from_millis(1));
            Command::new("true").status().map(drop)
        });
        let refused = other.unwrap().join().unwrap();
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let names: Vec<_> = ("localhost", 1).to_socket_addrs().unwrap().collect();
        assert!(!names.is_empty());
    });
}

fn files(folder: &Path) -> io::Result<()> {
    let path = folder.join("file");
    let mut file = File::create(&path)?;
    file.write_all(b"text")?;
    file.write_all_at(b"T", 0)?;
    file.set_len(5)?;
    file.sync_all()?;
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)?;
    assert_eq!(fs::read(&path)?, b"Text\0");
    // By descriptor, as all of a guest's files are named.
    let at = File::open(folder)?;
    linkat(&at, "file", &at, "link", AtFlags::empty())?;
    symlinkat("link", &at, "symbolic")?;
    assert_eq!(readlinkat(&at, "symbolic", [])?.as_bytes(), b"link");
    renameat(&at, "file", &at, "renamed")?;
    mkdirat(&at, "folder", Mode::RWXU)?;
    assert_eq!(fs::read_dir(folder)?.count(), 4);
    unlinkat(&at, "folder", AtFlags::REMOVEDIR)?;
    Ok(unlinkat(&at, "link", AtFlags::empty())?)
}

fn sockets() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    client.set_nodelay(true)?;
    client.set_nonblocking(false)?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"asked")?;
    client.shutdown(std::net::Shutdown::Write)?;
    let mut asked = String::new();
    server.read_to_string(&mut asked)?;
    assert_eq!(asked, "asked");
    UnixStream::pair()?;
    let one = UdpSocket::bind("127.0.0.1:0")?;
    one.send_to(b"told", one.local_addr()?)?;
    assert_eq!(one.recv_from(&mut [0; 8])?.0, 4);
    Ok(())
}
