//! What a cgroup has used: plain structs with the fields of containerd's metrics messages.
//!
//! Names and units are those of `io.containerd.cgroups.v1.Metrics` and `v2.Metrics`, so that the
//! shim copies field by field. A file that the kernel or the cgroup lacks leaves its fields at zero,
//! as runc's shim does.

use crate::{Cgroup, Error, Mode, stats_v1, stats_v2};

/// What a cgroup has used.
#[derive(Debug, Clone, PartialEq)]
pub enum Stats {
    /// From the v1 hierarchies.
    V1(Box<StatsV1>),
    /// From the v2 tree.
    V2(Box<StatsV2>),
}

/// `io.containerd.cgroups.v1.Metrics`. A controller that is not mounted is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatsV1 {
    /// For each size of huge page.
    pub hugetlb: Vec<HugetlbV1>,
    /// Tasks; a `limit` of 0 means none.
    pub pids: Option<Pids>,
    /// Processor time.
    pub cpu: Option<CpuV1>,
    /// Memory.
    pub memory: Option<MemoryV1>,
    /// Block devices.
    pub blkio: Option<BlkioV1>,
    /// RDMA.
    pub rdma: Option<Rdma>,
    /// The state of the OOM killer.
    pub memory_oom_control: Option<MemoryOomControlV1>,
}

/// `io.containerd.cgroups.v2.Metrics`. A controller that is not enabled is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StatsV2 {
    /// Tasks; a `limit` of `u64::MAX` means none.
    pub pids: Option<Pids>,
    /// Processor time.
    pub cpu: Option<CpuV2>,
    /// Memory.
    pub memory: Option<MemoryV2>,
    /// RDMA.
    pub rdma: Option<Rdma>,
    /// Block devices.
    pub io: Option<IoV2>,
    /// For each size of huge page.
    pub hugetlb: Vec<HugetlbV2>,
    /// How often memory limits were met.
    pub memory_events: Option<MemoryEventsV2>,
}

macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $name {
            $(
                $(#[$field_meta])*
                #[doc = concat!("The message's `", stringify!($field), "`.")]
                pub $field: u64,
            )*
        }
    };
}

counters! {
    /// How many tasks there are and may be.
    Pids { current, limit }
}

/// Processor time on v1, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuV1 {
    /// All of it.
    pub total: u64,
    /// In the kernel, to the kernel's tick (10 ms).
    pub kernel: u64,
    /// In user space, to the kernel's tick (10 ms).
    pub user: u64,
    /// All of it on each processor.
    pub per_cpu: Vec<u64>,
    /// Periods with a quota that have passed.
    pub periods: u64,
    /// Those in which the quota was used up.
    pub throttled_periods: u64,
    /// How long tasks waited for that, in nanoseconds.
    pub throttled_time: u64,
}

counters! {
    /// One counter of memory on v1, in bytes; an unlimited one has the kernel's largest number.
    MemoryEntryV1 { limit, usage, max, failcnt }
}

counters! {
    /// `memory.oom_control`.
    MemoryOomControlV1 { oom_kill_disable, under_oom, oom_kill }
}

/// Memory on v1: `memory.stat` in bytes (events in events), and the four counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields of memory.stat under containerd's names"
)]
pub struct MemoryV1 {
    pub cache: u64,
    pub rss: u64,
    pub rss_huge: u64,
    pub mapped_file: u64,
    pub dirty: u64,
    pub writeback: u64,
    pub pg_pg_in: u64,
    pub pg_pg_out: u64,
    pub pg_fault: u64,
    pub pg_maj_fault: u64,
    pub inactive_anon: u64,
    pub active_anon: u64,
    pub inactive_file: u64,
    pub active_file: u64,
    pub unevictable: u64,
    pub hierarchical_memory_limit: u64,
    pub hierarchical_swap_limit: u64,
    pub total_cache: u64,
    pub total_rss: u64,
    pub total_rss_huge: u64,
    pub total_mapped_file: u64,
    pub total_dirty: u64,
    pub total_writeback: u64,
    pub total_pg_pg_in: u64,
    pub total_pg_pg_out: u64,
    pub total_pg_fault: u64,
    pub total_pg_maj_fault: u64,
    pub total_inactive_anon: u64,
    pub total_active_anon: u64,
    pub total_inactive_file: u64,
    pub total_active_file: u64,
    pub total_unevictable: u64,
    pub usage: Option<MemoryEntryV1>,
    pub swap: Option<MemoryEntryV1>,
    pub kernel: Option<MemoryEntryV1>,
    pub kernel_tcp: Option<MemoryEntryV1>,
}

/// Huge pages of one size on v1, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugetlbV1 {
    /// In use now.
    pub usage: u64,
    /// The most ever in use.
    pub max: u64,
    /// How often the limit was met.
    pub failcnt: u64,
    /// `2MB`, `1GB`.
    pub pagesize: String,
}

/// Block devices on v1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the files of the controller under containerd's names"
)]
pub struct BlkioV1 {
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    pub io_serviced_recursive: Vec<BlkioEntry>,
    pub io_queued_recursive: Vec<BlkioEntry>,
    pub io_service_time_recursive: Vec<BlkioEntry>,
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    pub io_merged_recursive: Vec<BlkioEntry>,
    pub io_time_recursive: Vec<BlkioEntry>,
    pub sectors_recursive: Vec<BlkioEntry>,
}

/// One number about one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlkioEntry {
    /// `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total`; empty where the file knows none.
    pub op: String,
    /// `/dev/sda`; empty if the kernel lists no such disk.
    pub device: String,
    /// The device's major number.
    pub major: u64,
    /// The device's minor number.
    pub minor: u64,
    /// The number.
    pub value: u64,
}

/// RDMA handles and objects in use and allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rdma {
    /// In use now.
    pub current: Vec<RdmaEntry>,
    /// The limits; `u32::MAX` means none.
    pub limit: Vec<RdmaEntry>,
}

/// RDMA handles and objects of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RdmaEntry {
    /// The device's name.
    pub device: String,
    /// Handles.
    pub hca_handles: u32,
    /// Objects.
    pub hca_objects: u32,
}

/// Processor time on v2, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[expect(missing_docs, reason = "the fields of cpu.stat under their own names")]
pub struct CpuV2 {
    pub usage_usec: u64,
    pub user_usec: u64,
    pub system_usec: u64,
    pub nr_periods: u64,
    pub nr_throttled: u64,
    pub throttled_usec: u64,
    pub nr_bursts: u64,
    pub burst_usec: u64,
    /// `cpu.pressure`, where the kernel keeps it.
    pub psi: Option<Pressure>,
}

/// Memory on v2: `memory.stat` in bytes (events in events), and the counters.
///
/// A limit of `u64::MAX` means none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[expect(
    missing_docs,
    reason = "the fields of memory.stat under their own names"
)]
pub struct MemoryV2 {
    pub anon: u64,
    pub file: u64,
    pub kernel_stack: u64,
    pub slab: u64,
    pub sock: u64,
    pub shmem: u64,
    pub file_mapped: u64,
    pub file_dirty: u64,
    pub file_writeback: u64,
    pub anon_thp: u64,
    pub inactive_anon: u64,
    pub active_anon: u64,
    pub inactive_file: u64,
    pub active_file: u64,
    pub unevictable: u64,
    pub slab_reclaimable: u64,
    pub slab_unreclaimable: u64,
    pub pgfault: u64,
    pub pgmajfault: u64,
    pub workingset_refault: u64,
    pub workingset_activate: u64,
    pub workingset_nodereclaim: u64,
    pub pgrefill: u64,
    pub pgscan: u64,
    pub pgsteal: u64,
    pub pgactivate: u64,
    pub pgdeactivate: u64,
    pub pglazyfree: u64,
    pub pglazyfreed: u64,
    pub thp_fault_alloc: u64,
    pub thp_collapse_alloc: u64,
    pub usage: u64,
    pub usage_limit: u64,
    pub swap_usage: u64,
    pub swap_limit: u64,
    pub max_usage: u64,
    pub swap_max_usage: u64,
    /// `memory.pressure`, where the kernel keeps it.
    pub psi: Option<Pressure>,
}

counters! {
    /// `memory.events`: how often each limit was met.
    MemoryEventsV2 { low, high, max, oom, oom_kill, oom_group_kill }
}

/// Block devices on v2.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IoV2 {
    /// For each device that was used.
    pub usage: Vec<IoEntryV2>,
    /// `io.pressure`, where the kernel keeps it.
    pub psi: Option<Pressure>,
}

counters! {
    /// Use of one block device on v2.
    IoEntryV2 { major, minor, rbytes, wbytes, rios, wios }
}

/// Huge pages of one size on v2, in bytes; a `max` of `u64::MAX` means none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugetlbV2 {
    /// In use now.
    pub current: u64,
    /// The limit.
    pub max: u64,
    /// `2MB`, `1GB`.
    pub pagesize: String,
    /// How often the limit was met.
    pub failcnt: u64,
}

/// How long tasks waited for a resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// While at least one task waited.
    pub some: PressureLine,
    /// While every task waited.
    pub full: PressureLine,
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PressureLine {
    /// Share of the last 10 s, in per cent.
    pub avg10: f64,
    /// Share of the last 60 s, in per cent.
    pub avg60: f64,
    /// Share of the last 300 s, in per cent.
    pub avg300: f64,
    /// In all, in microseconds.
    pub total: u64,
}

// === impl Cgroup ===

impl Cgroup {
    /// Reads everything that containerd's metrics messages hold.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] if the cgroup was removed: never zeros instead.
    pub fn stats(&self) -> Result<Stats, Error> {
        let stats = match self.mode() {
            Mode::V1 | Mode::Hybrid => stats_v1::read_all(self).map(|all| Stats::V1(Box::new(all))),
            Mode::V2 => stats_v2::read_all(self.dir()).map(|all| Stats::V2(Box::new(all))),
        };
        // Asked afterwards: it may go while its files are read, and what is missing counts as not there.
        if !self.dir().is_dir() {
            return Err(Error::Gone {
                path: self.dir().to_owned(),
            });
        }
        stats
    }
}

/// Lines of `name number`, as in `memory.stat` and `cpu.stat`.
pub(crate) struct Flat<'a>(Vec<(&'a str, u64)>);

impl<'a> Flat<'a> {
    pub(crate) fn parse(text: &'a str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        Self(
            lines
                .filter_map(|(name, number)| Some((name, number.parse().ok()?)))
                .collect(),
        )
    }

    /// The number of that name; zero if there is none.
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.find(name).unwrap_or_default()
    }

    pub(crate) fn find(&self, name: &str) -> Option<u64> {
        self.0
            .iter()
            .find(|(own, _)| *own == name)
            .map(|(_, number)| *number)
    }
}

/// `mlx4_0 hca_handle=2 hca_object=2000`, one line a device; `max` is `u32::MAX`.
pub(crate) fn rdma(text: &str) -> Vec<RdmaEntry> {
    let value = |line: &str, key: &str| {
        let found = line
            .split_whitespace()
            .find_map(|pair| pair.strip_prefix(key));
        found.map_or(0, |number| number.parse().unwrap_or(u32::MAX))
    };
    text.lines()
        .filter_map(|line| {
            let device = line.split_whitespace().next()?.to_owned();
            let hca_handles = value(line, "hca_handle=");
            let hca_objects = value(line, "hca_object=");
            Some(RdmaEntry {
                device,
                hca_handles,
                hca_objects,
            })
        })
        .collect()
}
