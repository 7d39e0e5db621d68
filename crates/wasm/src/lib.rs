//! What Duet knows about WebAssembly outside of the process that runs it.
//!
//! | File | What for |
//! | --- | --- |
//! | `detect.rs` | is this file WebAssembly, and which kind |
//! | `handoff.rs` | what the shim tells the runner: a sealed file at descriptor 4 |
//! | `listeners.rs` | what the two say to each other of a socket that outlives its server: a channel at descriptor 7 |
//! | `preview.rs` | which of WASI's previews a component may ask for |
//! | `tally.rs` | what the runner tells the shim: a file at descriptor 6 |
//! | `cache.rs`, `cache/` | each module is compiled once per node, and only what our compiler wrote is ever run |
//! | `program.rs` | the compiler and the runner, held open so that an upgrade replaces neither under a pod |
//! | `workshop.rs` | where the compiler works, and how it gets there |
//! | `engine.rs` | the one engine configuration (feature `engine`) |
//! | `inherited.rs` | the runner's end of descriptors 3 to 7 (feature `load`) |
//! | `blocks.rs` | large blocks of memory that all runners of the same code share (feature `load`) |
//!
//! ```text
//!  shim                                     | compiler, short-lived      | runner, in the container
//!  -----------------------------------------+----------------------------+-----------------------------
//!  detect(first bytes) -> Format            |                            |
//!  Cache::compiled(file)  -- miss ----------> stdin: a sealed copy       |
//!     <key>/code  <-------------------------- stdout: machine code       |
//!     <key>/blocks  <----------------------------------------------------- stdout: what loading it fills
//!  Compiled::tree() ------------------------------------------------------> 3: maps `code`
//!  Handoff::seal() -------------------------------------------------------> 4: argv, env, cwd, config, listen, http
//!  the directory of the container's memory cgroup ------------------------> 5: read when memory grows
//!  Tally::told()  <-------------------------------------------------------- 6: memory, requests, traps
//!  the pod's listeners  <-------------------------------------------------> 7: for servers that ask for it
//! ```
//!
//! The shim links none of wasmtime: with default features this crate has no engine in it.
#![deny(unsafe_code)]

mod cache;
mod detect;
mod handoff;
pub mod listeners;
mod preview;
mod program;
mod tally;
mod workshop;

#[cfg(feature = "load")]
mod blocks;
#[cfg(feature = "engine")]
mod engine;
#[cfg(feature = "load")]
mod inherited;

pub use cache::{Cache, Compiled, Error, Key, Moment, Source};
pub use detect::{Format, HEAD, detect};
#[cfg(feature = "engine")]
pub use engine::{Needs, engine_config, server_config};
pub use handoff::{Handoff, Http, ServesAt};
pub use preview::{PREVIEW3, Preview};
pub use program::Program;
pub use tally::{Tally, Told};
pub use workshop::{MEMORY, Room, SECONDS, Workshop, enter_room};
#[cfg(feature = "load")]
pub use {
    blocks::Blocks,
    inherited::{Inherited, unmap_code},
};

/// The name of the machine code inside a cache entry's directory.
///
/// The runner is handed the directory, not the file: `wasmtime` loads a component
/// from a path only, and a container has no `/proc/self/fd` to name a descriptor by.
pub const CODE: &str = "code";

/// The name of the file beside the code, with the large blocks of memory that loading it fills.
pub const BLOCKS: &str = "blocks";

/// The variable that tells a runner to write the blocks of the entry that is its standard input to its
/// standard output, and of which format the entry is. In a container its environment is empty.
pub const WRITE_BLOCKS: &str = "DUET_WRITE_BLOCKS";

/// Names the engine in every piece of compiled code, patch level included.
///
/// wasmtime's own check compares the major version only, so code from a patch release with a
/// known hole would still be loaded by the next one.
/// With another one `wasi:http/types@0.2.12` in the runner's `outgoing/codes.rs` may have to be another, too.
pub const VERSION: &str = concat!("duet ", env!("CARGO_PKG_VERSION"), ", wasmtime 48.0.8");
