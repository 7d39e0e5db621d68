//! `ctr events`: what is told, and in which order.

use std::fs;

use duet_tests::command::Running;
use duet_tests::events::subscribe;
use duet_tests::machine::Runtime;
use duet_tests::{Node, wait};

/// The topics of containerd's events that are about tasks, in their order.
fn topics(events: &Running) -> Vec<String> {
    let topic = |line: &str| {
        let word = line
            .split_whitespace()
            .find(|word| word.starts_with("/tasks/"))?;
        Some(word.trim_start_matches("/tasks/").to_owned())
    };
    events.stdout().lines().filter_map(topic).collect()
}

#[test]
fn a_life_is_told_in_order_even_if_it_is_brief() {
    let Some(node) = Node::enter() else { return };
    let events = subscribe(&node);
    for number in 0..5 {
        let id = format!("brief-{number}");
        assert_eq!(node.container(&id).args(&["/bin/true"]).run().code, 0);
    }
    wait::until("the last event", || {
        (topics(&events).len() >= 20).then_some(())
    });
    for life in topics(&events).chunks(4) {
        assert_eq!(life, ["create", "start", "exit", "delete"]);
    }
}

#[test]
fn execs_pauses_and_the_end_by_lack_of_memory_are_told() {
    let Some(node) = Node::enter() else { return };
    let events = subscribe(&node);
    let mut task = node
        .container("eventful")
        .with(&["--memory-limit", "33554432"])
        .script("echo ready; exec sleep 1000")
        .start();
    task.says("ready");
    let _ran = task.exec(&[], &["/bin/true"]).ok();
    let _paused = task.ctr("pause", &[]).ok();
    let _resumed = task.ctr("resume", &[]).ok();
    let starved = task.exec(&[], &["/bin/sh", "-c", "exec tail /dev/zero"]);
    assert_eq!(starved.code, 137, "{starved:?}");
    task.end();
    wait::until("the last event", || {
        topics(&events)
            .last()
            .is_some_and(|topic| topic == "delete")
            .then_some(())
    });
    let topics = topics(&events);
    let ooms = || {
        let all = topics.iter().enumerate();
        all.filter(|(_, topic)| *topic == "oom")
    };
    match node.runtime() {
        // One kill, told after the start of who was killed and before its end.
        Runtime::Duet => assert_eq!(
            ooms().map(|(at, _)| at).collect::<Vec<_>>(),
            [9],
            "{topics:?}"
        ),
        Runtime::Runc => assert!(ooms().count() > 0, "{topics:?}"),
    }
    let others: Vec<_> = topics.iter().filter(|topic| *topic != "oom").collect();
    let mut expected = vec!["create", "start", "exec-added", "exec-started", "exit"];
    expected.extend([
        "paused",
        "resumed",
        "exec-added",
        "exec-started",
        "exit",
        "exit",
        "delete",
    ]);
    assert_eq!(others, expected);
}

#[test]
fn the_end_of_a_guest_by_lack_of_memory_is_told() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    // Its memory is born with 64 MiB, for which it asks nobody, and then written to.
    let module = r#"(module (memory (export "memory") 1024)
        (func (export "_start")
            (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x4000000))))"#;
    let path = node.scratch().join("large.wasm");
    fs::write(&path, wat::parse_str(module).expect("a module")).expect("our own folder");
    let mount = format!(
        "type=bind,src={},dst=/large.wasm,options=rbind:ro",
        path.display()
    );
    let run = |limit: &str| {
        let options = ["--memory-limit", limit, "--mount", &mount];
        let container = node.container("large").with(&options);
        container.args(&["/large.wasm"]).run()
    };
    let _fits = run("134217728").ok();
    let events = subscribe(&node);
    let starved = run("33554432");
    assert_eq!(starved.code, 137, "{starved:?}");
    wait::until("the last event", || {
        topics(&events)
            .last()
            .is_some_and(|topic| topic == "delete")
            .then_some(())
    });
    let expected = ["create", "start", "oom", "exit", "delete"];
    assert_eq!(topics(&events), expected);
}
