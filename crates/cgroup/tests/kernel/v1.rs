//! The v1 hierarchies.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use duet_cgroup::{Cgroup, Error, Stats};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::support::{Own, can_run, chain, resources, signal, v1};

macro_rules! own {
    ($name:literal) => {{
        let host = v1();
        if !can_run(host.as_ref()) {
            return;
        }
        Own::new(host.unwrap(), $name)
    }};
}

#[test]
fn a_cgroup_is_made_in_every_hierarchy_and_removed_from_each() {
    let own = own!("create");
    let dirs = own.cgroup.own_dirs();
    assert_eq!(dirs.len(), own.host().hierarchies().len());
    assert!(dirs.iter().all(|dir| dir.path.is_dir()));
    let attached = own.cgroup.attach().unwrap();
    assert_eq!(attached.is_some(), own.host().unified().is_some());
    // A container may have made cgroups of its own.
    std::fs::create_dir_all(dirs[0].path.join("deep/er")).unwrap();
    own.cgroup.remove().unwrap();
    assert!(dirs.iter().all(|dir| !dir.path.exists()));
    own.cgroup.remove().unwrap();
    own.cgroup.kill().unwrap();
    assert!(own.cgroup.stats().unwrap_err().is_gone());
    if own.host().unified().is_some() {
        assert!(own.cgroup.attach().unwrap_err().is_gone());
    }
    assert!(own.cgroup.freeze().unwrap_err().is_gone());
    assert!(
        Cgroup::open(own.host(), own.cgroup.path())
            .unwrap_err()
            .is_gone()
    );
}

#[test]
fn a_cgroup_that_is_begun_is_its_place_in_the_v2_tree_and_can_be_given_up() {
    let own = own!("begun");
    own.cgroup.remove().unwrap();
    let dirs = own.cgroup.own_dirs();
    let path = own.cgroup.path();
    let begin = || Cgroup::begin(own.host(), path).unwrap();
    let Some(tree) = own.host().unified() else {
        assert!(begin().is_none());
        return;
    };
    let unified = tree.dir(path);

    let begun = begin().unwrap();
    assert!(dirs.iter().all(|dir| !dir.path.exists()));
    assert!(unified.is_dir());
    // As whoever cleans up after a killed shim finds it.
    Cgroup::open(own.host(), path).unwrap();
    begun.complete().unwrap();
    assert!(dirs.iter().all(|dir| dir.path.is_dir()));
    own.cgroup.remove().unwrap();

    let begun = begin().unwrap();
    let (last, others) = dirs.split_last().unwrap();
    std::fs::create_dir(&last.path).unwrap();
    let mut child = std::process::Command::new("sleep")
        .arg("100")
        .spawn()
        .unwrap();
    std::fs::write(last.path.join("tasks"), child.id().to_string()).unwrap();
    let error = begun.complete().unwrap_err();
    assert!(matches!(error, Error::Occupied { count: 1, .. }), "{error}");
    assert!(others.iter().all(|dir| !dir.path.exists()));
    begun.abandon().unwrap();
    begun.abandon().unwrap();
    assert!(!unified.exists());
    // What was somebody else's lives.
    assert!(last.path.is_dir());
    child.kill().unwrap();
    child.wait().unwrap();

    // Whoever was born there keeps others out, though no hierarchy of v1 knows of it.
    let begun = begin().unwrap();
    let mut child = std::process::Command::new("sleep")
        .arg("100")
        .spawn()
        .unwrap();
    std::fs::write(unified.join("cgroup.procs"), child.id().to_string()).unwrap();
    let error = Cgroup::create(own.host(), path).unwrap_err();
    assert!(matches!(error, Error::Occupied { count: 1, .. }), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    begun.abandon().unwrap();
}

#[test]
fn a_cgroup_that_holds_processes_is_not_taken_over() {
    let own = own!("occupied");
    let child = own.spawn("exec sleep 1000");
    Own::until("the child is inside", || {
        own.dir("name=systemd").join("cgroup.procs").exists()
            && !own.cgroup.pids().unwrap().is_empty()
    });
    assert_eq!(own.cgroup.pids().unwrap(), [child.id()]);
    let error = Cgroup::create(own.host(), own.cgroup.path()).unwrap_err();
    assert!(matches!(error, Error::Occupied { count: 1, .. }), "{error}");
    assert!(
        error.to_string().contains("already holds 1 processes"),
        "{error}"
    );
    own.cgroup.kill().unwrap();
    assert_eq!(signal(child), Some(9));
    // Empty again, it may be.
    Cgroup::create(own.host(), own.cgroup.path()).unwrap();
}

#[test]
fn who_has_next_to_no_share_of_a_busy_processor_is_killed_all_the_same() {
    let own = own!("starved");
    let one_cpu = resources(r#"{"cpu": {"cpus": "0", "mems": "0"}}"#);
    own.cgroup.limit(&one_cpu).unwrap();
    let child = own.spawn("exec sleep 1000");
    Own::until("the child is inside", || {
        own.cgroup.pids().unwrap() == [child.id()]
    });
    let busy = Own::new(v1().unwrap(), "busy");
    busy.cgroup.limit(&one_cpu).unwrap();
    let spinning: Vec<_> = (0..4).map(|_| busy.spawn("while :; do :; done")).collect();
    Own::until("the processor is busy", || {
        busy.cgroup.pids().unwrap().len() == spinning.len()
    });
    // What CRI gives a pause container, and kubelet a pod that asks for no processor.
    let starved = Cgroup::open(own.host(), own.parent()).unwrap();
    let two = resources(r#"{"cpu": {"shares": 2}}"#);
    starved.update(&two).unwrap();
    let killed = starved.kill();
    busy.cgroup.kill().unwrap();
    killed.unwrap();
    let shares = own.dir("cpu").join("../cpu.shares");
    assert_eq!(std::fs::read_to_string(shares).unwrap(), "1024\n");
    for child in spinning.into_iter().chain([child]) {
        assert_eq!(signal(child), Some(9));
    }
}

#[test]
fn a_path_that_names_no_cgroup_is_refused() {
    let own = own!("path");
    let cases = [
        (
            "/",
            "linux.cgroupsPath /: is the root cgroup; a container needs one below it",
        ),
        ("relative", "linux.cgroupsPath relative: not absolute"),
        ("/a/../b", "linux.cgroupsPath /a/../b: `..` leads out of it"),
    ];
    for (path, text) in cases {
        assert_eq!(
            Cgroup::create(own.host(), Path::new(path))
                .unwrap_err()
                .to_string(),
            text
        );
    }
}

#[test]
fn the_limits_of_a_pod_arrive_in_their_files() {
    let own = own!("limits");
    let all = r#"{
        "devices": [{"allow": false, "access": "rwm"}],
        "memory": {"limit": 67108864, "swap": 67108864, "reservation": 33554432, "swappiness": 10},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 50},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 0}, {"pageSize": "1GB", "limit": 0}]}"#;
    own.cgroup.limit(&resources(all)).unwrap();
    let expected = [
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.memsw.limit_in_bytes", "67108864"),
        ("memory", "memory.soft_limit_in_bytes", "33554432"),
        ("memory", "memory.swappiness", "10"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("pids", "pids.max", "50"),
    ];
    for (controller, name, value) in expected {
        assert_eq!(own.file(controller, name), value, "{name}");
    }
    // Up and down again: memory must never be above memory with swap on the way.
    for (limit, swap) in [
        (134_217_728, 268_435_456_i64),
        (33_554_432, 33_554_432),
        (268_435_456, -1),
    ] {
        let json = format!(r#"{{"memory": {{"limit": {limit}, "swap": {swap}}}}}"#);
        own.cgroup.update(&resources(&json)).unwrap();
        assert_eq!(
            own.file("memory", "memory.limit_in_bytes"),
            limit.to_string()
        );
    }
    let burst = r#"{"cpu": {"quota": 20000, "burst": 10000}}"#;
    own.cgroup.update(&resources(burst)).unwrap();
    let burst = r#"{"cpu": {"quota": 80000, "burst": 60000}}"#;
    own.cgroup.update(&resources(burst)).unwrap();
    assert_eq!(own.file("cpu", "cpu.cfs_burst_us"), "60000");
    own.cgroup
        .update(&resources(r#"{"pids": {"limit": -1}}"#))
        .unwrap();
    assert_eq!(own.file("pids", "pids.max"), "max");
    let idle = r#"{"cpu": {"idle": 1, "shares": 512}, "memory": {"disableOOMKiller": true}}"#;
    own.cgroup.update(&resources(idle)).unwrap();
    assert_eq!(own.file("cpu", "cpu.idle"), "1");
    let control = own.file("memory", "memory.oom_control");
    assert!(control.contains("oom_kill_disable 1"), "{control}");
}

#[test]
fn what_is_refused_names_the_file_and_the_value() {
    let own = own!("refused");
    let cases = [
        (r#"{"cpu": {"cpus": "4000"}}"#, "cpuset.cpus = 4000: E"),
        (r#"{"cpu": {"quota": 3}}"#, "cpu.cfs_quota_us = 3: EINVAL"),
        (
            r#"{"cpu": {"shares": 1}}"#,
            "linux.resources.cpu.shares = 1: it is not between 2 and",
        ),
        (
            r#"{"hugepageLimits": [{"pageSize": "3MB", "limit": 4096}]}"#,
            "linux.resources.hugepageLimits[0].pageSize = 3MB: this host does not count",
        ),
        (
            r#"{"unified": {"memory.high": "1"}}"#,
            "linux.resources.unified = memory.high: this host has cgroup v1",
        ),
        (
            r#"{"memory": {"swappiness": 101}}"#,
            "linux.resources.memory.swappiness = 101: it is more",
        ),
        (
            r#"{"blockIO": {"throttleReadBpsDevice": [{"major": 999, "minor": 9, "rate": 1}]}}"#,
            "blkio.throttle.read_bps_device = 999:9 1: ENODEV",
        ),
    ];
    for (json, text) in cases {
        let found = chain(&own.cgroup.update(&resources(json)).unwrap_err());
        assert!(found.starts_with(text), "{found}\n{text}");
    }
    // 16 MiB of a shell's variable cannot be reclaimed: there may be no swap.
    let mut child =
        own.spawn("x=$(head -c 16777216 /dev/zero | tr '\\0' x); echo; exec sleep 1000 <<E\n$x\nE");
    let mut ready = [0; 1];
    let heard = child.stdout.as_mut().unwrap().read(&mut ready).unwrap();
    assert_eq!(heard, 1);
    let busy = own
        .cgroup
        .update(&resources(r#"{"memory": {"limit": 8192}}"#));
    if let Err(error) = busy {
        let text = error.to_string();
        assert!(text.starts_with("memory.limit_in_bytes = 8192: "), "{text}");
        assert!(
            text.ends_with(" bytes are in use, and a lower limit cannot be set"),
            "{text}"
        );
    }
    own.cgroup.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_fork_bomb_is_killed_and_nobody_else() {
    let own = own!("bomb");
    own.cgroup
        .limit(&resources(r#"{"pids": {"limit": 60}}"#))
        .unwrap();
    let other = std::process::Command::new("sleep").arg("1000").spawn();
    let mut other = other.unwrap();
    let mut bomb = own.spawn("set +e; f() { f & f & wait; sleep 0.01; f; }; f 2>/dev/null");
    Own::until("the bomb has spread", || {
        own.cgroup.pids().unwrap().len() > 10
    });
    own.cgroup.kill().unwrap();
    assert_eq!(own.cgroup.pids().unwrap(), [0_u32; 0]);
    // A shell that may not fork gives up by itself, with this code.
    let ended = bomb.wait().unwrap();
    assert!(
        ended.signal() == Some(9) || ended.code() == Some(2),
        "{ended}"
    );
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
    own.cgroup.remove().unwrap();
}

#[test]
fn a_frozen_container_stands_still_and_can_be_killed() {
    let own = own!("freeze");
    let child = own.spawn("while :; do :; done");
    Own::until("the child is inside", || {
        !own.cgroup.pids().unwrap().is_empty()
    });
    own.cgroup.freeze().unwrap();
    assert_eq!(own.file("freezer", "freezer.state"), "FROZEN");
    own.cgroup.freeze().unwrap();
    own.cgroup.thaw().unwrap();
    own.cgroup.thaw().unwrap();
    assert_eq!(own.file("freezer", "freezer.state"), "THAWED");
    own.cgroup.freeze().unwrap();
    own.cgroup.kill().unwrap();
    assert_eq!(signal(child), Some(9));
    assert_eq!(own.file("freezer", "freezer.state"), "THAWED");
}

#[test]
fn statistics_tell_what_was_used() {
    let own = own!("stats");
    let limits = r#"{"pids": {"limit": 9}, "memory": {"limit": 67108864}}"#;
    own.cgroup.limit(&resources(limits)).unwrap();
    let mut child =
        own.spawn("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo; exec sleep 1000");
    let mut ready = [0; 1];
    assert_eq!(child.stdout.as_mut().unwrap().read(&mut ready).unwrap(), 1);
    let Stats::V1(stats) = own.cgroup.stats().unwrap() else {
        panic!("this is v1")
    };
    let pids = stats.pids.unwrap();
    assert_eq!((pids.current, pids.limit), (1, 9));
    let cpu = stats.cpu.unwrap();
    // At least 10 ms, and less than the test may take: nanoseconds, not anything else.
    assert!((10_000_000..60_000_000_000).contains(&cpu.total), "{cpu:?}");
    assert_eq!(cpu.per_cpu.iter().sum::<u64>(), cpu.total);
    assert!(cpu.user + cpu.kernel <= cpu.total + 20_000_000, "{cpu:?}");
    let memory = stats.memory.unwrap();
    let usage = memory.usage.unwrap();
    assert_eq!(usage.limit, 67_108_864);
    assert!(usage.usage > 0 && usage.max >= usage.usage, "{usage:?}");
    // The kernel adds up memory.stat every two seconds or so: its counters may still be zero.
    assert!(memory.kernel.is_some(), "{memory:?}");
    assert_eq!(memory.hierarchical_memory_limit, 67_108_864);
    assert_eq!(stats.memory_oom_control.unwrap().oom_kill, 0);
    own.cgroup.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn memory_is_read_by_descriptor_and_nothing_is_written_through_it() {
    let own = own!("limit");
    let limit = r#"{"memory": {"limit": 67108864}}"#;
    own.cgroup.limit(&resources(limit)).unwrap();
    let descriptor = own.cgroup.memory().unwrap();
    let memory = PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()));
    let limit = std::fs::read_to_string(memory.join("memory.limit_in_bytes")).unwrap();
    assert_eq!(limit, "67108864\n");
    for file in [
        "memory.limit_in_bytes",
        "cgroup.procs",
        "cgroup.event_control",
    ] {
        let file = memory.join(file);
        let error = OpenOptions::new().write(true).open(&file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem, "{file:?}");
    }
    let error = std::fs::create_dir(memory.join("below")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    // Nothing is above it.
    let above = std::fs::metadata(memory.join("..")).unwrap();
    assert_eq!(above.ino(), std::fs::metadata(&memory).unwrap().ino());
    // Who holds it does not keep the cgroup.
    own.cgroup.remove().unwrap();
}

#[test]
fn an_oom_kill_wakes_the_watch_and_is_counted() {
    let own = own!("oom");
    let limit = r#"{"memory": {"limit": 16777216, "swap": 16777216}}"#;
    own.cgroup.limit(&resources(limit)).unwrap();
    let watch = own.cgroup.oom().unwrap();
    assert_eq!(watch.kills(), 0);
    let child = own.spawn("exec tail /dev/zero");
    let mut fds = [PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    assert_eq!(poll(&mut fds, Some(&timeout)).unwrap(), 1);
    assert_eq!(signal(child), Some(9));
    watch.drain();
    assert_eq!(watch.kills(), 1);
    // Removal wakes it once more, and the count stays.
    own.cgroup.remove().unwrap();
    assert_eq!(watch.kills(), 1);
}

#[test]
fn a_kill_is_known_though_the_cgroup_went_before_anyone_looked() {
    let (full, idle) = (own!("full"), own!("idle"));
    for (own, script, code, kills) in [
        (full, "exec tail /dev/zero", Some(9), 1),
        (idle, "exec true", None, 0),
    ] {
        let limit = r#"{"memory": {"limit": 16777216, "swap": 16777216}}"#;
        own.cgroup.limit(&resources(limit)).unwrap();
        let watch = own.cgroup.oom_of_scope().unwrap();
        watch.announce_removal().unwrap();
        assert_eq!(signal(own.spawn(script)), code);
        // As systemd does when nobody is in it any more.
        own.cgroup.remove().unwrap();
        watch.drain();
        // The removal has hardly rung yet, and what has rung proves no kill.
        let _perhaps = watch.kills();
        let removal = watch.removal().unwrap();
        let mut fds = [PollFd::from_borrowed_fd(removal, PollFlags::IN)];
        let timeout = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        assert_eq!(poll(&mut fds, Some(&timeout)).unwrap(), 1);
        assert!(watch.is_settled());
        assert_eq!(watch.kills(), kills, "{script}");
    }
}

#[test]
fn a_kill_that_was_counted_is_not_told_again_when_the_cgroup_goes() {
    let own = own!("many");
    let limit = r#"{"memory": {"limit": 16777216, "swap": 16777216}}"#;
    own.cgroup.limit(&resources(limit)).unwrap();
    let watch = own.cgroup.oom_of_scope().unwrap();
    watch.announce_removal().unwrap();
    // The neighbours ask for memory while the victim is dying, and get it when it is gone.
    let neighbours = "for i in 1 2 3 4 5 6; do
        (while :; do dd if=/dev/zero of=/dev/null bs=1M count=1 2>/dev/null; done) &
    done";
    let victim = "(echo 1000 > /proc/self/oom_score_adj; exec tail /dev/zero) || true";
    let script = format!("{neighbours}; {victim}");
    let mut children = own.spawn(&script);
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    // As the shim does: it looks whenever it rings.
    while children.try_wait().unwrap().is_none() {
        let mut fds = [PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN)];
        if poll(&mut fds, Some(&timeout)).unwrap() == 1 {
            watch.drain();
            watch.kills();
        }
    }
    own.cgroup.kill().unwrap();
    watch.drain();
    let control = own.file("memory", "memory.oom_control");
    let counted = control
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "));
    let counted: u64 = counted.unwrap().parse().unwrap();
    assert!(counted > 0, "{control}");
    assert_eq!(watch.kills(), counted);
    own.cgroup.remove().unwrap();
    let mut fds = [PollFd::from_borrowed_fd(
        watch.removal().unwrap(),
        PollFlags::IN,
    )];
    let timeout = Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    assert_eq!(poll(&mut fds, Some(&timeout)).unwrap(), 1);
    assert_eq!(watch.kills(), counted);
}

#[test]
fn devices_are_confined() {
    let own = own!("devices");
    own.cgroup.limit(&resources("{}")).unwrap();
    let script = "
        echo > /dev/null; head -c 1 /dev/zero > /dev/null; echo ok
        if (: < /dev/kmsg) 2>/dev/null; then echo kmsg; fi
        mknod $0 b 8 0 && if (: < $0) 2>/dev/null; then echo disk; fi; rm -f $0";
    let node = std::env::temp_dir().join(format!("duet-test-{}-node", std::process::id()));
    let script = script.replace("$0", &node.display().to_string());
    let output = own.spawn(&script).wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ok\n");
    assert!(own.file("devices", "devices.list").contains("c 1:3 rwm"));
}

#[test]
fn a_failed_creation_leaves_nothing() {
    let own = own!("failed");
    // In one hierarchy, behind several others, someone else lives there already.
    let path = own.parent().join("two/three");
    let hierarchy = own.host().hierarchy("pids").unwrap();
    let taken = hierarchy.dir(&path);
    std::fs::create_dir_all(&taken).unwrap();
    let enter = format!("echo 0 > {}/tasks; exec sleep 1000", taken.display());
    let mut child = std::process::Command::new("/bin/sh")
        .args(["-ec", &enter])
        .spawn()
        .unwrap();
    let procs = taken.join("cgroup.procs");
    Own::until("the child is inside", || {
        !std::fs::read(&procs).unwrap().is_empty()
    });
    let error = Cgroup::create(own.host(), &path).unwrap_err();
    assert!(matches!(error, Error::Occupied { .. }), "{error}");
    assert!(taken.is_dir());
    let two = own.parent().join("two");
    let others = own
        .host()
        .hierarchies()
        .iter()
        .filter(|other| *other != hierarchy);
    assert_eq!(others.filter(|other| other.dir(&two).exists()).count(), 0);
    child.kill().unwrap();
    child.wait().unwrap();
}
