//! Guests that throw, as C++ does, and newer C for `setjmp`.

use rustix::process::Signal;

use tempfile::TempDir;

use crate::harness::{Ended, Guest, root};
use crate::made;
use crate::servers::Server;

/// Throws a number through a function that knows nothing of it; `$caught` gives it back.
const THROWING: &str = "
    (tag $thrown (param i32))
    (func $throw (param i32) (throw $thrown (local.get 0)))
    (func $between (param i32) (call $throw (local.get 0)))
    (func $caught (param i32) (result i32)
        (block $handler (result i32)
            (try_table (catch $thrown $handler) (call $between (local.get 0)))
            unreachable))";

/// A container that may have so many bytes.
fn memory(limit: u32) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("memory.max"), format!("{limit}\n")).unwrap();
    directory
}

fn exits(body: &str) -> Guest {
    Guest::wat(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            {THROWING}
            (func (export "_start") {body}))"#
    ))
}

#[test]
fn what_is_thrown_is_caught_with_its_value() {
    if !root() {
        return;
    }
    let ended = exits("(call $exit (call $caught (i32.const 42)))").run();
    assert_eq!(ended.code, 42, "{ended:?}");
}

#[test]
fn what_is_thrown_again_is_caught_by_the_next_handler() {
    if !root() {
        return;
    }
    let again = "
        (block $outer (result i32)
            (try_table (catch $thrown $outer)
                (block $inner (result exnref)
                    (try_table (catch_all_ref $inner) (call $between (i32.const 7)))
                    unreachable)
                throw_ref)
            unreachable)
        call $exit";
    let ended = exits(again).run();
    assert_eq!(ended.code, 7, "{ended:?}");
}

#[test]
fn what_nobody_catches_is_told_with_its_backtrace() {
    if !root() {
        return;
    }
    let Ended { code, stderr, .. } = exits("(call $between (i32.const 1))").run();
    assert_eq!(code, 134, "{stderr}");
    assert!(stderr.contains("uncaught exception"), "{stderr}");
    assert!(stderr.contains("!throw"), "{stderr}");
}

#[test]
fn exceptions_that_are_over_take_no_memory() {
    if !root() {
        return;
    }
    let limit = memory(32 << 20);
    let many = "
        (local $left i32)
        (local.set $left (i32.const 1000000))
        (loop $more
            (drop (call $caught (local.get $left)))
            (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))";
    let ended = exits(many).memory(limit.path()).run();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ended.stderr, "");
}

#[test]
fn exceptions_that_are_kept_are_memory_of_the_guest() {
    if !root() {
        return;
    }
    let limit = memory(32 << 20);
    let keep = "
        (local $at i32)
        (loop $more
            (table.set $kept (local.get $at)
                (block $inner (result exnref)
                    (try_table (catch_all_ref $inner) (call $between (i32.const 7)))
                    unreachable))
            (br_if $more (i32.lt_u
                (local.tee $at (i32.add (local.get $at) (i32.const 1)))
                (i32.const 1000000))))";
    let text = format!(
        r#"(module
            (memory (export "memory") 1)
            (table $kept 1000000 exnref)
            {THROWING}
            (func (export "_start") {keep}))"#
    );
    let ended = Guest::wat(&text).memory(limit.path()).run();
    assert_eq!(ended.code, 134, "{ended:?}");
    assert!(
        ended.stderr.contains("the container's limit is"),
        "{ended:?}"
    );
}

#[test]
fn what_a_guest_that_throws_is_born_with_need_not_fit() {
    if !root() {
        return;
    }
    let limit = memory(32 << 20);
    let text = format!(
        r#"(module
            (memory (export "memory") 1024)
            (table 16 funcref)
            {THROWING}
            (func (export "_start")))"#
    );
    let ended = Guest::wat(&text).memory(limit.path()).run();
    assert_eq!(ended.code, 0, "{ended:?}");
}

#[test]
fn a_component_throws_too() {
    if !root() {
        return;
    }
    let ended = Guest::wat(&format!(
        r#"(component
            (core module $core {THROWING}
                (func (export "run") (result i32)
                    (i32.ne (call $caught (i32.const 42)) (i32.const 42))))
            (core instance $made (instantiate $core))
            (func $run (result (result)) (canon lift (core func $made "run")))
            (instance $command (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $command)))"#
    ))
    .run();
    assert_eq!(ended.code, 0, "{ended:?}");
}

#[test]
fn requests_throw_without_hurting_others() {
    if !root() {
        return;
    }
    // More than there are places at once: each gives back where it kept what it threw.
    const REQUESTS: u64 = 200;
    let server = Server::start(made::server(&format!(
        r#"{THROWING}
           (func (export "handle") (param i32 i32)
               (drop (call $caught (i32.const 1)))
               (call $between (i32.const 2)))"#
    )));
    for _ in 0..REQUESTS {
        assert_eq!(server.get("/").0, 500);
    }
    server.guest.signal(Signal::TERM);
    let ended = server.guest.wait();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(
        (ended.told.requests, ended.told.traps),
        (REQUESTS, REQUESTS)
    );
    assert!(ended.stderr.contains("uncaught exception"), "{ended:?}");
}
