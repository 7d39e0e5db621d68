//! What a child must do to become a container, as data.
//!
//! ```text
//! spec (config.json, typed) ─┐
//!                            ├─> container() / exec() ──> Plan ──> launch, child
//! facts (asked beforehand)  ─┘                             └─────> show(), describe()
//! ```
//!
//! Nothing here does I/O: what must be known about the machine is in [`Facts`]. So a plan can
//! be printed, compared and fuzzed without root, and when a step fails in the child, which can
//! only say `{step, op, errno}`, [`Plan::describe`] finds the words.
//!
//! The order of a birth, and the reason for each place, is in [`container()`]'s module; what a
//! wasm container may not have is in `wasm`.
#![forbid(unsafe_code)]

mod cgroup_mounts;
mod container;
mod describe;
mod dev;
mod error;
mod exec;
mod facts;
mod helper;
mod labels;
mod mounts;
mod namespaces;
mod plan;
mod privileges;
mod program;
mod show;
mod user_namespace;
mod view;
mod wasm;
mod writer;

pub use container::container;
pub use duet_seccomp::Arch;
pub use error::Error;
pub use exec::{exec, hook};
pub use facts::{
    CgroupFacts, Facts, Filesystem, Hierarchy, PodNamespaces, Seen, SourceFacts, SourceKind, Stdio,
};
pub use helper::{Helper, placeholder};
pub use plan::{Descriptor, Given, Kinds, Plan, Program, TreeIdMap};
pub use program::{DEFAULT_PATH, environment, guest_environment};
