//! Writes the limits of the v1 hierarchies.

use std::path::Path;

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::net_cls::NetClsController;
use cgroups_rs::fs::net_prio::NetPrioController;
use nix::errno::Errno;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork, LinuxResources};

use crate::control::{read, set, write};
use crate::limits::{Occasion, around_burst, asked, hugepages, listed, refuse, throttles};
use crate::{Cgroup, Error, limits};

/// The CPU shares that the kernel accepts; it would quietly take the nearest.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

pub(crate) fn set_all(
    cgroup: &Cgroup,
    resources: &LinuxResources,
    occasion: Occasion,
) -> Result<(), Error> {
    if let Some(key) = resources
        .unified()
        .iter()
        .flatten()
        .map(|(key, _)| key)
        .min()
    {
        return Err(refuse("unified", key, "this host has cgroup v1"));
    }
    if let Some(memory) = resources.memory() {
        set_memory(cgroup, memory, occasion)?;
    }
    if let Some(cpu) = resources.cpu() {
        set_cpu(cgroup, cpu)?;
    }
    if let Some(pids) = resources.pids()
        && pids.limit() != 0
    {
        limits::pids(
            cgroup.need("pids", "pids.limit", pids.limit())?,
            pids,
            false,
        )?;
    }
    if let Some(pages) = resources.hugepage_limits() {
        hugepages(cgroup.controller("hugetlb"), pages, "limit_in_bytes")?;
    }
    if let Some(block) = resources.block_io() {
        set_block_io(cgroup, block)?;
    }
    if let Some(network) = resources.network() {
        set_network(cgroup, network)?;
    }
    if let Some(rdma) = resources.rdma()
        && let Some(device) = rdma.keys().min()
    {
        limits::rdma(cgroup.need("rdma", "rdma", device)?, rdma)?;
    }
    Ok(())
}

fn set_memory(cgroup: &Cgroup, memory: &LinuxMemory, occasion: Occasion) -> Result<(), Error> {
    let limit = asked(memory.limit());
    let swap = asked(memory.swap());
    if memory.use_hierarchy() == Some(false) {
        return Err(refuse(
            "memory.useHierarchy",
            false,
            "the kernel always counts hierarchically",
        ));
    }
    let find = |field: &str, value: i64| cgroup.need("memory", &format!("memory.{field}"), value);
    if let Some(value) = limit.or(swap) {
        set_memory_and_swap(find("limit", value)?, limit, swap, occasion)?;
    }
    if let Some(bytes) = asked(memory.reservation()) {
        let dir = find("reservation", bytes)?;
        set(dir, "memory.soft_limit_in_bytes", bytes, || {
            controller(dir).set_soft_limit(bytes)
        })?;
    }
    // Old kernels still have it.
    if let Some(bytes) = asked(memory.kernel()) {
        let dir = find("kernel", bytes)?;
        set(dir, "memory.kmem.limit_in_bytes", bytes, || {
            controller(dir).set_kmem_limit(bytes)
        })?;
    }
    if let Some(bytes) = asked(memory.kernel_tcp()) {
        let dir = find("kernelTCP", bytes)?;
        let file = "memory.kmem.tcp.limit_in_bytes";
        set(dir, file, bytes, || controller(dir).set_tcp_limit(bytes))?;
    }
    if let Some(percent) = memory.swappiness() {
        if percent > 100 {
            return Err(refuse("memory.swappiness", percent, "it is more than 100"));
        }
        let dir = cgroup.need("memory", "memory.swappiness", percent)?;
        set(dir, "memory.swappiness", percent, || {
            controller(dir).set_swappiness(percent)
        })?;
    }
    if memory.disable_oom_killer() == Some(true) {
        let dir = cgroup.need("memory", "memory.disableOOMKiller", true)?;
        set(dir, "memory.oom_control", 1, || {
            controller(dir).disable_oom_killer()
        })?;
    }
    Ok(())
}

fn controller(dir: &Path) -> MemController {
    MemController::new(dir.to_owned(), dir.to_owned(), false)
}

/// Sets memory, and memory with swap, in the order that keeps the first below the second throughout.
fn set_memory_and_swap(
    dir: &Path,
    limit: Option<i64>,
    swap: Option<i64>,
    occasion: Occasion,
) -> Result<(), Error> {
    // Without limit on memory there is none on both together, if the kernel counts swap at all.
    let swap = match (limit, swap) {
        (Some(-1), None) if dir.join("memory.memsw.limit_in_bytes").exists() => Some(-1),
        _ => swap,
    };
    let set_limit = |bytes: i64| set_limit(dir, bytes, occasion);
    let set_swap = |bytes: i64| {
        let result = set(dir, "memory.memsw.limit_in_bytes", bytes, || {
            controller(dir).set_memswap_limit(bytes)
        });
        match result {
            Err(Error::Refused {
                source: Errno::ENOENT,
                ..
            }) => Err(refuse(
                "memory.swap",
                bytes,
                "the kernel does not count swap",
            )),
            other => other,
        }
    };
    match (limit, swap) {
        (Some(limit), Some(swap)) => {
            let now = read(dir, "memory.limit_in_bytes")?
                .trim()
                .parse()
                .unwrap_or(i64::MAX);
            if swap == -1 || now < swap {
                set_swap(swap)?;
                set_limit(limit)
            } else {
                set_limit(limit)?;
                set_swap(swap)
            }
        }
        (Some(limit), None) => set_limit(limit),
        (None, Some(swap)) => set_swap(swap),
        (None, None) => Ok(()),
    }
}

fn set_limit(dir: &Path, bytes: i64, occasion: Occasion) -> Result<(), Error> {
    let file = "memory.limit_in_bytes";
    match set(dir, file, bytes, || controller(dir).set_limit(bytes)) {
        // The kernel has tried to make room and failed.
        Err(Error::Refused {
            source: Errno::EBUSY,
            ..
        }) if occasion == Occasion::Update => {
            let in_use = read(dir, "memory.usage_in_bytes")?
                .trim()
                .parse()
                .unwrap_or_default();
            Err(Error::InUse {
                file,
                value: bytes,
                in_use,
            })
        }
        other => other,
    }
}

fn set_cpu(cgroup: &Cgroup, cpu: &LinuxCpu) -> Result<(), Error> {
    if let Some(idle) = cpu.idle() {
        write(
            cgroup.need("cpu", "cpu.idle", idle)?,
            "cpu.idle",
            &idle.to_string(),
        )?;
    }
    // An idle group has no shares that could be set.
    if let Some(shares) = asked(cpu.shares()).filter(|_| cpu.idle() != Some(1)) {
        let dir = cgroup.need("cpu", "cpu.shares", shares)?;
        if !SHARES.contains(&shares) {
            return Err(refuse(
                "cpu.shares",
                shares,
                "it is not between 2 and 262144",
            ));
        }
        set(dir, "cpu.shares", shares, || {
            cpu_controller(dir).set_shares(shares)
        })?;
    }
    set_bandwidth(cgroup, cpu)?;
    set_realtime(cgroup, cpu)?;
    if let Some(list) = listed(cpu.cpus().as_ref()).or(listed(cpu.mems().as_ref())) {
        limits::cpuset(cgroup.need("cpuset", "cpu.cpus", list)?, cpu, false)?;
    }
    Ok(())
}

fn cpu_controller(dir: &Path) -> CpuController {
    CpuController::new(dir.to_owned(), dir.to_owned(), false)
}

fn set_bandwidth(cgroup: &Cgroup, cpu: &LinuxCpu) -> Result<(), Error> {
    let (quota, period) = (asked(cpu.quota()), asked(cpu.period()));
    let value = match (quota, period, cpu.burst()) {
        (Some(quota), _, _) => quota.to_string(),
        (None, Some(number), _) | (None, None, Some(number)) => number.to_string(),
        (None, None, None) => return Ok(()),
    };
    let dir = cgroup.need("cpu", "cpu.quota", value)?;
    let set_period = |period: u64| {
        set(dir, "cpu.cfs_period_us", period, || {
            cpu_controller(dir).set_cfs_period(period)
        })
    };
    let set_quota = |quota: i64| {
        set(dir, "cpu.cfs_quota_us", quota, || {
            cpu_controller(dir).set_cfs_quota(quota)
        })
    };
    around_burst(dir, "cpu.cfs_burst_us", cpu.burst(), || {
        // The kernel checks each new pair against the parent's share: which of the two may come
        // first depends on whether the share grows or shrinks.
        let early = match (period.map(set_period), quota) {
            (
                Some(Err(Error::Refused {
                    source: Errno::EINVAL,
                    ..
                })),
                Some(_),
            ) => false,
            (Some(result), _) => result.map(|()| true)?,
            (None, _) => true,
        };
        quota.map_or(Ok(()), set_quota)?;
        period.filter(|_| !early).map_or(Ok(()), set_period)
    })
}

fn set_realtime(cgroup: &Cgroup, cpu: &LinuxCpu) -> Result<(), Error> {
    if let Some(period) = asked(cpu.realtime_period()) {
        let dir = cgroup.need("cpu", "cpu.realtimePeriod", period)?;
        set(dir, "cpu.rt_period_us", period, || {
            cpu_controller(dir).set_rt_period_us(period)
        })?;
    }
    if let Some(runtime) = asked(cpu.realtime_runtime()) {
        let dir = cgroup.need("cpu", "cpu.realtimeRuntime", runtime)?;
        set(dir, "cpu.rt_runtime_us", runtime, || {
            cpu_controller(dir).set_rt_runtime(runtime)
        })?;
    }
    Ok(())
}

fn set_block_io(cgroup: &Cgroup, block: &LinuxBlockIo) -> Result<(), Error> {
    let find = |value: &str| cgroup.need("blkio", "blockIO", value);
    if let Some(weight) = asked(block.weight()).map(|weight| weight.to_string()) {
        let dir = find(&weight)?;
        write(dir, weight_file(dir, ""), &weight)?;
    }
    if let Some(weight) = asked(block.leaf_weight()).map(|weight| weight.to_string()) {
        write(find(&weight)?, "blkio.leaf_weight", &weight)?;
    }
    for device in block.weight_device().iter().flatten() {
        let numbers = format!("{}:{}", device.major(), device.minor());
        let dir = find(&numbers)?;
        if let Some(weight) = asked(device.weight()) {
            write(
                dir,
                weight_file(dir, "_device"),
                &format!("{numbers} {weight}"),
            )?;
        }
        if let Some(weight) = asked(device.leaf_weight()) {
            write(
                dir,
                "blkio.leaf_weight_device",
                &format!("{numbers} {weight}"),
            )?;
        }
    }
    for (device, file, _) in throttles(block) {
        let line = format!("{}:{} {}", device.major(), device.minor(), device.rate());
        write(find(&line)?, file, &line)?;
    }
    Ok(())
}

/// The file for weights: the old CFQ scheduler's, or BFQ's where CFQ is gone (Linux 5.0). cgroups-rs
/// knows only the first.
fn weight_file(dir: &Path, suffix: &str) -> &'static str {
    match (suffix, dir.join(format!("blkio.weight{suffix}")).exists()) {
        ("", true) => "blkio.weight",
        ("", false) => "blkio.bfq.weight",
        (_, true) => "blkio.weight_device",
        (_, false) => "blkio.bfq.weight_device",
    }
}

fn set_network(cgroup: &Cgroup, network: &LinuxNetwork) -> Result<(), Error> {
    if let Some(class) = asked(network.class_id()) {
        let dir = cgroup.need("net_cls", "network.classID", class)?;
        let controller = NetClsController::new(dir.to_owned(), dir.to_owned());
        set(dir, "net_cls.classid", class, || {
            controller.set_class(u64::from(class))
        })?;
    }
    for priority in network.priorities().iter().flatten() {
        let line = format!("{} {}", priority.name(), priority.priority());
        let dir = cgroup.need("net_prio", "network.priorities", &line)?;
        let controller = NetPrioController::new(dir.to_owned(), dir.to_owned());
        set(dir, "net_prio.ifpriomap", &line, || {
            controller.set_if_prio(priority.name(), u64::from(priority.priority()))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
