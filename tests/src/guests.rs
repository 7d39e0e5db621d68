//! The wasm programs of the tests: committed beside their sources, rebuilt by
//! `tests/guests/build.sh`.

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

/// WASI preview 2, in Rust: does what its first argument says, sockets included. `duet-wasm`'s own.
pub const PROBE_P2: Guest = Guest {
    name: "probe-p2.wasm",
    bytes: include_bytes!("../../crates/wasm/tests/guests/probe-p2.wasm"),
};

/// A `wasi:http` component, in Rust: does what the path of a request says. `duet-wasm`'s own.
pub const SERVER: Guest = Guest {
    name: "server.wasm",
    bytes: include_bytes!("../../crates/wasm/tests/guests/server.wasm"),
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
