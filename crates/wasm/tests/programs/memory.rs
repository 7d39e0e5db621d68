//! What is shared by those who run the same code.

use std::fmt::Write as _;
use std::time::Instant;

use duet_wasm::{BLOCKS, Cache, Preview, Program, Source};

use crate::harness::{Guest, PATIENCE, binary, root, runner};

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

/// How many KiB of the file `blocks` a process maps, and how many of these are its own.
fn mapped(pid: u32) -> (u64, u64) {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut ours = false;
    let (mut size, mut own) = (0, 0);
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (key, value) = (words.next().unwrap(), words.next().unwrap());
        if !key.ends_with(':') {
            ours = line.ends_with(&format!("/{BLOCKS}"));
        } else if key == "Size:" && ours {
            size += value.parse::<u64>().unwrap();
        } else if key == "Anonymous:" && ours {
            own += value.parse::<u64>().unwrap();
        }
    }
    (size, own)
}

#[test]
fn what_loading_fills_is_mapped_and_not_copied() {
    if !root() {
        return;
    }
    let mut guest = Guest::wat(&many_functions(true)).start();
    assert_eq!(guest.line(), "up");
    let (size, own) = mapped(guest.pid());
    // 8 bytes of where a function is, 4 of where it was, 12 of its type and 12 of its name.
    assert!(size >= 4000 * 36 / 1024, "only {size} KiB are shared");
    assert_eq!(own, 0);
    // And it works: the trap's backtrace needs all of it.
    let ended = Guest::wat(&many_functions(false)).run();
    assert_eq!(ended.code, 134, "{ended:?}");
    assert!(ended.stderr.contains("!f3999"), "{ended:?}");
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
    std::io::Write::write_all(&mut file, &wasm).unwrap();
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
        let (size, _) = mapped(guest.pid());
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
