//! What runs out or is not there: the call says what, and nothing is left.

use std::fs;

use serde_json::json;

use crate::rig::{Rig, with};

#[test]
fn a_full_pids_limit_keeps_processes_out_and_says_so() {
    with(|rig| {
        rig.config["linux"]["resources"] = json!({"pids": {"limit": 1}});
        full(rig);
        if !rig.is_duet() {
            return;
        }
        // Two processes are born for it, one after the other; the limit waits until the second is alone.
        let ids = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        rig.config["linux"]["uidMappings"] = ids.clone();
        rig.config["linux"]["gidMappings"] = ids;
        let namespaces = rig.config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user"}));
        full(rig);
    });
}

fn full(rig: &Rig) {
    rig.ok(&["create", "web"]);
    rig.ok(&["start", "web"]);
    // A process that enters is not one that is made: cgroup v1 lets it in, v2 does not.
    let said = rig.say(&["exec", "web", "sh", "-c", "true & wait"]);
    assert_ne!(said.code, Some(0), "{said:?}");
    let refused = ["can't fork", "EAGAIN", "temporarily unavailable"];
    assert!(
        refused.iter().any(|words| said.stderr.contains(words)),
        "{said:?}"
    );
    rig.ok(&["delete", "--force", "web"]);
}

#[test]
fn an_image_without_etc_gets_what_is_mounted_there() {
    with(|rig| {
        assert!(!rig.bundle().join("rootfs/etc").exists());
        let hosts = rig.path().join("hosts");
        fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
        let mounts = rig.config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({
            "destination": "/etc/hosts", "type": "bind", "source": hosts,
            "options": ["rbind", "rprivate", "ro"],
        }));
        rig.args(&["sh", "-c", "cat /etc/hosts; echo $HOME"]);
        let said = rig.say(&["run", "web"]);
        // No passwd, so no name and no home.
        assert_eq!(said.stdout, "127.0.0.1 localhost\n/\n", "{said:?}");
    });
}

#[test]
fn a_keeper_without_descriptors_says_so() {
    with(|rig| {
        if !rig.is_duet() {
            return;
        }
        let mut create = rig.command(&["create", "web"]);
        let mut line = vec![create.get_program().to_owned()];
        line.extend(create.get_args().map(ToOwned::to_owned));
        let mut limited = std::process::Command::new("prlimit");
        limited
            .arg("--nofile=14")
            .args(line)
            .current_dir(rig.bundle());
        let output = limited.stdin(std::process::Stdio::null()).output().unwrap();
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(
            why.contains("EMFILE") || why.contains("Too many open files"),
            "{why}"
        );
        assert!(create.status().unwrap().success());
        rig.ok(&["delete", "--force", "web"]);
    });
}
