//! What a whole life may cost.

use std::fs;
use std::process::Command;

use crate::rig::with;

/// How many system calls a life may make, from Create to Delete: the shim's and the container's
/// together. There are ten cgroups to make, to enter and to remove where every controller of v1 has a
/// hierarchy of its own.
const CALLS: usize = 600;
/// Files that are looked for to mark a place in a trace.
const BEGIN: &str = "/the-life-begins";
const END: &str = "/the-life-is-over";

#[test]
fn a_life_makes_few_system_calls() {
    if !rustix::process::geteuid().is_root() {
        // It says so.
        return with(async |_| {});
    }
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
    println!("{} calls", calls.len());
    let made = calls.iter().filter(|line| line.contains("clone3")).count();
    assert!(made > 0, "{text}");
    assert!(
        calls.len() <= CALLS,
        "{}:\n{}",
        calls.len(),
        calls.join("\n")
    );
}

#[test]
#[ignore = "a_life_makes_few_system_calls runs it under strace"]
fn one_life() {
    with(async |rig| {
        // Once before, for what is done once in a shim.
        for (id, marks) in [("first", false), ("second", true)] {
            let mark = |place| assert!(!marks || fs::metadata(place).is_err());
            let bundle = rig.bundle(id, &["true"]);
            mark(BEGIN);
            bundle.start().await;
            assert_eq!(rig.finish(id).await.code, 0);
            mark(END);
        }
    });
}
