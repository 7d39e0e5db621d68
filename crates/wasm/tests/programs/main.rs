//! The real compiler and the real runner, outside of a container: how guests start, see the world, and end.
//!
//! Needs root, because descriptor 3 of a runner is a mount. The binaries are those in `DUET_COMPILER` and
//! `DUET_RUNNER`; if these are not set, they are built with optimisation first, which takes minutes once.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod calls;
mod clients;
mod commands;
mod config;
mod exceptions;
mod filter;
mod fuzz;
mod greedy;
mod harness;
mod in_c;
mod jail;
mod keyvalue;
mod limits;
mod logs;
mod made;
mod memory;
mod network;
mod preview3;
mod refusals;
mod requests;
mod room;
mod servers;
mod sockets;
mod walls;
