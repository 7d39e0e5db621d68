//! What the real kernel makes of our cgroups: v1 with its controllers, and v2 as far as a hybrid
//! host has it. Needs root.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "in a test, and what it shares with others, a panic is the report"
)]

mod support;
mod v1;
mod v2;
