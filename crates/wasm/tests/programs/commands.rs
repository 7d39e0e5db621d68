//! Commands: what they are given, what they see, how they end.

use std::net::SocketAddr;

use rustix::process::Signal;

use crate::harness::{Guest, descriptors, eventually, root};

const HELLO: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\08\00\00\00\06\00\00\00hello\n")
    (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)))))"#;

/// A preview 2 command that ends with the given code.
fn exits_with(code: u8) -> Guest {
    Guest::wat(&format!(
        r#"(component
            (import "wasi:cli/exit@0.2.12" (instance $exit
                (export "exit-with-code" (func (param "status-code" u8)))))
            (core func $exit (canon lower (func $exit "exit-with-code")))
            (core module $m
                (import "host" "exit" (func $exit (param i32)))
                (func (export "run") (result i32) (call $exit (i32.const {code})) (i32.const 0)))
            (core instance $i (instantiate $m (with "host" (instance (export "exit" (func $exit))))))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $run (export "run" (func $run)))
            (export "wasi:cli/run@0.2.12" (instance $run)))"#
    ))
}

fn probes() -> [Guest; 2] {
    [Guest::named("probe-p1.wasm"), Guest::named("probe-p2.wasm")]
}

#[test]
fn an_interface_may_be_imported_in_several_versions() {
    let guest = Guest::wat(
        r#"(component
            (import "wasi:random/random@0.2.0" (instance $old
                (export "get-random-u64" (func (result u64)))))
            (import "wasi:random/random@0.2.3" (instance $new
                (export "get-random-u64" (func (result u64)))))
            (core func $old (canon lower (func $old "get-random-u64")))
            (core func $new (canon lower (func $new "get-random-u64")))
            (core module $m
                (import "old" "ask" (func $old (result i64)))
                (import "new" "ask" (func $new (result i64)))
                (func (export "run") (result i32) (i64.eq (call $old) (call $new))))
            (core instance $i (instantiate $m
                (with "old" (instance (export "ask" (func $old))))
                (with "new" (instance (export "ask" (func $new))))))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $run (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $run)))"#,
    );
    let ended = guest.run();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
}

#[test]
fn a_start_section_without_an_end_is_ended_by_a_signal() {
    if !root() {
        return;
    }
    let spins = r#"(module (func $spin (loop (br 0))) (start $spin) (func (export "_start")))"#;
    let running = Guest::wat(spins).start();
    let stat = format!("/proc/{}/stat", running.pid());
    // In clock ticks: more than any start takes, so it is in the loop.
    eventually("it to spin", || {
        let stat = std::fs::read_to_string(&stat).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let used: u64 = fields
            .split_ascii_whitespace()
            .nth(11)
            .unwrap()
            .parse()
            .unwrap();
        (used >= 20).then_some(())
    });
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code, 143);
}

#[test]
fn a_hello_says_hello() {
    if !root() {
        return;
    }
    let ended = Guest::wat(HELLO).run();
    assert_eq!(
        (ended.code, ended.stdout.as_str(), ended.stderr.as_str()),
        (0, "hello\n", "")
    );
}

#[test]
fn every_exit_code_of_preview_1_is_kept() {
    if !root() {
        return;
    }
    let run = |code: i32| {
        let guest = Guest::named("probe-p1.wasm").args(["exit", &code.to_string()]);
        guest.run().code
    };
    for code in 0..=255 {
        assert_eq!(run(code), code);
    }
    // Of others the kernel keeps the low byte.
    for (code, kept) in [(256, 0), (263, 7), (-1, 255)] {
        assert_eq!(run(code), kept, "{code}");
    }
}

#[test]
fn preview_2_keeps_the_codes_it_can_say() {
    if !root() {
        return;
    }
    for code in [0, 1, 42, 126, 255] {
        assert_eq!(exits_with(code).run().code, i32::from(code));
    }
    // Rust's library says only that it did not go well.
    assert_eq!(
        Guest::named("probe-p2.wasm").args(["exit", "7"]).run().code,
        1
    );
}

#[test]
fn arguments_environment_and_stdin_arrive() {
    if !root() {
        return;
    }
    for probe in probes() {
        let ended = probe.args(["args", "ä b", ""]).run();
        assert_eq!(ended.stdout, "[\"guest\", \"args\", \"ä b\", \"\"]\n");
    }
    for probe in probes() {
        let ended = probe
            .args(["env"])
            .env("A=1=2")
            .env("EMPTY=")
            .env("PWD=/there")
            .run();
        assert_eq!(ended.stdout, "A=1=2\nEMPTY=\nPWD=/there\n");
    }
    for probe in probes() {
        assert_eq!(probe.args(["upper"]).stdin(b"quiet").run().stdout, "QUIET");
    }
    let in_directory = |cwd: &str| {
        let mut guest = Guest::named("probe-p1.wasm").args(["env"]);
        cwd.clone_into(&mut guest.handoff.cwd);
        guest.run().stdout
    };
    assert_eq!(
        in_directory("/there"),
        "PWD=/there\n",
        "preview 1 knows its directory by the environment only"
    );
    assert_eq!(in_directory("/"), "", "nothing that nobody asked for");
}

#[test]
fn what_is_opened_has_the_lowest_number_that_is_free() {
    if !root() {
        return;
    }
    // Opens the root folder three times, closes the first and opens one more, which has its number: the exit code.
    let guest = Guest::wat(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_open"
                (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 8) ".")
            (func $open (result i32)
                (if (call $path_open (i32.const 3) (i32.const 0) (i32.const 8) (i32.const 1)
                    (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 0)) (then unreachable))
                (i32.load (i32.const 0)))
            (func (export "_start") (local $first i32) (local $second i32) (local $third i32)
                (local.set $first (call $open))
                (local.set $second (call $open))
                (local.set $third (call $open))
                (if (i32.ne (local.get $second) (i32.add (local.get $first) (i32.const 1))) (then unreachable))
                (if (i32.ne (local.get $third) (i32.add (local.get $first) (i32.const 2))) (then unreachable))
                (if (call $close (local.get $first)) (then unreachable))
                (if (i32.ne (call $open) (local.get $first)) (then unreachable))
                (call $exit (local.get $first))))"#,
    );
    let ended = guest.run();
    assert_eq!((ended.code, ended.stderr.as_str()), (4, ""));
}

#[test]
fn a_component_is_told_its_directory() {
    if !root() {
        return;
    }
    // Ends well if the directory is there, has four bytes, and these are "/srv".
    let asks = r#"(component
        (import "wasi:cli/environment@0.2.0" (instance $environment
            (export "initial-cwd" (func (result (option string))))))
        (core module $memory
            (memory (export "memory") 1)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
        (core instance $of (instantiate $memory))
        (core func $cwd (canon lower (func $environment "initial-cwd")
            (memory (core memory $of "memory")) (realloc (core func $of "realloc"))))
        (core module $main
            (import "of" "memory" (memory 1))
            (import "environment" "cwd" (func $cwd (param i32)))
            (func (export "run") (result i32)
                (call $cwd (i32.const 0))
                (i32.eqz (i32.and
                    (i32.eq (i32.load8_u (i32.const 0)) (i32.const 1))
                    (i32.and
                        (i32.eq (i32.load (i32.const 8)) (i32.const 4))
                        (i32.eq (i32.load (i32.load (i32.const 4))) (i32.const 0x7672732f)))))))
        (core instance $run (instantiate $main
            (with "of" (instance $of))
            (with "environment" (instance (export "cwd" (func $cwd))))))
        (func $lifted (result (result)) (canon lift (core func $run "run")))
        (instance $cli (export "run" (func $lifted)))
        (export "wasi:cli/run@0.2.0" (instance $cli)))"#;
    for (directory, code) in [("/srv", 0), ("/usr", 1)] {
        let mut guest = Guest::wat(asks);
        directory.clone_into(&mut guest.handoff.cwd);
        let ended = guest.run();
        assert_eq!((ended.code, ended.stderr.as_str()), (code, ""));
    }
}

#[test]
fn files_are_the_containers() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    for (n, probe) in probes().into_iter().enumerate() {
        let file = path(&format!("file{n}"));
        assert_eq!(probe.args(["write", &file, "written"]).run().code, 0);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "written");
    }
    for probe in probes() {
        assert_eq!(probe.args(["cat", &path("file0")]).run().stdout, "written");
    }
    for probe in probes() {
        let listed = probe.args(["ls", directory.path().to_str().unwrap()]).run();
        assert_eq!(listed.stdout, "file0 file1\n");
    }
}

#[test]
fn a_trap_is_134_with_its_words_on_stderr() {
    if !root() {
        return;
    }
    let ended = Guest::wat(
        r#"(module (memory (export "memory") 1)
            (func $deep unreachable) (func $middle (call $deep))
            (func (export "_start") (call $middle)))"#,
    )
    .run();
    assert_eq!(ended.code, 134);
    assert!(
        ended
            .stderr
            .starts_with("/guest.wasm: wasm trap: wasm `unreachable`"),
        "{}",
        ended.stderr
    );
    for name in ["wasm backtrace:", "deep", "middle"] {
        assert!(ended.stderr.contains(name), "{name} in {}", ended.stderr);
    }
    let ended =
        Guest::wat(r#"(module (func $s unreachable) (start $s) (func (export "_start")))"#).run();
    assert_eq!(
        ended.code, 134,
        "a start function traps like any other: {}",
        ended.stderr
    );
    for probe in probes() {
        let ended = probe.args(["panic"]).run();
        assert_eq!(ended.code, 134);
        assert!(ended.stderr.contains("as told"), "{}", ended.stderr);
    }
    let ended =
        Guest::wat(r#"(module (func $f (call $f)) (func (export "_start") (call $f)))"#).run();
    assert_eq!(ended.code, 134);
    assert!(
        ended.stderr.contains("call stack exhausted"),
        "{}",
        ended.stderr
    );
    // A component's trap comes through its adapter with the same words.
    let ended = Guest::named("probe-p2.wasm").args(["recurse"]).run();
    assert_eq!(ended.code, 134);
    assert!(ended.stderr.contains("wasm backtrace:"), "{}", ended.stderr);
}

#[test]
fn term_ends_a_guest_at_once_even_if_it_spins() {
    if !root() {
        return;
    }
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::QUIT, 131)] {
        for probe in probes() {
            let mut guest = probe.args(["spin"]).start();
            assert_eq!(guest.line(), "spinning");
            guest.signal(signal);
            assert_eq!(guest.wait().code, code);
        }
        for probe in probes() {
            let mut guest = probe.args(["sleep", "60000"]).start();
            assert_eq!(guest.line(), "asleep");
            guest.signal(signal);
            assert_eq!(guest.wait().code, code);
        }
    }
}

#[test]
fn what_ends_a_guest_is_not_lost_before_it_listens() {
    if !root() {
        return;
    }
    for (signal, code) in [("TERM", 143), ("INT", 130), ("QUIT", 131)] {
        for probe in probes() {
            let ended = probe.args(["spin"]).told(signal).run();
            assert_eq!((ended.code, ended.stdout.as_str()), (code, ""), "{signal}");
        }
    }
}

/// A module of before 2020 that says "old" and ends with 200.
const OLD: &str = r#"(module
    (import "wasi_unstable" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_unstable" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\08\00\00\00\04\00\00\00old\n")
    (func (export "_start")
        (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)) (then unreachable))
        (call $exit (i32.const 200))))"#;

/// One that waits for two clocks, a millisecond each, and ends with 42.
const OLD_CLOCKS: &str = r#"(module
    (import "wasi_unstable" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_unstable" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (i32.store (i32.const 24) (i32.const 1)) (i64.store (i32.const 32) (i64.const 1000000))
        (i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const 1000000))
        (if (call $poll (i32.const 0) (i32.const 1024) (i32.const 2) (i32.const 2048)) (then unreachable))
        (if (i32.eqz (i32.load (i32.const 2048))) (then unreachable))
        (call $exit (i32.const 42))))"#;

#[test]
fn a_module_of_preview_0_runs_too() {
    if !root() {
        return;
    }
    let ended = Guest::wat(OLD).run();
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (200, "old\n"),
        "{ended:?}"
    );
    assert_eq!(Guest::wat(OLD_CLOCKS).run().code, 42);
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let ended = Guest::wat(OLD).listen(address).run();
    assert_eq!(ended.code, 126, "{ended:?}");
    assert!(
        ended.stderr.contains("preview 0 has no sockets"),
        "{ended:?}"
    );
}

#[test]
fn what_became_of_a_guest_is_told() {
    if !root() {
        return;
    }
    let told = Guest::named("probe-p1.wasm").args(["panic"]).run().told;
    assert!(told.memory >= 1 << 20, "{told:?}");
    assert_eq!((told.requests, told.traps), (0, 1));
    assert!(told.trap.unwrap().contains("unreachable"));
    // A guest that is killed has no last word.
    let guest = || Guest::named("probe-p2.wasm").args(["sleep", "60000"]);
    let mut running = guest().start();
    assert_eq!(running.line(), "asleep");
    running.signal(Signal::KILL);
    let told = running.wait().told;
    assert!(told.memory >= 1 << 20, "{told:?}");
    assert_eq!((told.traps, told.trap), (0, None));
}

#[test]
fn components_have_the_network() {
    if !root() {
        return;
    }
    let mut server = Guest::named("probe-p2.wasm")
        .args(["listen", "127.0.0.1:0"])
        .start();
    let address = server.line();
    let client = Guest::named("probe-p2.wasm")
        .args(["connect", &address, "to you"])
        .run();
    assert_eq!(client.stdout, "TO YOU\n", "{}", client.stderr);
    assert_eq!(server.wait().code, 0);
    // Names go through the container's own files and resolver.
    let mut server = Guest::named("probe-p2.wasm")
        .args(["listen", "127.0.0.1:0"])
        .start();
    let port = server.line().split_off("127.0.0.1:".len());
    let client =
        Guest::named("probe-p2.wasm").args(["connect", &format!("localhost:{port}"), "hi"]);
    assert_eq!(client.run().stdout, "HI\n");
}

#[test]
fn the_runner_keeps_nothing_of_the_host_open() {
    if !root() {
        return;
    }
    for probe in probes() {
        let mut guest = probe.args(["sleep", "60000"]).start();
        assert_eq!(guest.line(), "asleep");
        let open = descriptors(guest.pid());
        assert!(
            !open
                .iter()
                .any(|to| to.contains("memfd:duet-handoff") || to.contains("cache")),
            "{open:?}"
        );
        // The code itself, where the initial memory comes from; nobody can write through it.
        assert!(
            open.iter().filter(|to| to.ends_with("/code")).count() <= 1,
            "{open:?}"
        );
        let cwd = std::fs::read_link(format!("/proc/{}/cwd", guest.pid())).unwrap();
        assert_eq!(cwd.to_str(), Some("/"));
        let status = std::fs::read_to_string(format!("/proc/{}/status", guest.pid())).unwrap();
        assert!(status.contains("Threads:\t1\n"), "{status}");
    }
}

#[test]
fn every_byte_of_standard_input_arrives_once_and_in_order_however_it_is_asked_for() {
    if !root() {
        return;
    }
    // Says what it reads, a byte at first and then from 3 to 8191: less and more than is read ahead.
    let guest = Guest::wat(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            ;; Where the bytes are.
            (data (i32.const 0) "\00\40\00\00")
            (func (export "_start") (local $size i32)
                (local.set $size (i32.const 1))
                (loop $next
                    (i32.store (i32.const 4) (local.get $size))
                    (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
                    (i32.store (i32.const 4) (i32.load (i32.const 8)))
                    (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)) (then unreachable))
                    (local.set $size (i32.and (i32.mul (local.get $size) (i32.const 3)) (i32.const 8191)))
                    (br_if $next (i32.load (i32.const 8))))))"#,
    );
    let text: String = (0..8_000).map(|number| format!("{number} ")).collect();
    let ended = guest.stdin(text.as_bytes()).run();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    assert!(ended.stdout == text);
}
