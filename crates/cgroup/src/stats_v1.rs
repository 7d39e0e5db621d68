//! Reads the statistics of the v1 hierarchies.
//!
//! Not through `cgroups-rs`: it turns a read that failed into zeros, so that a removed cgroup looks
//! idle, and reads a dozen files for the four that are wanted.

use std::fs;
use std::path::Path;

use crate::control::{read, read_optional};
use crate::stats::{
    BlkioEntry, BlkioV1, CpuV1, Flat, HugetlbV1, MemoryEntryV1, MemoryOomControlV1, MemoryV1, Pids,
    Rdma, StatsV1, rdma,
};
use crate::{Cgroup, Error};

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

pub(crate) fn read_all(cgroup: &Cgroup) -> Result<StatsV1, Error> {
    let memory_dir = cgroup.controller("memory");
    Ok(StatsV1 {
        hugetlb: cgroup
            .controller("hugetlb")
            .map_or(Ok(Vec::new()), hugetlb)?,
        pids: cgroup.controller("pids").map(pids).transpose()?,
        cpu: cpu(cgroup.controller("cpuacct"), cgroup.controller("cpu"))?,
        memory: memory_dir.map(memory).transpose()?,
        blkio: cgroup.controller("blkio").map(blkio).transpose()?,
        rdma: cgroup.controller("rdma").map(rdma_both).transpose()?,
        memory_oom_control: memory_dir.map(oom_control).transpose()?,
    })
}

fn number(dir: &Path, name: &str) -> Result<u64, Error> {
    let text = read(dir, name)?;
    let text = text.trim();
    text.parse().map_err(|_| Error::Format {
        path: dir.join(name),
        text: text.to_owned(),
    })
}

fn pids(dir: &Path) -> Result<Pids, Error> {
    // containerd's metrics say 0 for `max` here, unlike on v2.
    let limit = read(dir, "pids.max")?.trim().parse().unwrap_or_default();
    Ok(Pids {
        current: number(dir, "pids.current")?,
        limit,
    })
}

fn cpu(accounting: Option<&Path>, bandwidth: Option<&Path>) -> Result<Option<CpuV1>, Error> {
    let mut cpu = CpuV1::default();
    if accounting.is_none() && bandwidth.is_none() {
        return Ok(None);
    }
    if let Some(dir) = accounting {
        cpu.per_cpu = numbers(&read(dir, "cpuacct.usage_percpu")?);
        // What the kernel adds up for cpuacct.usage, of the same moment.
        cpu.total = cpu.per_cpu.iter().sum();
        // Not cpuacct.usage_user and _sys: the kernel books those by where the tick caught the task,
        // while these are scaled to what was measured.
        let stat = read(dir, "cpuacct.stat")?;
        let stat = Flat::parse(&stat);
        cpu.user = ticks(stat.get("user"));
        cpu.kernel = ticks(stat.get("system"));
    }
    if let Some(dir) = bandwidth {
        let stat = read(dir, "cpu.stat")?;
        let stat = Flat::parse(&stat);
        cpu.periods = stat.get("nr_periods");
        cpu.throttled_periods = stat.get("nr_throttled");
        cpu.throttled_time = stat.get("throttled_time");
    }
    Ok(Some(cpu))
}

/// Ticks of user space's clock (100 a second on every architecture of today) in nanoseconds.
fn ticks(count: u64) -> u64 {
    let hertz = rustix::param::clock_ticks_per_second().max(1);
    count.saturating_mul(SECOND / hertz)
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect()
}

fn memory(dir: &Path) -> Result<MemoryV1, Error> {
    let text = read(dir, "memory.stat")?;
    let mut memory = memory_stat(&text);
    memory.usage = entry(dir, "memory")?;
    memory.swap = entry(dir, "memory.memsw")?;
    memory.kernel = entry(dir, "memory.kmem")?;
    memory.kernel_tcp = entry(dir, "memory.kmem.tcp")?;
    Ok(memory)
}

fn memory_stat(text: &str) -> MemoryV1 {
    let stat = Flat::parse(text);
    MemoryV1 {
        cache: stat.get("cache"),
        rss: stat.get("rss"),
        rss_huge: stat.get("rss_huge"),
        mapped_file: stat.get("mapped_file"),
        dirty: stat.get("dirty"),
        writeback: stat.get("writeback"),
        pg_pg_in: stat.get("pgpgin"),
        pg_pg_out: stat.get("pgpgout"),
        pg_fault: stat.get("pgfault"),
        pg_maj_fault: stat.get("pgmajfault"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        hierarchical_memory_limit: stat.get("hierarchical_memory_limit"),
        hierarchical_swap_limit: stat.get("hierarchical_memsw_limit"),
        total_cache: stat.get("total_cache"),
        total_rss: stat.get("total_rss"),
        total_rss_huge: stat.get("total_rss_huge"),
        total_mapped_file: stat.get("total_mapped_file"),
        total_dirty: stat.get("total_dirty"),
        total_writeback: stat.get("total_writeback"),
        total_pg_pg_in: stat.get("total_pgpgin"),
        total_pg_pg_out: stat.get("total_pgpgout"),
        total_pg_fault: stat.get("total_pgfault"),
        total_pg_maj_fault: stat.get("total_pgmajfault"),
        total_inactive_anon: stat.get("total_inactive_anon"),
        total_active_anon: stat.get("total_active_anon"),
        total_inactive_file: stat.get("total_inactive_file"),
        total_active_file: stat.get("total_active_file"),
        total_unevictable: stat.get("total_unevictable"),
        usage: None,
        swap: None,
        kernel: None,
        kernel_tcp: None,
    }
}

/// One of the four counters; `None` where the kernel does not keep it (swap accounting is an option
/// at boot).
fn entry(dir: &Path, prefix: &str) -> Result<Option<MemoryEntryV1>, Error> {
    let Some(usage) = read_optional(dir, &format!("{prefix}.usage_in_bytes"))? else {
        return Ok(None);
    };
    let other = |name: &str| number(dir, &format!("{prefix}.{name}"));
    Ok(Some(MemoryEntryV1 {
        limit: other("limit_in_bytes")?,
        usage: usage.trim().parse().unwrap_or_default(),
        max: other("max_usage_in_bytes")?,
        failcnt: other("failcnt")?,
    }))
}

fn oom_control(dir: &Path) -> Result<MemoryOomControlV1, Error> {
    let text = read(dir, "memory.oom_control")?;
    let stat = Flat::parse(&text);
    Ok(MemoryOomControlV1 {
        oom_kill_disable: stat.get("oom_kill_disable"),
        under_oom: stat.get("under_oom"),
        oom_kill: stat.get("oom_kill"),
    })
}

fn hugetlb(dir: &Path) -> Result<Vec<HugetlbV1>, Error> {
    let sizes = crate::stats_v2::hugepage_sizes(dir, ".limit_in_bytes")?;
    sizes
        .into_iter()
        .map(|pagesize| {
            let value = |name: &str| number(dir, &format!("hugetlb.{pagesize}.{name}"));
            Ok(HugetlbV1 {
                usage: value("usage_in_bytes")?,
                max: value("max_usage_in_bytes")?,
                failcnt: value("failcnt")?,
                pagesize,
            })
        })
        .collect()
}

fn rdma_both(dir: &Path) -> Result<Rdma, Error> {
    Ok(Rdma {
        current: rdma(&read(dir, "rdma.current")?),
        limit: rdma(&read(dir, "rdma.max")?),
    })
}

/// Reads what the scheduler in use counts: the old CFQ, or BFQ, or only the throttling layer.
fn blkio(dir: &Path) -> Result<BlkioV1, Error> {
    let recursive = |name: &str| -> Result<Vec<BlkioEntry>, Error> {
        for prefix in ["blkio.", "blkio.bfq."] {
            if let Some(text) = read_optional(dir, &format!("{prefix}{name}_recursive"))? {
                return Ok(entries(&text));
            }
        }
        Ok(Vec::new())
    };
    let mut blkio = BlkioV1 {
        io_service_bytes_recursive: recursive("io_service_bytes")?,
        io_serviced_recursive: recursive("io_serviced")?,
        io_queued_recursive: recursive("io_queued")?,
        io_service_time_recursive: recursive("io_service_time")?,
        io_wait_time_recursive: recursive("io_wait_time")?,
        io_merged_recursive: recursive("io_merged")?,
        io_time_recursive: recursive("time")?,
        sectors_recursive: recursive("sectors")?,
    };
    if blkio.io_serviced_recursive.is_empty() {
        let throttle = |name: &str| -> Result<Vec<BlkioEntry>, Error> {
            let text = read_optional(dir, &format!("blkio.throttle.{name}"))?;
            Ok(text.map(|text| entries(&text)).unwrap_or_default())
        };
        blkio.io_service_bytes_recursive = throttle("io_service_bytes")?;
        blkio.io_serviced_recursive = throttle("io_serviced")?;
    }
    name_devices(&mut blkio);
    Ok(blkio)
}

/// `8:0 Read 1234`, `8:0 1234`; the last line, `Total 1234`, belongs to no device.
fn entries(text: &str) -> Vec<BlkioEntry> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (major, minor) = fields.next()?.split_once(':')?;
            let (op, value) = match (fields.next()?, fields.next()) {
                (op, Some(value)) => (op, value),
                (value, None) => ("", value),
            };
            Some(BlkioEntry {
                op: op.to_owned(),
                device: String::new(),
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                value: value.parse().ok()?,
            })
        })
        .collect()
}

fn name_devices(blkio: &mut BlkioV1) {
    let lists = [
        &mut blkio.io_service_bytes_recursive,
        &mut blkio.io_serviced_recursive,
        &mut blkio.io_queued_recursive,
        &mut blkio.io_service_time_recursive,
        &mut blkio.io_wait_time_recursive,
        &mut blkio.io_merged_recursive,
        &mut blkio.io_time_recursive,
        &mut blkio.sectors_recursive,
    ];
    if lists.iter().all(|list| list.is_empty()) {
        return;
    }
    // Without it the numbers are still right, only nameless.
    let disks = fs::read_to_string("/proc/diskstats").unwrap_or_default();
    for entry in lists.into_iter().flatten() {
        entry.device = disk(&disks, entry.major, entry.minor).unwrap_or_default();
    }
}

/// The name of a disk in `/proc/diskstats`: `   8       0 sda 1234 …`.
fn disk(diskstats: &str, major: u64, minor: u64) -> Option<String> {
    diskstats.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let own = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (own == (major, minor)).then(|| fields.next().map(|name| format!("/dev/{name}")))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_stat_fills_every_field_under_containerds_name() {
        let text = "cache 1\nrss 2\nrss_huge 3\nshmem 99\nmapped_file 4\ndirty 5\nwriteback 6\n\
            pgpgin 7\npgpgout 8\npgfault 9\npgmajfault 10\ninactive_anon 11\nactive_anon 12\n\
            inactive_file 13\nactive_file 14\nunevictable 15\nhierarchical_memory_limit 16\n\
            hierarchical_memsw_limit 17\ntotal_cache 18\ntotal_rss 19\ntotal_rss_huge 20\n\
            total_mapped_file 21\ntotal_dirty 22\ntotal_writeback 23\ntotal_pgpgin 24\n\
            total_pgpgout 25\ntotal_pgfault 26\ntotal_pgmajfault 27\ntotal_inactive_anon 28\n\
            total_active_anon 29\ntotal_inactive_file 30\ntotal_active_file 31\n\
            total_unevictable 32\n";
        let memory = memory_stat(text);
        let first = [
            memory.cache,
            memory.rss,
            memory.rss_huge,
            memory.mapped_file,
            memory.dirty,
        ];
        assert_eq!(first, [1, 2, 3, 4, 5]);
        assert_eq!((memory.pg_pg_in, memory.pg_maj_fault), (7, 10));
        assert_eq!(
            (
                memory.hierarchical_memory_limit,
                memory.hierarchical_swap_limit
            ),
            (16, 17)
        );
        assert_eq!((memory.total_cache, memory.total_pg_pg_in), (18, 24));
        assert_eq!(
            (memory.total_active_file, memory.total_unevictable),
            (31, 32)
        );
    }

    #[test]
    fn blkio_lines_with_and_without_an_operation_are_read_and_totals_are_not() {
        let with = entries("8:0 Read 10\n8:0 Write 20\n8:0 Total 30\nTotal 30\n");
        assert_eq!(with.len(), 3);
        assert_eq!(
            (with[1].op.as_str(), with[1].major, with[1].value),
            ("Write", 8, 20)
        );
        let without = entries("259:1 77\n");
        assert_eq!(
            (without[0].op.as_str(), without[0].minor, without[0].value),
            ("", 1, 77)
        );
    }

    #[test]
    fn a_disk_is_named_by_its_numbers() {
        let text = "   8       0 sda 1 2 3\n   8       1 sda1 4 5 6\n";
        assert_eq!(disk(text, 8, 1).as_deref(), Some("/dev/sda1"));
        assert_eq!(disk(text, 9, 1), None);
    }
}
