//! What becomes of a container whose keeper is killed.

use std::fs;

use crate::rig::{await_end, with};

#[test]
fn what_a_killed_keeper_leaves_is_removed_by_force() {
    with(|rig| {
        if !rig.is_duet() {
            // runc keeps nobody.
            return;
        }
        rig.ok(&["create", "web"]);
        rig.ok(&["start", "web"]);
        let pid = i32::try_from(rig.state("web")["pid"].as_i64().unwrap()).unwrap();
        let init = duet_linux::process::pidfd_open(pid).unwrap();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let keeper = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1);
        let keeper = duet_linux::process::pidfd_open(keeper.unwrap().parse().unwrap()).unwrap();
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
