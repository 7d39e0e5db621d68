//! Cgroups that are units of systemd: `slice:prefix:name` in `linux.cgroupsPath`.
//!
//! These run in the emulated machine that `tests/vm` boots with systemd as its first process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use duet_tests::cri::Wish;
use duet_tests::shim::{Bundle, Shim};
use duet_tests::{Node, command, image, leaks, machine, wait};
use k8s_cri::v1::LinuxContainerResources;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde_json::json;

const FOREVER: &str = "echo ready; exec sleep 1000";

/// A unit, as systemd sees it.
struct Unit(String);

impl Unit {
    /// The scope of a container that `ctr` runs.
    fn of_ctr(id: &str) -> Self {
        Unit(format!("ctr-{id}.scope"))
    }

    /// The scope of a container of CRI's.
    fn of_cri(id: &str) -> Self {
        Unit(format!("cri-containerd-{id}.scope"))
    }

    fn property(&self, name: &str) -> String {
        let mut show = Command::new("systemctl");
        let show = show.args(["show", "--value", "-p", name, &self.0]);
        command::run(show).ok().stdout.trim().to_owned()
    }

    /// The text of a file of its cgroup.
    fn file(&self, name: &str) -> String {
        let path = self.dir_of(name).join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        text.trim().to_owned()
    }

    /// Its cgroup, in the hierarchy that has this file.
    fn dir_of(&self, file: &str) -> PathBuf {
        let group = self.property("ControlGroup");
        assert!(!group.is_empty(), "{} has no cgroup", self.0);
        let hierarchy = match file.split_once('.') {
            Some((controller, _)) if !is_v2() => controller,
            _ => "",
        };
        Path::new("/sys/fs/cgroup")
            .join(hierarchy)
            .join(group.trim_start_matches('/'))
    }

    /// Waits until systemd has forgotten it: at Delete it is gone, and then it is swept away.
    fn is_gone(&self) {
        wait::until(&format!("{} to be forgotten", self.0), || {
            (self.property("LoadState") == "not-found").then_some(())
        });
        assert_eq!(self.property("ActiveState"), "inactive");
    }
}

fn send(pid: i32, signal: Signal) {
    signal::kill(Pid::from_raw(pid), signal).expect("it runs");
}

fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// What undoes a limit that systemd was not told of: it reads its units again, and it makes the next.
fn stir(node: &Node) {
    let _reloaded = command::run(Command::new("systemctl").arg("daemon-reload")).ok();
    let _ran = node.container("beside").args(&["/bin/true"]).run().ok();
}

#[test]
fn limits_are_known_to_systemd_and_outlive_a_reload() {
    let Some(node) = Node::enter_with_systemd() else {
        return;
    };
    let limits = [
        "--memory-limit",
        "33554432",
        "--cpu-quota",
        "12345",
        "--cpu-period",
        "50000",
    ];
    // A property of systemd, and the files and what is in them.
    let (property, memory, quota) = if is_v2() {
        ("MemoryMax", "memory.max", ("cpu.max", "12345 50000"))
    } else {
        let quota = ("cpu.cfs_quota_us", "12345");
        ("MemoryLimit", "memory.limit_in_bytes", quota)
    };
    let mut task = node.container("main").with(&limits).script(FOREVER).start();
    task.says("ready");
    let unit = Unit::of_ctr("main");
    for (property, value) in [
        ("ActiveState", "active"),
        ("Delegate", "yes"),
        ("Slice", &format!("{}.slice", node.namespace())),
        (property, "33554432"),
        // 246.9 ms of each second: rounded up to a whole percent.
        ("CPUQuotaPerSecUSec", "250ms"),
        ("TasksMax", "infinity"),
        ("TasksCurrent", "1"),
    ] {
        assert_eq!(unit.property(property), value, "{property}");
    }
    let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", task.pid())).expect("it runs");
    let group = unit.property("ControlGroup");
    for line in cgroup.lines() {
        assert!(line.ends_with(&format!(":{group}")), "{line}, not {group}");
    }
    let holds = || {
        assert_eq!(unit.file(memory), "33554432");
        assert_eq!(unit.file("pids.max"), "max");
        let disk =
            "mknod /tmp/disk b 7 0 && cat /tmp/disk; rm /tmp/disk; echo x > /dev/null && echo null";
        let outcome = task.exec(&[], &["/bin/sh", "-c", disk]);
        assert_eq!(outcome.stdout, "null\n", "{outcome:?}");
        assert!(
            outcome.stderr.contains("Operation not permitted"),
            "{outcome:?}"
        );
    };
    holds();
    assert_eq!(unit.file(quota.0), quota.1);
    stir(&node);
    holds();
    task.end();
    unit.is_gone();
}

#[test]
fn a_pod_of_cri_is_scopes_in_its_slice() {
    let Some(node) = Node::enter_with_systemd() else {
        return;
    };
    let cri = node.cri();
    let pod = cri.pod("web");
    let pause = Unit::of_cri(pod.id());
    let native = pod.start(&Wish::native("native", FOREVER).memory(64 << 20));
    let wasm = pod.start(&Wish::wasm("wasm", &["spin"]).memory(128 << 20));
    native.says("ready");
    let (first, second) = (Unit::of_cri(native.id()), Unit::of_cri(wasm.id()));
    for unit in [&pause, &first, &second] {
        assert_eq!(
            unit.property("Slice"),
            format!("{}.slice", node.namespace())
        );
        assert_eq!(unit.property("ActiveState"), "active");
        assert_eq!(unit.file("pids.current"), unit.property("TasksCurrent"));
    }
    assert_eq!(first.property("MemoryMax"), (64 << 20).to_string());
    assert_eq!(second.file("memory.max"), (128 << 20).to_string());
    let memory = native.stats().memory.expect("it has memory");
    assert!(
        memory
            .working_set_bytes
            .is_some_and(|bytes| bytes.value > 0),
        "{memory:?}"
    );

    let limits = LinuxContainerResources {
        cpu_quota: 12_345,
        cpu_period: 50_000,
        cpu_shares: 2048,
        memory_limit_in_bytes: 96 << 20,
        unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    };
    native.update(limits).expect("UpdateContainerResources");
    let holds = || {
        assert_eq!(first.file("memory.max"), (96 << 20).to_string());
        assert_eq!(first.property("MemoryMax"), (96 << 20).to_string());
        assert_eq!(first.property("CPUQuotaPerSecUSec"), "250ms");
        assert_eq!(first.file("cpu.weight"), first.property("CPUWeight"));
    };
    holds();
    // What systemd rounds, and what it writes as if nobody had set it.
    assert_eq!(first.file("cpu.max"), "12345 50000");
    assert_eq!(first.file("memory.oom.group"), "1");
    stir(&node);
    holds();
    pod.remove();
    for unit in [pause, first, second] {
        unit.is_gone();
    }
}

#[test]
fn running_out_of_memory_ends_the_container_and_not_its_unit_first() {
    let Some(node) = Node::enter_with_systemd() else {
        return;
    };
    let cri = node.cri();
    let pod = cri.pod("hungry");
    let member = pod.start(&Wish::native("main", "exec tail /dev/zero").memory(16 << 20));
    assert_eq!(member.wait(), (137, "OOMKilled".to_owned()));
    let unit = Unit::of_cri(member.id());
    // A neighbour's kill is no end of the container's own program.
    let script = "echo ready; tail /dev/zero; echo $?; exec sleep 1000";
    let survivor = pod.start(&Wish::native("survivor", script).memory(16 << 20));
    survivor.says("137");
    assert_eq!(
        Unit::of_cri(survivor.id()).property("ActiveState"),
        "active"
    );
    pod.remove();
    unit.is_gone();
}

#[test]
fn what_ran_out_of_memory_is_known_though_systemd_was_first_to_clean_up() {
    let Some(node) = Node::enter_with_systemd() else {
        return;
    };
    let volume = node.scratch().join("volume");
    fs::create_dir(&volume).expect("our own folder");
    let cri = node.cri();
    let pod = cri.pod("late");
    let script = "echo ready; until [ -e /data/go ]; do sleep 0.02; done; exec tail /dev/zero";
    let wish = Wish::native("main", script).memory(16 << 20);
    let member = pod.start(&wish.volume(&volume, "/data"));
    member.says("ready");
    let script = "echo ready; until [ -e /data/end ]; do sleep 0.02; done; exit 3";
    let beside = pod.start(&Wish::native("beside", script).volume(&volume, "/data"));
    beside.says("ready");
    let dir = Unit::of_cri(member.id()).dir_of("memory.events");
    let shim = leaks::parent_of(member.pid()).expect("it runs");
    send(shim, Signal::SIGSTOP);
    fs::write(volume.join("go"), "").expect("our own folder");
    let removed = wait::within(wait::patience(), || (!dir.exists()).then_some(()));
    send(shim, Signal::SIGCONT);
    assert!(removed.is_some(), "systemd keeps {}", dir.display());
    assert_eq!(member.wait(), (137, "OOMKilled".to_owned()));
    // What killed a neighbour is nobody else's reason.
    fs::write(volume.join("end"), "").expect("our own folder");
    assert_eq!(beside.wait(), (3, "Error".to_owned()));
    pod.remove();
}

#[test]
fn a_limit_of_one_task_is_enough_for_one() {
    let Some(node) = Node::enter_with_systemd() else {
        return;
    };
    let cri = node.cri();
    let pod = cri.pod("alone");
    let wish = Wish::native("main", FOREVER).unified("pids.max", "1");
    let member = pod.start(&wish);
    member.says("ready");
    let unit = Unit::of_cri(member.id());
    assert_eq!(unit.file("pids.max"), "1");
    assert_eq!(unit.property("TasksMax"), "1");
    pod.remove();
    unit.is_gone();
}

#[test]
fn annotations_are_properties_of_the_unit_and_its_users_may_divide_its_cgroup() {
    let Some(node) = Node::enter_with_systemd() else {
        return;
    };
    let id = "divided";
    // Without what is given away the user could neither make a cgroup nor move into it.
    let script = "mkdir /sys/fs/cgroup/below && echo 0 >/sys/fs/cgroup/below/cgroup.procs && \
        echo 1 >/sys/fs/cgroup/memory.max || exec sleep 1000";
    let config = |annotation: &str, value: &str| {
        json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "process": {"args": ["/bin/sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"],
                "user": {"uid": 1234, "gid": 1234}},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
            ],
            "annotations": {annotation: value},
            "linux": {
                "cgroupsPath": format!("{}:oci:{id}", node.cgroup_parent()),
                "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "cgroup"}],
            },
        })
    };
    let wrong = config("org.systemd.property.TimeoutStopSec", "soon").to_string();
    let bundle = Bundle::new(&node.scratch().join(id), Some(&wrong)).expect("our own folder");
    let bin = bundle.dir.join("rootfs/bin");
    for dir in [
        &bin,
        &bundle.dir.join("rootfs/proc"),
        &bundle.dir.join("rootfs/sys"),
    ] {
        fs::create_dir_all(dir).expect("our own folder");
    }
    fs::copy(image::busybox(), bin.join("busybox")).expect("Debian's busybox-static");
    for name in ["sh", "mkdir", "sleep"] {
        std::os::unix::fs::symlink("busybox", bin.join(name)).expect("our own folder");
    }
    let program = machine::binary("containerd-shim-duet-v1");
    let shim = Shim::start(node.daemon(), &program, node.namespace(), id, &bundle);
    let shim = shim.unwrap_or_else(|error| panic!("{error}"));
    let error = shim.create(id, &bundle.dir).expect_err("it is no time");
    let why = "annotations.org.systemd.property.TimeoutStopSec = soon: it is not in GVariant's text format";
    assert!(error.contains(why), "{error}");

    let right = config("org.systemd.property.TimeoutStopSec", "7").to_string();
    fs::write(bundle.dir.join("config.json"), right).expect("our own folder");
    let pid = shim.create(id, &bundle.dir).expect("Create");
    shim.begin(id).expect("Start");
    let unit = Unit(format!("oci-{id}.scope"));
    assert_eq!(unit.property("TimeoutStopUSec"), "7s");
    wait::until("it has divided its cgroup, and gone no further", || {
        let program = fs::read(format!("/proc/{pid}/cmdline")).expect("it runs");
        program.starts_with(b"sleep\0").then_some(())
    });
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let group = unit.property("ControlGroup");
    assert_eq!(cgroup.trim(), format!("0::{group}/below"));
    assert_eq!(unit.file("memory.max"), "max");
    shim.kill(id).expect("Kill");
    assert_eq!(shim.wait(id), Ok(137));
    shim.delete(id).expect("Delete");
    unit.is_gone();
    let _deleted = shim.shutdown().ok();
}
