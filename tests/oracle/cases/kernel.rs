//! Namespaces, devices, limits and filters.

use serde_json::{Value, json};

use super::{Case, allow, case, device, exec, filter, held, namespace};

pub(crate) const CASES: &[Case] = &[
    case("the host's network", |s, _| namespace(s, "network", None)),
    case("the host's IPC", |s, _| namespace(s, "ipc", None)),
    case("the host's processes", |s, _| namespace(s, "pid", None)),
    case("the host's name", |s, _| namespace(s, "uts", None)),
    case("a pod's namespaces", |s, p| {
        for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
            namespace(s, kind, held(p, file));
        }
    }),
    case("a pod's processes", |s, p| {
        namespace(s, "pid", held(p, "pid"))
    }),
    case("a cgroup namespace", |s, _| {
        namespace(s, "cgroup", Some(String::new()))
    }),
    case("a pod's cgroup namespace", |s, p| {
        namespace(s, "cgroup", held(p, "cgroup"))
    }),
    case("a namespace that is missing", |s, _| {
        namespace(s, "network", Some("/run/no-such-namespace".to_owned()))
    }),
    case("kernel parameters", |s, _| {
        s["linux"]["sysctl"] = json!({
            "kernel.msgmax": "4096", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "7", "net.ipv4.ip_forward": "1",
            "net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647",
        })
    }),
    case("a kernel parameter of the host", |s, _| {
        s["linux"]["sysctl"] = json!({"vm.swappiness": "11"})
    }),
    case("devices", |s, _| {
        device(
            s,
            json!({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o660, "uid": 1000, "gid": 2000}),
        );
        device(
            s,
            json!({"path": "/dev/oracle/block", "type": "b", "major": 7, "minor": 0}),
        );
        device(
            s,
            json!({"path": "/dev/pipe", "type": "p", "fileMode": 0o600}),
        );
        device(
            s,
            json!({"path": "/srv/zero", "type": "c", "major": 1, "minor": 5}),
        );
        allow(
            s,
            json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"}),
        );
    }),
    case("a device in place of a usual one", |s, _| {
        device(
            s,
            json!({"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 7, "gid": 8}),
        )
    }),
    case("device rules", |s, _| {
        allow(
            s,
            json!({"allow": true, "type": "b", "major": 7, "access": "r"}),
        );
        allow(
            s,
            json!({"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw"}),
        );
        allow(
            s,
            json!({"allow": false, "type": "c", "major": 1, "minor": 11, "access": "w"}),
        );
        device(
            s,
            json!({"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}),
        );
        device(
            s,
            json!({"path": "/dev/loop0", "type": "b", "major": 7, "minor": 0}),
        );
    }),
    case("every device, as for a privileged container", |s, _| {
        s["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
        device(
            s,
            json!({"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}),
        );
    }),
    case(
        "memory",
        |s, _| s["linux"]["resources"]["memory"] = json!({"limit": 67108864, "reservation": 33554432, "swap": 134217728, "swappiness": 10}),
    ),
    case("memory without the killer", |s, _| {
        s["linux"]["resources"]["memory"] = json!({"limit": 67108864, "disableOOMKiller": true})
    }),
    case("memory with what v2 has", |s, _| {
        s["linux"]["resources"]["memory"] =
            json!({"limit": 67108864, "reservation": 33554432, "swap": 134217728})
    }),
    case(
        "limits by file",
        |s, _| s["linux"]["resources"]["unified"] = json!({"memory.high": "50331648", "pids.max": "55", "memory.oom.group": "1", "cpu.weight": "200"}),
    ),
    case(
        "processor time",
        |s, _| {
            s["linux"]["resources"]["cpu"] =
                json!({"shares": 512, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"})
        },
    ),
    case("processor time without limit", |s, _| {
        s["linux"]["resources"]["cpu"] = json!({"shares": 2, "quota": -1, "period": 50000})
    }),
    case("number of processes", |s, _| {
        s["linux"]["resources"]["pids"] = json!({"limit": 77})
    }),
    case("any number of processes", |s, _| {
        s["linux"]["resources"]["pids"] = json!({"limit": -1})
    }),
    case("a number of processes that nobody has set", |s, _| {
        // The last release by which 0 is no limit.
        s["ociVersion"] = json!("1.2.0");
        s["linux"]["resources"]["pids"] = json!({"limit": 0})
    }),
    case("a user namespace", |s, _| user_namespace(s)),
    exec("exec in a user namespace", |s, _| user_namespace(s), |_| {}),
    case("block I/O", |s, _| {
        s["linux"]["resources"]["blockIO"] = json!({
            "throttleReadBpsDevice": [{"major": 7, "minor": 0, "rate": 1048576}],
            "throttleWriteBpsDevice": [{"major": 7, "minor": 0, "rate": 2097152}],
            "throttleReadIOPSDevice": [{"major": 7, "minor": 0, "rate": 200}],
            "throttleWriteIOPSDevice": [{"major": 7, "minor": 0, "rate": 100}],
        })
    }),
    case("huge pages", |s, _| {
        s["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 4194304}])
    }),
    case("limits as kubelet sends them", |s, _| {
        s["linux"]["resources"] = json!({
            "devices": [{"allow": false, "access": "rwm"}],
            "memory": {"limit": 104857600, "swap": 104857600},
            "cpu": {"shares": 102, "quota": 20000, "period": 100000},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
        })
    }),
    case("containerd's seccomp profile", |s, p| {
        s["linux"]["seccomp"] = p.seccomp.clone()
    }),
    case(
        "containerd's seccomp profile with privileges to gain",
        |s, p| {
            s["linux"]["seccomp"] = p.seccomp.clone();
            s["process"]["noNewPrivileges"] = json!(false);
        },
    ),
    case("seccomp that answers an errno", |s, _| {
        filter(
            s,
            json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["chroot"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}, {"names": ["chown", "fchownat", "lchown"], "action": "SCMP_ACT_ERRNO"}],
            }),
        )
    }),
    case("seccomp by argument", |s, _| {
        filter(
            s,
            json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["setpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]},
                             {"names": ["unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "args": [{"index": 0, "value": 0x0400_0000, "valueTwo": 0x0400_0000, "op": "SCMP_CMP_MASKED_EQ"}]}],
            }),
        )
    }),
    case("seccomp that kills", |s, _| {
        filter(
            s,
            json!({
                "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chroot"], "action": "SCMP_ACT_KILL_PROCESS"}],
            }),
        )
    }),
    case("seccomp with flags", |s, _| {
        filter(
            s,
            json!({
                "defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
                "syscalls": [{"names": ["chroot"], "action": "SCMP_ACT_LOG"}],
            }),
        )
    }),
    case("a cgroup further down", |s, _| {
        let path = format!(
            "{}-nested/deeper",
            s["linux"]["cgroupsPath"].as_str().unwrap_or_default()
        );
        s["linux"]["cgroupsPath"] = json!(path);
    }),
];

/// One of its own, whose root is nobody outside.
fn user_namespace(spec: &mut Value) {
    namespace(spec, "user", Some(String::new()));
    for ids in ["uidMappings", "gidMappings"] {
        spec["linux"][ids] = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
    }
}
