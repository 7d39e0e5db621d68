//! What no single crate can promise: whole containers under a real containerd.
//!
//! Every test enters a [`duet_tests::Node`], which fails it if anything is left behind.
#![forbid(unsafe_code)]

mod apparmor;
mod births;
mod cri;
mod events;
mod fields;
mod hardware;
mod https;
mod images;
mod kills;
mod left;
mod logs;
mod memory;
mod pods;
mod preview3;
mod refusals;
mod restarts;
mod sandboxes;
mod selinux;
mod serving;
mod systemd;
mod tasks;
mod user_namespaces;
mod volumes;
mod wasm;
mod wasm_execs;
mod wasm_limits;
mod wasm_network;
