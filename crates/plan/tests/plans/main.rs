//! Whole plans, compared with the files in `golden/`, and what each kind of plan promises.
//!
//! `UPDATE_GOLDEN=1 cargo test -p duet-plan` rewrites the files; read the difference.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its fixture has failed"
)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "most checks are about a few kinds of step"
)]

mod cgroups;
mod gates;
mod golden;
mod guests;
mod helpers;
mod invariants;
mod labels;
mod promises;
mod random;
mod support;
mod user_namespaces;
