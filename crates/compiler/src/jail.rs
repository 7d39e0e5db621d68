//! What the compiler takes from itself before it reads a stranger's bytes.

use std::io;

use duet_linux::namespace;
use duet_wasm::{MEMORY, SECONDS};
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, getrlimit, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};

use crate::filter;

/// How much address space a compilation may use: 8 GiB.
///
/// The largest programs at hand (26 MB of CPython) need 0.4 GiB of memory.
const SPACE: u64 = 8 << 30;

/// How large machine code may be: 2 GiB.
const CODE: u64 = 2 << 30;

/// The user and group that own nothing.
const NOBODY: u32 = 65534;

/// Enters the jail. To be called while there is one thread, and before a stranger's byte is read.
pub(crate) fn enter() -> io::Result<()> {
    duet_wasm::enter_room()?;
    // The shim's score is containerd's, which the kernel kills last: a compiler is to go first.
    std::fs::write("/proc/self/oom_score_adj", "1000")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)?;
    limit(Resource::As, SPACE)?;
    limit(Resource::Data, MEMORY)?;
    limit(Resource::Cpu, SECONDS)?;
    limit(Resource::Fsize, CODE)?;
    limit(Resource::Core, 0)?;
    // Standard input, output and error are all it will ever have open.
    limit(Resource::Nofile, 16)?;
    become_nobody()?;
    // After the change of user, which would forget it. A compiler is of no use without its shim.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    confine()
}

/// Takes from itself every system call that compiling does not need, and sees that it has.
fn confine() -> io::Result<()> {
    duet_linux::seccomp::install(&filter::program())?;
    match std::fs::File::open("/") {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Ok(_) | Err(_) => Err(io::Error::other("the filter of system calls does not hold")),
    }
}

/// Leaves the host's namespaces and gives up root, and with it every capability. What is open stays open.
///
/// Only root can do either; whoever is not has less to lose.
fn become_nobody() -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let left = namespace::leave_the_host();
    left.map_err(|error| io::Error::new(error.kind(), format!("unshare: {error}")))?;
    setgroups(&[])?;
    setresgid(
        Gid::from_raw(NOBODY),
        Gid::from_raw(NOBODY),
        Gid::from_raw(NOBODY),
    )?;
    Ok(setresuid(
        Uid::from_raw(NOBODY),
        Uid::from_raw(NOBODY),
        Uid::from_raw(NOBODY),
    )?)
}

/// Lowers a limit; one that is lower already stays.
fn limit(resource: Resource, to: u64) -> io::Result<()> {
    let now = getrlimit(resource);
    let lower = |limit: Option<u64>| Some(limit.map_or(to, |limit| limit.min(to)));
    Ok(setrlimit(
        resource,
        Rlimit {
            current: lower(now.current),
            maximum: lower(now.maximum),
        },
    )?)
}
