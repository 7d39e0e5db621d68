//! What is shared by those who run the same code.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::time::Instant;

use duet_wasm::{BLOCKS, CODE, Cache, Preview, Program, Source};
use rustix::fs::{Mode, OFlags, openat};

use crate::harness::{Guest, PATIENCE, binary, compile, eventually, root, runner};

/// A module with so many functions that what wasmtime keeps of them is worth sharing.
///
/// Its last function traps, after a wait or at once.
fn many_functions(waits: bool) -> String {
    let wait = if waits {
        "(i64.store (i32.const 56) (i64.const 0x0fff_ffff_ffff_ffff))
         (drop (call $poll (i32.const 32) (i32.const 96) (i32.const 1) (i32.const 160)))"
    } else {
        ""
    };
    let mut text = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\08\00\00\00\03\00\00\00up\n")
            (func (export "_start")
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)))
                {wait} (call $f3999))"#
    );
    for number in 0..4000 {
        let body = if number == 3999 { "unreachable" } else { "nop" };
        let _infallible = write!(text, "(func $f{number} ({body}))");
    }
    text.push(')');
    text
}

/// A module of a megabyte of machine code that runs through all of it, says `up`, waits for a byte, and runs through it
/// again.
fn much_code() -> String {
    let mut text = String::from(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (global $sum (mut i32) (i32.const 0))
            (data (i32.const 0) "\08\00\00\00\03\00\00\00up\n")
            (data (i32.const 32) "\00\00\00\00\00\00\00\00\01")"#,
    );
    for number in 0..1000 {
        let _infallible = write!(text, "(func $f{number}");
        for step in 1..100 {
            let _infallible = write!(
                text,
                "(global.set $sum (i32.xor (i32.const {number}) (i32.mul (global.get $sum) (i32.const {step}))))"
            );
        }
        text.push(')');
    }
    text.push_str("(func $all");
    for number in 0..1000 {
        let _infallible = write!(text, "(call $f{number})");
    }
    text.push_str(
        r#")(func (export "_start")
            (call $all)
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)))
            (drop (call $poll (i32.const 32) (i32.const 96) (i32.const 1) (i32.const 160)))
            (call $all)))"#,
    );
    text
}

/// How much of a file a process has mapped, in KiB.
struct Mapped {
    size: u64,
    resident: u64,
    /// Written to, and so the process's own.
    own: u64,
}

impl Mapped {
    fn of(file: &str, pid: u32) -> Self {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
        let mut ours = false;
        let mut mapped = Self {
            size: 0,
            resident: 0,
            own: 0,
        };
        for line in maps.lines() {
            let mut words = line.split_ascii_whitespace();
            let (key, value) = (words.next().unwrap(), words.next().unwrap());
            if !key.ends_with(':') {
                ours = line.ends_with(&format!("/{file}"));
                continue;
            }
            let counter = match key {
                "Size:" => &mut mapped.size,
                "Rss:" => &mut mapped.resident,
                "Anonymous:" => &mut mapped.own,
                _ => continue,
            };
            if ours {
                *counter += value.parse::<u64>().unwrap();
            }
        }
        mapped
    }
}

#[test]
fn what_loading_fills_is_mapped_and_not_copied() {
    if !root() {
        return;
    }
    let mut guest = Guest::wat(&many_functions(true)).start();
    assert_eq!(guest.line(), "up");
    let Mapped { size, own, .. } = Mapped::of(BLOCKS, guest.pid());
    // 8 bytes of where a function is, 4 of where it was, 12 of its type and 12 of its name.
    assert!(size >= 4000 * 36 / 1024, "only {size} KiB are shared");
    assert_eq!(own, 0);
    // And it works: the trap's backtrace needs all of it.
    let ended = Guest::wat(&many_functions(false)).run();
    assert_eq!(ended.code, 134, "{ended:?}");
    assert!(ended.stderr.contains("!f3999"), "{ended:?}");
}

#[test]
fn a_guest_that_waits_maps_little_of_its_code() {
    if !root() {
        return;
    }
    let mut guest = Guest::wat(&much_code()).typing().start();
    assert_eq!(guest.line(), "up");
    eventually("the code to be given back", || {
        let code = Mapped::of(CODE, guest.pid());
        assert!(code.size > 1 << 10, "{} KiB of code", code.size);
        (code.resident < code.size / 4).then_some(())
    });
    // And it comes back.
    guest.typing().write_all(b"\n").unwrap();
    let ended = guest.wait();
    assert_eq!(ended.code, 0, "{ended:?}");
}

#[test]
fn a_file_that_is_not_what_loading_fills_is_not_used() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache");
    let cache = Cache::open(&path, &Program::at(binary("duet-compiler"))).unwrap();
    let cache = cache.with_runner(&Program::at(runner()));
    let wasm = wat::parse_str(many_functions(true)).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&wasm).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let compiled = cache
        .compiled(&file, "/guest.wasm", Preview::Two, deadline)
        .unwrap();
    assert!(matches!(compiled.source, Source::Fresh(_)));
    assert!(compiled.unshared.is_none(), "{:?}", compiled.unshared);
    let blocks = path.join(compiled.key.to_string()).join(BLOCKS);
    let whole = std::fs::read(&blocks).unwrap();
    assert!(whole.len() >= 4000 * 36, "{}", whole.len());
    let turned: Vec<u8> = whole.iter().map(|byte| !byte).collect();
    for content in [&turned, &whole[..whole.len() / 2], &[]] {
        std::fs::write(&blocks, content).unwrap();
        let mut guest = Guest::wat(&many_functions(true)).start_in(&compiled);
        assert_eq!(guest.line(), "up");
        let size = Mapped::of(BLOCKS, guest.pid()).size;
        let equal = content
            .iter()
            .zip(&whole)
            .take_while(|(a, b)| a == b)
            .count();
        assert!(
            size <= equal as u64 / 1024,
            "{size} KiB of {equal} equal bytes"
        );
    }
}

#[test]
fn a_byte_at_the_end_of_two_gibibytes_costs_no_more_than_a_byte() {
    if !root() {
        return;
    }
    // The last that a number with a sign can name, and the last of all; what is between them is nobody's.
    let wasm = wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 65536)
            (data (i32.const 0x7fff_ffff) "\07")
            (data (i32.const 0xffff_ffff) "\23")
            (func (export "_start")
                (call $exit (i32.add
                    (i32.load8_u (i32.const 0x7fff_ffff))
                    (i32.load8_u (i32.const 0xffff_ffff))))))"#,
    )
    .unwrap();
    let compiled = compile(&wasm).unwrap();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let code = openat(compiled.tree().unwrap(), CODE, flags, Mode::empty()).unwrap();
    assert!(File::from(code).metadata().unwrap().len() < 1 << 20);
    let ended = Guest::wasm(&wasm).run();
    assert_eq!((ended.code, ended.stderr.as_str()), (42, ""));
}
