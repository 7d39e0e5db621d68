//! What a whole life may cost.

use crate::rig::{alone, with};
use crate::traced;

/// How many system calls a life may make, from Create to Delete: the shim's and the container's
/// together. There are ten cgroups to make, to enter and to remove where every controller of v1 has a
/// hierarchy of its own.
const CALLS: usize = 600;
#[test]
fn a_life_makes_few_system_calls() {
    if !rustix::process::geteuid().is_root() {
        // It says so.
        return with(async |_| {});
    }
    let traced = {
        // The reaper of another test's pod would take strace for a stranger.
        let _alone = alone();
        traced::calls("budget::one_life")
    };
    let Some(calls) = traced else {
        return;
    };
    println!("{} calls", calls.len());
    let all = calls.join("\n");
    assert!(all.contains("clone3"), "{all}");
    assert!(calls.len() <= CALLS, "{}:\n{all}", calls.len());
    // Fields that few ask for cost nobody else a call.
    for rare in [
        "personality(",
        "set_mempolicy(",
        "AF_NETLINK",
        "/ns/net",
        "resctrl",
    ] {
        assert!(!all.contains(rare), "{rare}:\n{all}");
    }
}

#[test]
#[ignore = "a_life_makes_few_system_calls runs it under strace"]
fn one_life() {
    with(async |rig| {
        // Once before, for what is done once in a shim.
        for (id, mark) in [("first", false), ("second", true)] {
            if mark {
                traced::begin();
            }
            rig.bundle(id, &["true"]).start().await;
            assert_eq!(rig.finish(id).await.code, 0);
            if mark {
                traced::end();
            }
        }
    });
}
