//! Namespaces: opened, joined, made without a process in them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{Mode, OFlags};

use crate::net;

/// The `CLONE_NEW*` flag of PID namespaces, for [`enter`].
pub const PID: u32 = CloneFlags::CLONE_NEWPID.bits().cast_unsigned();

/// The `CLONE_NEW*` flag of user namespaces, for [`enter`].
pub const USER: u32 = CloneFlags::CLONE_NEWUSER.bits().cast_unsigned();

/// One kind of namespace that a pod holds without a process in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Network.
    Net,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host and domain name.
    Uts,
}

// === impl Kind ===

impl Kind {
    /// The `CLONE_NEW*` flag.
    #[must_use]
    pub fn flag(self) -> u32 {
        self.clone_flag().bits().cast_unsigned()
    }

    /// The name below `/proc/<pid>/ns`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
        }
    }

    fn clone_flag(self) -> CloneFlags {
        match self {
            Self::Net => CloneFlags::CLONE_NEWNET,
            Self::Ipc => CloneFlags::CLONE_NEWIPC,
            Self::Uts => CloneFlags::CLONE_NEWUTS,
        }
    }
}

/// Makes one new namespace of each kind, the network's with its loopback interface up; in the
/// order of `kinds`. They live as long as a descriptor or a process holds them.
///
/// The work is done by a thread that ends with it; the calling thread changes nothing of its own.
///
/// # Errors
///
/// The kernel's: `EPERM` without `CAP_SYS_ADMIN`, `ENOSPC` at a limit of namespaces.
pub fn fresh(kinds: &[Kind]) -> io::Result<Vec<OwnedFd>> {
    let flags = kinds
        .iter()
        .fold(CloneFlags::empty(), |flags, kind| flags | kind.clone_flag());
    let make = || {
        unshare(flags)?;
        if kinds.contains(&Kind::Net) {
            net::loopback_up()?;
        }
        kinds.iter().map(|kind| of_thread(kind.name())).collect()
    };
    aside(make)
}

/// The calling thread's namespace of a name below `/proc/<pid>/ns`.
///
/// # Errors
///
/// When procfs is not at `/proc`.
pub fn of_thread(name: &str) -> io::Result<OwnedFd> {
    Ok(File::open(format!("/proc/thread-self/ns/{name}"))?.into())
}

/// Opens a namespace by its path, without waiting for anything.
///
/// # Errors
///
/// The kernel's.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    // Should the path lead to a FIFO, opening it must not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Sets the calling thread's namespace; for a PID namespace that of its children.
///
/// # Errors
///
/// The kernel's: `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` when it is of another kind, or when
/// the kind is one that a process with threads cannot change.
pub fn enter(namespace: impl AsFd, flag: u32) -> io::Result<()> {
    Ok(setns(
        namespace,
        CloneFlags::from_bits_retain(flag.cast_signed()),
    )?)
}

/// Leaves the host's networks, mounts, System V memory, host name and view of cgroups for empty ones or
/// copies. For a process of one thread that gives up root next.
///
/// # Errors
///
/// The kernel's: `EPERM` without `CAP_SYS_ADMIN`, `ENOSPC` at a limit of namespaces.
pub fn leave_the_host() -> io::Result<()> {
    Ok(unshare(
        CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )?)
}

/// Puts the next child of the calling thread into a new PID namespace, as its process 1; when that one
/// ends, the kernel ends all others in it. For a thread that makes no other child: [`aside`].
///
/// # Errors
///
/// The kernel's: `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` the second time.
pub fn set_children_apart() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_NEWPID)?)
}

/// Runs `work` while the children of the calling thread are born in another PID namespace. They are
/// children of the process all the same.
///
/// Meanwhile `work` can make no thread. It costs two system calls, where [`aside`] costs the birth and
/// the end of a thread.
///
/// # Errors
///
/// The kernel's: `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` for what is no PID namespace or none below
/// the caller's, and what [`of_thread`] says the first time.
pub fn with_children_in<T>(namespace: impl AsFd, work: impl FnOnce() -> T) -> io::Result<T> {
    static OWN: OnceLock<OwnedFd> = OnceLock::new();
    // Opened before it is needed: the way back must not fail for want of a descriptor.
    let own = match OWN.get() {
        Some(own) => own,
        None => {
            let own = of_thread("pid")?;
            OWN.get_or_init(|| own)
        }
    };
    enter(namespace, PID)?;
    let back = Back { own };
    let done = work();
    drop(back);
    Ok(done)
}

/// The way back to the namespace of one's own.
struct Back<'a> {
    own: &'a OwnedFd,
}

/// Runs `work` in a thread that ends with it, so that what the thread changes of itself ends too.
///
/// # Errors
///
/// What `work` says, and `EAGAIN` at a limit of threads.
pub fn aside<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("namespaces".to_owned())
            .spawn_scoped(scope, work)?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

// === impl Back ===

impl Drop for Back<'_> {
    /// What else the thread makes must not be born among strangers, so it goes nowhere before it is back.
    fn drop(&mut self) {
        while let Err(error) = enter(self.own, PID) {
            // The kernel allocates on this way, and does nothing else that can fail.
            if error.kind() != io::ErrorKind::OutOfMemory {
                std::process::abort();
            }
            std::thread::yield_now();
        }
    }
}
