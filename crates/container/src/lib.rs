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
//! | `words`, `error` | the nouns that callers and events share; why something could not be done |
//! | `create`, `confined`, `placeholder`, `rootfs`, `kind`, `layer`, `ground` | the birth of a container, and what it stands on |
//! | `net_devices`, `resctrl` | devices of the host's network that it gets; its class of caches and memory bandwidth |
//! | `workshop` | the cgroup in which wasm is compiled |
//! | `listen`, `listeners` | the sockets that guests are born with, and those that outlive them |
//! | `lifecycle` | what is allowed when: a pure function |
//! | `actor`, `exec`, `process`, `handle` | who owns the container, and the way to it |
//! | `target`, `outputs`, `stdio`, `terminal`, `given`, `plumbing`, `copy`, `drain` | where bytes go |
//! | `logger`, `hooks`, `notify`, `helper`, `ledger` | programs of the host's that serve a container |
//! | `exit`, `children`, `oom` | how ends are seen |
//! | `body` | the seam between the rules and the kernel |
#![forbid(unsafe_code)]

mod actor;
mod body;
mod children;
mod confined;
mod copy;
mod create;
mod drain;
mod error;
mod exec;
mod exit;
mod given;
mod ground;
mod handle;
mod helper;
mod hooks;
mod kind;
mod layer;
mod ledger;
pub mod lifecycle;
mod listen;
mod listeners;
mod logger;
mod net_devices;
mod notify;
mod oom;
mod outputs;
mod placeholder;
mod plumbing;
mod polled;
mod process;
mod resctrl;
mod rootfs;
mod signal;
mod stdio;
mod target;
mod terminal;
mod tools;
mod words;
mod workshop;

pub use children::{Children, Round};
pub use create::{Birth, Prepared};
pub use error::{Error, HookError, LoggerError, WasmError};
pub use given::Given;
pub use ground::{Ground, Programs};
pub use handle::Container;
pub use hooks::poststop;
pub use ledger::Ledger;
pub use lifecycle::Denied;
pub use resctrl::remove_classes;
pub use rootfs::unmount_all;
pub use words::{
    Awaited, Create, Deleted, Exit, Fact, IoOwner, Phase, RootfsMount, Status, Stdio, Told,
};
pub use workshop::leave_workshops;
