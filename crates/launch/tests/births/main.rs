//! What a process finds when it is born by a plan. Needs root.
#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

mod attacks;
mod budget;
mod fields;
mod id_maps;
mod lives;
mod locks;
mod places;
mod programs;
mod stage;
mod traced;
mod user_namespaces;
mod views;
