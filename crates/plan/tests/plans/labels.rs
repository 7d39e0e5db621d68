//! The labels of a container's mounts.

use crate::{
    invariants,
    promises::{edited, native},
    support::facts,
};
use duet_plan::{Facts, Program, container};

#[test]
fn a_label_of_mounts_is_an_option_of_new_file_systems() {
    let spec = edited("cri-default.json", |document| {
        document["linux"]["mountLabel"] = "a:b:c:s0".into();
    });
    let facts = Facts {
        selinux: true,
        ..facts(&spec)
    };
    let plan = container(&spec, &facts, Program::Native).unwrap();
    invariants::check(&plan);
    let shown = plan.show();
    let lines = shown
        .lines()
        .filter(|line| line.contains("context=a:b:c:s0"));
    let labelled: Vec<_> = lines
        .filter_map(|line| line.split_whitespace().nth(2))
        .collect();
    assert_eq!(labelled, ["/dev", "/dev/pts"]);
    assert_eq!(
        native(&spec).unwrap_err().to_string(),
        "linux.mountLabel: a:b:c:s0: SELinux is not enabled in this kernel"
    );
}

#[test]
fn the_devpts_that_a_guest_does_not_see_is_labelled_too() {
    let spec = edited("cri-default.json", |document| {
        document["linux"]["mountLabel"] = "a:b:c:s0".into();
        document["process"]["terminal"] = true.into();
    });
    let facts = Facts {
        selinux: true,
        ..facts(&spec)
    };
    let shown = container(&spec, &facts, Program::Wasm).unwrap().show();
    let mut lines = shown.lines();
    assert!(
        lines.any(|line| line.contains("devpts") && line.contains("context=a:b:c:s0")),
        "{shown}"
    );
}
