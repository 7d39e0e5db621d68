//! Parts of the runner that need no wasmtime, with their own unit tests.
//!
//! The runner's package is not tested by itself: its wasmtime would be built once more, to unwind. What is here is
//! compiled from the runner's files as they are.
#![expect(
    dead_code,
    reason = "of each part the tests use less than the runner does"
)]

#[path = "../../../runner/src/preview1/ahead.rs"]
mod ahead;
#[path = "../../../runner/src/cgroup.rs"]
mod cgroup;
#[path = "../../../runner/src/serve/lines.rs"]
mod lines;
#[path = "../../../runner/src/preview1/listing.rs"]
mod listing;
#[path = "../../../runner/src/keyvalue/shelf.rs"]
mod shelf;

/// What the runner asks before it keeps something: here nothing is limited.
mod limits {
    pub(crate) fn take(_bytes: u64, _what: &str) -> bool {
        true
    }

    pub(crate) fn give_back(_bytes: u64) {}
}
