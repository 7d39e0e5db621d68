//! Limits of the process itself that leave no room for a guest.

use crate::harness::{Guest, free_port, root};
use crate::made;
use crate::servers::Server;

#[test]
fn a_limit_that_leaves_no_room_for_a_guest_is_named_at_its_start() {
    if !root() {
        return;
    }
    // In KiB. What is a memory's own address space is 4 GiB and what lies behind it.
    for (ulimit, words) in [
        (
            "ulimit -v 4000000",
            "no room for the guest: RLIMIT_AS is 4096000000 (each memory of a guest takes 4160 MiB",
        ),
        (
            "ulimit -d 1000",
            "no room for the guest: RLIMIT_DATA is 1024000 (a guest's memories and stacks count",
        ),
    ] {
        let address = Some(format!("127.0.0.1:{}", free_port()));
        for guest in [
            Guest::of_the_scenarios("probe.wasm").args(["grow", "1"]),
            Guest::named("probe-p2.wasm").args(["args"]),
            Guest::named("server.wasm").http(|http| http.address = address),
        ] {
            let ended = guest.ulimit(ulimit).run();
            let expected = format!("/guest.wasm: {words}");
            assert!(
                ended.code == 126 && ended.stderr.starts_with(&expected),
                "{ulimit}: {ended:?}"
            );
            assert_eq!(ended.told.traps, 0, "{ended:?}");
        }
    }
}

#[test]
fn a_server_without_a_pool_for_its_instances_says_why_and_serves() {
    if !root() {
        return;
    }
    // A terabyte is room for some memories, and not for a thousand.
    for (count, words) in [
        (
            1000,
            "/guest.wasm: no pool of 1000 instances: RLIMIT_AS is 1024000000000 (each memory of a guest takes 4160 MiB of \
             address space); raise it, or lower http.concurrency; each request maps memory of its own, which takes \
             longer\n",
        ),
        (10, ""),
    ] {
        let guest = Guest::named("server.wasm").http(|http| http.concurrency = count);
        let server = Server::start(guest.ulimit("ulimit -v 1000000000"));
        assert_eq!(server.get("/count").0, 200);
        assert_eq!(server.end(), (0, words.to_owned()));
    }
}

#[test]
fn a_server_that_nobody_can_interrupt_is_not_tried_out() {
    if !root() {
        return;
    }
    // Its instances compute for ever when they are made. There is room for one, and no thread for a clock.
    let guest = made::server(
        r#"(func $start (loop $again (br $again)))
           (start $start)
           (func (export "handle") (param i32 i32))"#,
    );
    let server = Server::start(guest.ulimit("ulimit -v 100000000").of_threads(1));
    let (code, stderr) = server.end();
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("no thread for a clock"), "{stderr}");
}
