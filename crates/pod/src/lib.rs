//! One sandbox: the containers that live in it, its namespaces, and its record on disk.
//!
//! | File | What it holds |
//! | --- | --- |
//! | `registry` | who lives here, and the way to them |
//! | `clean` | removes everything that the record names, without the shim that wrote it |
#![forbid(unsafe_code)]

pub mod clean;
mod error;
mod registry;

pub use duet_container::{
    Create, Deleted, Denied, Error as ContainerError, Exit, Fact, IoOwner, Phase, RootfsMount,
    Status, Stdio, WasmError,
};
pub use error::Error;
pub use registry::{Config, Pod};
