//! Real containers of a pod, without containerd: needs root.
//!
//! After each test nothing may be left: no cgroup, no mount, no process of its own.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of tests may panic as a test may"
)]

mod rig;

mod births;
mod budget;
mod filters;
mod guests;
mod holders;
mod hooks;
mod lifecycle;
mod loggers;
mod notify;
mod orphans;
mod plain_pods;
mod streams;
mod tasks;
#[path = "../../../launch/tests/births/traced.rs"]
mod traced;
mod workshop;
