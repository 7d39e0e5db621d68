//! Cgroups as Duet needs them: create, attach, limit, freeze, count, kill, remove, and hear of OOM.
//!
//! One [`Cgroup`] is one container's (or pod's) place in the host's accounting. On cgroup v1 that is
//! a directory in each hierarchy, on v2 a single one, on a hybrid host both; the caller does not see
//! the difference except where the kernel makes it unavoidable ([`Cgroup::attach`], [`Stats`]).
//!
//! ```text
//!   Host::detect ── Cgroup::create ── limit ── attach ──▶ (the child joins)
//!                                       │
//!               freeze/thaw · pids · stats · oom · update     while it lives
//!                                       │
//!                                     kill ── remove          afterwards
//! ```
//!
//! The controllers of `cgroups-rs` write the limits of v1, the values both versions share, and the
//! freezer. The rest is done here because that crate does it differently (creation, attaching,
//! removal: `destroy()` moves survivors to the root cgroup, out of all limits), or not at all
//! (device programs, `unified`, `cgroup.kill`, OOM counters, pressure), or turns a read that failed
//! into a zero (statistics).
//!
//! A cgroup that belongs to systemd is made by it and then used like any other ([`systemd`]).
//!
//! Everything here blocks, for microseconds as a rule and for a bounded time always.
#![forbid(unsafe_code)]

mod attach;
mod control;
mod create;
mod delegate;
mod devices;
mod devices_bpf;
mod error;
mod freeze;
mod host;
mod kill;
mod limits;
mod limits_v1;
mod limits_v2;
mod oom;
mod remove;
mod stats;
mod stats_v1;
mod stats_v2;
pub mod systemd;

pub use create::{Begun, Cgroup, OwnDir};
pub use devices::{Access, DeviceType, Policy, Rule};
pub use devices_bpf::program;
pub use error::Error;
pub use host::{Hierarchy, Host, Mode};
pub use oom::OomWatch;
pub use stats::{
    BlkioEntry, BlkioV1, CpuV1, CpuV2, HugetlbV1, HugetlbV2, IoEntryV2, IoV2, MemoryEntryV1,
    MemoryEventsV2, MemoryOomControlV1, MemoryV1, MemoryV2, Pids, Pressure, PressureLine, Rdma,
    RdmaEntry, Stats, StatsV1, StatsV2,
};
