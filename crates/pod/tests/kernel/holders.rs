//! Holders of pods that never come to be.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use duet_pod::{Dns, Sandbox, Scope, SelinuxLabel};

use crate::rig::with;

/// More than the tmpfs of a holder takes, in bytes: 64 MiB and a little.
const TOO_MUCH: usize = 65 << 20;

#[test]
fn a_pod_whose_files_do_not_fit_is_abandoned_and_nothing_is_left() {
    with(async |mut rig| {
        let bundle = rig.path().join("bundles/web");
        fs::create_dir_all(&bundle).unwrap();
        let sandbox = Sandbox {
            id: "web".to_owned(),
            bundle: bundle.clone(),
            netns: PathBuf::new(),
            hostname: "shop".to_owned(),
            dns: Dns {
                options: vec!["x".repeat(TOO_MUCH)],
                ..Dns::default()
            },
            cgroup_parent: rig.parent().to_owned(),
            sysctls: BTreeMap::new(),
            network: Scope::Node,
            pid: Scope::Pod,
            ipc: Scope::Pod,
            users: None,
            label: SelinuxLabel::default(),
        };
        // Its holder stands at the gate by then.
        let error = rig.pod.create_sandbox(sandbox).await.unwrap_err();
        let error = error.to_string();
        assert!(error.contains("write resolv.conf"), "{error}");
        assert!(rig.pod.is_empty());
        assert_eq!(rig.facts(), [""; 0]);
        assert!(!bundle.join("duet.json").exists());
    });
}
