//! The wasm programs of the tests: committed beside their sources, rebuilt by
//! `tests/guests/build.sh`.

use std::fmt::Write as _;

/// A wasm program.
#[derive(Debug, Clone, Copy)]
pub struct Guest {
    /// Its file name; the image `guests` has it in the root folder.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: &'static [u8],
}

/// Defines a constant for each guest, and the list of them all.
macro_rules! guests {
    ($($(#[$doc:meta])+ $name:ident = $file:literal;)+) => {
        $($(#[$doc])+ pub const $name: Guest = Guest {
            name: $file,
            bytes: include_bytes!(concat!("../guests/", $file)),
        };)+
        /// Every guest.
        pub const ALL: &[Guest] = &[$($name),+];
    };
}

guests! {
    /// WASI preview 1, in C: does what its first argument says (`probe.c` lists it).
    PROBE = "probe.wasm";
    /// WASI preview 1, in C: calls every function of it, by groups (`calls.c`).
    CALLS = "calls.wasm";
    /// WASI preview 1, in C: works with sockets that it finds open (`sockets.c`).
    SOCKETS = "sockets.wasm";
    /// WASI preview 1: imports `nowhere#nothing`, which nothing provides.
    MISSING_IMPORT = "missing-import.wasm";
}

/// WASI preview 1, in Rust: does what its first argument says. `duet-wasm`'s own.
pub const PROBE_P1: Guest = Guest {
    name: "probe-p1.wasm",
    bytes: include_bytes!("../../crates/wasm/tests/guests/probe-p1.wasm"),
};

/// WASI preview 2, in Rust: does what its first argument says, sockets included. `duet-wasm`'s own.
pub const PROBE_P2: Guest = Guest {
    name: "probe-p2.wasm",
    bytes: include_bytes!("../../crates/wasm/tests/guests/probe-p2.wasm"),
};

/// Defines the guests of these groups.
macro_rules! in_c {
    ($($group:literal),+) => {
        [$(Guest {
            name: concat!("c-", $group, ".wasm"),
            bytes: include_bytes!(concat!("../../crates/wasm/tests/guests/c-", $group, ".wasm")),
        }),+]
    };
}

/// WASI preview 2, in C: each calls every function of a group, in the folder that it is told. Those that meet what is
/// around them; `duet-wasm`'s own.
pub const IN_C: [Guest; 4] = in_c!["config", "filesystem", "io", "sockets"];

/// A `wasi:http` component, in Rust: does what the path of a request says. `duet-wasm`'s own.
pub const SERVER: Guest = Guest {
    name: "server.wasm",
    bytes: include_bytes!("../../crates/wasm/tests/guests/server.wasm"),
};

/// WASI preview 3, in Rust: does what its first argument says. `duet-wasm`'s own.
pub const PROBE_P3: Guest = Guest {
    name: "probe-p3.wasm",
    bytes: include_bytes!("../../crates/wasm/tests/guests/probe-p3.wasm"),
};

/// A `wasi:http` service of preview 3, in Rust. `duet-wasm`'s own.
pub const SERVER_P3: Guest = Guest {
    name: "server-p3.wasm",
    bytes: include_bytes!("../../crates/wasm/tests/guests/server-p3.wasm"),
};

/// A `wasi:http` component that checks a token and asks 127.0.0.1: the example's own.
pub const AMBASSADOR: Guest = Guest {
    name: "ambassador.wasm",
    bytes: include_bytes!("../../examples/ambassador/ambassador.wasm"),
};

/// Bytes that begin like a module and go on as nothing does.
#[must_use]
pub fn random_bytes() -> Vec<u8> {
    let mut bytes = b"\0asm\x01\0\0\0".to_vec();
    // A fixed sequence (xorshift): a failure can be repeated.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..512 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// The first half of a good module.
#[must_use]
pub fn truncated() -> Vec<u8> {
    PROBE.bytes[..PROBE.bytes.len() / 2].to_vec()
}

/// A module with so many functions of half a KiB each, 1 000 of them in a table, and so many bytes of data.
/// It waits, or ends at once.
///
/// Its bytes are shared by all who run it, and so is what wasmtime keeps for each function (36 bytes).
///
/// # Panics
///
/// Never: its text is a module's.
#[must_use]
pub fn made(functions: u32, data: u32, waits: bool) -> Vec<u8> {
    let mut text = String::from(
        r#"(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 208)
  (table 1000 funcref)
  (func (export "_start")
"#,
    );
    if waits {
        text.push_str(
            ";; One subscription, all zero: the real-time clock, but for how long: for years.
            (i64.store (i32.const 24) (i64.const 0x0fff_ffff_ffff_ffff))
            (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))",
        );
    }
    text.push_str(")\n");
    for number in 0..functions {
        let _infallible = write!(
            text,
            "  (func $f{number} (param i32) (result i32) (local.get 0)"
        );
        for step in 0..88_u32 {
            let constant = number.wrapping_mul(40_503).wrapping_add(step * 9_973) | 1 << 20;
            let operation = ["add", "xor", "mul"][step as usize % 3];
            let _infallible = write!(text, "(i32.{operation} (i32.const {constant}))");
        }
        text.push_str(")\n");
    }
    text.push_str("  (elem (i32.const 0)");
    for number in 0..1_000 {
        let _infallible = write!(text, " $f{number}");
    }
    text.push_str(")\n  (data (i32.const 65536) \"");
    text.extend((0..data).map(|place: u32| char::from(b'a' + (place % 23) as u8)));
    text.push_str("\"))");
    wat::parse_str(&text).expect("it is a module")
}
