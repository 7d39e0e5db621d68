//! Writes the limits of the v2 tree.

use std::path::Path;

use cgroups_rs::fs::cpu::CpuController;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use crate::control::{read, set, write};
use crate::limits::{Occasion, around_burst, asked, hugepages, listed, refuse, throttles};
use crate::stats::Flat;
use crate::{Error, limits};

/// Why a field of v1 is refused.
const NOT_V2: &str = "cgroup v2 has no such limit";

/// Files of a cgroup that are no limits: `unified` may not write them.
const NOT_LIMITS: [&str; 6] = [
    "cgroup.procs",
    "cgroup.threads",
    "cgroup.kill",
    "cgroup.freeze",
    "cgroup.type",
    "cgroup.subtree_control",
];

pub(crate) fn set_all(
    dir: &Path,
    resources: &LinuxResources,
    occasion: Occasion,
) -> Result<(), Error> {
    if let Some(memory) = resources.memory() {
        set_memory(dir, memory, occasion)?;
    }
    if let Some(cpu) = resources.cpu() {
        set_cpu(dir, cpu)?;
    }
    if let Some(pids) = resources.pids() {
        limits::pids(dir, pids, true)?;
    }
    if let Some(pages) = resources.hugepage_limits() {
        hugepages(Some(dir), pages, "max")?;
    }
    if let Some(block) = resources.block_io() {
        set_block_io(dir, block)?;
    }
    if let Some(network) = resources.network() {
        if let Some(class) = asked(network.class_id()) {
            return Err(refuse("network.classID", class, NOT_V2));
        }
        if let Some(first) = network.priorities().iter().flatten().next() {
            return Err(refuse("network.priorities", first.name(), NOT_V2));
        }
    }
    if let Some(rdma) = resources.rdma() {
        limits::rdma(dir, rdma)?;
    }
    // Last, so that it wins over what the other fields were converted to.
    set_unified(dir, resources)
}

fn set_memory(dir: &Path, memory: &LinuxMemory, occasion: Occasion) -> Result<(), Error> {
    if memory.use_hierarchy() == Some(false) {
        return Err(refuse("memory.useHierarchy", false, NOT_V2));
    }
    if let Some(percent) = memory.swappiness() {
        return Err(refuse("memory.swappiness", percent, NOT_V2));
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(refuse("memory.disableOOMKiller", true, NOT_V2));
    }
    // memory.kernel and memory.kernelTCP are passed over: v2 counts both within memory.max, and the
    // specification has withdrawn them.
    let limit = asked(memory.limit());
    if let Some(bytes) = limit.filter(|_| occasion == Occasion::Update) {
        check_use(dir, bytes, memory.check_before_update() == Some(true))?;
    }
    if let Some(swap) = swap_alone(limit, asked(memory.swap()))? {
        match bytes_or_max(swap).as_str() {
            // A kernel that does not count swap has none, or gives all there is.
            "0" | "max" if !dir.join("memory.swap.max").exists() => {}
            value => write(dir, "memory.swap.max", value)?,
        }
    }
    if let Some(bytes) = limit {
        write(dir, "memory.max", &bytes_or_max(bytes))?;
    }
    if let Some(bytes) = asked(memory.reservation()) {
        // cgroups-rs would write -1 here, which the kernel refuses.
        write(dir, "memory.low", &bytes_or_max(bytes))?;
    }
    Ok(())
}

fn bytes_or_max(bytes: i64) -> String {
    if bytes < 0 {
        "max".to_owned()
    } else {
        bytes.to_string()
    }
}

/// The limit of swap alone, which v2 has, from that of memory and swap together, which the
/// specification has.
pub(crate) fn swap_alone(limit: Option<i64>, swap: Option<i64>) -> Result<Option<i64>, Error> {
    match (limit, swap) {
        (Some(-1), None) | (_, Some(-1)) => Ok(Some(-1)),
        (_, None) => Ok(None),
        (Some(limit), Some(swap)) if limit > 0 && swap >= limit => Ok(Some(swap - limit)),
        (Some(limit), Some(swap)) if limit > 0 => Err(refuse(
            "memory.swap",
            swap,
            "it is below memory.limit; the value is memory and swap together",
        )),
        (_, Some(swap)) => Err(refuse(
            "memory.swap",
            swap,
            "it means nothing without a memory.limit",
        )),
    }
}

/// Refuses a limit below what is in use: the kernel would answer with the OOM killer.
///
/// The page cache gives way, so it does not count, unless the specification says `strict`.
fn check_use(dir: &Path, limit: i64, strict: bool) -> Result<(), Error> {
    let Ok(bytes) = u64::try_from(limit) else {
        return Ok(());
    };
    let in_use: u64 = read(dir, "memory.current")?
        .trim()
        .parse()
        .unwrap_or_default();
    if in_use < bytes {
        return Ok(());
    }
    let stat = read(dir, "memory.stat")?;
    let stat = Flat::parse(&stat);
    let cache = stat.get("inactive_file") + stat.get("active_file");
    let in_use = if strict {
        in_use
    } else {
        in_use.saturating_sub(cache)
    };
    if in_use < bytes {
        Ok(())
    } else {
        Err(Error::InUse {
            file: "memory.max",
            value: limit,
            in_use,
        })
    }
}

fn set_cpu(dir: &Path, cpu: &LinuxCpu) -> Result<(), Error> {
    if let Some(idle) = cpu.idle() {
        write(dir, "cpu.idle", &idle.to_string())?;
    }
    let controller = CpuController::new(dir.to_owned(), dir.to_owned(), true);
    // An idle group has no weight that could be set.
    if let Some(shares) = asked(cpu.shares()).filter(|_| cpu.idle() != Some(1)) {
        let weight = weight_of_shares(shares);
        set(dir, "cpu.weight", weight, || controller.set_shares(weight))?;
    }
    if let Some(period) = asked(cpu.realtime_period()) {
        return Err(refuse("cpu.realtimePeriod", period, NOT_V2));
    }
    if let Some(runtime) = asked(cpu.realtime_runtime()) {
        return Err(refuse("cpu.realtimeRuntime", runtime, NOT_V2));
    }
    around_burst(dir, "cpu.max.burst", cpu.burst(), || {
        let quota = asked(cpu.quota()).map(bytes_or_max);
        match (quota, asked(cpu.period())) {
            (Some(quota), Some(period)) => write(dir, "cpu.max", &format!("{quota} {period}")),
            // A lone number is the quota; the period stays.
            (Some(quota), None) => write(dir, "cpu.max", &quota),
            (None, Some(period)) => set(dir, "cpu.max", period, || {
                controller.set_cfs_quota_and_period(None, Some(period))
            }),
            (None, None) => Ok(()),
        }
    })?;
    if listed(cpu.cpus().as_ref()).is_some() || listed(cpu.mems().as_ref()).is_some() {
        limits::cpuset(dir, cpu, true)?;
    }
    Ok(())
}

/// The weight (1 to 10000, usually 100) that corresponds to shares (2 to 262144, usually 1024).
///
/// A curve through minimum, default and maximum of both scales, as runc and crun draw it now. The
/// straight line before it, which cgroups-rs has, turned the default of 1024 into 39 and so ranked
/// containers below everything else on the host.
///
/// # References
///
/// [kubernetes/kubernetes#131216](https://github.com/kubernetes/kubernetes/issues/131216),
/// [opencontainers/runc#4785](https://github.com/opencontainers/runc/pull/4785).
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => curve(shares),
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the shares have 18 bits, and the result is between 1 and 10000"
)]
fn curve(shares: u64) -> u64 {
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    10_f64.powf(exponent).ceil() as u64
}

fn set_block_io(dir: &Path, block: &LinuxBlockIo) -> Result<(), Error> {
    let bfq = dir.join("io.bfq.weight").exists();
    // BFQ's own weights have the specification's scale.
    let (file, scaled) = if bfq {
        ("io.bfq.weight", false)
    } else {
        ("io.weight", true)
    };
    let scale = |weight: u16| {
        if scaled {
            io_weight(weight)
        } else {
            u64::from(weight)
        }
    };
    if let Some(weight) = asked(block.weight()) {
        write(dir, file, &scale(weight).to_string())?;
    }
    if let Some(weight) = asked(block.leaf_weight()) {
        return Err(refuse("blockIO.leafWeight", weight, NOT_V2));
    }
    for device in block.weight_device().iter().flatten() {
        if let Some(weight) = asked(device.leaf_weight()) {
            return Err(refuse("blockIO.weightDevice.leafWeight", weight, NOT_V2));
        }
        if let Some(weight) = asked(device.weight()) {
            let line = format!("{}:{} {}", device.major(), device.minor(), scale(weight));
            write(dir, file, &line)?;
        }
    }
    for (device, _, key) in throttles(block) {
        let rate = match device.rate() {
            // 0 takes a limit away, as on v1; io.max has a word for it.
            0 => "max".to_owned(),
            rate => rate.to_string(),
        };
        let line = format!("{}:{} {key}={rate}", device.major(), device.minor());
        write(dir, "io.max", &line)?;
    }
    Ok(())
}

/// The weight (1 to 10000) that corresponds to the specification's (10 to 1000): runc's straight line.
pub(crate) fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight).saturating_sub(10) * 9999 / 990
}

fn set_unified(dir: &Path, resources: &LinuxResources) -> Result<(), Error> {
    let mut files: Vec<_> = resources.unified().iter().flatten().collect();
    files.sort();
    for (file, value) in files {
        let field = format!("unified.{file}");
        if file.contains('/') || !file.contains('.') || file.starts_with('.') {
            return Err(refuse(&field, value, "it is not a file of a cgroup"));
        }
        if NOT_LIMITS.contains(&file.as_str()) {
            return Err(refuse(&field, value, "it is not a limit"));
        }
        // The kernel takes one line at a time: io.max for two devices has two.
        for line in value.lines() {
            write(dir, file, line)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with empty files where a cgroup has its control files.
    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        dir
    }

    fn apply(dir: &Path, json: &str, occasion: Occasion) -> Result<(), Error> {
        set_all(dir, &serde_json::from_str(json).unwrap(), occasion)
    }

    #[test]
    fn the_limits_of_a_pod_are_converted_to_those_of_v2() {
        let dir = tree(&[
            "memory.max",
            "memory.swap.max",
            "memory.low",
            "cpu.weight",
            "cpu.max",
            "cpuset.cpus",
            "pids.max",
            "hugetlb.2MB.max",
            "hugetlb.2MB.rsvd.max",
            "io.weight",
            "io.max",
            "memory.high",
            "memory.oom.group",
        ]);
        let json = r#"{
            "memory": {"limit": 1000, "swap": 1500, "reservation": -1, "kernel": 77, "kernelTCP": 77},
            "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1"},
            "pids": {"limit": -1},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4096}, {"pageSize": "1GB", "limit": 0}],
            "blockIO": {"weight": 1000,
                        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 42}]},
            "unified": {"memory.high": "900", "memory.oom.group": "1"}}"#;
        apply(dir.path(), json, Occasion::Birth).unwrap();
        let expected = [
            ("memory.max", "1000"),
            ("memory.swap.max", "500"),
            ("memory.low", "max"),
            ("cpu.weight", "100"),
            ("cpu.max", "50000 100000"),
            ("cpuset.cpus", "0-1"),
            ("pids.max", "max"),
            ("hugetlb.2MB.max", "4096"),
            ("hugetlb.2MB.rsvd.max", "4096"),
            ("io.weight", "10000"),
            ("io.max", "8:0 rbps=42"),
            ("memory.high", "900"),
            ("memory.oom.group", "1"),
        ];
        for (name, value) in expected {
            assert_eq!(read(dir.path(), name).unwrap(), value, "{name}");
        }
    }

    #[test]
    fn what_few_ask_for_arrives_too() {
        let cases = [
            (r#"{"cpu": {"idle": 1, "shares": 512}}"#, "cpu.idle", "1"),
            (r#"{"cpu": {"burst": 7000}}"#, "cpu.max.burst", "7000"),
            (r#"{"cpu": {"mems": "0-1"}}"#, "cpuset.mems", "0-1"),
            (
                r#"{"blockIO": {"weightDevice": [{"major": 8, "minor": 16, "weight": 10}]}}"#,
                "io.weight",
                "8:16 1",
            ),
            (
                r#"{"blockIO": {"throttleWriteBpsDevice": [{"major": 8, "minor": 16, "rate": 9}]}}"#,
                "io.max",
                "8:16 wbps=9",
            ),
            (
                r#"{"blockIO": {"throttleReadIOPSDevice": [{"major": 8, "minor": 16, "rate": 9}]}}"#,
                "io.max",
                "8:16 riops=9",
            ),
            (
                r#"{"blockIO": {"throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}]}}"#,
                "io.max",
                "8:16 wiops=max",
            ),
            (
                r#"{"rdma": {"mlx5_1": {"hcaHandles": 2, "hcaObjects": 3}}}"#,
                "rdma.max",
                "mlx5_1 hca_handle=2 hca_object=3",
            ),
        ];
        for (json, file, value) in cases {
            let dir = tree(&[file]);
            apply(dir.path(), json, Occasion::Birth).unwrap();
            assert_eq!(read(dir.path(), file).unwrap(), value, "{json}");
        }
    }

    #[test]
    fn what_v2_has_not_is_refused_by_name() {
        let dir = tree(&["memory.max", "memory.swap.max"]);
        let cases = [
            (
                r#"{"memory": {"swappiness": 60}}"#,
                "linux.resources.memory.swappiness = 60: cgroup v2 has no such limit",
            ),
            (
                r#"{"memory": {"disableOOMKiller": true}}"#,
                "linux.resources.memory.disableOOMKiller = true: cgroup v2 has no such limit",
            ),
            (
                r#"{"memory": {"limit": 10, "swap": 5}}"#,
                "linux.resources.memory.swap = 5: it is below memory.limit; the value is memory and swap together",
            ),
            (
                r#"{"memory": {"swap": 5}}"#,
                "linux.resources.memory.swap = 5: it means nothing without a memory.limit",
            ),
            (
                r#"{"cpu": {"realtimePeriod": 9}}"#,
                "linux.resources.cpu.realtimePeriod = 9: cgroup v2 has no such limit",
            ),
            (
                r#"{"cpu": {"realtimeRuntime": 9}}"#,
                "linux.resources.cpu.realtimeRuntime = 9: cgroup v2 has no such limit",
            ),
            (
                r#"{"memory": {"useHierarchy": false}}"#,
                "linux.resources.memory.useHierarchy = false: cgroup v2 has no such limit",
            ),
            (
                r#"{"blockIO": {"leafWeight": 9}}"#,
                "linux.resources.blockIO.leafWeight = 9: cgroup v2 has no such limit",
            ),
            (
                r#"{"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 9}]}}"#,
                "linux.resources.blockIO.weightDevice.leafWeight = 9: cgroup v2 has no such limit",
            ),
            (
                r#"{"network": {"priorities": [{"name": "eth0", "priority": 1}]}}"#,
                "linux.resources.network.priorities = eth0: cgroup v2 has no such limit",
            ),
            (
                r#"{"network": {"classID": 9}}"#,
                "linux.resources.network.classID = 9: cgroup v2 has no such limit",
            ),
            (
                r#"{"unified": {"cgroup.procs": "1"}}"#,
                "linux.resources.unified.cgroup.procs = 1: it is not a limit",
            ),
            (
                r#"{"unified": {"../memory.max": "1"}}"#,
                "linux.resources.unified.../memory.max = 1: it is not a file of a cgroup",
            ),
        ];
        for (json, text) in cases {
            let error = apply(dir.path(), json, Occasion::Birth).unwrap_err();
            assert_eq!(error.to_string(), text);
        }
        // A controller that no ancestor passes on: its file is missing.
        let error = apply(dir.path(), r#"{"cpu": {"idle": 1}}"#, Occasion::Birth).unwrap_err();
        assert!(matches!(
            &error,
            Error::Refused {
                source: nix::errno::Errno::ENOENT,
                ..
            }
        ));
        assert_eq!(error.to_string(), "cpu.idle = 1");
    }

    #[test]
    fn a_limit_below_what_is_in_use_is_refused_but_for_the_cache() {
        let dir = tree(&["memory.max"]);
        std::fs::write(dir.path().join("memory.current"), "1000\n").unwrap();
        let stat = "inactive_file 300\nactive_file 200\n";
        std::fs::write(dir.path().join("memory.stat"), stat).unwrap();
        let update = |json: &str| apply(dir.path(), json, Occasion::Update);
        let error = update(r#"{"memory": {"limit": 400}}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "memory.max = 400: 500 bytes are in use, and a lower limit cannot be set"
        );
        update(r#"{"memory": {"limit": 600}}"#).unwrap();
        let strict = r#"{"memory": {"limit": 600, "checkBeforeUpdate": true}}"#;
        assert_eq!(
            update(strict).unwrap_err().to_string(),
            "memory.max = 600: 1000 bytes are in use, and a lower limit cannot be set"
        );
        assert_eq!(read(dir.path(), "memory.max").unwrap(), "600");
    }

    #[test]
    fn no_limit_of_swap_needs_no_count_of_it() {
        let dir = tree(&["memory.max"]);
        for json in [
            r#"{"memory": {"limit": -1}}"#,
            r#"{"memory": {"limit": 5, "swap": -1}}"#,
        ] {
            apply(dir.path(), json, Occasion::Birth).unwrap();
            assert!(!dir.path().join("memory.swap.max").exists());
        }
        let counted = r#"{"memory": {"limit": 5, "swap": 7}}"#;
        apply(dir.path(), counted, Occasion::Birth).unwrap_err();
    }

    #[test]
    fn shares_become_weights_along_the_curve() {
        let table = [
            (2, 1),
            (102, 17),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (262_144, 10_000),
        ];
        for (shares, weight) in table {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        assert_eq!((io_weight(10), io_weight(1000)), (1, 10_000));
    }
}
