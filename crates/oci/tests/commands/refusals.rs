//! What is refused, by name, and leaves nothing.

use std::fs;

use serde_json::{Value, json};

use crate::rig::with;

#[test]
fn what_a_state_forbids_is_refused_and_changes_nothing() {
    with(|rig| {
        rig.ok(&["create", "web"]);
        rig.refused(&["create", "web"]);
        // runc deletes what never ran; the specification wants it stopped.
        if rig.is_duet() {
            let why = rig.refused(&["delete", "web"]);
            assert!(why.contains("container \"web\" cannot be deleted"), "{why}");
            assert_eq!(rig.state("web")["status"], "created");
        }
        rig.ok(&["start", "web"]);
        rig.refused(&["start", "web"]);
        rig.refused(&["delete", "web"]);
        assert_eq!(rig.state("web")["status"], "running");
        rig.ok(&["delete", "--force", "web"]);
        rig.ok(&["delete", "--force", "web"]);
        rig.refused(&["delete", "web"]);
        rig.refused(&["start", "web"]);
        rig.refused(&["kill", "web"]);
    });
}

#[test]
fn a_bad_bundle_is_named_with_its_field_and_value() {
    with(|rig| {
        let why = rig.refused(&["create", "--bundle", "/no/such", "web"]);
        assert!(why.contains("/no/such"), "{why}");

        let log = rig.path().join("log");
        let options = [
            "--log",
            log.to_str().unwrap(),
            "--log-format",
            "json",
            "create",
            "web",
        ];
        rig.args(&["/missing/program"]);
        let why = rig.refused(&options);
        let line = fs::read_to_string(&log).unwrap();
        let last: Value = serde_json::from_str(line.lines().last().unwrap()).unwrap();
        assert_eq!(last["level"], "error");
        assert!(why.contains("/missing/program"), "{why}");
        assert!(
            last["msg"].as_str().unwrap().contains("/missing/program"),
            "{line}"
        );
        rig.refused(&["state", "web"]);

        if !rig.is_duet() {
            return;
        }
        rig.args(&["true"]);
        rig.config["process"]["rlimits"] = json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]);
        let why = rig.refused(&["create", "web"]);
        assert!(
            why.contains("process.rlimits[0].type") && why.contains("RLIMIT_X"),
            "{why}"
        );
        let why = rig.refused(&["create", "../web"]);
        assert!(why.contains("\"../web\""), "{why}");
        let why = rig.refused(&["--systemd-cgroup", "create", "web"]);
        assert!(why.contains("linux.cgroupsPath"), "{why}");
    });
}

#[test]
fn a_terminal_and_its_socket_come_together() {
    with(|rig| {
        if !rig.is_duet() {
            return;
        }
        let why = rig.refused(&["create", "--console-socket", "/x", "web"]);
        assert!(
            why.contains("--console-socket \"/x\": the process has no terminal"),
            "{why}"
        );
        rig.config["process"]["terminal"] = true.into();
        let why = rig.refused(&["create", "web"]);
        assert!(
            why.contains("process.terminal \"true\": needs --console-socket"),
            "{why}"
        );
        let why = rig.refused(&["create", "--console-socket", "/no/socket", "web"]);
        assert!(why.contains("/no/socket"), "{why}");
    });
}
