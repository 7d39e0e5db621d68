//! From a plan to a process: the parent half of a birth.
//!
//! ```text
//!   spawn                                     the child (duet-child)
//!   opens what the plan's slots name
//!   lowers argv, envp, descriptors
//!   blocks signals, clone3  ---------------->  executes the steps
//!   reads messages          <----------------  CONSOLE, PAUSED, LISTENER, READY or FAILED
//!   returns a Newborn                          stands at the gate
//!   Gate::open              ---------------->  execs
//! ```
//!
//! | File | What |
//! | --- | --- |
//! | `supplies.rs` | the descriptors that a plan names, opened or given |
//! | `birth.rs` | the one `clone3` |
//! | `newborn.rs` | what the child says, and the gate |
//! | `facts.rs` | what a plan must know of the machine |
//! | `user_namespace.rs` | user namespaces without a process in them |
//!
//! Everything here blocks, and works in any thread of a process with threads.
#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "the child's entry point is unsafe to call")]
mod birth;
mod error;
mod facts;
mod newborn;
mod supplies;
mod user_namespace;

pub use error::Error;
pub use facts::{Ask, Sources, exec_facts, facts, tree};
pub use newborn::{Gate, Newborn, Opening, Stop, spawn, spawn_with};
pub use supplies::{Supplies, root_tree};
pub use user_namespace::user_namespace;
