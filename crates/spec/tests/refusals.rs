//! What is not offered or makes no sense is refused by its full path.

use duet_spec::{Container, Error, Process, resources};
use serde_json::{Value, json};
use std::{error::Error as _, path::Path};

fn base() -> Value {
    json!({
        "ociVersion": "1.2.1",
        "process": { "user": { "uid": 0, "gid": 0 }, "args": ["/bin/true"], "cwd": "/" },
        "root": { "path": "rootfs" },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": { "namespaces": [{ "type": "mount" }] }
    })
}

fn parse(value: &Value) -> Result<Container, Error> {
    Container::parse(Path::new("/b"), value.to_string().as_bytes())
}

/// Puts `value` at a JSON pointer, making objects on the way, and says what is answered.
#[track_caller]
fn refusal(pointer: &str, value: Value) -> String {
    let mut document = base();
    let mut place = &mut document;
    for part in pointer.trim_start_matches('/').split('/') {
        let part = part.replace("~1", "/");
        place = match part.parse::<usize>() {
            Ok(index) if place.is_array() => &mut place[index],
            _ => &mut place[part.as_str()],
        };
    }
    *place = value;
    let error = parse(&document).expect_err("was taken");
    let source = error
        .source()
        .map(|source| format!(": {source}"))
        .unwrap_or_default();
    format!("{error}{source}")
}

#[test]
fn the_smallest_document_is_taken() {
    parse(&base()).unwrap();
}

#[test]
fn fields_that_are_not_offered_are_named() {
    let cases = [
        (
            "/hooks",
            json!({ "prestart": [{ "path": "/bin/hook", "when": "always" }] }),
            "hooks.prestart[0].when",
        ),
        ("/vm", json!({ "hypervisor": { "path": "/x" } }), "vm"),
        (
            "/linux/intelRdt",
            json!({ "closID": "gold", "l2CacheSchema": "L2:0=f" }),
            "linux.intelRdt.l2CacheSchema",
        ),
        (
            "/linux/personality",
            json!({ "domain": "LINUX32", "flags": ["ADDR_NO_RANDOMIZE"] }),
            "linux.personality.flags",
        ),
        (
            "/linux/netDevices",
            json!({ "eth0": { "name": "net0", "mtu": 9000 } }),
            "linux.netDevices.eth0.mtu",
        ),
        (
            "/linux/memoryPolicy",
            json!({ "mode": "MPOL_BIND", "nodes": "0", "home": "1" }),
            "linux.memoryPolicy.home",
        ),
        (
            "/linux/somethingNew",
            json!({ "deep": [0, { "x": true }] }),
            "linux.somethingNew",
        ),
        (
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "listener": "/s" }),
            "linux.seccomp.listener",
        ),
        (
            "/linux/resources",
            json!({ "memory": { "limit": 1, "extra": 5 } }),
            "linux.resources.memory.extra",
        ),
        (
            "/process/user/username",
            json!("root"),
            "process.user.username",
        ),
    ];
    for (pointer, value, field) in cases {
        let text = refusal(pointer, value);
        assert!(text.contains(&format!(": {field}: ")), "{text}");
        assert!(text.starts_with("/b/config.json: "), "{text}");
        assert!(text.ends_with(": not supported by Duet"), "{text}");
    }
}

#[test]
fn fields_that_ask_for_nothing_are_passed_over() {
    let mut document = base();
    document["hooks"] = json!({ "prestart": [], "poststop": null });
    document["linux"]["intelRdt"] = json!({});
    document["linux"]["mountLabel"] = json!("");
    document["process"]["scheduler"] = Value::Null;
    document["linux"]["resources"] = json!({ "network": { "classID": 0 }, "extra": 0 });
    document["linux"]["timeOffsets"] = json!({ "monotonic": { "secs": 0 } });
    parse(&document).unwrap();
}

#[test]
fn wrong_values_are_named_with_their_field() {
    let cases = [
        (
            "/process/cwd",
            json!("tmp"),
            "process.cwd: tmp: is not absolute",
        ),
        ("/process/args", json!([]), "process.args is missing"),
        (
            "/process/env",
            json!(["A=1", "secret"]),
            "process.env[1]: (hidden): is not NAME=value",
        ),
        (
            "/process/oomScoreAdj",
            json!(1001),
            "process.oomScoreAdj: 1001: is not in -1000..=1000",
        ),
        (
            "/process/rlimits",
            json!([{ "type": "RLIMIT_CPU", "soft": 2, "hard": 1 }]),
            "process.rlimits[0]: RLIMIT_CPU 2 > 1: the soft limit is above the hard limit",
        ),
        (
            "/process/scheduler",
            json!({ "policy": "SCHED_FIFO", "nice": 20 }),
            "process.scheduler.nice: 20: is not in -20..=19",
        ),
        (
            "/process/scheduler",
            json!({ "policy": 1 }),
            "process.scheduler.policy",
        ),
        (
            "/process/execCPUAffinity",
            json!({ "initial": "3-1" }),
            "process.execCPUAffinity.initial: 3-1: is not a list of processors, such as 0-3,7",
        ),
        (
            "/linux/timeOffsets",
            json!({ "boottime": { "secs": 1 } }),
            "linux.timeOffsets.boottime: 1 s 0 ns: the container has no new time namespace",
        ),
        (
            "/linux/timeOffsets",
            json!({ "realtime": { "secs": 1 } }),
            "linux.timeOffsets.realtime: 1 s 0 ns: is not a clock of a time namespace",
        ),
        (
            "/process/ioPriority",
            json!({ "class": "IOPRIO_CLASS_RT", "priority": 9 }),
            "process.ioPriority.priority: 9",
        ),
        (
            "/process/capabilities",
            json!({ "effective": ["CAP_KILL"] }),
            "process.capabilities.effective: CAP_KILL: is not permitted",
        ),
        (
            "/mounts/0/destination",
            json!("/a/.."),
            "mounts[0].destination: /a/..: is the root itself",
        ),
        ("/mounts/0/type", json!("none"), "mounts[0].type is missing"),
        (
            "/mounts/0",
            json!({ "destination": "/x", "source": "/y", "options": ["bind", "size=1"] }),
            "mounts[0].options[1]: size=1: has no meaning on a bind mount",
        ),
        (
            "/mounts/0",
            json!({ "destination": "/x", "source": "/y", "options": ["rbind", "rslave", "rshared"] }),
            "mounts[0].options[2]: rshared: contradicts another propagation option",
        ),
        (
            "/mounts/0",
            json!({ "destination": "/x", "type": "bind" }),
            "mounts[0].source is missing",
        ),
        (
            "/mounts/0",
            json!({ "destination": "/x", "type": "tmpfs", "options": ["idmap"] }),
            "mounts[0].type: tmpfs: only a bind mount can be id-mapped",
        ),
        (
            "/mounts/0",
            json!({ "destination": "/x", "type": "bind", "source": "/y", "options": ["ridmap"] }),
            "mounts[0].uidMappings is missing",
        ),
        (
            "/mounts/0",
            json!({ "destination": "/x", "type": "bind", "source": "/y",
                "uidMappings": [{ "containerID": 0, "hostID": 1, "size": 1 }] }),
            "mounts[0].gidMappings is missing",
        ),
        (
            "/linux",
            json!({ "uidMappings": [{ "containerID": 0, "hostID": 1, "size": 1 }],
                "gidMappings": [{ "containerID": 0, "hostID": 1, "size": 1 }] }),
            "linux.uidMappings: 0:1:1: the container has no user namespace",
        ),
        (
            "/linux/namespaces",
            json!([{ "type": "user" }]),
            "linux.uidMappings is missing",
        ),
        (
            "/linux/rootfsPropagation",
            json!("loud"),
            "linux.rootfsPropagation: loud: is not a mount propagation",
        ),
        (
            "/linux/cgroupsPath",
            json!("/../"),
            "linux.cgroupsPath: /../: is the root cgroup",
        ),
        (
            "/linux/maskedPaths",
            json!(["/proc/a", "sys"]),
            "linux.maskedPaths[1]: sys: is not absolute",
        ),
        (
            "/linux/sysctl",
            json!({ "net/../kernel/x": "1" }),
            "is not a name of a kernel parameter",
        ),
        (
            "/linux/devices",
            json!([{ "path": "/dev/x", "type": "c", "major": -1, "minor": 0 }]),
            "linux.devices[0].major: -1",
        ),
        (
            "/hostname",
            json!("a\u{0}b"),
            "hostname: (hidden): holds a NUL byte",
        ),
        ("/root/path", json!(""), "root.path is missing"),
    ];
    for (pointer, value, words) in cases {
        let text = refusal(pointer, value);
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn wrong_types_are_named_with_their_field() {
    let cases = [
        (
            "/process/user/uid",
            json!("root"),
            "process.user.uid: invalid type: string \"root\"",
        ),
        (
            "/linux/namespaces/0/type",
            json!("mnt"),
            "linux.namespaces[0].type: unknown variant `mnt`",
        ),
        (
            "/process/rlimits",
            json!([{ "type": "RLIMIT_X", "soft": 1, "hard": 1 }]),
            "process.rlimits[0].type: unknown variant",
        ),
        ("/mounts", json!({ "a": 1 }), "mounts: invalid type: map"),
        (
            "/process/capabilities",
            json!("all"),
            "process.capabilities",
        ),
    ];
    for (pointer, value, words) in cases {
        let text = refusal(pointer, value);
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_missing_or_broken_file_is_named() {
    let error = Container::load(Path::new("/nonexistent")).unwrap_err();
    assert_eq!(error.to_string(), "read /nonexistent/config.json");
    let error = Container::parse(Path::new("/b"), b"{ nope").unwrap_err();
    assert_eq!(error.to_string(), "/b/config.json is not JSON");
}

#[test]
fn annotations_of_duets_own_are_checked() {
    let cases = [
        (
            "io.containerd.duet.v1.handler",
            "docker",
            "is neither native nor wasm",
        ),
        (
            "io.containerd.duet.v1.http.listen",
            "8080",
            "is not IP:port, such as 0.0.0.0:8080 or [::]:8080 (no host name)",
        ),
        (
            "io.containerd.duet.v1.http.reuse",
            "0",
            "is not a number above 0",
        ),
        (
            "io.containerd.duet.v1.http.concurrency",
            "10001",
            "is not a number from 1 to 10000",
        ),
        ("io.containerd.duet.v1.http.queue", "-1", "is not a number"),
        (
            "io.containerd.duet.v1.http.timeout",
            "30",
            "is neither none nor a time such as 30s",
        ),
        (
            "io.containerd.duet.v1.http.timeout",
            "0s",
            "is neither none nor a time such as 30s",
        ),
        (
            "io.containerd.duet.v1.http.idle",
            "never",
            "is not a time such as 30s",
        ),
        (
            "io.containerd.duet.v1.http.drain",
            "none",
            "is not a time such as 30s",
        ),
        (
            "io.containerd.duet.v1.preview3",
            "3",
            "is neither true nor false",
        ),
        (
            "io.containerd.duet.v1.http.log",
            "json",
            "is neither prefixed nor plain",
        ),
        (
            "io.containerd.duet.v1.http.listener",
            "host",
            "is neither container nor pod",
        ),
        (
            "io.containerd.duet.v1.listen",
            "127.0.0.1:1,x",
            "is not a list of IP:port, such as 127.0.0.1:9000,[::1]:9000 (no host names)",
        ),
        (
            "io.containerd.duet.v1.config.",
            "blue",
            "has no name after \"config.\"; expected io.containerd.duet.v1.config.NAME",
        ),
        (
            "io.containerd.duet.v1.typo",
            "1",
            "unknown annotation; docs/annotations.md lists those that Duet reads",
        ),
        ("run.oci.handler", "krun", "is neither wasm nor wasm-smart"),
    ];
    for (name, value, why) in cases {
        let text = refusal("/annotations", json!({ name: value }));
        assert_eq!(
            text,
            format!("/b/config.json: annotations.{name}: {value}: {why}")
        );
    }
}

#[test]
fn duets_own_handler_wins_over_others() {
    use duet_spec::annotations::{HANDLER, Handler};
    let mut document = base();
    document["annotations"] = json!({
        HANDLER: "native", "run.oci.handler": "wasm", "module.wasm.image/variant": "compat"
    });
    let spec = parse(&document).unwrap();
    assert_eq!(spec.options.handler, Some((Handler::Native, HANDLER)));
}

#[test]
fn of_a_variable_given_twice_the_last_value_counts() {
    let mut document = base();
    document["process"]["env"] = json!(["A=1", "B=2", "A=3"]);
    assert_eq!(parse(&document).unwrap().process.env, ["A=3", "B=2"]);
}

#[test]
fn sysctls_have_two_spellings() {
    let mut document = base();
    document["linux"]["sysctl"] = json!({
        "net.ipv4.conf.eth0/100.rp_filter": "1", "net/ipv4/conf/eth0.200/rp_filter": "2"
    });
    let spec = parse(&document).unwrap();
    let names: Vec<&String> = spec.sysctl.keys().collect();
    assert_eq!(
        names,
        [
            "net/ipv4/conf/eth0.100/rp_filter",
            "net/ipv4/conf/eth0.200/rp_filter"
        ]
    );
}

#[test]
fn an_update_names_its_fields() {
    assert!(resources(br#"{"memory":{"limit":1},"cpu":{"shares":2}}"#).is_ok());
    let error = resources(br#"{"memory":{"limit":"1"}}"#).unwrap_err();
    assert_eq!(error.to_string(), "resources: memory.limit");
    let error = resources(br#"{"gpu":1}"#).unwrap_err();
    assert_eq!(
        error.to_string(),
        "resources: gpu: 1: not supported by Duet"
    );
}

#[test]
fn an_exec_names_its_fields() {
    let error = Process::parse(br#"{"user":{},"args":["a"],"cwd":"x"}"#).unwrap_err();
    assert_eq!(error.to_string(), "exec process: cwd: x: is not absolute");
}

#[test]
fn a_hook_that_makes_no_sense_is_named() {
    let cases = [
        (
            json!({ "path": "hook" }),
            "hooks.createRuntime[0].path",
            "is not absolute",
        ),
        (
            json!({ "path": "/hook", "timeout": -1 }),
            "hooks.createRuntime[0].timeout",
            "is not above 0",
        ),
    ];
    for (hook, field, why) in cases {
        let text = refusal("/hooks", json!({ "createRuntime": [hook] }));
        assert!(text.contains(field) && text.contains(why), "{text}");
    }
}

#[test]
fn mappings_that_make_no_sense_are_named() {
    let range = |container: u64, host: u64, size: u64| json!({ "containerID": container, "hostID": host, "size": size });
    let gids = || json!([range(0, 1000, 10)]);
    let many: Vec<Value> = (0..341).map(|id| range(id, id, 1)).collect();
    let cases = [
        (json!([range(0, 5, 0)]), "uidMappings[0]: 0:5:0: has no ids"),
        (
            json!([range(0, u32::MAX.into(), 1)]),
            "uidMappings[0]: 0:4294967295:1: goes beyond the last id",
        ),
        (
            json!([range(0, 10, 5), range(4, 100, 5)]),
            "uidMappings[1]: 4:100:5: overlaps an earlier range",
        ),
        (
            json!([range(0, 10, 5), range(5, 14, 5)]),
            "uidMappings[1]: 5:14:5: overlaps an earlier range",
        ),
        (
            json!(many),
            "uidMappings: 341: has more than the kernel's 340 ranges",
        ),
        (json!([range(1, 10, 5)]), "uidMappings: 0: is not mapped"),
    ];
    for (uids, words) in cases {
        let mut document = base();
        let linux = json!({ "namespaces": [{ "type": "mount" }, { "type": "user" }],
            "uidMappings": uids, "gidMappings": gids() });
        document["linux"] = linux;
        let error = parse(&document).unwrap_err().to_string();
        assert!(error.ends_with(&format!("linux.{words}")), "{error}");
    }
}
