//! AppArmor profiles, on a machine whose kernel enforces them: the emulated one of `tests/vm`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use duet_tests::{Node, command};

/// The name of a profile that lets everything pass but one file.
const PROFILE: &str = "duet-test";

const RULES: &str = "profile duet-test flags=(attach_disconnected, mediate_deleted) {
  file,
  network,
  capability,
  signal,
  deny /etc/passwd r,
}
";

/// A profile that the kernel knows as long as this lives.
struct Loaded(PathBuf);

impl Loaded {
    fn new(node: &Node) -> Self {
        let file = node.scratch().join("profile");
        fs::write(&file, RULES).expect("our own folder");
        let mut load = Command::new("apparmor_parser");
        let _loaded = command::run(load.args(["-r", "-K"]).arg(&file)).ok();
        Loaded(file)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let mut remove = Command::new("apparmor_parser");
        let _removed = command::run(remove.arg("-R").arg(&self.0));
    }
}

/// The profile of a process, as the kernel shows it.
fn profile_of(pid: i32) -> String {
    let label = fs::read_to_string(format!("/proc/{pid}/attr/apparmor/current"));
    label.expect("the kernel has AppArmor").trim().to_owned()
}

#[test]
fn a_profile_confines_a_program_and_its_execs() {
    // Asked where systemd is, for that machine's kernel has AppArmor.
    let Some(node) = Node::enter_with_systemd() else {
        return;
    };
    let _profile = Loaded::new(&node);
    let confined = ["--apparmor-profile", PROFILE];
    let script = "cat /etc/passwd || echo denied; echo ready; exec sleep 1000";
    let mut task = node
        .container("main")
        .with(&confined)
        .script(script)
        .start();
    task.says("ready");
    assert_eq!(task.stdout(), "denied\nready\n");
    assert_eq!(profile_of(task.pid()), format!("{PROFILE} (enforce)"));
    let outcome = task.exec(&[], &["/bin/cat", "/proc/self/attr/current", "/etc/passwd"]);
    assert_eq!(
        outcome.stdout,
        format!("{PROFILE} (enforce)\n"),
        "{outcome:?}"
    );
    assert!(outcome.stderr.contains("Permission denied"), "{outcome:?}");
    task.end();

    let outcome = node
        .container("free")
        .args(&["/bin/cat", "/etc/passwd"])
        .run();
    assert!(outcome.ok().stdout.contains("root:"));
}

#[test]
fn a_profile_confines_a_guest() {
    let Some(node) = Node::enter_with_systemd() else {
        return;
    };
    let _profile = Loaded::new(&node);
    let task = node
        .container("guest")
        .with(&["--apparmor-profile", PROFILE])
        .probe(&["spin"])
        .start();
    assert_eq!(profile_of(task.pid()), format!("{PROFILE} (enforce)"));
    task.end();
}

#[test]
fn a_profile_that_is_not_loaded_is_named() {
    let Some(node) = Node::enter_with_systemd() else {
        return;
    };
    let outcome = node
        .container("nowhere")
        .with(&["--apparmor-profile", "duet-nowhere"])
        .args(&["/bin/true"])
        .run();
    assert_ne!(outcome.code, 0);
    assert!(outcome.stderr.contains("duet-nowhere"), "{outcome:?}");
}
