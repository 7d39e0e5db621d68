//! The process that keeps a pod's namespaces, and reaps where it is their process 1.
//!
//! It is executed by the same plan as a container: without a capability, as nobody, in a root
//! that holds this file and a few device nodes. It reads nothing and takes no orders. `SIGKILL`
//! from the shim ends it; from within the pod the kernel lets nothing else through to a
//! process 1 that has no handler.
#![forbid(unsafe_code)]

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

fn main() -> ExitCode {
    // The shim gives it neither arguments nor a terminal.
    if std::env::args_os().len() > 1 || io::stdin().is_terminal() {
        return say();
    }
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

/// Says to whoever runs it by hand what it is.
fn say() -> ExitCode {
    let written = writeln!(
        io::stderr(),
        "duet-holder {}: it keeps the namespaces of a pod, for containerd-shim-duet-v1, which starts it",
        env!("CARGO_PKG_VERSION")
    );
    // Nobody is left to tell if standard error is gone too.
    drop(written);
    ExitCode::FAILURE
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
