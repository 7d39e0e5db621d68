//! Why there is no compiled code.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::Moment;

/// Why there is no compiled code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache's directory cannot be made, opened or read.
    #[error("wasm cache {path}")]
    Directory {
        /// The cache's directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The cache's directory is open to others: what is in it could be anybody's.
    #[error(
        "wasm cache {path}: owner {owner}, mode {mode:o}; it must belong to the shim's user, root, with mode 700, or be removed"
    )]
    Exposed {
        /// The cache's directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// Code cannot be run from the cache's file system.
    #[error(
        "wasm cache {path}: its file system is mounted noexec, and compiled code is run from there: mount one without noexec"
    )]
    Noexec {
        /// The cache's directory.
        path: PathBuf,
    },
    /// The compiler is missing or cannot be started.
    #[error("wasm compiler {path}")]
    Compiler {
        /// The compiler's binary.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no place for the compiler to work in.
    #[error("{name}: a cgroup for its compiler")]
    Workshop {
        /// The module.
        name: String,
        /// What the host said.
        source: io::Error,
    },
    /// The module cannot be read.
    #[error("{name}")]
    Module {
        /// The module.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The module is larger than Duet compiles.
    #[error("{name}: {size} bytes of WebAssembly; modules of at most {limit} bytes are compiled")]
    TooLarge {
        /// The module.
        name: String,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The compiler refused the module; the text says why.
    #[error("{name}: {why}")]
    Refused {
        /// The module.
        name: String,
        /// The compiler's sentence.
        why: String,
    },
    /// The compiler itself failed or ran into one of its limits.
    #[error("{name}: the compiler {how}")]
    Broken {
        /// The module.
        name: String,
        /// How it ended.
        how: String,
    },
    /// The runner could not load what was compiled.
    #[error("{name}: the runner {how}")]
    Unloadable {
        /// The module.
        name: String,
        /// How it ended.
        how: String,
    },
    /// The deadline passed.
    #[error("{name}: not compiled after {waited:.1?}, {what}")]
    Late {
        /// The module.
        name: String,
        /// How long it was given.
        waited: Duration,
        /// What was going on.
        what: &'static str,
    },
    /// Compiling it has failed before, or just now, and is not tried again before that time.
    #[error("{failure}; not tried again before {again}")]
    Postponed {
        /// How it failed.
        failure: Box<Error>,
        /// When it is tried again.
        again: Moment,
    },
    /// An entry cannot be read or written.
    #[error("wasm cache entry {path}")]
    Entry {
        /// The entry.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}
