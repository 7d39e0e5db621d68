//! What cannot run: each has a sentence of its own, and says it before a container is made.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use duet_wasm::{CODE, Cache, Preview, Room, Workshop};
use rustix::fs::{Mode, OFlags, openat};

use crate::harness::{Guest, PATIENCE, cache, compile, compiler, root, runner};

fn refusal(wasm: &[u8]) -> String {
    compile(wasm).unwrap_err().to_string()
}

fn refused(text: &str) -> String {
    refusal(&wat::parse_str(text).unwrap())
}

#[test]
fn a_broken_file_is_described() {
    if !root() {
        return;
    }
    let module = wat::parse_str("(module (func (export \"_start\") (nop)))").unwrap();
    let table: [(&[u8], &str); 6] = [
        (
            b"",
            "not WebAssembly: begins with \"\", expected 00 61 73 6d",
        ),
        (
            b"\x7fELF\x02\x01",
            "not WebAssembly: begins with \"7f 45 4c 46\", expected 00 61 73 6d",
        ),
        (b"\0asm", "cut off after 4 bytes"),
        (
            b"\0asm\x09\0\0\0",
            "invalid at byte 0x4: unknown binary version",
        ),
        (&module[..module.len() - 1], "cut off after "),
        (
            b"\0asm\x01\0\0\0\x01\x04\x01\x60\x00\x05",
            "invalid at byte 0x",
        ),
    ];
    for (wasm, expected) in table {
        let text = refusal(wasm);
        assert!(
            text.starts_with(&format!("/guest.wasm: {expected}")),
            "{text}"
        );
    }
}

#[test]
fn a_proposal_that_is_not_supported_is_named_with_what_to_do() {
    if !root() {
        return;
    }
    let legacy = "the legacy form of exceptions (try, catch), which Duet does not support: compile it for that of \
                  WebAssembly 3.0 (clang: -mllvm -wasm-use-legacy-eh=false)";
    let threads = "the threads proposal, which Duet does not support: compile it without shared memory and atomics \
                   (clang: no -pthread; the target wasm32-wasip1, not wasm32-wasip1-threads)";
    let collection = "the types of the garbage collection proposal, which Duet does not support: compile it for a \
                      target whose objects are in linear memory";
    for (text, proposals) in [
        (
            "(tag) (func (export \"_start\") try catch_all end)",
            &[legacy][..],
        ),
        ("(memory 1 2 shared) (func (export \"_start\"))", &[threads]),
        (
            "(memory 1) (func (export \"_start\") (drop (i32.atomic.load (i32.const 0))))",
            &[threads],
        ),
        (
            "(type $pair (struct (field i32) (field i32)))
             (func (export \"_start\") (drop (struct.new_default $pair)))",
            &[collection],
        ),
        (
            "(memory 1 2 shared) (func (export \"_start\") try catch_all end)",
            &[legacy, threads],
        ),
    ] {
        let uses: Vec<_> = proposals.iter().map(|it| format!("uses {it}")).collect();
        let expected = format!("/guest.wasm: {}", uses.join("; "));
        assert_eq!(refused(&format!("(module {text})")), expected);
        // In a component's module as well.
        let text = format!("(component (core module {text}))");
        assert_eq!(refused(&text), expected);
    }
    // What is wrong beside it is what is told.
    let text = refused("(module (func (export \"_start\") try catch_all end) (func (drop)))");
    assert!(
        text.contains("invalid at byte") && !text.contains("legacy"),
        "{text}"
    );
}

#[test]
fn an_import_that_nothing_provides_is_named_with_its_world() {
    if !root() {
        return;
    }
    let text =
        refused(r#"(module (import "env" "emscripten_log" (func)) (func (export "_start")))"#);
    let start = "/guest.wasm: imports \"emscripten_log\" from \"env\", which nothing provides: a module \
                 gets WASI preview 1, \"wasi_snapshot_preview1\"; it was compiled for a host of its own";
    assert!(text.starts_with(start), "{text}");
    let text = refused(
        r#"(module (import "wasi_snapshot_preview1" "fd_teleport" (func)) (func (export "_start")))"#,
    );
    assert!(
        text.contains("imports \"fd_teleport\" from \"wasi_snapshot_preview1\""),
        "{text}"
    );
    for (module, name, hint) in [
        (
            "wasi_ephemeral_nn",
            "load",
            "; this is wasi-nn as modules have it",
        ),
        (
            "wasi_ephemeral_crypto_common",
            "options_open",
            "; this is wasi-crypto",
        ),
        (
            "wasi_snapshot_preview1",
            "sock_open",
            "; this is WasmEdge's: preview 1 itself has no way",
        ),
        ("wasi", "thread-spawn", "; this is wasi-threads"),
        ("wasix_32v1", "proc_fork", "; this is WASIX"),
    ] {
        let text = refused(&format!(
            r#"(module (import "{module}" "{name}" (func)) (func (export "_start")))"#
        ));
        let words = format!("imports {name:?} from {module:?}, which nothing provides");
        assert!(text.contains(&words) && text.contains(hint), "{text}");
    }
    for (import, world) in [
        (
            "wasi:nn/graph@0.2.0-rc-2024-10-28",
            "; this is world wasi:nn/ml",
        ),
        (
            "wasi:logging/logging@0.1.0-draft",
            "; this is world wasi:logging/imports",
        ),
        (
            "wasi:clocks/timezone@0.2.3",
            "; it is unstable in 0.2: no part of world wasi:clocks/imports",
        ),
        (
            "wasi:keyvalue/store@0.2.0-draft2",
            "; this is another draft of world wasi:keyvalue/imports",
        ),
        (
            "wasi:config/runtime@0.2.0-draft",
            "; this is another draft of world wasi:config/imports",
        ),
        (
            "wasi:cli/environment@0.3.0-rc-2026-03-15",
            "; this is a candidate for preview 3, which became 0.3.0",
        ),
        (
            "wasi:clocks/timezone@0.3.0",
            "; of 0.3 that is not provided here",
        ),
        (
            "wasi:http/incoming-handler@0.2.3",
            "; this is for components to export, and there is no other that does",
        ),
        (
            "wasi:cli/environment@0.1.0",
            "; of another version than 0.2",
        ),
        (
            "wasi:cli/teleport@0.2.3",
            "; that package has it in no version 0.2",
        ),
    ] {
        let text = refused(&format!(
            r#"(component (import "{import}" (instance)) (instance $r)
                (export "wasi:cli/run@0.2.0" (instance $r)))"#,
        ));
        let words = format!("imports {import:?}, which nothing provides");
        assert!(text.contains(&words) && text.contains(world), "{text}");
    }
}

#[test]
fn a_function_that_an_interface_does_not_have_is_named_with_its_world() {
    if !root() {
        return;
    }
    for export in ["wasi:cli/run@0.2.0", "wasi:http/incoming-handler@0.2.0"] {
        let ended = Guest::wat(&format!(
            r#"(component (import "wasi:cli/environment@0.2.3" (instance (export "teleport" (func))))
                (instance $r) (export "{export}" (instance $r)))"#
        ))
        .run();
        let words = "/guest.wasm: imports \"teleport\" from \"wasi:cli/environment@0.2.3\", which nothing provides: \
                     it is not in world wasi:cli/imports\n";
        assert_eq!((ended.code, ended.stderr.as_str()), (126, words));
    }
}

#[test]
fn a_library_is_not_a_program() {
    if !root() {
        return;
    }
    let text = refused(r#"(module (func (export "add")))"#);
    assert_eq!(
        text,
        "/guest.wasm: exports no \"_start\": a library or a reactor, not a command"
    );
    let text = refused(r#"(component (instance $i) (export "my:own/thing@1.0.0" (instance $i)))"#);
    assert!(text.contains("only [\"my:own/thing@1.0.0\"]"), "{text}");
    for interface in ["wasi:cli/run@0.3.0-rc-1", "wasi:http/handler@0.3.0-rc-1"] {
        let text = refused(&format!(
            r#"(component (instance $i) (export "{interface}" (instance $i)))"#
        ));
        assert!(
            text.ends_with("; this is a candidate for preview 3, which became 0.3.0"),
            "{text}"
        );
    }
    let text = refused(
        r#"(module
            (import "wasi_unstable" "sched_yield" (func (result i32)))
            (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
            (func (export "_start")))"#,
    );
    assert!(
        text.contains("whose descriptors are not the same"),
        "{text}"
    );
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    // All of it a hole: to read it would take minutes, and the room that it does not have.
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 40).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let refused = cache().compiled(&file, "/guest.wasm", Preview::Two, deadline);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "/guest.wasm: 1099511627776 bytes of WebAssembly; modules of at most 268435456 bytes are compiled"
    );
}

#[test]
fn a_module_with_too_much_in_it_is_refused_with_a_number() {
    if !root() {
        return;
    }
    let table = [
        // One more than WebAssembly has.
        (
            1_000_001,
            "invalid at byte 0x12: functions count exceeds limit of 1000000",
        ),
        (
            1_000_000,
            "1000000 functions; modules of at most 400000 are compiled",
        ),
        (
            400_001,
            "400001 functions; modules of at most 400000 are compiled",
        ),
    ];
    for (count, expected) in table {
        let text = refusal(&of_functions(count));
        assert_eq!(text, format!("/guest.wasm: {expected}"));
    }
    // Those of the modules in a component count together.
    let parts = [of_functions(200_000), of_functions(200_001)];
    let text = refusal(&of_modules(&parts));
    assert!(
        text.contains(" 400001 functions; modules of at most "),
        "{text}"
    );
    // A data segment of 2 GiB, of which there are five bytes.
    let data = [b"\x01\x01".to_vec(), leb128(2 << 30), b"hello".to_vec()].concat();
    let mut large = of_sections(&[(5, b"\x01\0\x01")]);
    large.push(11);
    large.extend(leb128(data.len() - 5 + (2 << 30)));
    large.extend(data);
    let text = refusal(&large);
    assert!(text.contains("cut off after "), "{text}");
}

fn of_sections(sections: &[(u8, &[u8])]) -> Vec<u8> {
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    for (id, body) in sections {
        wasm.push(*id);
        wasm.extend(leb128(body.len()));
        wasm.extend_from_slice(body);
    }
    wasm
}

/// Counts the compilers that are started: each is given a room.
#[derive(Debug, Default)]
struct Rooms(AtomicUsize);

impl Workshop for Rooms {
    fn open(&self) -> io::Result<Room> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Room {
            // Entered like any other.
            tasks: vec!["/dev/null".into()],
            kept: Box::new(()),
        })
    }
}

#[test]
fn what_cannot_be_compiled_is_told_again_without_a_compiler() {
    if !root() {
        return;
    }
    let rooms = Arc::new(Rooms::default());
    let directory = tempfile::tempdir().unwrap();
    let told = |wasm: &[u8]| {
        // As each restart of a container's has a shim of its own.
        let cache = Cache::open(&directory.path().join("cache"), &compiler());
        let cache = cache.unwrap().with_workshop(rooms.clone());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(wasm).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let error = cache.compiled(&file, "/guest.wasm", Preview::Two, deadline);
        error.unwrap_err().to_string()
    };
    let modules = [
        of_functions(400_001),
        b"\0asm\x09\0\0\0".to_vec(),
        wat::parse_str(r#"(module (import "env" "emscripten_log" (func)))"#).unwrap(),
    ];
    let first = modules.each_ref().map(|wasm| told(wasm));
    let words = [
        "400001 functions",
        "invalid at byte 0x4",
        "imports \"emscripten_log\"",
    ];
    for (text, words) in first.iter().zip(words) {
        assert!(text.starts_with(&format!("/guest.wasm: {words}")), "{text}");
    }
    assert_eq!(rooms.0.load(Ordering::Relaxed), modules.len(), "{first:?}");
    for _ in 0..3 {
        assert_eq!(modules.each_ref().map(|wasm| told(wasm)), first);
    }
    assert_eq!(rooms.0.load(Ordering::Relaxed), modules.len());
}

/// A component of modules.
fn of_modules(modules: &[Vec<u8>]) -> Vec<u8> {
    let mut wasm = b"\0asm\x0d\0\x01\0".to_vec();
    for module in modules {
        wasm.push(1);
        wasm.extend(leb128(module.len()));
        wasm.extend(module);
    }
    wasm
}

/// A command of so many functions, none of which does anything. (The 400,000 that are compiled take 26 s of two busy
/// processors: by hand.)
fn of_functions(count: usize) -> Vec<u8> {
    let functions = [leb128(count), vec![0; count]].concat();
    let bodies = [leb128(count), [2, 0, 0x0b].repeat(count)].concat();
    of_sections(&[
        (1, b"\x01\x60\0\0"),
        (3, &functions),
        (7, b"\x01\x06_start\0\0"),
        (10, &bodies),
    ])
}

pub(crate) fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            bytes.push(low & 0x7f);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

#[test]
fn compiled_code_is_not_a_program() {
    if !root() {
        return;
    }
    // What the compiler makes begins like any ELF file, and is refused like one.
    let program = std::fs::read(runner()).unwrap();
    assert!(refusal(&program).contains("not WebAssembly"));
    for guest in [
        r#"(module (func (export "_start")))"#,
        r#"(component (instance $r) (export "wasi:cli/run@0.2.0" (instance $r)))"#,
    ] {
        let compiled = compile(&wat::parse_str(guest).unwrap()).unwrap();
        let code = openat(
            compiled.tree().unwrap(),
            CODE,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let mut bytes = Vec::new();
        File::from(code.unwrap()).read_to_end(&mut bytes).unwrap();
        assert!(bytes.starts_with(b"\x7fELF"));
        assert!(refusal(&bytes).contains("not WebAssembly"));
    }
}

#[test]
fn a_runner_without_its_descriptors_says_so() {
    let output = Command::new("sh")
        .args(["-c", "exec \"$0\" 3<&- 4</dev/null"])
        .arg(runner())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.starts_with("duet-runner: descriptor 4 holds no handoff"),
        "{text}"
    );
}
