//! WASI by groups: `tests/guests/calls.c` calls every function of preview 1 and judges, and `groups` does what
//! Rust's standard library makes of it, of both previews. For every function of preview 2 see `in_c.rs`.

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

#[test]
fn every_group_works_for_rusts_standard_library_in_both_previews() {
    if !root() {
        return;
    }
    let well = (0, "well\n", "");
    let table = [
        ("environ", well),
        ("clocks", well),
        ("random", well),
        ("files", well),
        ("paths", well),
        ("readdir", well),
        ("streams", (0, "well\n", "on stderr\n")),
    ];
    // What that library asks for in preview 2 is `exit`, which knows success and failure.
    for (guest, code) in [("groups-p1.wasm", 42), ("groups-p2.wasm", 1)] {
        for (group, expected) in table.into_iter().chain([("process", (code, "", ""))]) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().to_str().unwrap();
            let ended = Guest::named(guest)
                .args([group, path])
                .env("COLOUR=blue")
                .run();
            let seen = (ended.code, ended.stdout.as_str(), ended.stderr.as_str());
            assert_eq!(seen, expected, "{guest} {group}");
        }
    }
}
