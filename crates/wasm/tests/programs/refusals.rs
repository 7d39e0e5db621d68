//! What cannot run: each has a sentence of its own, and says it before a container is made.

use std::process::{Command, Stdio};

use crate::harness::{compile, root, runner};

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
    let text = refused(
        r#"(component (import "wasi:nn/graph@0.2.0" (instance)) (instance $r)
            (export "wasi:cli/run@0.2.0" (instance $r)))"#,
    );
    assert!(
        text.contains("imports \"wasi:nn/graph@0.2.0\", which nothing provides"),
        "{text}"
    );
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
}

#[test]
fn compiled_code_is_not_a_program() {
    if !root() {
        return;
    }
    // What the compiler makes begins like any ELF file, and is refused like one.
    let code = std::fs::read(runner()).unwrap();
    assert!(refusal(&code).contains("not WebAssembly"));
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
