//! containerd is upgraded under running pods, release by release, over the same folders.
#![forbid(unsafe_code)]

use std::env;

use duet_tests::machine::{self, Skip};
use duet_tests::survivors::{self, Restart};
use duet_tests::{Node, command};
use nix::sys::signal::Signal;

#[test]
fn pods_outlive_every_upgrade_of_their_containerd() {
    let Some(later) = env::var_os("DUET_TEST_UPGRADE") else {
        let why = "DUET_TEST_UPGRADE names no later releases".to_owned();
        machine::skip(&Skip {
            what: "upgrade",
            why,
        });
        return;
    };
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let restarts: Vec<_> = env::split_paths(&later)
        .map(|programs| Restart {
            // As a package's upgrade does it.
            signal: Signal::SIGTERM,
            programs: Some(programs),
        })
        .collect();
    let first = node.daemon().version();
    survivors::outlive(&node, &restarts);
    assert_ne!(node.daemon().version(), first);
    let _answered = command::run(node.daemon().ctr("default").arg("version")).ok();
}
