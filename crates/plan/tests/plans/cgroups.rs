//! What a `cgroup` mount shows, and who hears of it.

use crate::{
    invariants,
    promises::{edited, has, native},
    support::facts_v2,
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
