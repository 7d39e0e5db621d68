//! The process that keeps a pod's namespaces, and reaps where it is their process 1.
//!
//! It is executed by the same plan as a container: without a capability, as nobody, in a root
//! that holds this file and a few device nodes. It reads nothing and takes no orders. `SIGKILL`
//! from the shim ends it; from within the pod the kernel lets nothing else through to a
//! process 1 that has no handler.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

fn main() -> ExitCode {
    // A neighbour with the same user id could attach to us until this.
    if duet_linux::process::hide().is_err() {
        return ExitCode::FAILURE;
    }
    let mut ended = SigSet::empty();
    ended.add(Signal::SIGCHLD);
    // Blocked, so that it waits for us however many come at once.
    if ended.thread_block().is_err() {
        return ExitCode::FAILURE;
    }
    loop {
        // Those that came before the signal was blocked, and all that one signal stands for.
        reap();
        if ended.wait().is_err() {
            return ExitCode::FAILURE;
        }
    }
}

/// Takes the leave of every process that has ended.
fn reap() {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
            // A signal came in between, or one is reaped: there may be more.
            Ok(_) | Err(_) => {}
        }
    }
}
