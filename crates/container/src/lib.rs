//! One container: its lifecycle, its execs, its stdio and its exit.
//!
//! ```text
//!   create (blocking)                     actor (one task per container)
//!   rootfs -> cgroup -> plan -> birth ->  requests and exits through one loop,
//!   each stage undoes itself              so their order is the order of the facts
//! ```
//!
//! | File | What it holds |
//! | --- | --- |
//! | `lifecycle` | what is allowed when: a pure function |
//! | `words` | the nouns that callers and events share |
//! | `error` | why something could not be done, one variant a step |
#![forbid(unsafe_code)]

mod error;
pub mod lifecycle;
mod words;

pub use error::{Error, WasmError};
pub use lifecycle::Denied;
pub use words::{Create, Deleted, Exit, Fact, IoOwner, Phase, RootfsMount, Status, Stdio};
