//! What each step of a cgroup's life costs on this machine, as medians in microseconds; needs root.
//!
//! ```text
//! cargo run --release -p duet-cgroup --example cost
//! ```
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Instant;

use duet_cgroup::{Cgroup, Error, Host};
use oci_spec::runtime::LinuxResources;

/// How often each step is taken.
const ROUNDS: usize = 200;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let limits = r#"{"devices": [{"allow": false, "access": "rwm"}],
        "memory": {"limit": 67108864}, "cpu": {"shares": 512, "quota": 50000, "period": 100000},
        "pids": {"limit": 50}}"#;
    let limits: LinuxResources = serde_json::from_str(limits)?;
    let host = Host::detect()?;
    report("this host", &host, &limits)?;
    if host.unified().is_some() {
        let bare = Host::parse(&mounts, "0::/\n")?;
        report(
            "its v2 tree, devices only",
            &bare,
            &LinuxResources::default(),
        )?;
    }
    Ok(())
}

fn report(title: &str, host: &Host, limits: &LinuxResources) -> Result<(), Error> {
    let parent = PathBuf::from(format!("/duet-cost-{}", std::process::id()));
    let path = parent.join("one");
    let mut times: [Vec<u128>; 6] = Default::default();
    for _ in 0..ROUNDS {
        let mut last = Instant::now();
        let mut step = 0;
        let mut lap = || {
            times[step].push(last.elapsed().as_micros());
            step += 1;
            last = Instant::now();
        };
        let cgroup = Cgroup::create(host, &path)?;
        lap();
        cgroup.limit(limits)?;
        lap();
        drop(cgroup.attach()?);
        lap();
        cgroup.stats()?;
        lap();
        cgroup.kill()?;
        lap();
        cgroup.remove()?;
        lap();
    }
    Cgroup::open(host, &parent)?.remove()?;
    let medians = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    let names = ["create", "limit", "attach", "stats", "kill", "remove"];
    let line = names
        .iter()
        .zip(medians)
        .map(|(name, median)| format!("{name} {median}"));
    println!("{title}: {}", line.collect::<Vec<_>>().join(", "));
    Ok(())
}
