//! The v2 tree: whatever needs no controller.

use duet_cgroup::{Mode, Stats};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use crate::support::{Own, can_run, resources, signal, v2};

macro_rules! own {
    ($name:literal) => {{
        let host = v2();
        if !can_run(host.as_ref()) {
            return;
        }
        Own::new(host.unwrap(), $name)
    }};
}

#[test]
fn a_cgroup_is_one_directory() {
    let own = own!("create2");
    assert_eq!(own.cgroup.mode(), Mode::V2);
    assert!(own.cgroup.attach().unwrap().is_some());
    let Stats::V2(stats) = own.cgroup.stats().unwrap() else {
        panic!("this is v2")
    };
    assert!(stats.cpu.is_some());
    std::fs::create_dir_all(own.dir("").join("deep/er")).unwrap();
    own.cgroup.remove().unwrap();
    own.cgroup.remove().unwrap();
    own.cgroup.kill().unwrap();
    assert!(own.cgroup.stats().unwrap_err().is_gone());
    assert!(own.cgroup.freeze().unwrap_err().is_gone());
}

#[test]
fn a_frozen_container_stands_still_and_can_be_killed() {
    let own = own!("freeze2");
    let child = own.spawn("sleep 1000 & while :; do :; done");
    Own::until("both are inside", || own.cgroup.pids().unwrap().len() == 2);
    own.cgroup.freeze().unwrap();
    assert!(own.file("", "cgroup.events").contains("frozen 1"));
    own.cgroup.thaw().unwrap();
    assert!(own.file("", "cgroup.events").contains("frozen 0"));
    own.cgroup.freeze().unwrap();
    own.cgroup.kill().unwrap();
    assert_eq!(own.cgroup.pids().unwrap(), [0_u32; 0]);
    assert_eq!(signal(child), Some(9));
}

#[test]
fn a_process_that_moved_below_is_followed() {
    let own = own!("beside2");
    let child = own.spawn("exec sleep 1000");
    let pid = i32::try_from(child.id()).unwrap();
    // The shell moves itself into the cgroup: not before that is it moved on.
    Own::until("it is inside", || {
        own.cgroup.pids().unwrap() == [child.id()]
    });
    let inner = own.dir("").join("inner");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("cgroup.procs"), pid.to_string()).unwrap();
    let beside = own.cgroup.attach_beside(pid).unwrap();
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&beside));
    assert_eq!(std::fs::read_link(link).unwrap(), inner);
    let own_pid = i32::try_from(std::process::id()).unwrap();
    assert!(own.cgroup.attach_beside(own_pid).unwrap_err().is_gone());
    own.cgroup.kill().unwrap();
    assert_eq!(signal(child), Some(9));
}

#[test]
fn devices_are_confined_by_a_program() {
    let own = own!("devices2");
    own.cgroup.limit(&resources("{}")).unwrap();
    let node = std::env::temp_dir().join(format!("duet-test-{}-node2", std::process::id()));
    let script = "
        echo > /dev/null; head -c 1 /dev/zero > /dev/null; echo ok
        if (: < /dev/kmsg) 2>/dev/null; then echo kmsg; fi
        mknod NODE b 8 0 && if (: < NODE) 2>/dev/null; then echo disk; fi; rm -f NODE";
    let script = script.replace("NODE", &node.display().to_string());
    let output = own.spawn(&script).wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ok\n");
}

#[test]
fn kills_are_heard_of_when_nobody_has_an_inotify_left() {
    let own = own!("deaf");
    if !own.dir("memory").join("memory.events").exists() {
        eprintln!("skipped: the tree has no memory controller");
        return;
    }
    let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap();
    let most: usize = most.trim().parse().unwrap();
    if most > 256 {
        eprintln!(
            "skipped: root may have {most} instances of inotify here, and this more files than it may"
        );
        return;
    }
    let all: Vec<_> = (0..most)
        .map_while(|_| inotify::init(inotify::CreateFlags::CLOEXEC).ok())
        .collect();
    let limit = resources(r#"{"memory": {"limit": 8388608, "swap": 8388608}}"#);
    own.cgroup.limit(&limit).unwrap();
    let watch = own.cgroup.oom().unwrap();
    let child = own.spawn("exec tail /dev/zero");
    while watch.kills() == 0 {
        let mut fds = [PollFd::new(&watch, PollFlags::IN)];
        let limit = Timespec {
            tv_sec: 60,
            tv_nsec: 0,
        };
        assert_ne!(poll(&mut fds, Some(&limit)).unwrap(), 0, "nothing is heard");
        watch.drain();
    }
    assert_eq!(watch.kills(), 1);
    assert_eq!(signal(child), Some(9));
    drop(all);
}
