//! `wasi:config`: a component asks for `colour`.

use crate::harness::{Guest, root};

/// Ends with the length of the value, or with 200 if there is none.
const ASKS: &str = include_str!("../guests/config.wat");

#[test]
fn values_come_from_annotations_and_below_them_from_the_environment() {
    if !root() {
        return;
    }
    assert_eq!(Guest::wat(ASKS).run().code, 200);
    let told = Guest::wat(ASKS).env("colour=blue");
    assert_eq!(told.run().code, 4);
    let both = Guest::wat(ASKS)
        .env("colour=blue")
        .config("colour", "green");
    assert_eq!(both.run().code, 5);
}
