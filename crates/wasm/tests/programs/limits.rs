//! The container's memory limit, as a guest meets it.

use std::io::Write as _;

use rustix::process::Signal;

use crate::harness::{Guest, root};
use crate::made;
use crate::servers::{Server, ask, read};

#[test]
fn growth_past_the_limit_fails_and_says_so_and_follows_a_change() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let limit = directory.path().join("memory.max");
    let set = |bytes: &str| std::fs::write(&limit, format!("{bytes}\n")).unwrap();
    set("16777216");
    let guest = Guest::of_the_scenarios("probe.wasm").args(["ask", "32"]);
    let mut running = guest.memory(directory.path()).typing().start();
    let mut stdin = running.typing();
    assert_eq!(running.line(), "ready");
    let mut ask = || {
        stdin.write_all(b"?\n").unwrap();
        running.line()
    };
    assert_eq!(ask(), "Out of memory");
    assert_eq!(ask(), "Out of memory");
    set("67108864");
    assert_eq!(ask(), "grown");
    drop(stdin);
    let ended = running.wait();
    // Once, however often it asks.
    let words: Vec<_> = ended.stderr.lines().collect();
    assert!(
        matches!(words.as_slice(), [line] if line.starts_with("duet: a growth of the guest's memory to ")
            && line.ends_with(" is refused: the container's limit is 16384 KiB")),
        "{words:?}"
    );
}

#[test]
fn without_a_limit_there_is_none() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for (file, text) in [
        ("memory.max", "max\n"),
        ("memory.limit_in_bytes", "9223372036854771712\n"),
    ] {
        let unlimited = directory.path().join(file);
        std::fs::write(&unlimited, text).unwrap();
        let guest = Guest::of_the_scenarios("probe.wasm").args(["grow", "64"]);
        let ended = guest.memory(directory.path()).run();
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "grown\n"));
        std::fs::remove_file(unlimited).unwrap();
    }
}

#[test]
fn what_others_use_of_the_limit_is_not_there_to_grow_into() {
    if !root() {
        return;
    }
    let v2 = |current, inactive_file| {
        let stat = format!("anon 7\ninactive_file {inactive_file}\nactive_file 0\n");
        [
            ("memory.max", "33554432\n".to_owned()),
            ("memory.current", format!("{current}\n")),
            ("memory.stat", stat),
        ]
    };
    let v1 = |limit, lowest| {
        let stat = format!(
            "inactive_file 9999999\nactive_file 9999999\nhierarchical_memory_limit {lowest}\n\
             total_inactive_file 0\ntotal_active_file 1048576\n"
        );
        [
            ("memory.limit_in_bytes", format!("{limit}\n")),
            ("memory.usage_in_bytes", "25165824\n".to_owned()),
            ("memory.stat", stat),
        ]
    };
    // Each asks for 16 MiB.
    let run = |files: [(&str, String); 3]| {
        let directory = tempfile::tempdir().unwrap();
        for (file, text) in files {
            std::fs::write(directory.path().join(file), text).unwrap();
        }
        let guest = Guest::of_the_scenarios("probe.wasm").args(["grow", "16"]);
        let ended = guest.memory(directory.path()).run();
        let end = ended.stderr.lines().next().unwrap_or_default().to_owned();
        end.split(" is refused: ").last().unwrap().to_owned()
    };
    assert_eq!(run(v2(8 << 20, 0)), "");
    let full =
        |used: u64| format!("the container's limit is 32768 KiB, and {used} KiB of it are in use");
    assert_eq!(run(v2(24 << 20, 0)), full(24_576));
    assert_eq!(run(v2(24 << 20, 4 << 20)), full(20_480));
    assert_eq!(run(v2(24 << 20, 16 << 20)), "");
    assert_eq!(run(v1(32 << 20, 32 << 20)), full(23_552));
    assert_eq!(run(v1(64 << 20, 64 << 20)), "");
    // What the pod may have is less than what the container may, or all there is.
    let pod = "the pod's limit is 32768 KiB, and 23552 KiB of it are in use";
    for limit in [64 << 20, i64::MAX] {
        assert_eq!(run(v1(limit, 32 << 20)), pod);
    }
}

#[test]
fn a_handler_that_hoards_handles_is_ended_and_others_are_served() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let set = |limit| std::fs::write(directory.path().join("memory.max"), limit).unwrap();
    let start = || Server::start(Guest::named("server.wasm").memory(directory.path()));
    // In KiB there are as many as it may have.
    set("4194304\n");
    let server = start();
    let mut other = server.connect();
    ask(&mut other, "/sleep/300", "connection: close\r\n");
    assert_eq!(server.get("/flood/4200").0, 500);
    assert_eq!(read(&mut other), (200, "awake".to_owned()));
    assert_eq!(server.get("/count").0, 200);
    let (code, stderr) = server.end();
    assert_eq!(code, 0, "{stderr}");
    // That of the last one, or that of what it was made with, which is lent meanwhile.
    let (_, why) = stderr.split_once("GET /flood/4200: ").expect("it is named");
    let first = why.lines().next().unwrap_or_default();
    assert!(first.ends_with(": store handle limit exceeded"), "{stderr}");

    set("max\n");
    let server = start();
    assert_eq!(server.get("/flood/4200"), (200, "4200".to_owned()));
    assert_eq!(server.end(), (0, String::new()));
}

/// Grows what was born empty, and ends with 9 if that fails.
fn born_empty(what: &str, grow: &str) -> Guest {
    Guest::wat(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 0)
            {what}
            (func (export "_start")
                (if (i32.eq ({grow}) (i32.const -1)) (then (call $exit (i32.const 9))))))"#
    ))
}

#[test]
fn what_is_born_empty_is_held_to_the_limit_from_its_first_growth_on() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let limit = directory.path().join("memory.max");
    for (what, grow) in [
        ("", "memory.grow (i32.const 512)"),
        (
            "(table 0 funcref)",
            "table.grow (ref.null func) (i32.const 4000000)",
        ),
    ] {
        let run = |bytes: &str| {
            std::fs::write(&limit, format!("{bytes}\n")).unwrap();
            born_empty(what, grow).memory(directory.path()).run().code
        };
        assert_eq!(run("16777216"), 9, "{grow}");
        assert_eq!(run("67108864"), 0, "{grow}");
    }
}

#[test]
fn what_a_memory_or_a_table_cannot_have_is_not_counted() {
    if !root() {
        return;
    }
    for (what, grow) in [
        ("(memory 1 2)", "memory.grow (i32.const 512)"),
        (
            "(memory 1 2) (table 1 2 funcref)",
            "table.grow (ref.null func) (i32.const 4000000)",
        ),
    ] {
        let guest = Guest::wat(&format!(
            r#"(module {what}
                (func (export "_start")
                    (if (i32.ne ({grow}) (i32.const -1)) (then unreachable))
                    (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))))"#
        ));
        let ended = guest.run();
        assert_eq!(ended.code, 0, "{ended:?}");
        // Two pages, and less than a page of whatever else there is.
        assert!((2 << 16..3 << 16).contains(&ended.told.memory), "{ended:?}");
    }
}

#[test]
fn what_the_kernel_did_not_give_is_not_counted() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("memory.max"), "67108864\n").unwrap();
    // 48 MiB, of which the kernel gives none, again and again; then one.
    let guest = Guest::wat(
        r#"(module (memory 1)
            (func (export "_start") (local $times i32)
                (loop $again
                    (if (i32.ne (memory.grow (i32.const 768)) (i32.const -1)) (then unreachable))
                    (local.set $times (i32.add (local.get $times) (i32.const 1)))
                    (br_if $again (i32.lt_u (local.get $times) (i32.const 9))))
                (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))))"#,
    );
    let guest = guest.memory(directory.path()).ulimit("ulimit -d 40960");
    let ended = guest.run();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
}

#[test]
fn a_file_past_its_size_limit_is_an_error_and_not_the_end() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for probe in ["probe-p1.wasm", "probe-p2.wasm"] {
        let file = directory.path().join(probe);
        let text = "x".repeat(4096);
        let guest = Guest::named(probe).args(["write", file.to_str().unwrap(), &text]);
        // A thousand bytes: two blocks of 512.
        let ended = guest.ulimit("ulimit -f 2").run();
        assert_eq!(ended.code, 134, "{ended:?}");
        assert!(ended.stderr.contains("File too large"), "{ended:?}");
        assert_eq!(file.metadata().unwrap().len(), 1024);
    }
}

#[test]
fn more_can_be_waited_for_than_descriptors_can_be_open() {
    if !root() {
        return;
    }
    // 1000 times the end of standard input; ends with 9 if it is told of fewer.
    let guest = Guest::wat(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 2)
            (func (export "_start") (local $i i32)
                (loop $next
                    ;; Its tag, 1, is that of reading; descriptor 0 is what the rest is.
                    (i32.store8 (i32.add (i32.const 72) (i32.mul (local.get $i) (i32.const 48))) (i32.const 1))
                    (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (br_if $next (i32.lt_u (local.get $i) (i32.const 1000))))
                (call $exit (i32.add
                    (call $poll (i32.const 64) (i32.const 65536) (i32.const 1000) (i32.const 0))
                    (if (result i32) (i32.eq (i32.load (i32.const 0)) (i32.const 1000))
                        (then (i32.const 0)) (else (i32.const 9)))))))"#,
    );
    let ended = guest.ulimit("ulimit -n 64").run();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
}

#[test]
fn a_guest_that_opens_all_it_can_is_told_when_there_is_no_more() {
    if !root() {
        return;
    }
    // Opens the root folder until it cannot, and ends with the number of the error: 33 is `EMFILE`.
    let guest = Guest::wat(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 8) ".")
            (func (export "_start") (local $error i32)
                (loop $next
                    (local.set $error (call $open (i32.const 3) (i32.const 0) (i32.const 8) (i32.const 1)
                        (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 0)))
                    (br_if $next (i32.eqz (local.get $error))))
                (call $exit (local.get $error))))"#,
    );
    let ended = guest.ulimit("ulimit -n 64").run();
    assert_eq!((ended.code, ended.stderr.as_str()), (33, ""));
}

#[test]
fn a_component_that_opens_all_it_can_is_told_when_there_is_no_more() {
    if !root() {
        return;
    }
    let guest = Guest::named("probe-p2.wasm").args(["hoard", "/etc/passwd"]);
    let ended = guest.ulimit("ulimit -n 64").run();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.ends_with(" after some\n"), "{ended:?}");
    // A library knows the error by its number: EMFILE has no other name in preview 2.
    assert!(ended.stdout.starts_with("I/O error"), "{ended:?}");
}

#[test]
fn what_a_memory_of_a_server_has_no_place_for_is_not_counted() {
    if !root() {
        return;
    }
    // A memory of 64 bits is asked to have a page more than 4 GiB, which is all of its place.
    let server = Server::start(made::server(
        r#"(memory i64 1)
           (func (export "handle") (param i32 i32)
               (if (i64.ne (memory.grow (i64.const 65536)) (i64.const -1)) (then unreachable)))"#,
    ));
    assert_eq!(server.get("/").0, 500);
    server.guest.signal(Signal::TERM);
    let ended = server.guest.wait();
    let why = "the guest returned without an answer";
    assert!(ended.stderr.contains(why), "{ended:?}");
    assert_eq!((ended.told.memory, ended.told.traps), (64 << 10, 0));
}

#[test]
fn a_guest_that_may_have_no_thread_is_told_so_and_a_server_serves_without() {
    if !root() {
        return;
    }
    // Standard input is read by a thread of its own.
    let guest = Guest::named("probe-p2.wasm").args(["upper"]).stdin(b"x");
    let ended = guest.of_threads(1).run();
    assert_eq!(ended.code, 125, "{ended:?}");
    for words in [
        "/guest.wasm: cannot start a thread (",
        "raise the container's pids limit or RLIMIT_NPROC",
    ] {
        assert!(ended.stderr.contains(words), "{ended:?}");
    }
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");

    // It takes those that it can have: none of tokio's, one of two, whatever the processors are.
    for threads in 1..=6 {
        let server = Server::start(Guest::named("server.wasm").of_threads(threads));
        assert_eq!(server.get("/"), (200, "hello\n".into()), "{threads}");
        assert_eq!(server.get("/env/NOTHING"), (200, String::new()));
        // Files are the business of threads of their own, where there are any.
        assert_eq!(server.get("/file/nowhere").0, 200);
        let (code, stderr) = server.end();
        assert_eq!(code, 0, "{threads}: {stderr}");
        // Workers leave one for the clock.
        let has_none = stderr.contains("no thread for a clock");
        assert!(has_none == (threads == 1), "{threads}: {stderr}");
    }

    // Nor does it end when others have taken what there was when it began: there is one that reads files.
    let server = Server::start(Guest::named("server.wasm").of_threads(6));
    assert_eq!(server.get("/"), (200, "hello\n".into()));
    let other = Server::start(Guest::named("server.wasm").of_threads(64));
    assert_eq!(other.get("/"), (200, "hello\n".into()));
    for _ in 0..2 {
        assert_eq!(server.get("/file/nowhere").0, 200);
    }
    assert_eq!(server.end().0, 0);
}

#[test]
fn a_guest_that_opens_its_log_again_and_again_is_told_when_it_has_enough() {
    if !root() {
        return;
    }
    const TOO_MANY: i32 = 33;
    let image = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/stdout", image.path().join("log")).unwrap();
    // One that was closed can be opened again, and no other.
    let ended = Guest::wat(
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "log")
            (func $fill (result i32) (local $error i32)
                (loop $more
                    (local.set $error (call $open
                        (i32.const 3) (i32.const 1) (i32.const 0) (i32.const 3) (i32.const 0)
                        (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 8)))
                    (br_if $more (i32.eqz (local.get $error))))
                (local.get $error))
            (func (export "_start") (local $last i32)
                (drop (call $fill))
                (local.set $last (i32.load (i32.const 8)))
                (drop (call $close (local.get $last)))
                (if (call $open
                        (i32.const 3) (i32.const 1) (i32.const 0) (i32.const 3) (i32.const 0)
                        (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 8))
                    (then (call $exit (i32.const 1))))
                (call $exit (call $fill))))"#,
    )
    .within(image.path())
    .ulimit("ulimit -n 64")
    .run();
    assert_eq!(ended.code, TOO_MANY, "{ended:?}");
}
