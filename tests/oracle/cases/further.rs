//! Further processes.

use serde_json::json;

use super::{Case, exec, held, namespace, nothing};

pub(crate) const CASES: &[Case] = &[
    exec("exec", nothing, |_| {}),
    exec("exec as a user", nothing, |p| {
        p["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [2000]})
    }),
    exec("exec with a umask", nothing, |p| {
        p["user"] = json!({"uid": 0, "gid": 0, "umask": 0o027})
    }),
    exec("exec elsewhere", nothing, |p| p["cwd"] = json!("/tmp")),
    exec("exec with an environment", nothing, |p| {
        p["env"] = json!(["PATH=/bin", "X=1"])
    }),
    exec("exec with capabilities", nothing, |p| {
        p["capabilities"] = json!({"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]});
    }),
    exec("exec without capabilities", nothing, |p| {
        p.as_object_mut().expect("an object").remove("capabilities");
    }),
    exec("exec with rlimits", nothing, |p| {
        p["rlimits"] = json!([
            // Go raises the soft limit of open files to the hard one when it starts, and runc's exec
            // gives the program now the one and now the other.
            {"type": "RLIMIT_NOFILE", "soft": 44, "hard": 44}, {"type": "RLIMIT_CORE", "soft": 512, "hard": 4096},
        ])
    }),
    exec("exec with privileges to gain", nothing, |p| {
        p["noNewPrivileges"] = json!(false)
    }),
    exec("exec with a badness", nothing, |p| {
        p["oomScoreAdj"] = json!(900)
    }),
    exec(
        "exec in a filtered container",
        |s, p| s["linux"]["seccomp"] = p.seccomp.clone(),
        |_| {},
    ),
    exec(
        "exec in a pod",
        |s, p| {
            for (kind, file) in [
                ("network", "net"),
                ("ipc", "ipc"),
                ("uts", "uts"),
                ("pid", "pid"),
            ] {
                namespace(s, kind, held(p, file));
            }
        },
        |_| {},
    ),
    exec(
        "exec in a cgroup namespace",
        |s, _| namespace(s, "cgroup", Some(String::new())),
        |_| {},
    ),
    exec("exec of a program that is missing", nothing, |p| {
        p["args"] = json!(["no-such-program"])
    }),
    exec(
        "exec in a read-only root",
        |s, _| s["root"]["readonly"] = json!(true),
        |_| {},
    ),
];
