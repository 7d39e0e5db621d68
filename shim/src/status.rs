//! Errors out: the only file that knows ttrpc's status codes.
//!
//! containerd acts on the code alone. `NOT_FOUND` makes it believe that the thing is gone
//! and clean up, so it is said only where that is true; `UNIMPLEMENTED` from Create or
//! Connect makes it try an older protocol, so it is said of Checkpoint only. Every variant
//! has its line: a new error does not compile until someone has chosen its code.

use std::error::Error as _;
use std::io;

use duet_pod::{ContainerError, Denied, Error as PodError, WasmError};
use ttrpc::{Code, Error as TtrpcError};

use crate::options;

/// Why a request is not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The pod says no.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// The request's runtime options cannot be understood.
    #[error("options")]
    Options(#[from] options::Error),
    /// A field that the call needs is absent.
    #[error("{field} is missing")]
    Missing {
        /// Its name in the request.
        field: &'static str,
    },
    /// A field holds a message of another type.
    #[error("{field} is of type {found:?}, not {expected}")]
    Type {
        /// Its name in the request.
        field: &'static str,
        /// The type it has.
        found: String,
        /// The end of the types it may have.
        expected: &'static str,
    },
    /// A field asks for something that Duet does not do.
    #[error("{field} {value:?}: {why}")]
    NotOffered {
        /// Its name in the request.
        field: &'static str,
        /// What it says.
        value: String,
        /// A sentence for the person who asked.
        why: &'static str,
    },
    /// The call as a whole is not offered.
    #[error("{0}")]
    Unimplemented(&'static str),
    /// The task that served the request ended without an answer: a bug of ours.
    #[error("the request was dropped")]
    Dropped,
}

/// The name of a code in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome(Code);

/// Whether containerd itself refused an event: sending it again would change nothing.
pub(crate) fn is_answer(error: &TtrpcError) -> bool {
    let TtrpcError::RpcStatus(status) = error else {
        return false;
    };
    [
        Code::INVALID_ARGUMENT,
        Code::NOT_FOUND,
        Code::FAILED_PRECONDITION,
        Code::PERMISSION_DENIED,
        Code::UNIMPLEMENTED,
    ]
    .contains(&status.code())
}

// === impl Refusal ===

impl Refusal {
    /// The answer that goes over the wire: the code, and the whole chain in one line.
    pub(crate) fn answer(&self) -> TtrpcError {
        TtrpcError::RpcStatus(ttrpc::get_status(self.code(), self.text()))
    }

    /// The code, for the log.
    pub(crate) fn outcome(&self) -> Outcome {
        Outcome(self.code())
    }

    /// What went wrong and why, joined once, here.
    pub(crate) fn text(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }

    fn code(&self) -> Code {
        match self {
            Self::Pod(error) => pod(error),
            Self::Options(_)
            | Self::Missing { .. }
            | Self::Type { .. }
            | Self::NotOffered { .. } => Code::INVALID_ARGUMENT,
            Self::Unimplemented(_) => Code::UNIMPLEMENTED,
            Self::Dropped => Code::INTERNAL,
        }
    }
}

fn pod(error: &PodError) -> Code {
    match error {
        PodError::Unknown { .. } => Code::NOT_FOUND,
        PodError::Exists { .. } => Code::ALREADY_EXISTS,
        PodError::BadId { .. } => Code::INVALID_ARGUMENT,
        PodError::Container { source, .. } => container(source),
        PodError::Sandbox { source, .. }
        | PodError::Record { source, .. }
        | PodError::Host { source, .. } => errno(source),
    }
}

fn container(error: &ContainerError) -> Code {
    match error {
        ContainerError::UnknownExec { .. } | ContainerError::Gone => Code::NOT_FOUND,
        ContainerError::ExecExists { .. } => Code::ALREADY_EXISTS,
        ContainerError::Denied(why) => denied(why),
        ContainerError::Unsupported { .. } | ContainerError::Invalid { .. } => {
            Code::INVALID_ARGUMENT
        }
        ContainerError::NoTerminal => Code::FAILED_PRECONDITION,
        ContainerError::Stdio { source, .. }
        | ContainerError::Terminal { source, .. }
        | ContainerError::Rootfs { source, .. }
        | ContainerError::Signal { source, .. }
        | ContainerError::Host { source, .. } => errno(source),
        ContainerError::Wasm(error) => wasm(error),
    }
}

fn denied(why: &Denied) -> Code {
    match why {
        // Callers of Kill and Delete take it for "gone", which is what they want to hear.
        Denied::AlreadyStopped => Code::NOT_FOUND,
        Denied::NotStarted | Denied::WrongState { .. } => Code::FAILED_PRECONDITION,
    }
}

fn wasm(error: &WasmError) -> Code {
    match error {
        WasmError::Rejected { .. } => Code::INVALID_ARGUMENT,
        WasmError::Compiler { .. } => Code::INTERNAL,
        WasmError::File { source, .. } => errno(source),
    }
}

/// What the kernel's answer means to a caller who could try again later.
fn errno(error: &io::Error) -> Code {
    use nix::libc::{EAGAIN, EMFILE, ENFILE, ENOMEM, ENOSPC};
    match error.raw_os_error() {
        Some(ENOMEM | EMFILE | ENFILE | EAGAIN | ENOSPC) => Code::RESOURCE_EXHAUSTED,
        Some(_) | None => Code::INTERNAL,
    }
}

// === impl Outcome ===

impl Outcome {
    /// The request was done.
    pub(crate) const DONE: Self = Self(Code::OK);

    /// Whether an operator should hear of it: what was asked for did not happen, and not
    /// because it is the case already.
    pub(crate) fn is_failure(self) -> bool {
        ![Code::OK, Code::NOT_FOUND].contains(&self.0)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?}", self.0)
    }
}
