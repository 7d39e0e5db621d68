//! What a birth may cost.

use duet_linux::process;
use duet_plan::Plan;
use serde_json::json;
use syscalls::Sysno;

use crate::stage::{Stage, stage};
use crate::traced;

/// How many system calls a birth may make, the parent's and the child's together.
const CALLS: usize = 600;
#[test]
fn a_birth_makes_few_system_calls() {
    let Some(calls) = traced::calls("budget::one_life") else {
        return;
    };
    let parent = calls[0].split(' ').next().unwrap();
    let ours = calls.iter().filter(|line| line.starts_with(parent)).count();
    let theirs = calls.len() - ours;
    println!("{ours} calls of the parent, {theirs} of the child");
    let all = calls.join("\n");
    assert!(theirs > 100, "{all}");
    assert!(calls.len() <= CALLS, "{}:\n{all}", calls.len());
}

#[test]
#[ignore = "a_birth_makes_few_system_calls runs it under strace"]
fn one_life() {
    stage(|stage| {
        let plan = filtered(stage);
        // Once before, for what is done once in a process.
        live(stage, &plan);
        traced::begin();
        live(stage, &plan);
        traced::end();
    });
}

fn live(stage: &Stage, plan: &Plan) {
    let (newborn, _pipes) = stage.create(plan).unwrap();
    newborn.gate.open().unwrap();
    assert_eq!(process::wait(newborn.pidfd).unwrap().code, 0);
}

/// `/bin/true` with a seccomp profile of the usual size: everything but some forty names.
fn filtered(stage: &Stage) -> Plan {
    const DENIED: [&str; 40] = [
        "acct",
        "add_key",
        "bpf",
        "clock_adjtime",
        "clock_settime",
        "create_module",
        "delete_module",
        "fanotify_init",
        "finit_module",
        "fsconfig",
        "fsmount",
        "fsopen",
        "get_mempolicy",
        "init_module",
        "ioperm",
        "iopl",
        "kcmp",
        "kexec_file_load",
        "kexec_load",
        "keyctl",
        "mbind",
        "mount",
        "mount_setattr",
        "move_mount",
        "move_pages",
        "nfsservctl",
        "open_by_handle_at",
        "open_tree",
        "perf_event_open",
        "pivot_root",
        "ptrace",
        "quotactl",
        "reboot",
        "request_key",
        "set_mempolicy",
        "setns",
        "swapoff",
        "swapon",
        "umount2",
        "unshare",
    ];
    let names: Vec<_> = Sysno::iter()
        .map(|number| number.name())
        .filter(|name| !DENIED.contains(name))
        .collect();
    let mut spec = stage.spec(["/bin/true"]);
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]
    });
    stage.plan(&spec)
}
