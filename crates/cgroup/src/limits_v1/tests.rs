//! The values that arrive in files of v1 where no kernel refuses them: that of the tests has not all of these.

use std::fs;

use super::*;
use crate::{Host, Mode};

/// A cgroup in hierarchies that are directories, with these files of it.
struct Tree {
    root: tempfile::TempDir,
    cgroup: Cgroup,
}

impl Tree {
    /// Each file is its controller's: `memory.limit_in_bytes`.
    fn new(files: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (mut mounts, mut own) = (String::new(), String::new());
        for controller in [
            "blkio", "cpu", "cpuset", "hugetlb", "memory", "net_cls", "net_prio", "pids", "rdma",
        ] {
            let mountpoint = root.path().join(controller);
            fs::create_dir_all(mountpoint.join("web")).unwrap();
            let at = mountpoint.display();
            mounts += &format!("32 31 0:29 / {at} rw - cgroup cgroup rw,{controller}\n");
            own += &format!("1:{controller}:/\n");
        }
        let host = Host::parse(&mounts, &own).unwrap();
        let cgroup = Cgroup::open(&host, Path::new("/web")).unwrap();
        assert_eq!(cgroup.mode(), Mode::V1);
        let tree = Tree { root, cgroup };
        for file in files {
            fs::write(tree.path(file), "").unwrap();
        }
        tree
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        let (controller, _) = file.split_once('.').unwrap();
        self.root.path().join(controller).join("web").join(file)
    }

    fn apply(&self, json: &str) -> Result<(), Error> {
        let resources = serde_json::from_str(json).unwrap();
        set_all(&self.cgroup, &resources, Occasion::Birth)
    }
}

#[test]
fn what_few_ask_for_arrives_on_v1_too() {
    let class = r#"{"network": {"classID": 1048577}}"#;
    let priorities = r#"{"network": {"priorities": [{"name": "eth0", "priority": 3}]}}"#;
    let weights = r#"{"blockIO": {"weightDevice":
        [{"major": 8, "minor": 16, "weight": 500, "leafWeight": 300}]}}"#;
    let rdma = r#"{"rdma": {"mlx5_1": {"hcaHandles": 2, "hcaObjects": 3}}}"#;
    let pages = r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4096}]}"#;
    let cases = [
        (
            r#"{"memory": {"kernel": 5000}}"#,
            "memory.kmem.limit_in_bytes",
            "5000",
        ),
        (
            r#"{"memory": {"kernelTCP": 6000}}"#,
            "memory.kmem.tcp.limit_in_bytes",
            "6000",
        ),
        (
            r#"{"memory": {"swappiness": 60}}"#,
            "memory.swappiness",
            "60",
        ),
        (
            r#"{"memory": {"disableOOMKiller": true}}"#,
            "memory.oom_control",
            "1",
        ),
        (
            r#"{"cpu": {"realtimeRuntime": 950}}"#,
            "cpu.rt_runtime_us",
            "950",
        ),
        (
            r#"{"cpu": {"realtimePeriod": 1000}}"#,
            "cpu.rt_period_us",
            "1000",
        ),
        (r#"{"cpu": {"idle": 1, "shares": 5}}"#, "cpu.idle", "1"),
        (r#"{"cpu": {"burst": 7000}}"#, "cpu.cfs_burst_us", "7000"),
        (r#"{"cpu": {"mems": "0-1"}}"#, "cpuset.mems", "0-1"),
        (r#"{"blockIO": {"weight": 500}}"#, "blkio.weight", "500"),
        (r#"{"blockIO": {"weight": 500}}"#, "blkio.bfq.weight", "500"),
        (
            r#"{"blockIO": {"leafWeight": 300}}"#,
            "blkio.leaf_weight",
            "300",
        ),
        (pages, "hugetlb.2MB.limit_in_bytes", "4096"),
        (class, "net_cls.classid", "0x100001"),
        (priorities, "net_prio.ifpriomap", "eth0 3"),
        (rdma, "rdma.max", "mlx5_1 hca_handle=2 hca_object=3"),
    ];
    for (json, file, value) in cases {
        let tree = Tree::new(&[file]);
        tree.apply(json).unwrap();
        assert_eq!(
            fs::read_to_string(tree.path(file)).unwrap(),
            value,
            "{json}"
        );
    }
    for file in ["blkio.weight_device", "blkio.bfq.weight_device"] {
        let tree = Tree::new(&[file, "blkio.leaf_weight_device"]);
        tree.apply(weights).unwrap();
        assert_eq!(fs::read_to_string(tree.path(file)).unwrap(), "8:16 500");
        let leaf = tree.path("blkio.leaf_weight_device");
        assert_eq!(fs::read_to_string(leaf).unwrap(), "8:16 300");
    }
}

#[test]
fn what_this_kernel_has_not_is_refused_by_its_file_or_its_name() {
    let tree = Tree::new(&[]);
    for (json, text) in [
        (r#"{"cpu": {"idle": 1}}"#, "cpu.idle = 1"),
        (
            r#"{"blockIO": {"leafWeight": 300}}"#,
            "blkio.leaf_weight = 300",
        ),
        (
            r#"{"unified": {"memory.high": "1"}}"#,
            "linux.resources.unified = memory.high: this host has cgroup v1",
        ),
        (
            r#"{"memory": {"useHierarchy": false}}"#,
            "linux.resources.memory.useHierarchy = false: the kernel always counts hierarchically",
        ),
        (
            r#"{"memory": {"swappiness": 101}}"#,
            "linux.resources.memory.swappiness = 101: it is more than 100",
        ),
        (
            r#"{"cpu": {"shares": 1}}"#,
            "linux.resources.cpu.shares = 1: it is not between 2 and 262144",
        ),
    ] {
        assert_eq!(tree.apply(json).unwrap_err().to_string(), text);
    }
}

#[test]
fn a_hierarchy_that_is_not_there_is_named_by_what_it_was_for() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("web")).unwrap();
    let mounts = format!(
        "32 31 0:29 / {} rw - cgroup cgroup rw,memory\n",
        root.path().display()
    );
    let host = Host::parse(&mounts, "1:memory:/\n").unwrap();
    let cgroup = Cgroup::open(&host, Path::new("/web")).unwrap();
    for (json, field) in [
        (
            r#"{"network": {"classID": 9}}"#,
            "linux.resources.network.classID = 9: ",
        ),
        (
            r#"{"network": {"priorities": [{"name": "eth0", "priority": 3}]}}"#,
            "linux.resources.network.priorities = eth0 3: ",
        ),
        (
            r#"{"blockIO": {"weight": 500}}"#,
            "linux.resources.blockIO = 500: ",
        ),
        (
            r#"{"cpu": {"realtimePeriod": 9}}"#,
            "linux.resources.cpu.realtimePeriod = 9: ",
        ),
    ] {
        let resources = serde_json::from_str(json).unwrap();
        let error = set_all(&cgroup, &resources, Occasion::Birth).unwrap_err();
        assert!(error.to_string().starts_with(field), "{error}");
    }
}
