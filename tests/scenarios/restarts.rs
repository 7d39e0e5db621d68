//! containerd is stopped, killed and started again under running pods.

use duet_tests::Node;
use duet_tests::survivors::{self, Restart};
use nix::sys::signal::Signal;

fn restart(signal: Signal) {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let restart = Restart {
        signal,
        programs: None,
    };
    survivors::outlive(&node, &[restart]);
}

#[test]
fn pods_outlive_a_containerd_that_is_stopped() {
    restart(Signal::SIGTERM);
}

#[test]
fn pods_outlive_a_containerd_that_is_killed() {
    restart(Signal::SIGKILL);
}
