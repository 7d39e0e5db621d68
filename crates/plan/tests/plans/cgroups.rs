//! What a `cgroup` mount shows, and who hears of it.

use crate::{
    invariants,
    promises::{edited, has, lines, native},
    support::{facts, facts_v2},
    user_namespaces,
};
use duet_plan::{Program, container};

#[test]
fn cgroups_of_v1_in_a_namespace_are_mounted_anew() {
    let spec = edited("cri-default.json", |document| {
        let namespaces = document["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(serde_json::json!({ "type": "cgroup" }));
    });
    let plan = native(&spec).unwrap();
    has(
        &plan,
        "mount /sys/fs/cgroup/cpu,cpuacct cgroup cgroup [cpu,cpuacct] +ro +nosuid +nodev +noexec",
    );
    has(
        &plan,
        "mount /sys/fs/cgroup/systemd cgroup cgroup [name=systemd] +ro +nosuid +nodev +noexec",
    );
    has(&plan, "link sys/fs/cgroup/cpuacct in Root -> cpu,cpuacct");
    has(&plan, "remount /sys/fs/cgroup +ro");
}

#[test]
fn a_cgroup_that_is_made_meanwhile_is_entered_when_it_is_needed() {
    let entered = |edit: &dyn Fn(&mut serde_json::Value)| {
        let spec = edited("cri-default.json", edit);
        let mut facts = facts(&spec);
        facts.cgroup.awaited = true;
        let plan = container(&spec, &facts, Program::Native).unwrap();
        invariants::check(&plan);
        let lines = lines(&plan);
        let at = lines.iter().position(|line| line == "wait for the cgroup");
        let at = at.unwrap_or_else(|| panic!("{lines:#?}"));
        let joined = "join cgroup by /sys/fs/cgroup/memory/default/one/tasks";
        assert_eq!(lines[at + 1], joined);
        // Behind the joining of all three.
        lines[at + 4].clone()
    };
    let without = |document: &mut serde_json::Value| {
        let mounts = document["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["type"] != "cgroup");
    };
    let shown = entered(&|_| {});
    assert!(shown.starts_with("mount /sys/fs/cgroup tmpfs"), "{shown}");
    let hidden = entered(&without);
    assert_eq!(hidden, "pivot");
    let hooked = entered(&|document| {
        without(document);
        document["hooks"] = serde_json::json!({ "createRuntime": [{ "path": "/bin/true" }] });
    });
    assert_eq!(hooked, "pause");
    let own = entered(&|document| {
        let namespaces = document["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(serde_json::json!({ "type": "cgroup" }));
    });
    assert_eq!(own, "new cgroup namespace");
    let filled = entered(&|document| {
        without(document);
        let tmpfs = serde_json::json!({
            "destination": "/var/lib", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]
        });
        document["mounts"].as_array_mut().unwrap().push(tmpfs);
    });
    assert!(filled.starts_with("mount /var/lib tmpfs"), "{filled}");
}

#[test]
fn the_hosts_cgroups_of_v2_are_shared_within_the_container_only() {
    let with = |option: &str| {
        let spec = edited("cri-default.json", |document| {
            user_namespaces::given(document);
            let mounts = document["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| mount["type"] != "cgroup");
            mounts.push(serde_json::json!({
                "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                "options": [option]
            }));
        });
        let plan = container(&spec, &facts_v2(&spec), Program::Native).unwrap();
        invariants::check(&plan);
        plan
    };
    let mount = "mount /sys/fs/cgroup from /sys/fs/cgroup/...";
    has(&with("ro"), &format!("{mount} +ro rprivate"));
    for shared in ["shared", "rshared"] {
        has(&with(shared), &format!("{mount} rprivate {shared}"));
    }
}
