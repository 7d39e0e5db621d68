//! What containerd writes into a bundle.

use std::fs;
use std::sync::OnceLock;

use serde_json::Value;

use crate::Node;
use crate::machine::Runtime;

/// The `config.json` of a container of busybox's with the default seccomp profile, taken from one
/// that containerd makes.
///
/// # Panics
///
/// When containerd makes none.
#[must_use]
pub fn config(node: &Node) -> Value {
    static CONFIG: OnceLock<Value> = OnceLock::new();
    CONFIG.get_or_init(|| captured(node)).clone()
}

fn captured(node: &Node) -> Value {
    let container = node
        .container("template")
        .runtime(Runtime::Runc)
        .with(&["--seccomp"]);
    let mut task = container.script("echo ready; exec sleep 1000").start();
    task.says("ready");
    let [state, ..] = node.daemon().task_dirs(node.namespace());
    let config = fs::read(state.join("template/config.json")).expect("a task has a bundle");
    task.end();
    serde_json::from_slice(&config).expect("containerd writes JSON")
}
