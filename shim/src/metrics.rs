//! Usage in containerd's words: the structs of `duet-cgroup` become
//! `io.containerd.cgroups.v1.Metrics` or `.v2.Metrics`, field by field.
//!
//! Both sides use the same names and units, so nothing is computed here.

use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use duet_cgroup as cgroup;
use duet_cgroup::Stats;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;

use crate::events::pack;

/// Moves fields of the same name from a struct into a message.
macro_rules! moved {
    ($from:expr, $($message:ident)::+ { $($field:ident),* $(,)? }) => {{
        let from = $from;
        $($message)::+ { $($field: from.$field,)* ..Default::default() }
    }};
}

/// The answer to `Stats`.
pub(crate) fn metrics(stats: Stats) -> Any {
    match stats {
        Stats::V1(stats) => pack(&first(*stats)),
        Stats::V2(stats) => pack(&second(*stats)),
    }
}

fn field<A, B>(value: Option<A>, into: impl FnOnce(A) -> B) -> MessageField<B> {
    MessageField::from_option(value.map(into))
}

fn list<A, B>(values: Vec<A>, into: impl Fn(A) -> B) -> Vec<B> {
    values.into_iter().map(into).collect()
}

fn first(stats: cgroup::StatsV1) -> v1::Metrics {
    v1::Metrics {
        hugetlb: list(stats.hugetlb, |size| {
            moved!(
                size,
                v1::HugetlbStat {
                    usage,
                    max,
                    failcnt,
                    pagesize
                }
            )
        }),
        pids: field(stats.pids, |pids| {
            moved!(pids, v1::PidsStat { current, limit })
        }),
        cpu: field(stats.cpu, first_cpu),
        memory: field(stats.memory, first_memory),
        blkio: field(stats.blkio, first_blkio),
        rdma: field(stats.rdma, |rdma| v1::RdmaStat {
            current: list(rdma.current, first_rdma),
            limit: list(rdma.limit, first_rdma),
            ..v1::RdmaStat::default()
        }),
        memory_oom_control: field(stats.memory_oom_control, |control| {
            moved!(
                control,
                v1::MemoryOomControl {
                    oom_kill_disable,
                    under_oom,
                    oom_kill
                }
            )
        }),
        ..v1::Metrics::default()
    }
}

fn first_cpu(cpu: cgroup::CpuV1) -> v1::CPUStat {
    let throttling = moved!(
        &cpu,
        v1::Throttle {
            periods,
            throttled_periods,
            throttled_time
        }
    );
    let usage = moved!(
        cpu,
        v1::CPUUsage {
            total,
            kernel,
            user,
            per_cpu
        }
    );
    v1::CPUStat {
        usage: Some(usage).into(),
        throttling: Some(throttling).into(),
        ..v1::CPUStat::default()
    }
}

fn first_memory(memory: cgroup::MemoryV1) -> v1::MemoryStat {
    v1::MemoryStat {
        usage: field(memory.usage, first_entry),
        swap: field(memory.swap, first_entry),
        kernel: field(memory.kernel, first_entry),
        kernel_tcp: field(memory.kernel_tcp, first_entry),
        ..moved!(
            memory,
            v1::MemoryStat {
                cache,
                rss,
                rss_huge,
                mapped_file,
                dirty,
                writeback,
                pg_pg_in,
                pg_pg_out,
                pg_fault,
                pg_maj_fault,
                inactive_anon,
                active_anon,
                inactive_file,
                active_file,
                unevictable,
                hierarchical_memory_limit,
                hierarchical_swap_limit,
                total_cache,
                total_rss,
                total_rss_huge,
                total_mapped_file,
                total_dirty,
                total_writeback,
                total_pg_pg_in,
                total_pg_pg_out,
                total_pg_fault,
                total_pg_maj_fault,
                total_inactive_anon,
                total_active_anon,
                total_inactive_file,
                total_active_file,
                total_unevictable,
            }
        )
    }
}

fn first_entry(entry: cgroup::MemoryEntryV1) -> v1::MemoryEntry {
    moved!(
        entry,
        v1::MemoryEntry {
            limit,
            usage,
            max,
            failcnt
        }
    )
}

fn first_blkio(blkio: cgroup::BlkioV1) -> v1::BlkIOStat {
    let entries = |entries| {
        list(entries, |entry: cgroup::BlkioEntry| {
            moved!(
                entry,
                v1::BlkIOEntry {
                    op,
                    device,
                    major,
                    minor,
                    value
                }
            )
        })
    };
    v1::BlkIOStat {
        io_service_bytes_recursive: entries(blkio.io_service_bytes_recursive),
        io_serviced_recursive: entries(blkio.io_serviced_recursive),
        io_queued_recursive: entries(blkio.io_queued_recursive),
        io_service_time_recursive: entries(blkio.io_service_time_recursive),
        io_wait_time_recursive: entries(blkio.io_wait_time_recursive),
        io_merged_recursive: entries(blkio.io_merged_recursive),
        io_time_recursive: entries(blkio.io_time_recursive),
        sectors_recursive: entries(blkio.sectors_recursive),
        ..v1::BlkIOStat::default()
    }
}

fn first_rdma(entry: cgroup::RdmaEntry) -> v1::RdmaEntry {
    moved!(
        entry,
        v1::RdmaEntry {
            device,
            hca_handles,
            hca_objects
        }
    )
}

fn second(stats: cgroup::StatsV2) -> v2::Metrics {
    v2::Metrics {
        pids: field(stats.pids, |pids| {
            moved!(pids, v2::PidsStat { current, limit })
        }),
        cpu: field(stats.cpu, second_cpu),
        memory: field(stats.memory, second_memory),
        rdma: field(stats.rdma, |rdma| v2::RdmaStat {
            current: list(rdma.current, second_rdma),
            limit: list(rdma.limit, second_rdma),
            ..v2::RdmaStat::default()
        }),
        io: field(stats.io, |io| v2::IOStat {
            usage: list(io.usage, |entry| {
                moved!(
                    entry,
                    v2::IOEntry {
                        major,
                        minor,
                        rbytes,
                        wbytes,
                        rios,
                        wios
                    }
                )
            }),
            psi: field(io.psi, pressure),
            ..v2::IOStat::default()
        }),
        hugetlb: list(stats.hugetlb, |size| {
            moved!(
                size,
                v2::HugeTlbStat {
                    current,
                    max,
                    pagesize,
                    failcnt
                }
            )
        }),
        memory_events: field(stats.memory_events, |events| {
            moved!(
                events,
                v2::MemoryEvents {
                    low,
                    high,
                    max,
                    oom,
                    oom_kill,
                    oom_group_kill
                }
            )
        }),
        ..v2::Metrics::default()
    }
}

fn second_cpu(cpu: cgroup::CpuV2) -> v2::CPUStat {
    v2::CPUStat {
        psi: field(cpu.psi, pressure),
        ..moved!(
            cpu,
            v2::CPUStat {
                usage_usec,
                user_usec,
                system_usec,
                nr_periods,
                nr_throttled,
                throttled_usec,
                nr_bursts,
                burst_usec,
            }
        )
    }
}

fn second_memory(memory: cgroup::MemoryV2) -> v2::MemoryStat {
    v2::MemoryStat {
        psi: field(memory.psi, pressure),
        ..moved!(
            memory,
            v2::MemoryStat {
                anon,
                file,
                kernel_stack,
                slab,
                sock,
                shmem,
                file_mapped,
                file_dirty,
                file_writeback,
                anon_thp,
                inactive_anon,
                active_anon,
                inactive_file,
                active_file,
                unevictable,
                slab_reclaimable,
                slab_unreclaimable,
                pgfault,
                pgmajfault,
                workingset_refault,
                workingset_activate,
                workingset_nodereclaim,
                pgrefill,
                pgscan,
                pgsteal,
                pgactivate,
                pgdeactivate,
                pglazyfree,
                pglazyfreed,
                thp_fault_alloc,
                thp_collapse_alloc,
                usage,
                usage_limit,
                swap_usage,
                swap_limit,
                max_usage,
                swap_max_usage,
            }
        )
    }
}

fn second_rdma(entry: cgroup::RdmaEntry) -> v2::RdmaEntry {
    moved!(
        entry,
        v2::RdmaEntry {
            device,
            hca_handles,
            hca_objects
        }
    )
}

fn pressure(pressure: cgroup::Pressure) -> v2::PSIStats {
    let line = |line: cgroup::PressureLine| {
        Some(moved!(
            line,
            v2::PSIData {
                avg10,
                avg60,
                avg300,
                total
            }
        ))
        .into()
    };
    v2::PSIStats {
        some: line(pressure.some),
        full: line(pressure.full),
        ..v2::PSIStats::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use protobuf::Message as _;

    #[test]
    fn what_containerd_sees_of_v1() {
        let stats = cgroup::StatsV1 {
            pids: Some(cgroup::Pids {
                current: 3,
                limit: 0,
            }),
            cpu: Some(cgroup::CpuV1 {
                total: 7,
                per_cpu: vec![3, 4],
                throttled_time: 9,
                ..cgroup::CpuV1::default()
            }),
            memory: Some(cgroup::MemoryV1 {
                rss: 11,
                total_unevictable: 12,
                usage: Some(cgroup::MemoryEntryV1 {
                    usage: 13,
                    ..Default::default()
                }),
                ..cgroup::MemoryV1::default()
            }),
            ..cgroup::StatsV1::default()
        };
        let any = metrics(Stats::V1(Box::new(stats)));
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let metrics = v1::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!(metrics.pids.current, 3);
        assert_eq!(metrics.cpu.usage.per_cpu, [3, 4]);
        assert_eq!(metrics.cpu.throttling.throttled_time, 9);
        assert_eq!(metrics.memory.rss, 11);
        assert_eq!(metrics.memory.total_unevictable, 12);
        assert_eq!(metrics.memory.usage.usage, 13);
        assert!(
            metrics.memory.swap.is_none(),
            "a file the kernel lacks is not a zero"
        );
        assert!(metrics.blkio.is_none());
    }

    #[test]
    fn what_containerd_sees_of_v2() {
        let stats = cgroup::StatsV2 {
            memory_events: Some(cgroup::MemoryEventsV2 {
                oom_kill: 2,
                ..Default::default()
            }),
            io: Some(cgroup::IoV2 {
                usage: vec![cgroup::IoEntryV2 {
                    rbytes: 5,
                    ..Default::default()
                }],
                psi: Some(cgroup::Pressure {
                    full: cgroup::PressureLine {
                        avg10: 0.5,
                        ..Default::default()
                    },
                    ..Default::default()
                }),
            }),
            ..cgroup::StatsV2::default()
        };
        let any = metrics(Stats::V2(Box::new(stats)));
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = v2::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!(metrics.memory_events.oom_kill, 2);
        assert_eq!(metrics.io.usage[0].rbytes, 5);
        assert!((metrics.io.psi.full.avg10 - 0.5).abs() < f64::EPSILON);
        assert!(metrics.memory.is_none());
    }
}
