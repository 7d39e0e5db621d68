//! Who waits at a gate, and whether under its system call filter.

use crate::promises::{edited, lines, native};
use crate::support::spec;

/// The first words of a plan from where the child is ready to exec.
#[track_caller]
fn last_steps(seccomp: serde_json::Value) -> Vec<String> {
    let spec = edited("cri-restricted.json", |document| {
        document["process"]["noNewPrivileges"] = true.into();
        document["linux"]["seccomp"] = seccomp;
    });
    let words = lines(&native(&spec).unwrap()).into_iter();
    words
        .skip_while(|line| line != "ready")
        .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn a_filter_comes_before_the_gate_if_it_lets_the_child_wait_there() {
    let allow = |names: &[&str]| serde_json::json!({"names": names, "action": "SCMP_ACT_ALLOW"});
    let profile = |default: &str, calls: &[serde_json::Value]| {
        serde_json::json!({
            "defaultAction": default,
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": calls,
        })
    };
    let (errno, all) = ("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW");
    let before = [
        profile(errno, &[allow(&["read", "exit_group", "execve"])]),
        profile(all, &[]),
    ];
    for seccomp in before {
        assert_eq!(last_steps(seccomp), ["ready", "seccomp", "gate", "exec"]);
    }
    let read = |action: &str| serde_json::json!({"names": ["read"], "action": action});
    let some = serde_json::json!({
        "names": ["read"],
        "action": all,
        "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}],
    });
    let after = [
        profile(errno, &[allow(&["exit_group", "execve"])]),
        profile(errno, &[allow(&["read", "execve"])]),
        profile(errno, &[allow(&["exit_group", "execve"]), some]),
        profile(all, &[read("SCMP_ACT_KILL_PROCESS")]),
        profile(all, &[read(errno)]),
    ];
    for seccomp in after {
        assert_eq!(
            last_steps(seccomp.clone()),
            ["ready", "gate", "seccomp", "exec"],
            "{seccomp}"
        );
    }
    let notify = serde_json::json!({"names": ["mount"], "action": "SCMP_ACT_NOTIFY"});
    let mut listened = profile(all, &[notify]);
    listened["listenerPath"] = "/run/agent.sock".into();
    assert_eq!(last_steps(listened), ["ready", "gate", "seccomp", "exec"]);
}

#[test]
fn without_its_gate_a_plan_goes_on_unless_somebody_must_be_there() {
    let quick = spec("cri-restricted.json");
    let plan = native(&quick).unwrap();
    assert!(plan.waits());
    let at_once = plan.clone().at_once();
    assert!(!at_once.waits());
    assert_eq!(at_once.steps.len(), plan.steps.len() - 1);
    let listened = edited("cri-restricted.json", |document| {
        document["process"]["noNewPrivileges"] = true.into();
        document["linux"]["seccomp"] = serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": "/run/agent.sock",
            "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}],
        });
    });
    assert!(native(&listened).unwrap().at_once().waits());
}
