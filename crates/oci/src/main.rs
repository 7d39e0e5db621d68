//! `duet-oci`: containers by the command line of OCI runtimes, for suites that judge those.
//!
//! containerd does not use it and `make install` does not install it: it lets the validation of
//! the runtime specification, and the tests of other runtimes, run against the births of the
//! shim.
//!
//! ```text
//!   create ---- starts ---> keeper          one a container, as the shim is for a pod
//!     |                       |             holds it, reaps what it leaves, runs its hooks
//!     +--- <root>/<id>/keeper +             from create to delete
//!     |    (a socket)
//!   start, state, kill, exec, delete
//! ```
//!
//! | File | What it holds |
//! | --- | --- |
//! | `arguments` | the command line |
//! | `place` | a container's folder below `--root` |
//! | `message` | what the commands and the keeper say to each other |
//! | `keeper` | the process that has the container |
//! | `create`, `exec` | the commands that take more than a question |
//! | `foreground` | a command that lasts as long as its process |
//! | `error` | why something could not be done, also for `--log` |
#![forbid(unsafe_code)]

mod arguments;
mod create;
mod error;
mod exec;
mod foreground;
mod keeper;
mod message;
mod place;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::{Command, Verb};
use crate::error::Error;
use crate::message::{Answer, Request, ask};
use crate::place::Place;

fn main() -> ExitCode {
    let Command { global, verb } = Command::parse();
    // Those of runc: a program's own code is seldom 255.
    let failure = match verb {
        Verb::Exec(_) => 255,
        Verb::Create(_)
        | Verb::Start { .. }
        | Verb::State { .. }
        | Verb::Kill { .. }
        | Verb::Delete { .. }
        | Verb::Run(_)
        | Verb::Keep { .. } => 1,
    };
    match perform(&global, verb) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            error.tell(&global);
            ExitCode::from(failure)
        }
    }
}

/// Does what was asked; returns the code to exit with.
fn perform(global: &arguments::Global, verb: Verb) -> Result<u8, Error> {
    let root = &global.root;
    match verb {
        Verb::Create(asked) => create::create(global, &asked).map(|_| 0),
        Verb::Run(asked) => create::run(global, &asked),
        Verb::Exec(asked) => exec::exec(root, asked),
        Verb::Start { id } => {
            ask(&Place::find(root, &id)?, &Request::Start, &[])?;
            Ok(0)
        }
        Verb::State { id } => {
            if let Answer::State(state) = ask(&Place::find(root, &id)?, &Request::State, &[])? {
                print(&state)?;
            }
            Ok(0)
        }
        Verb::Kill { id, signal, all } => {
            let signal = arguments::signal(&signal)?;
            let request = Request::Kill {
                exec: None,
                signal,
                all,
            };
            ask(&Place::find(root, &id)?, &request, &[])?;
            Ok(0)
        }
        Verb::Delete { id, force } => delete(root, &id, force).map(|()| 0),
        Verb::Keep { id } => keeper::run(global, &id).map(|()| 0),
    }
}

/// Removes a container; with `force` also one that runs, one whose keeper is gone, or none.
fn delete(root: &std::path::Path, id: &str, force: bool) -> Result<(), Error> {
    let place = match Place::find(root, id) {
        Err(Error::Unknown { .. }) if force => return Ok(()),
        place => place?,
    };
    match ask(&place, &Request::Delete { force }, &[]) {
        Err(Error::Keeper { .. }) if force => place.clean(),
        answered => answered.map(drop),
    }
}

fn print(state: &serde_json::Value) -> Result<(), Error> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{state:#}").map_err(Error::host("write the state"))
}
