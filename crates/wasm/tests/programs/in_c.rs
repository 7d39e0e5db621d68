//! Preview 2 by groups, in C: the guests of `tests/guests/c` call every function of it as it is, and judge.

use crate::harness::{Ended, Guest, free_port, root};
use crate::servers::Server;

/// Runs a guest that needs no more than an empty folder, two settings and something to read.
fn run(guest: &str) -> Ended {
    let directory = tempfile::tempdir().unwrap();
    let guest = Guest::named(guest).args([directory.path().display()]);
    let guest = guest.config("colour", "blue").config("empty", "");
    guest.stdin(b"0123456789").run()
}

#[test]
fn every_function_of_preview_2_works_for_programs_in_c() {
    if !root() {
        return;
    }
    for guest in [
        "c-clocks.wasm",
        "c-config.wasm",
        "c-filesystem.wasm",
        "c-io.wasm",
        "c-keyvalue.wasm",
        "c-random.wasm",
        "c-sockets.wasm",
    ] {
        let ended = run(guest);
        let seen = (ended.code, ended.stdout.as_str(), ended.stderr.as_str());
        assert_eq!(seen, (0, "well\n", ""), "{guest}");
    }
}

#[test]
fn a_command_in_c_is_told_of_its_world_and_says_how_it_ends() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let mut guest = Guest::named("c-cli.wasm").args(["world", path, "ä b", ""]);
    guest.handoff.cwd = path.into();
    let guest = guest.env("COLOUR=blue=green").env("EMPTY=");
    let ended = guest.stdin(b"typed").run();
    let seen = (ended.code, ended.stdout.as_str(), ended.stderr.as_str());
    assert_eq!(seen, (0, "well\n", "on stderr\n"));
    for (way, code) in [
        ("return", 0),
        ("return failing", 1),
        ("exit", 0),
        ("exit failing", 1),
        ("exit with 42", 42),
        ("trap", 134),
    ] {
        let ended = Guest::named("c-cli.wasm").args([way]).run();
        assert_eq!(ended.code, code, "{way}: {}", ended.stderr);
    }
}

#[test]
fn both_sides_of_http_work_for_programs_in_c() {
    if !root() {
        return;
    }
    let server = Server::start(Guest::named("c-http-server.wasm"));
    let [here, nobody] = [server.port, free_port()].map(|port| format!("127.0.0.1:{port}"));
    let ended = Guest::named("c-http-client.wasm")
        .args([here, nobody])
        .run();
    let (code, complaints) = server.end();
    assert_eq!((code, complaints.as_str()), (0, ""));
    let seen = (ended.code, ended.stdout.as_str(), ended.stderr.as_str());
    assert_eq!(seen, (0, "well\n", ""));
}
