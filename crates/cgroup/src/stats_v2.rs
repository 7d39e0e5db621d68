//! Reads the statistics of the v2 tree, pressure included.

use std::fs;
use std::path::Path;

use crate::Error;
use crate::control::read_optional;
use crate::stats::{
    CpuV2, Flat, HugetlbV2, IoEntryV2, IoV2, MemoryEventsV2, MemoryV2, Pids, Pressure,
    PressureLine, Rdma, StatsV2, rdma,
};

pub(crate) fn read_all(dir: &Path) -> Result<StatsV2, Error> {
    Ok(StatsV2 {
        pids: pids(dir)?,
        cpu: cpu(dir)?,
        memory: memory(dir)?,
        rdma: rdma_both(dir)?,
        io: io(dir)?,
        hugetlb: hugetlb(dir)?,
        memory_events: read_optional(dir, "memory.events")?.map(|text| memory_events(&text)),
    })
}

/// A number, `max` or nothing; the latter where the file is missing.
fn limit(dir: &Path, name: &str) -> Result<Option<u64>, Error> {
    let Some(text) = read_optional(dir, name)? else {
        return Ok(None);
    };
    match text.trim() {
        "max" => Ok(Some(u64::MAX)),
        number => match number.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Error::Format {
                path: dir.join(name),
                text: number.to_owned(),
            }),
        },
    }
}

fn pids(dir: &Path) -> Result<Option<Pids>, Error> {
    let Some(current) = limit(dir, "pids.current")? else {
        return Ok(None);
    };
    Ok(Some(Pids {
        current,
        limit: limit(dir, "pids.max")?.unwrap_or(u64::MAX),
    }))
}

fn cpu(dir: &Path) -> Result<Option<CpuV2>, Error> {
    // The file is there without the controller too, with the first three numbers.
    let Some(text) = read_optional(dir, "cpu.stat")? else {
        return Ok(None);
    };
    Ok(Some(CpuV2 {
        psi: psi(dir, "cpu.pressure")?,
        ..cpu_stat(&text)
    }))
}

fn cpu_stat(text: &str) -> CpuV2 {
    let stat = Flat::parse(text);
    CpuV2 {
        usage_usec: stat.get("usage_usec"),
        user_usec: stat.get("user_usec"),
        system_usec: stat.get("system_usec"),
        nr_periods: stat.get("nr_periods"),
        nr_throttled: stat.get("nr_throttled"),
        throttled_usec: stat.get("throttled_usec"),
        nr_bursts: stat.get("nr_bursts"),
        burst_usec: stat.get("burst_usec"),
        psi: None,
    }
}

fn memory(dir: &Path) -> Result<Option<MemoryV2>, Error> {
    let Some(text) = read_optional(dir, "memory.stat")? else {
        return Ok(None);
    };
    let value = |name: &str| limit(dir, name).map(Option::unwrap_or_default);
    Ok(Some(MemoryV2 {
        usage: value("memory.current")?,
        usage_limit: value("memory.max")?,
        swap_usage: value("memory.swap.current")?,
        swap_limit: value("memory.swap.max")?,
        max_usage: value("memory.peak")?,
        swap_max_usage: value("memory.swap.peak")?,
        psi: psi(dir, "memory.pressure")?,
        ..memory_stat(&text)
    }))
}

fn memory_stat(text: &str) -> MemoryV2 {
    let stat = Flat::parse(text);
    // Since 5.9 the kernel counts anonymous and file pages apart; the message has one field.
    let workingset = |name: &str| {
        let whole = stat.find(&format!("workingset_{name}"));
        let parts = || {
            stat.get(&format!("workingset_{name}_anon"))
                + stat.get(&format!("workingset_{name}_file"))
        };
        whole.unwrap_or_else(parts)
    };
    MemoryV2 {
        anon: stat.get("anon"),
        file: stat.get("file"),
        kernel_stack: stat.get("kernel_stack"),
        slab: stat.get("slab"),
        sock: stat.get("sock"),
        shmem: stat.get("shmem"),
        file_mapped: stat.get("file_mapped"),
        file_dirty: stat.get("file_dirty"),
        file_writeback: stat.get("file_writeback"),
        anon_thp: stat.get("anon_thp"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        slab_reclaimable: stat.get("slab_reclaimable"),
        slab_unreclaimable: stat.get("slab_unreclaimable"),
        pgfault: stat.get("pgfault"),
        pgmajfault: stat.get("pgmajfault"),
        workingset_refault: workingset("refault"),
        workingset_activate: workingset("activate"),
        workingset_nodereclaim: stat.get("workingset_nodereclaim"),
        pgrefill: stat.get("pgrefill"),
        pgscan: stat.get("pgscan"),
        pgsteal: stat.get("pgsteal"),
        pgactivate: stat.get("pgactivate"),
        pgdeactivate: stat.get("pgdeactivate"),
        pglazyfree: stat.get("pglazyfree"),
        pglazyfreed: stat.get("pglazyfreed"),
        thp_fault_alloc: stat.get("thp_fault_alloc"),
        thp_collapse_alloc: stat.get("thp_collapse_alloc"),
        ..MemoryV2::default()
    }
}

fn memory_events(text: &str) -> MemoryEventsV2 {
    let stat = Flat::parse(text);
    MemoryEventsV2 {
        low: stat.get("low"),
        high: stat.get("high"),
        max: stat.get("max"),
        oom: stat.get("oom"),
        oom_kill: stat.get("oom_kill"),
        oom_group_kill: stat.get("oom_group_kill"),
    }
}

fn io(dir: &Path) -> Result<Option<IoV2>, Error> {
    let Some(text) = read_optional(dir, "io.stat")? else {
        return Ok(None);
    };
    Ok(Some(IoV2 {
        usage: io_stat(&text),
        psi: psi(dir, "io.pressure")?,
    }))
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`; a device without traffic has no pairs.
fn io_stat(text: &str) -> Vec<IoEntryV2> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (major, minor) = fields.next()?.split_once(':')?;
            let mut entry = IoEntryV2 {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                ..IoEntryV2::default()
            };
            for (key, number) in fields.filter_map(|pair| pair.split_once('=')) {
                let number = number.parse().unwrap_or_default();
                match key {
                    "rbytes" => entry.rbytes = number,
                    "wbytes" => entry.wbytes = number,
                    "rios" => entry.rios = number,
                    "wios" => entry.wios = number,
                    _ => {}
                }
            }
            Some(entry)
        })
        .collect()
}

fn hugetlb(dir: &Path) -> Result<Vec<HugetlbV2>, Error> {
    hugepage_sizes(dir, ".max")?
        .into_iter()
        .map(|pagesize| {
            let value = |name: &str| {
                limit(dir, &format!("hugetlb.{pagesize}.{name}")).map(Option::unwrap_or_default)
            };
            let events = read_optional(dir, &format!("hugetlb.{pagesize}.events"))?;
            Ok(HugetlbV2 {
                current: value("current")?,
                max: value("max")?,
                failcnt: events.map_or(0, |text| Flat::parse(&text).get("max")),
                pagesize,
            })
        })
        .collect()
}

/// The sizes of huge pages that have a `hugetlb.<size><suffix>` in `dir`, as the kernel spells them.
pub(crate) fn hugepage_sizes(dir: &Path, suffix: &str) -> Result<Vec<String>, Error> {
    let entries = fs::read_dir(dir).map_err(|error| Error::on("read", dir, &error))?;
    let mut sizes: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?;
            // `hugetlb.2MB.rsvd.max` is another counter.
            (!size.contains('.')).then(|| size.to_owned())
        })
        .collect();
    sizes.sort();
    Ok(sizes)
}

fn rdma_both(dir: &Path) -> Result<Option<Rdma>, Error> {
    let Some(current) = read_optional(dir, "rdma.current")? else {
        return Ok(None);
    };
    let limit = read_optional(dir, "rdma.max")?.unwrap_or_default();
    Ok(Some(Rdma {
        current: rdma(&current),
        limit: rdma(&limit),
    }))
}

fn psi(dir: &Path, name: &str) -> Result<Option<Pressure>, Error> {
    Ok(read_optional(dir, name)?.map(|text| pressure(&text)))
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn pressure(text: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let kind = fields.next();
        let mut parsed = PressureLine::default();
        for (key, number) in fields.filter_map(|pair| pair.split_once('=')) {
            match key {
                "avg10" => parsed.avg10 = number.parse().unwrap_or_default(),
                "avg60" => parsed.avg60 = number.parse().unwrap_or_default(),
                "avg300" => parsed.avg300 = number.parse().unwrap_or_default(),
                "total" => parsed.total = number.parse().unwrap_or_default(),
                _ => {}
            }
        }
        match kind {
            Some("some") => pressure.some = parsed,
            Some("full") => pressure.full = parsed,
            _ => {}
        }
    }
    pressure
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn a_cgroup_with_every_controller_is_read_whole() {
        let dir = tree(&[
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            (
                "cpu.stat",
                "usage_usec 10\nuser_usec 7\nsystem_usec 3\nnr_periods 5\nnr_bursts 1\n",
            ),
            (
                "cpu.pressure",
                "some avg10=1.50 avg60=0.20 avg300=0.03 total=42\n",
            ),
            (
                "memory.stat",
                "anon 100\nfile 200\nworkingset_refault_anon 3\nworkingset_refault_file 4\n",
            ),
            ("memory.current", "300\n"),
            ("memory.max", "max\n"),
            ("memory.peak", "400\n"),
            ("memory.swap.max", "0\n"),
            (
                "memory.events",
                "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 5\n",
            ),
            (
                "io.stat",
                "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16\n",
            ),
            ("hugetlb.2MB.current", "0\n"),
            ("hugetlb.2MB.max", "4194304\n"),
            ("hugetlb.2MB.rsvd.max", "max\n"),
            ("hugetlb.2MB.events", "max 9\n"),
            ("rdma.current", "mlx4_0 hca_handle=2 hca_object=2000\n"),
            ("rdma.max", "mlx4_0 hca_handle=max hca_object=max\n"),
        ]);
        let stats = read_all(dir.path()).unwrap();
        assert_eq!(
            stats.pids,
            Some(Pids {
                current: 3,
                limit: u64::MAX
            })
        );
        let cpu = stats.cpu.unwrap();
        assert_eq!((cpu.usage_usec, cpu.nr_periods, cpu.nr_bursts), (10, 5, 1));
        assert_eq!(cpu.psi.unwrap().some.total, 42);
        let memory = stats.memory.unwrap();
        assert_eq!((memory.anon, memory.workingset_refault), (100, 7));
        assert_eq!(
            (memory.usage, memory.usage_limit, memory.max_usage),
            (300, u64::MAX, 400)
        );
        assert_eq!((memory.swap_limit, memory.psi), (0, None));
        assert_eq!(stats.memory_events.unwrap().oom_group_kill, 5);
        let io = stats.io.unwrap();
        assert_eq!(
            io.usage[0],
            IoEntryV2 {
                major: 8,
                minor: 0,
                rbytes: 1,
                wbytes: 2,
                rios: 3,
                wios: 4
            }
        );
        assert_eq!(io.usage[1].minor, 16);
        let huge = HugetlbV2 {
            current: 0,
            max: 4_194_304,
            pagesize: "2MB".into(),
            failcnt: 9,
        };
        assert_eq!(stats.hugetlb, [huge]);
        let rdma = stats.rdma.unwrap();
        assert_eq!(
            (rdma.current[0].hca_objects, rdma.limit[0].hca_handles),
            (2000, u32::MAX)
        );
    }

    #[test]
    fn a_cgroup_without_controllers_has_processor_time_only() {
        let dir = tree(&[("cpu.stat", "usage_usec 10\nuser_usec 7\nsystem_usec 3\n")]);
        let stats = read_all(dir.path()).unwrap();
        assert_eq!(stats.cpu.unwrap().user_usec, 7);
        assert_eq!((stats.pids, stats.memory, stats.io), (None, None, None));
    }

    #[test]
    fn a_file_of_nonsense_is_an_error_that_names_it() {
        let dir = tree(&[("pids.current", "many\n")]);
        let text = read_all(dir.path()).unwrap_err().to_string();
        assert!(text.ends_with("/pids.current holds \"many\""), "{text}");
    }
}
