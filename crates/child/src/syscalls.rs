//! One function for each system call the child makes.
//!
//! They are safe to use: every pointer is made here from a reference that outlives the call.
//! A descriptor is a plain number, for in this process nobody else owns any.

use core::ffi::{CStr, c_int, c_long};
use core::mem::{MaybeUninit, size_of};

use duet_step::{Insn, Message, Op};

use crate::fault::{Fault, answer};
use crate::raw::{Word, call};

/// `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`: how a path of the container is walked.
pub(crate) const IN_ROOT: u64 = 0x10 | 0x02;
/// `RESOLVE_NO_MAGICLINKS`: how a path is walked once the root is the container's.
pub(crate) const NO_MAGICLINKS: u64 = 0x02;
/// `RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV`: how a file of procfs is walked.
pub(crate) const PROCFS: u64 = 0x08 | 0x02 | 0x01;

const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
const OPEN_TREE_CLONE: u32 = 1;
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const CLOSE_RANGE_CLOEXEC: u32 = 1 << 2;
const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// How `fsconfig` is called.
#[derive(Clone, Copy)]
pub(crate) enum Config<'a> {
    /// A word alone.
    Flag(&'a CStr),
    /// A word and its value.
    Text(&'a CStr, &'a CStr),
    /// The superblock, with what was said.
    Create,
}

/// A descriptor that is closed when its owner is done with it.
pub(crate) struct Fd(c_int);

impl Fd {
    /// The number, which stays ours.
    pub(crate) fn number(&self) -> c_int {
        self.0
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: one integer. Linux releases the number even when it reports an error.
        unsafe { call!(libc::SYS_close, self.0) };
    }
}

fn fd(op: Op, value: isize) -> Result<Fd, Fault> {
    c_int::try_from(answer(op, value)?)
        .map(Fd)
        .map_err(|_| Fault::check(libc::EBADF))
}

fn done(op: Op, value: isize) -> Result<(), Fault> {
    answer(op, value).map(|_| ())
}

// === Paths and files ===

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// `openat2`, close-on-exec.
pub(crate) fn openat2(dir: c_int, path: &CStr, flags: c_int, resolve: u64) -> Result<Fd, Fault> {
    let how = OpenHow {
        flags: u64::from((flags | libc::O_CLOEXEC).cast_unsigned()),
        mode: 0,
        resolve,
    };
    let mut patience = 64_u32;
    loop {
        // SAFETY: the path ends with NUL, and the kernel reads `size_of::<OpenHow>()` bytes of
        // `how`, which lives until the call is over.
        let opened = fd(Op::Openat2, unsafe {
            call!(libc::SYS_openat2, dir, path, &how, size_of::<OpenHow>())
        });
        match opened {
            // Something in the system was renamed or mounted while a `..` was walked, and the
            // kernel could not tell that it was not on this path.
            Err(fault) if fault.errno == libc::EAGAIN && patience > 0 => patience -= 1,
            Ok(_) | Err(_) => return opened,
        }
    }
}

/// `openat` of one name that must not be a symbolic link, close-on-exec.
pub(crate) fn open_name(dir: c_int, name: &CStr, flags: c_int, mode: u32) -> Result<Fd, Fault> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: the name ends with NUL and is only read; the rest are integers.
    fd(Op::Openat2, unsafe {
        call!(libc::SYS_openat, dir, name, flags, mode)
    })
}

/// `mkdirat`.
pub(crate) fn mkdirat(dir: c_int, name: &CStr, mode: u32) -> Result<(), Fault> {
    // SAFETY: the name ends with NUL and is only read; the rest are integers.
    done(Op::Mkdirat, unsafe {
        call!(libc::SYS_mkdirat, dir, name, mode)
    })
}

/// `mknodat` of a device in the kernel's 32-bit encoding.
pub(crate) fn mknodat(dir: c_int, name: &CStr, mode: u32, device: u32) -> Result<(), Fault> {
    // SAFETY: the name ends with NUL and is only read; the rest are integers.
    done(Op::Mknodat, unsafe {
        call!(libc::SYS_mknodat, dir, name, mode, device)
    })
}

/// `symlinkat`.
pub(crate) fn symlinkat(target: &CStr, dir: c_int, name: &CStr) -> Result<(), Fault> {
    // SAFETY: both texts end with NUL and are only read.
    done(Op::Symlinkat, unsafe {
        call!(libc::SYS_symlinkat, target, dir, name)
    })
}

/// `unlinkat` of something that is not a directory.
pub(crate) fn unlinkat(dir: c_int, name: &CStr) -> Result<(), Fault> {
    // SAFETY: the name ends with NUL and is only read.
    done(Op::Unlinkat, unsafe {
        call!(libc::SYS_unlinkat, dir, name, 0_i32)
    })
}

/// `readlinkat`: how many bytes of `buffer` the target took.
pub(crate) fn readlinkat(dir: c_int, name: &CStr, buffer: &mut [u8]) -> Result<usize, Fault> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`, which is borrowed
    // mutably for the call.
    answer(Op::Read, unsafe {
        call!(
            libc::SYS_readlinkat,
            dir,
            name,
            buffer.as_mut_ptr(),
            buffer.len()
        )
    })
}

/// `fchownat` of a name in a directory, not following it.
pub(crate) fn fchownat(dir: c_int, name: &CStr, uid: u32, gid: u32) -> Result<(), Fault> {
    // SAFETY: the name ends with NUL and is only read; the rest are integers.
    done(Op::Fchownat, unsafe {
        call!(
            libc::SYS_fchownat,
            dir,
            name,
            uid,
            gid,
            libc::AT_SYMLINK_NOFOLLOW
        )
    })
}

/// `fchown` of an open file; `u32::MAX` leaves an id.
pub(crate) fn fchown(file: c_int, uid: u32, gid: u32) -> Result<(), Fault> {
    // SAFETY: integers only.
    done(Op::Fchownat, unsafe {
        call!(libc::SYS_fchown, file, uid, gid)
    })
}

/// What `fstat` says about a descriptor: mode and device number.
pub(crate) fn fstat(file: c_int) -> Result<(u32, u64), Fault> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `libc::stat` is laid out as the kernel's on this target, and `stat` is room for
    // one of them.
    done(Op::Fstat, unsafe {
        call!(libc::SYS_fstat, file, stat.as_mut_ptr())
    })?;
    // SAFETY: the call succeeded, so the kernel has filled it in.
    let stat = unsafe { stat.assume_init() };
    Ok((stat.st_mode, stat.st_rdev))
}

/// The magic number of the file system behind a descriptor.
pub(crate) fn fstatfs(file: c_int) -> Result<i64, Fault> {
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `libc::statfs` is laid out as the kernel's on this target, and `stat` is room for
    // one of them.
    done(Op::Fstat, unsafe {
        call!(libc::SYS_fstatfs, file, stat.as_mut_ptr())
    })?;
    // SAFETY: the call succeeded, so the kernel has filled it in.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_type)
}

/// Whether the effective user may execute the open file.
pub(crate) fn executable(file: c_int) -> Result<(), Fault> {
    let flags = libc::AT_EACCESS | libc::AT_EMPTY_PATH;
    // SAFETY: an empty text that ends with NUL, and integers.
    done(Op::Access, unsafe {
        call!(libc::SYS_faccessat2, file, c"", libc::X_OK, flags)
    })
}

/// `write`, whole or not at all.
pub(crate) fn write(file: c_int, bytes: &[u8]) -> Result<(), Fault> {
    // SAFETY: the kernel reads `bytes.len()` bytes of `bytes`.
    let written = answer(Op::Write, unsafe {
        call!(libc::SYS_write, file, bytes.as_ptr(), bytes.len())
    })?;
    if written == bytes.len() {
        Ok(())
    } else {
        Err(Fault {
            op: Op::Write,
            errno: libc::EIO,
        })
    }
}

/// `read` of one byte: whether there was one.
pub(crate) fn read_byte(file: c_int) -> Result<bool, Fault> {
    let mut byte = 0_u8;
    loop {
        // SAFETY: the kernel writes at most one byte to `byte`, which is borrowed mutably.
        match answer(Op::Read, unsafe {
            call!(libc::SYS_read, file, &mut byte, 1_usize)
        }) {
            Err(fault) if fault.errno == libc::EINTR => {}
            Err(fault) => return Err(fault),
            Ok(count) => return Ok(count == 1),
        }
    }
}

/// Copies a descriptor to `number`, which survives exec.
pub(crate) fn dup_to(from: c_int, number: u32) -> Result<(), Fault> {
    // SAFETY: integers only; what was open at `number` is nobody's in this process.
    done(Op::Dup3, unsafe {
        call!(libc::SYS_dup3, from, number, 0_i32)
    })
}

/// Copies a descriptor to the first free number from `least` up, close-on-exec.
pub(crate) fn dup_above(from: c_int, least: c_int) -> Result<Fd, Fault> {
    // SAFETY: integers only.
    fd(Op::Dup3, unsafe {
        call!(libc::SYS_fcntl, from, libc::F_DUPFD_CLOEXEC, least)
    })
}

/// Closes `first ..= last`.
pub(crate) fn close_range(first: u32, last: u32) -> Result<(), Fault> {
    // SAFETY: integers only; in this process nobody owns a descriptor by its number.
    done(Op::Step, unsafe {
        call!(libc::SYS_close_range, first, last, 0_u32)
    })
}

/// Sets close-on-exec from `first` up.
pub(crate) fn cloexec_from(first: u32) -> Result<(), Fault> {
    // SAFETY: integers only.
    done(Op::Step, unsafe {
        call!(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC)
    })
}

// === Mounts ===

/// `fsopen`.
pub(crate) fn fsopen(fstype: &CStr) -> Result<Fd, Fault> {
    // SAFETY: the name ends with NUL and is only read.
    fd(Op::Fsopen, unsafe {
        call!(libc::SYS_fsopen, fstype, FSOPEN_CLOEXEC)
    })
}

/// `fsconfig`.
pub(crate) fn fsconfig(context: &Fd, config: Config<'_>) -> Result<(), Fault> {
    const SET_FLAG: u32 = 0;
    const SET_STRING: u32 = 1;
    const CMD_CREATE: u32 = 6;
    let null = core::ptr::null::<u8>();
    done(
        Op::Fsconfig,
        match config {
            // SAFETY: the key ends with NUL and is only read; a flag has no value.
            Config::Flag(key) => unsafe {
                call!(libc::SYS_fsconfig, context.0, SET_FLAG, key, null, 0_i32)
            },
            // SAFETY: both texts end with NUL and are only read.
            Config::Text(key, value) => unsafe {
                call!(libc::SYS_fsconfig, context.0, SET_STRING, key, value, 0_i32)
            },
            // SAFETY: the command takes neither key nor value.
            Config::Create => unsafe {
                call!(libc::SYS_fsconfig, context.0, CMD_CREATE, null, null, 0_i32)
            },
        },
    )
}

/// `fsmount`: a detached mount.
pub(crate) fn fsmount(context: &Fd, attributes: u32) -> Result<Fd, Fault> {
    // SAFETY: integers only.
    fd(Op::Fsmount, unsafe {
        call!(libc::SYS_fsmount, context.0, FSMOUNT_CLOEXEC, attributes)
    })
}

/// A detached copy of the mount at an open descriptor.
pub(crate) fn clone_mount(at: c_int, recursive: bool) -> Result<Fd, Fault> {
    let below = if recursive { libc::AT_RECURSIVE } else { 0 };
    let flags = (libc::AT_EMPTY_PATH | libc::O_CLOEXEC | below).cast_unsigned() | OPEN_TREE_CLONE;
    // SAFETY: an empty text that ends with NUL, and integers.
    fd(Op::OpenTree, unsafe {
        call!(libc::SYS_open_tree, at, c"", flags)
    })
}

/// Attaches a detached mount at an open descriptor.
pub(crate) fn attach(mount: c_int, at: c_int) -> Result<(), Fault> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: empty texts that end with NUL, and integers.
    done(Op::MoveMount, unsafe {
        call!(libc::SYS_move_mount, mount, c"", at, c"", flags)
    })
}

/// Attaches a detached mount at a path of the tree the child was born in.
pub(crate) fn attach_path(mount: c_int, at: &CStr) -> Result<(), Fault> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH;
    // SAFETY: texts that end with NUL and are only read, and integers.
    done(Op::MoveMount, unsafe {
        call!(libc::SYS_move_mount, mount, c"", libc::AT_FDCWD, at, flags)
    })
}

#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Changes a mount's attributes and propagation.
pub(crate) fn mount_setattr(
    mount: c_int,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: u32,
) -> Result<(), Fault> {
    let attr = MountAttr {
        set,
        clear,
        propagation: propagation.into(),
        ..MountAttr::default()
    };
    let below = if recursive { libc::AT_RECURSIVE } else { 0 };
    let flags = libc::AT_EMPTY_PATH | below;
    let size = size_of::<MountAttr>();
    // SAFETY: an empty text that ends with NUL; the kernel reads `size` bytes of `attr`, which
    // is laid out as `struct mount_attr`.
    done(Op::MountSetattr, unsafe {
        call!(libc::SYS_mount_setattr, mount, c"", flags, &attr, size)
    })
}

/// `pivot_root(".", ".")`.
pub(crate) fn pivot_root() -> Result<(), Fault> {
    // SAFETY: texts that end with NUL and are only read.
    done(Op::PivotRoot, unsafe {
        call!(libc::SYS_pivot_root, c".", c".")
    })
}

/// Detaches the mount at the cwd.
pub(crate) fn detach_cwd() -> Result<(), Fault> {
    // SAFETY: a text that ends with NUL and is only read.
    done(Op::Umount2, unsafe {
        call!(libc::SYS_umount2, c".", libc::MNT_DETACH)
    })
}

// === Namespaces, session, names ===

/// `setns`.
pub(crate) fn setns(namespace: c_int, flags: u32) -> Result<(), Fault> {
    // SAFETY: integers only.
    done(Op::Setns, unsafe {
        call!(libc::SYS_setns, namespace, flags)
    })
}

/// `unshare`.
pub(crate) fn unshare(flags: u32) -> Result<(), Fault> {
    // SAFETY: integers only; no memory is unshared from threads, there is one.
    done(Op::Unshare, unsafe { call!(libc::SYS_unshare, flags) })
}

/// A call that takes integers only.
pub(crate) fn plain(op: Op, number: PlainCall, args: [u32; 3]) -> Result<usize, Fault> {
    let [a, b, c] = args;
    // SAFETY: none of the calls in `PlainCall` takes an address.
    answer(op, unsafe { call!(number.number(), a, b, c) })
}

/// Calls without addresses, for [`plain`].
#[derive(Clone, Copy)]
pub(crate) enum PlainCall {
    Setsid,
    Umask,
    Fchdir,
    IoprioSet,
    Setresuid,
    Setresgid,
}

impl PlainCall {
    fn number(self) -> c_long {
        match self {
            Self::Setsid => libc::SYS_setsid,
            Self::Umask => libc::SYS_umask,
            Self::Fchdir => libc::SYS_fchdir,
            Self::IoprioSet => libc::SYS_ioprio_set,
            Self::Setresuid => libc::SYS_setresuid,
            Self::Setresgid => libc::SYS_setresgid,
        }
    }
}

/// `chdir`.
pub(crate) fn chdir(path: &CStr) -> Result<(), Fault> {
    // SAFETY: the path ends with NUL and is only read.
    done(Op::Chdir, unsafe { call!(libc::SYS_chdir, path) })
}

/// `getcwd`: the first byte of the answer, which is `/` for a cwd below the root.
pub(crate) fn cwd_begins_with(buffer: &mut [u8]) -> Result<Option<u8>, Fault> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`, which is borrowed
    // mutably for the call.
    answer(Op::Chdir, unsafe {
        call!(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len())
    })?;
    Ok(buffer.first().copied())
}

/// `sethostname`.
pub(crate) fn sethostname(name: &[u8]) -> Result<(), Fault> {
    // SAFETY: the kernel reads `name.len()` bytes of `name`.
    done(Op::Step, unsafe {
        call!(libc::SYS_sethostname, name.as_ptr(), name.len())
    })
}

/// `setdomainname`.
pub(crate) fn setdomainname(name: &[u8]) -> Result<(), Fault> {
    // SAFETY: the kernel reads `name.len()` bytes of `name`.
    done(Op::Step, unsafe {
        call!(libc::SYS_setdomainname, name.as_ptr(), name.len())
    })
}

/// `setrlimit` of the caller.
pub(crate) fn setrlimit(resource: u32, soft: u64, hard: u64) -> Result<(), Fault> {
    let limit = [soft, hard];
    let null = core::ptr::null_mut::<u64>();
    // SAFETY: `struct rlimit64` is these two numbers; the kernel reads them, and writes
    // nothing, for the last argument is null.
    done(Op::Step, unsafe {
        call!(libc::SYS_prlimit64, 0_i32, resource, &limit, null)
    })
}

/// Joins a new session keyring of this name.
pub(crate) fn join_session_keyring(name: &CStr) -> Result<(), Fault> {
    const JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: the name ends with NUL and is only read.
    done(Op::Step, unsafe {
        call!(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name)
    })
}

/// Puts signal `number` back to its default.
pub(crate) fn default_signal(number: u32) -> Result<(), Fault> {
    // `struct kernel_sigaction` is at most handler, flags, restorer, mask: four words, and
    // SIG_DFL with no flags and an empty mask is all zeros.
    let action = [0_usize; 4];
    let null = core::ptr::null_mut::<usize>();
    // SAFETY: the kernel reads `action`, which is as long as its struct, and writes nothing.
    done(Op::Step, unsafe {
        call!(libc::SYS_rt_sigaction, number, &action, null, 8_usize)
    })
}

/// Lets every signal through.
pub(crate) fn unblock_signals() -> Result<(), Fault> {
    let none = 0_u64;
    let null = core::ptr::null_mut::<u64>();
    // SAFETY: the kernel's signal set is the eight bytes of `none`, which it reads; it writes
    // nothing, for the third argument is null.
    done(Op::Step, unsafe {
        call!(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &none,
            null,
            8_usize
        )
    })
}

// === Terminals and messages ===

/// `ioctl` without a third argument, or with a number as one: the answer is a descriptor or 0.
pub(crate) fn ioctl_number(file: c_int, request: u32, value: c_int) -> Result<usize, Fault> {
    // SAFETY: used with TIOCSCTTY and TIOCGPTPEER only, which take a number.
    answer(Op::Ioctl, unsafe {
        call!(libc::SYS_ioctl, file, request, value)
    })
}

/// The user's end of a terminal, close-on-exec, without becoming the controlling terminal.
pub(crate) fn terminal_peer(master: &Fd) -> Result<Fd, Fault> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let peer = ioctl_number(master.0, ioctl_word(libc::TIOCGPTPEER), flags)?;
    c_int::try_from(peer)
        .map(Fd)
        .map_err(|_| Fault::check(libc::EBADF))
}

/// An ioctl's number, whose type differs between C libraries.
pub(crate) fn ioctl_word(request: libc::Ioctl) -> u32 {
    u32::try_from(request).unwrap_or(0)
}

/// Unlocks a terminal's user end.
pub(crate) fn terminal_unlock(master: &Fd) -> Result<(), Fault> {
    let unlocked: c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    done(Op::Ioctl, unsafe {
        call!(
            libc::SYS_ioctl,
            master.0,
            ioctl_word(libc::TIOCSPTLCK),
            &unlocked
        )
    })
}

/// Sets a terminal's size.
pub(crate) fn terminal_size(terminal: &Fd, rows: u16, cols: u16) -> Result<(), Fault> {
    // `struct winsize`: rows, columns, and two sizes in pixels that nobody uses.
    let size = [rows, cols, 0, 0];
    // SAFETY: TIOCSWINSZ reads one `struct winsize`, four 16-bit numbers.
    done(Op::Ioctl, unsafe {
        call!(
            libc::SYS_ioctl,
            terminal.0,
            ioctl_word(libc::TIOCSWINSZ),
            &size
        )
    })
}

#[repr(C)]
struct Iovec {
    base: *const Message,
    len: usize,
}

/// The kernel's `struct user_msghdr`.
#[repr(C)]
struct MsgHdr {
    name: *const u8,
    name_len: c_int,
    iov: *const Iovec,
    iov_len: usize,
    control: *const Control,
    control_len: usize,
    flags: u32,
}

/// One `struct cmsghdr` with one descriptor, padded to the alignment of the next.
#[repr(C)]
struct Control {
    len: usize,
    level: c_int,
    kind: c_int,
    fd: c_int,
    padding: c_int,
}

/// Sends a message, and a descriptor with it.
pub(crate) fn send_with(channel: c_int, message: &Message, file: &Fd) -> Result<(), Fault> {
    let iov = Iovec {
        base: message,
        len: size_of::<Message>(),
    };
    let control = Control {
        len: size_of::<Control>() - size_of::<c_int>(),
        level: libc::SOL_SOCKET,
        kind: libc::SCM_RIGHTS,
        fd: file.0,
        padding: 0,
    };
    let header = MsgHdr {
        name: core::ptr::null(),
        name_len: 0,
        iov: &iov,
        iov_len: 1,
        control: &control,
        control_len: size_of::<Control>(),
        flags: 0,
    };
    // SAFETY: the header, what it points to and the message live until the call is over, with
    // the lengths they have; the kernel only reads them.
    done(Op::Sendmsg, unsafe {
        call!(libc::SYS_sendmsg, channel, &header, libc::MSG_NOSIGNAL)
    })
}

/// Sends a message. By `write`, for a seccomp filter may be in force that knows no `sendmsg`.
pub(crate) fn send(channel: c_int, message: &Message) -> Result<(), Fault> {
    // SAFETY: the kernel reads the 16 bytes of `message`, four numbers without padding.
    done(Op::Write, unsafe {
        call!(libc::SYS_write, channel, message, size_of::<Message>())
    })
}

// === Privileges ===

/// `prctl` with numbers.
pub(crate) fn prctl(option: c_int, a: u32, b: u32) -> Result<usize, Fault> {
    // SAFETY: used with options that take numbers only: PR_SET_DUMPABLE, PR_SET_KEEPCAPS,
    // PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP and PR_CAP_AMBIENT.
    answer(Op::Prctl, unsafe {
        call!(libc::SYS_prctl, option, a, b, 0_u32, 0_u32)
    })
}

#[repr(C)]
struct FilterProgram {
    len: u16,
    first: *const Insn,
}

/// `seccomp(SECCOMP_SET_MODE_FILTER)`.
pub(crate) fn seccomp(program: &[Insn], flags: u32) -> Result<(), Fault> {
    const SET_MODE_FILTER: u32 = 1;
    let program = FilterProgram {
        len: u16::try_from(program.len()).map_err(|_| Fault::check(libc::EINVAL))?,
        first: program.as_ptr(),
    };
    // SAFETY: `Insn` is laid out as `struct sock_filter`, and the kernel reads `len` of them.
    done(Op::Seccomp, unsafe {
        call!(libc::SYS_seccomp, SET_MODE_FILTER, flags, &program)
    })
}

/// `setgroups`.
pub(crate) fn setgroups(groups: &[u32]) -> Result<(), Fault> {
    // SAFETY: the kernel reads `groups.len()` numbers of `groups`.
    done(Op::Setgroups, unsafe {
        call!(libc::SYS_setgroups, groups.len(), groups.as_ptr())
    })
}

/// `capset` of the caller: effective, permitted and inheritable.
pub(crate) fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<(), Fault> {
    let header = [LINUX_CAPABILITY_VERSION_3, 0];
    let low = |mask: u64| u32::try_from(mask & u64::from(u32::MAX)).unwrap_or(0);
    let high = |mask: u64| u32::try_from(mask >> 32).unwrap_or(0);
    let data = [
        low(effective),
        low(permitted),
        low(inheritable),
        high(effective),
        high(permitted),
        high(inheritable),
    ];
    // SAFETY: version 3 reads a header of two numbers and two records of three.
    done(Op::Capset, unsafe {
        call!(libc::SYS_capset, &header, &data)
    })
}

// === Ends ===

/// `execve`; returns only when it failed.
///
/// # Safety
///
/// `argv` and `envp` point to arrays of pointers to NUL-terminated strings that end with null.
pub(crate) unsafe fn execve(
    path: &CStr,
    argv: *const *const u8,
    envp: *const *const u8,
) -> Result<(), Fault> {
    // SAFETY: the path ends with NUL; the arrays are the caller's promise.
    done(Op::Execve, unsafe {
        call!(libc::SYS_execve, path, argv, envp)
    })
}

/// `execveat` of an open file; returns only when it failed.
///
/// # Safety
///
/// As [`execve`].
pub(crate) unsafe fn fexecve(
    file: c_int,
    argv: *const *const u8,
    envp: *const *const u8,
) -> Result<(), Fault> {
    // SAFETY: an empty text that ends with NUL; the arrays are the caller's promise.
    done(Op::Execve, unsafe {
        call!(
            libc::SYS_execveat,
            file,
            c"",
            argv,
            envp,
            libc::AT_EMPTY_PATH
        )
    })
}

/// Ends the process.
pub(crate) fn exit(code: c_int) -> ! {
    loop {
        // SAFETY: an integer; the call does not return.
        unsafe { call!(libc::SYS_exit_group, code) };
    }
}
