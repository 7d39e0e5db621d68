//! The command line as suites call it: real containers, so it needs root.
//!
//! After each test nothing may be left: no process, cgroup, mount or file of a container's.
//! `DUET_OCI_PROGRAM` names another OCI command line to be asked the same; what only Duet's says
//! is then not looked at.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of tests may panic as a test may"
)]

mod rig;

mod ends;
mod execs;
mod life;
mod net_devices;
mod refusals;
mod scarcity;
