//! What an idle wasm container adds to its pod's memory.

use std::fmt;
use std::fs;

use duet_tests::{Node, machine};
use serde_json::{Value, json};

use crate::Stage;
use crate::specs::Specs;

/// How many containers share the pod.
const CONTAINERS: u32 = 25;

/// What they cost together, in KiB of proportional set size.
pub(crate) struct Memory {
    containers: u64,
    shim_alone: u64,
    shim: u64,
}

/// Starts the containers in one pod, and looks when all of them are idle.
pub(crate) fn idle_wasm(node: &Node) -> Memory {
    let stage = Stage::new(node, "memory", &machine::binary("containerd-shim-duet-v1"));
    // One life first: what the shim keeps for good is not the containers' cost.
    let _time = stage.life(Specs::wasm);
    let shim_pid = stage.shim.pid("memory").expect("Connect");
    let shim_alone = pss(shim_pid);
    let mut pids = Vec::new();
    let mut bundles = Vec::new();
    for _ in 0..CONTAINERS {
        let (id, bundle) = stage.bundle(Specs::idle_wasm);
        pids.push(stage.shim.create(&id, &bundle.dir).expect("Create"));
        stage.shim.begin(&id).expect("Start");
        bundles.push((id, bundle));
    }
    // A guest that has reached its wait sleeps in poll.
    duet_tests::wait::until("the guests to be idle", || {
        pids.iter().all(|pid| is_asleep(*pid)).then_some(())
    });
    let containers = pids.iter().map(|pid| pss(*pid)).sum();
    let shim = pss(shim_pid);
    for (id, _) in &bundles {
        stage.shim.kill(id).expect("Kill");
        assert_eq!(stage.shim.wait(id).expect("Wait"), 137);
        stage.shim.delete(id).expect("Delete");
    }
    stage.close();
    Memory {
        containers,
        shim_alone,
        shim,
    }
}

impl Memory {
    /// The numbers as JSON.
    pub(crate) fn json(&self) -> Value {
        json!({
            "containers": CONTAINERS,
            "containers_pss_kib": self.containers,
            "shim_alone_pss_kib": self.shim_alone,
            "shim_pss_kib": self.shim,
        })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self.containers / u64::from(CONTAINERS);
        writeln!(
            f,
            "Idle wasm containers in one pod ({CONTAINERS} of them), PSS"
        )?;
        writeln!(f, "  {:<28}{each:>9} KiB each beyond the shim", "container")?;
        writeln!(
            f,
            "  {:<28}{:>9} KiB, {} KiB without them",
            "shim", self.shim, self.shim_alone
        )
    }
}

/// The proportional set size of a process, in KiB.
fn pss(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it runs");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("the kernel tells the PSS")
}

fn is_asleep(pid: u32) -> bool {
    let wchan = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let sleeping = state
        .rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with('S'));
    sleeping && !wchan.contains("pipe")
}
