//! The process: user, program, environment, privileges, terminal.

use serde_json::json;

use super::{ALL_SETS, Case, USUAL_SETS, bind, capabilities, case, nothing, push};

pub(crate) const CASES: &[Case] = &[
    case("as containerd writes it", nothing),
    case("user by number", |s, _| {
        s["process"]["user"] = json!({"uid": 1000, "gid": 1000})
    }),
    case("user without an entry", |s, _| {
        s["process"]["user"] = json!({"uid": 4242, "gid": 4343})
    }),
    case(
        "additional groups",
        |s, _| {
            s["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [0, 5, 2000]})
        },
    ),
    case(
        "a group beyond 31 bits",
        |s, _| {
            s["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [4294967294_u32]})
        },
    ),
    case("umask", |s, _| {
        s["process"]["user"] = json!({"uid": 0, "gid": 0, "umask": 0o077})
    }),
    case("working directory", |s, _| {
        s["process"]["cwd"] = json!("/tmp")
    }),
    case("working directory that is missing", |s, _| {
        s["process"]["cwd"] = json!("/made/on/demand");
        s["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    }),
    case("working directory behind a link", |s, _| {
        s["process"]["cwd"] = json!("/proc/self/root/tmp/../root")
    }),
    case("environment", |s, _| {
        s["process"]["env"] = json!([
            "PATH=/bin",
            "B=2",
            "A=1",
            "EMPTY=",
            "B=3",
            "EQUALS=a=b",
            "TERM=xterm"
        ])
    }),
    case("environment without PATH", |s, _| {
        s["process"]["env"] = json!(["A=1"])
    }),
    case("HOME given", |s, _| {
        push(&mut s["process"]["env"], json!("HOME=/elsewhere"))
    }),
    case("HOME from a passwd that is a volume", |s, p| {
        bind(s, p, "passwd", "/etc/passwd", &["rbind", "ro"]);
        s["process"]["user"] = json!({"uid": 4242, "gid": 0});
    }),
    case("program from PATH", |s, _| {
        s["process"]["args"][0] = json!("sh")
    }),
    case("program that is missing", |s, _| {
        s["process"]["args"] = json!(["no-such-program"])
    }),
    case("program that may not be executed", |s, _| {
        s["process"]["args"] = json!(["/not-executable"])
    }),
    case("no new privileges off", |s, _| {
        s["process"]["noNewPrivileges"] = json!(false)
    }),
    case("no capabilities", |s, _| {
        s["process"]["capabilities"] = json!({})
    }),
    case("no capabilities field", |s, _| {
        s["process"]
            .as_object_mut()
            .expect("an object")
            .remove("capabilities");
    }),
    case("few capabilities", |s, _| {
        capabilities(s, &["CAP_CHOWN", "CAP_NET_RAW"], &USUAL_SETS)
    }),
    case("bounding is more than permitted", |s, _| {
        capabilities(s, &["CAP_CHOWN"], &["effective", "permitted"]);
        s["process"]["capabilities"]["bounding"] =
            json!(["CAP_CHOWN", "CAP_KILL", "CAP_NET_ADMIN"]);
    }),
    case("ambient capabilities of a user", |s, _| {
        capabilities(s, &["CAP_NET_BIND_SERVICE", "CAP_CHOWN"], &ALL_SETS);
        s["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    }),
    case("ambient without inheritable", |s, _| {
        capabilities(
            s,
            &["CAP_CHOWN"],
            &["bounding", "effective", "permitted", "ambient"],
        )
    }),
    case("capabilities of a user", |s, _| {
        s["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        s["process"]["noNewPrivileges"] = json!(false);
    }),
    case("every capability there is to give", |s, p| {
        let names: Vec<_> = p.capabilities.iter().map(String::as_str).collect();
        capabilities(s, &names, &USUAL_SETS);
    }),
    case("a capability from the future", |s, _| {
        capabilities(s, &["CAP_CHOWN", "CAP_FROM_THE_FUTURE"], &USUAL_SETS)
    }),
    case("rlimits", |s, _| {
        s["process"]["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "soft": 200, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 4096},
            {"type": "RLIMIT_NPROC", "soft": 1000, "hard": 2000}, {"type": "RLIMIT_STACK", "soft": 4194304, "hard": 8388608},
            {"type": "RLIMIT_MSGQUEUE", "soft": 1, "hard": 1}, {"type": "RLIMIT_RTTIME", "soft": 5, "hard": 6},
            {"type": "RLIMIT_AS", "soft": 1099511627776_u64, "hard": 1099511627776_u64}, {"type": "RLIMIT_NICE", "soft": 0, "hard": 0},
        ])
    }),
    case("no rlimits", |s, _| s["process"]["rlimits"] = json!([])),
    case("badness", |s, _| s["process"]["oomScoreAdj"] = json!(812)),
    case("I/O priority", |s, _| {
        s["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6})
    }),
    case("scheduler", |s, _| {
        s["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5})
    }),
    case("AppArmor profile", |s, _| {
        s["process"]["apparmorProfile"] = json!("no-such-profile")
    }),
    case("SELinux label", |s, _| {
        s["process"]["selinuxLabel"] = json!("system_u:system_r:container_t:s0")
    }),
    case("terminal", |s, _| {
        s["process"]["terminal"] = json!(true);
        s["process"]["consoleSize"] = json!({"height": 30, "width": 100});
    }),
    case("terminal of a user", |s, _| {
        s["process"]["terminal"] = json!(true);
        s["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    }),
];
