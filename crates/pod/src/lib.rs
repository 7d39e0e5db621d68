//! One sandbox: the containers that live in it, its namespaces, and its record on disk.
//!
//! | File | What it holds |
//! | --- | --- |
//! | `registry` | who lives here, and the way to them |
//! | `registry/served` | the pod as the Sandbox service knows it |
//! | `holder` | what the Sandbox service asks for: a holder's spec and the pod's files |
//! | `holder/selinux` | the label of the holder |
//! | `holder/users` | users of the pod that are not the node's |
//! | `sandbox` | what a pod shares when no CRI made it |
//! | `record` | who lives here, on disk |
//! | `reaper` | reaps what containers leave to the shim |
//! | `clean` | removes everything that the record names, without the shim that wrote it |
#![forbid(unsafe_code)]

pub mod clean;
mod error;
mod holder;
mod reaper;
mod record;
mod registry;
mod sandbox;

pub use duet_container::{
    Awaited, Create, Deleted, Denied, Error as ContainerError, Exit, Fact, Given, HookError,
    IoOwner, LoggerError, Phase, Programs, RootfsMount, Status, Stdio, Told, WasmError,
};
pub use duet_spec::{IdMappings, IdRange};
pub use error::Error;
pub use holder::{Dns, Sandbox, Scope, SelinuxLabel};
pub use registry::{Config, Pod, SandboxStatus, Standing};
pub use sandbox::check_id;
