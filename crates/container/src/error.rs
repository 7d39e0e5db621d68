//! Why something could not be done: one variant for each step that can fail.

use std::io;
use std::path::PathBuf;

use crate::lifecycle::Denied;

/// Why a container could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No exec of that name.
    #[error("no exec {exec}")]
    UnknownExec {
        /// The name asked for.
        exec: String,
    },
    /// The exec's name is taken.
    #[error("exec {exec} already exists")]
    ExecExists {
        /// The name asked for.
        exec: String,
    },
    /// The lifecycle forbids it.
    #[error("{0}")]
    Denied(Denied),
    /// The container is being deleted, or was.
    #[error("container is gone")]
    Gone,
    /// A field has a value that Duet does not offer.
    #[error("{field} {value:?} is not supported")]
    Unsupported {
        /// The request's field.
        field: &'static str,
        /// What it said.
        value: String,
    },
    /// A field has a value that makes no sense.
    #[error("{field} {value:?}: {why}")]
    Invalid {
        /// The request's field.
        field: &'static str,
        /// What it said.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A FIFO, file or pipe of the stdio could not be prepared.
    #[error("{step} {stream} {path}")]
    Stdio {
        /// `open`, `fchown` and so on.
        step: &'static str,
        /// `stdin`, `stdout` or `stderr`.
        stream: &'static str,
        /// What it was about.
        path: String,
        /// The errno.
        source: io::Error,
    },
    /// The process has no terminal, and the request needs one.
    #[error("process has no terminal")]
    NoTerminal,
    /// The terminal refused.
    #[error("{step} of the terminal")]
    Terminal {
        /// What was asked of it.
        step: &'static str,
        /// The errno.
        source: io::Error,
    },
    /// The root filesystem could not be mounted.
    #[error("{step} {target}")]
    Rootfs {
        /// `mkdir`, or `mount overlay on` and so on.
        step: String,
        /// Where.
        target: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The signal could not be sent.
    #[error("signal {signal} to process {pid}")]
    Signal {
        /// Its number.
        signal: u32,
        /// To whom.
        pid: i32,
        /// The errno.
        source: io::Error,
    },
    /// A call of the machinery itself (a thread, an event queue) failed.
    #[error("{step}")]
    Host {
        /// Which.
        step: &'static str,
        /// The errno.
        source: io::Error,
    },
    /// The wasm half could not be prepared.
    #[error("{0}")]
    Wasm(#[from] WasmError),
}

/// Why a wasm program could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum WasmError {
    /// The compiler says that the file is no module that could run here.
    #[error("{file}: {reason}")]
    Rejected {
        /// The file as the container names it.
        file: String,
        /// The compiler's own words.
        reason: String,
    },
    /// The compiler could not do its work, which says nothing about the module.
    #[error("{compiler} failed on {file}: {reason}")]
    Compiler {
        /// The program.
        compiler: PathBuf,
        /// The file as the container names it.
        file: String,
        /// How it ended and what it said.
        reason: String,
    },
    /// A file of the wasm half (the program, the cache, the runner) cannot be used.
    #[error("{step} {path}")]
    File {
        /// What was done with it.
        step: &'static str,
        /// Which file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
}

impl From<Denied> for Error {
    fn from(why: Denied) -> Self {
        Error::Denied(why)
    }
}
