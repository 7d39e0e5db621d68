//! The leak check itself: it must see what it promises to see.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use duet_tests::machine::Cgroups;
use duet_tests::{Node, command, wait};

#[test]
fn a_container_that_is_left_running_fails_its_test() {
    let Some(node) = Node::enter() else { return };
    // What is left here stays: there is nothing to wait for.
    let node = node.cleaning_within(Duration::ZERO);
    let left = node
        .container("left")
        .with(&["--null-io"])
        .script("exec sleep 1000");
    let _started = command::run(&mut left.command("-d")).ok();
    // Under runc a started process may not have come to its program yet.
    wait::until("its program", || {
        let listed = node.ctr(&["task", "ls"]).ok().stdout;
        let line = listed.lines().find(|line| line.starts_with("left "))?;
        let pid = line.split_whitespace().nth(1)?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        command.starts_with(b"sleep\0").then_some(())
    });
    let failure = catch_unwind(AssertUnwindSafe(|| drop(node))).expect_err("something is left");
    let message = failure
        .downcast_ref::<String>()
        .expect("a panic with a text");
    let words = ["process ", "sleep 1000", "mount ", "cgroup ", "state "];
    let unit = match Cgroups::chosen() {
        Cgroups::Cgroupfs => None,
        Cgroups::Systemd => Some("unit ctr-left.scope"),
    };
    for word in words.into_iter().chain(unit) {
        assert!(message.contains(word), "no {word:?} in {message}");
    }
}
