//! What the plan of a wasm container leaves out, and what it refuses.

use crate::{
    invariants,
    promises::{edited, has, lines},
    support::{facts, facts_v2, spec},
};
use duet_plan::{Filesystem, Program, SourceKind, container};
use duet_spec::{MemoryPolicy, NetDevice, Personality, Propagation, PropagationKind};
use std::path::Path;

#[test]
fn a_guest_never_sees_what_shows_the_host() {
    for name in [
        "ctr-default.json",
        "cri-default.json",
        "cri-restricted.json",
        "cri-sandbox.json",
    ] {
        let mut spec = spec(name);
        for mount in &mut spec.mounts {
            mount.propagation = None;
        }
        for facts in [facts(&spec), facts_v2(&spec)] {
            let plan = container(&spec, &facts, Program::Wasm).unwrap();
            invariants::check(&plan);
            for line in lines(&plan)
                .iter()
                .filter(|line| line.starts_with("mount "))
            {
                for hidden in ["/proc", "/sys", "/dev/pts", "/dev/mqueue"] {
                    assert!(!line.starts_with(&format!("mount {hidden} ")), "{line}");
                }
            }
            let nodes: Vec<String> = lines(&plan)
                .into_iter()
                .filter(|line| line.starts_with("make node"))
                .collect();
            assert_eq!(nodes.len(), 5, "{nodes:?}");
        }
    }
}

#[test]
fn a_guest_gets_a_dev_of_its_own_even_when_the_spec_mounts_none() {
    let spec = edited("ctr-default.json", |document| {
        let mounts = document["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    });
    let plan = container(&spec, &facts(&spec), Program::Wasm).unwrap();
    invariants::check(&plan);
    has(
        &plan,
        "mount /dev tmpfs tmpfs [mode=755,size=64k] +nosuid +noexec as Dev",
    );
}

#[test]
fn a_guest_is_refused_a_window_to_the_host_by_name() {
    let spec = spec("cri-default.json");
    let logs = Path::new("/pods/7/volumes/logs");
    let refused = |change: &dyn Fn(&mut duet_plan::SourceFacts)| {
        let mut facts = facts(&spec);
        change(facts.sources.get_mut(logs).unwrap());
        container(&spec, &facts, Program::Native).expect("a native container may have it");
        container(&spec, &facts, Program::Wasm)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused(&|source| source.filesystem = Filesystem::Sysfs),
        "mounts[11].source: /pods/7/volumes/logs: is sysfs, which a wasm container must not see"
    );
    assert_eq!(
        refused(&|source| source.below = Some(("/pods/7/volumes/logs/p".into(), Filesystem::Proc))),
        "mounts[11].source: /pods/7/volumes/logs: /pods/7/volumes/logs/p is procfs, which a wasm \
         container must not see"
    );
    assert_eq!(
        refused(&|source| source.kind = SourceKind::Device),
        "mounts[11].source: /pods/7/volumes/logs: a wasm container has no devices of the host"
    );
    let mut later = spec.clone();
    later.mounts[11].propagation = Some(Propagation {
        kind: PropagationKind::Slave,
        recursive: true,
    });
    container(&later, &facts(&spec), Program::Native).expect("a native container may have it");
    let error = container(&later, &facts(&spec), Program::Wasm).unwrap_err();
    assert_eq!(
        error.to_string(),
        "mounts[11].options: rslave: what is mounted later comes into no wasm container"
    );
    let mut small = spec.clone();
    small.personality = Some(Personality::Linux32);
    container(&small, &facts(&spec), Program::Native).expect("a native container may have it");
    let error = container(&small, &facts(&spec), Program::Wasm).unwrap_err();
    assert_eq!(
        error.to_string(),
        "linux.personality.domain: LINUX32: a guest has no machine of the host's to see"
    );
    // It has that already, and its runner is left as it is.
    small.personality = Some(Personality::Linux);
    let plan = container(&small, &facts(&spec), Program::Wasm).unwrap();
    assert!(!plan.show().contains("personality"), "{}", plan.show());
    // A guest uses the network that its runner is in.
    assert!(!plan.show().contains("pause"), "{}", plan.show());
    small.net_devices = vec![NetDevice {
        device: "eth1".to_owned(),
        name: Some("net1".to_owned()),
    }];
    for kind in [Program::Native, Program::Wasm] {
        let plan = container(&small, &facts(&spec), kind).unwrap();
        assert!(plan.show().contains("pause"), "{}", plan.show());
    }
    // Its memory is the guest's.
    small.memory_policy = Some(MemoryPolicy {
        mode: 2,
        nodes: vec![1, 0],
    });
    let plan = container(&small, &facts(&spec), Program::Wasm).unwrap();
    let policy = "linux.memoryPolicy: MPOL_BIND [0]";
    assert!(plan.show().contains(policy), "{}", plan.show());
    let spec = crate::support::spec("cri-privileged.json");
    let error = container(&spec, &facts(&spec), Program::Wasm).unwrap_err();
    assert!(
        error.to_string().starts_with("linux.devices: /dev/fuse: "),
        "{error}"
    );
}
