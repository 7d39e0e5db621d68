//! What becomes of a container whose keeper is killed.

use std::fs;
use std::process::Stdio;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::rig::{Rig, await_end, said, with, within};

/// The first process of the container, and its keeper.
fn processes(rig: &Rig) -> (i32, i32) {
    let init = i32::try_from(rig.state("web")["pid"].as_i64().unwrap()).unwrap();
    let stat = fs::read_to_string(format!("/proc/{init}/stat")).unwrap();
    let keeper = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1);
    (init, keeper.unwrap().parse().unwrap())
}

#[test]
fn what_a_killed_keeper_leaves_is_removed_by_force() {
    with(|rig| {
        if !rig.is_duet() {
            // runc keeps nobody.
            return;
        }
        rig.ok(&["create", "web"]);
        rig.ok(&["start", "web"]);
        let (init, keeper) = processes(rig);
        let init = duet_linux::process::pidfd_open(init).unwrap();
        let keeper = duet_linux::process::pidfd_open(keeper).unwrap();
        duet_linux::process::send_signal(&keeper, 9).unwrap();
        await_end(&keeper);
        let why = rig.refused(&["state", "web"]);
        assert!(
            why.contains("container \"web\": its keeper does not answer"),
            "{why}"
        );
        rig.refused(&["delete", "web"]);
        rig.ok(&["delete", "--force", "web"]);
        await_end(&init);
    });
}

#[test]
fn a_keeper_without_a_descriptor_for_its_caller_answers_when_there_is_one() {
    with(|rig| {
        if !rig.is_duet() {
            return;
        }
        rig.ok(&["create", "web"]);
        rig.ok(&["start", "web"]);
        let (_, keeper) = processes(rig);
        // How often it has gone to sleep by itself.
        let asleep = || -> u64 {
            let status = fs::read_to_string(format!("/proc/{keeper}/status")).unwrap();
            let mut lines = status.lines();
            let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            count.unwrap().trim().parse().unwrap()
        };
        let limited = |current| {
            let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
            let limit = Rlimit { current, maximum };
            prlimit(Pid::from_raw(keeper), Resource::Nofile, limit).unwrap();
        };
        limited(Some(0));
        let before = asleep();
        let mut caller = rig.command(&["state", "web"]);
        let caller = caller.stdout(Stdio::piped()).spawn().unwrap();
        // Woken by the caller, it finds that it cannot take it; and again.
        within(|| asleep() > before + 2);
        limited(getrlimit(Resource::Nofile).current);
        let said = said(&caller.wait_with_output().unwrap());
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.stdout.contains("running"), "{said:?}");
        rig.ok(&["delete", "--force", "web"]);
    });
}
