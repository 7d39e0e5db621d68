//! Every function of preview 1, by groups: `tests/guests/calls.c` calls them and judges.

use crate::harness::{Ended, Guest, root};

/// The groups that need an empty folder and nothing else.
const GROUPS: [&str; 10] = [
    "clocks", "random", "process", "files", "rights", "paths", "readdir", "poll", "large",
    "outside",
];

fn run(group: &str, more: &[&str]) -> Ended {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let guest = Guest::of_the_scenarios("calls.wasm").args([&[group, path], more].concat());
    guest.env("A=1=2").env("B=").run()
}

#[test]
fn every_group_of_functions_works() {
    if !root() {
        return;
    }
    for group in GROUPS {
        let ended = run(group, &[]);
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{group}");
    }
}

#[test]
fn arguments_and_environment_are_told_as_they_are() {
    if !root() {
        return;
    }
    let ended = run("args", &["ä b", ""]);
    let said: Vec<_> = ended.stdout.lines().collect();
    assert!(
        matches!(said.as_slice(), ["guest", "args", _, "ä b", ""]),
        "{ended:?}"
    );
    assert_eq!(run("environ", &[]).stdout, "A=1=2\nB=\n");
}

#[test]
fn nothing_is_moved_from_one_file_system_to_another() {
    if !root() {
        return;
    }
    let other = tempfile::tempdir_in("/dev/shm").unwrap();
    let ended = run("across", &[other.path().to_str().unwrap()]);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
}
