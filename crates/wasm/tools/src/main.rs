//! The few programs that an exec finds in a wasm container whose image has none: one guest, which is
//! the program that its first argument names.
//!
//! | File | Programs |
//! | --- | --- |
//! | `words.rs` | `echo`, `env`, `sleep` |
//! | `files.rs` | `cat`, `ls` |
//! | `condition.rs` | `test`, `[` |
//! | `web.rs` | `wget`, of http |
//! | `archive.rs`, `block.rs` | `tar`, as `kubectl cp` calls it |
//!
//! WASI shows neither permissions nor owners of files, so nothing here does. And it starts no programs.
#![forbid(unsafe_code)]

mod archive;
mod block;
mod condition;
mod files;
mod web;
mod words;

use std::env;
use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// What went wrong, for stderr.
type Outcome = Result<bool, String>;

fn main() -> ExitCode {
    let mut args = env::args();
    let called = args.next().unwrap_or_default();
    let name = called.rsplit('/').next().unwrap_or_default().to_owned();
    let args: Vec<String> = args.collect();
    let outcome = match name.as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        "echo" => words::echo(&args),
        "env" => words::env(&args),
        "sleep" => words::sleep(&args),
        "cat" => files::cat(&args),
        "ls" => files::ls(&args),
        "test" => condition::test(&args),
        "[" => condition::bracket(&args),
        "wget" => web::wget(&args),
        "tar" => archive::tar(&args),
        _ => Err("is none of true false echo env sleep cat ls test [ wget tar".to_owned()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{name}: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The path that an argument names: a component's working directory is told, not kept.
fn place(path: &str) -> PathBuf {
    let cwd = wasi::cli::environment::initial_cwd();
    PathBuf::from(cwd.as_deref().unwrap_or("/")).join(path)
}

/// The words for a failure about `what`.
fn about(what: impl Display) -> impl FnOnce(io::Error) -> String {
    move |error| format!("{what}: {error}")
}

/// Refuses an option by name.
fn unknown<T>(option: &str) -> Result<T, String> {
    Err(format!("{option}: this small one has no such option"))
}
