//! What a birth may cost.

use std::fs;
use std::process::Command;

use duet_linux::process;
use duet_plan::Plan;
use serde_json::json;
use syscalls::Sysno;

use crate::stage::{Stage, stage};

/// How many system calls a birth may make, the parent's and the child's together.
const CALLS: usize = 600;
/// Files that are looked for to mark a place in a trace.
const BEGIN: &str = "/the-birth-begins";
const END: &str = "/the-birth-is-over";

#[test]
fn a_birth_makes_few_system_calls() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let traced = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "budget::one_life"])
        .output();
    let Ok(traced) = traced else {
        eprintln!("skipped: needs strace");
        assert!(
            std::env::var_os("DUET_TEST_REQUIRE").is_none(),
            "DUET_TEST_REQUIRE is set: nothing may be skipped"
        );

        return;
    };
    assert!(traced.status.success(), "{traced:?}");
    let text = fs::read_to_string(trace).unwrap();
    let lines = text.lines().skip_while(|line| !line.contains(BEGIN));
    let calls: Vec<_> = lines
        .take_while(|line| !line.contains(END))
        .filter(|line| !line.contains("resumed>") && !line.contains("+++") && !line.contains("---"))
        .collect();
    let parent = calls[0].split(' ').next().unwrap();
    let ours = calls.iter().filter(|line| line.starts_with(parent)).count();
    let theirs = calls.len() - ours;
    println!("{ours} calls of the parent, {theirs} of the child");
    assert!(theirs > 100, "{text}");
    assert!(
        calls.len() <= CALLS,
        "{}:\n{}",
        calls.len(),
        calls.join("\n")
    );
}

#[test]
#[ignore = "a_birth_makes_few_system_calls runs it under strace"]
fn one_life() {
    stage(|stage| {
        let plan = filtered(stage);
        // Once before, for what is done once in a process.
        live(stage, &plan);
        assert!(fs::metadata(BEGIN).is_err());
        live(stage, &plan);
        assert!(fs::metadata(END).is_err());
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
