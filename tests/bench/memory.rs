//! What an idle wasm container adds to its pod's memory: of each kind, and with a large module.

use std::fmt;
use std::fs;

use duet_tests::memory::{is_asleep, pss};
use duet_tests::{Node, machine};
use serde_json::{Value, json};

use crate::Stage;
use crate::specs::{Idle, Specs};

/// What containers of each kind cost.
pub(crate) struct Memory {
    kinds: Vec<(Idle, Cost)>,
}

/// Proportional set sizes in KiB.
struct Cost {
    /// Of all containers of a pod together.
    containers: u64,
    /// What of it are pages that the guests have written into their own memories.
    written: u64,
    /// Of the shim before the first of them.
    shim_alone: u64,
    /// Of the shim with all of them.
    shim: u64,
}

/// Starts the containers of each kind in a pod of their own, and looks when all of them are idle.
pub(crate) fn idle_wasm(node: &Node) -> Memory {
    measured(node, &Idle::ALL)
}

/// As [`idle_wasm`], of the CPython that others have built and a small module.
pub(crate) fn of_python(node: &Node) -> Memory {
    measured(node, &[Idle::Preview1, Idle::Python])
}

fn measured(node: &Node, kinds: &[Idle]) -> Memory {
    let kinds = kinds.iter().map(|&kind| (kind, idle(node, kind)));
    Memory {
        kinds: kinds.collect(),
    }
}

fn idle(node: &Node, kind: Idle) -> Cost {
    let name = format!("memory-{kind:?}").to_lowercase();
    let stage = Stage::new(node, &name, &machine::binary("containerd-shim-duet-v1"));
    // One life first: what the shim keeps for good is not the containers' cost.
    let _time = stage.life(Specs::wasm);
    let shim_pid = stage.shim.pid(&name).expect("Connect");
    let shim_alone = pss(shim_pid);
    let mut pids = Vec::new();
    let mut bundles = Vec::new();
    for number in 0..kind.containers() {
        let (id, bundle) = stage.bundle(|specs, id| specs.idle_wasm(id, kind, number));
        pids.push(stage.shim.create(&id, &bundle.dir).expect("Create"));
        stage.shim.begin(&id).expect("Start");
        bundles.push((id, bundle));
    }
    // A guest that has reached its wait sleeps in poll, a server in accept.
    duet_tests::wait::until("the guests to be idle", || {
        pids.iter().all(|pid| is_asleep(*pid)).then_some(())
    });
    let containers = pids.iter().map(|pid| pss(*pid)).sum();
    let written = pids.iter().map(|pid| written(*pid)).sum();
    let shim = pss(shim_pid);
    for (id, _) in &bundles {
        stage.shim.kill(id).expect("Kill");
        assert_eq!(stage.shim.wait(id).expect("Wait"), 137, "{kind}");
        stage.shim.delete(id).expect("Delete");
    }
    stage.close();
    Cost {
        containers,
        written,
        shim_alone,
        shim,
    }
}

// === impl Memory ===

impl Memory {
    /// The numbers as JSON.
    pub(crate) fn json(&self) -> Value {
        let row = |(kind, cost): &(Idle, Cost)| {
            json!({
                "kind": kind.to_string(),
                "containers": kind.containers(),
                "containers_pss_kib": cost.containers,
                "guests_memory_kib": cost.written,
                "shim_alone_pss_kib": cost.shim_alone,
                "shim_pss_kib": cost.shim,
            })
        };
        self.kinds.iter().map(row).collect()
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Idle wasm containers, several of a kind in one pod, PSS in KiB"
        )?;
        writeln!(
            f,
            "  {:<28}{:>8}{:>12}{:>14}{:>22}",
            "", "number", "container", "guest's own", "shim (without them)"
        )?;
        for (kind, cost) in &self.kinds {
            let number = kind.containers();
            let each = cost.containers / u64::from(number);
            let own = cost.written / u64::from(number);
            let shim = format!("{} ({})", cost.shim, cost.shim_alone);
            writeln!(
                f,
                "  {:<28}{number:>8}{each:>12}{own:>14}{shim:>22}",
                kind.to_string()
            )?;
        }
        Ok(())
    }
}

/// What a guest has written into its linear memory, in KiB: the private pages of the one reservation of
/// 4 GiB and more that its process has, however many mappings that is made of.
fn written(pid: u32) -> u64 {
    const RESERVED: u64 = 4 << 30;
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("it runs");
    // Mappings that touch are one range: its start, its end, and what in it is nobody else's.
    let mut ranges: Vec<(u64, u64, u64)> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let bounds = first.split_once('-').and_then(|(start, end)| {
            let number = |text| u64::from_str_radix(text, 16).ok();
            Some((number(start)?, number(end)?))
        });
        match (bounds, ranges.last_mut()) {
            (Some((start, end)), Some(last)) if last.1 == start => last.1 = end,
            (Some((start, end)), _) => ranges.push((start, end, 0)),
            (None, Some(last)) if first == "Anonymous:" => {
                let size = words.next().and_then(|size| size.parse::<u64>().ok());
                last.2 += size.expect("the kernel tells a size");
            }
            (None, _) => {}
        }
    }
    let memories = ranges
        .iter()
        .filter(|(start, end, _)| end - start >= RESERVED);
    memories.map(|(_, _, written)| written).sum()
}
