//! `containerd-shim-duet-v1`: the program containerd starts for a pod.
//!
//! One binary, six roles, in the order of a pod's life:
//!
//! | Call | Role | File |
//! | --- | --- | --- |
//! | `-info` | says what this shim can do | [`info`] |
//! | `start` | finds the pod's shim or starts one, answers with its address | [`start`] |
//! | `serve` | is the pod's shim; only `start` calls it | [`serve`] |
//! | `delete` | cleans up after a shim that is gone | [`delete`] |
//! | `-v` | says its name and version | here |
//! | `-h` | says to a person what it is | here |
//!
//! containerd reads the standard output of every role but `serve` as a message, so
//! nothing else may be printed there; an error is one line on standard error.
#![forbid(unsafe_code)]

mod bootstrap;
mod connections;
mod cri;
mod daemon;
mod delete;
mod end;
mod error;
mod events;
mod forgotten;
mod info;
mod logging;
mod metrics;
mod options;
mod request;
mod rest;
mod sandbox;
mod serve;
mod socket;
mod start;
mod status;
mod task;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use containerd_shim::Flags;

use crate::error::Error;

/// The name of this runtime, as containerd spells it.
const NAME: &str = "io.containerd.duet.v1";

/// The commit this binary was built from, if whoever built it said so: `make build` does.
const COMMIT: &str = match option_env!("DUET_COMMIT") {
    Some(commit) => commit,
    None => "",
};

/// For whoever runs it by hand.
const USAGE: &str = "\
containerd-shim-duet-v1 runs the containers of one pod. containerd starts it, once for each pod.
Manually: -v prints the version; -info </dev/null prints the supported features, as protobuf.
";

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    match play(&args).and_then(|answer| print(&answer)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if standard error is gone too.
            drop(writeln!(
                io::stderr(),
                "containerd-shim-duet-v1: {}",
                error.chain()
            ));
            ExitCode::FAILURE
        }
    }
}

/// Plays the role that the arguments name and returns what belongs on standard output.
fn play(args: &[OsString]) -> Result<Vec<u8>, Error> {
    let Some(first) = args.first() else {
        return Err(Error::ByHand);
    };
    if ["-h", "-help", "--help"].iter().any(|help| first == help) {
        return Ok(USAGE.into());
    }
    let flags = containerd_shim::parse(args).map_err(|error| Error::Flags(error.to_string()))?;
    if flags.version {
        return Ok(version().into_bytes());
    }
    if flags.info {
        return info::run();
    }
    match flags.action.as_str() {
        "start" => start::run(&identified(flags)?),
        "serve" => serve::run(&identified(flags)?, pod(args)?).map(|()| Vec::new()),
        "delete" => delete::run(&identified(flags)?),
        action => Err(Error::Action(action.to_owned())),
    }
}

/// Checks that the caller said whom this is about: every role needs both.
fn identified(flags: Flags) -> Result<Flags, Error> {
    if flags.id.is_empty() {
        return Err(Error::Missing("-id"));
    }
    if flags.namespace.is_empty() {
        return Err(Error::Missing("-namespace"));
    }
    Ok(flags)
}

/// The pod's name, which `start` puts last: whatever stands before it may be named `serve`, too.
fn pod(args: &[OsString]) -> Result<String, Error> {
    match args {
        [.., action, name] if action == "serve" => Ok(name.to_string_lossy().into_owned()),
        _ => Err(Error::Missing("the pod's name")),
    }
}

fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match COMMIT {
        "" => format!("containerd-shim-duet-v1 {NAME} {version}\n"),
        commit => format!("containerd-shim-duet-v1 {NAME} {version} ({commit})\n"),
    }
}

fn print(answer: &[u8]) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(answer)
        .and_then(|()| stdout.flush())
        .map_err(|source| Error::Reply { source })
}
