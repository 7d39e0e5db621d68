//! A cgroup that is gone before its container is deleted, as under systemd, which removes it when the
//! last process has left.

use std::fs;

use containerd_shim_protos::api;
use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::shim_sync::TaskClient;
use protobuf::Message as _;
use protobuf::well_known_types::any::Any;
use serde_json::json;
use ttrpc::Code;

use crate::life::{
    Daemon, bundle, can_make_containers, cgroups, creation, forget_cgroups, limited, named,
};
use crate::node::{Node, code, limit, task, until};

/// Removes the cgroups of a container of which no process is left.
fn sweep(id: &str) {
    let dirs = cgroups(id);
    assert!(!dirs.is_empty(), "the cgroups of {id} are elsewhere");
    for dir in dirs {
        // The dead leave it a moment after they are dead.
        until("it is empty", || {
            fs::remove_dir(&dir).is_ok() || !dir.exists()
        });
    }
}

fn stats(task: &TaskClient, id: &str) -> Any {
    let stats = named(id, |request: &mut api::StatsRequest, id| request.id = id);
    task.stats(limit(), &stats).unwrap().stats.unwrap()
}

/// The processor time and the kills for want of memory.
fn counters(stats: &Any) -> (u64, u64) {
    if stats.type_url == "io.containerd.cgroups.v1.Metrics" {
        let metrics = v1::Metrics::parse_from_bytes(&stats.value).unwrap();
        return (metrics.cpu.usage.total, metrics.memory_oom_control.oom_kill);
    }
    let metrics = v2::Metrics::parse_from_bytes(&stats.value).unwrap();
    (metrics.cpu.usage_usec, metrics.memory_events.oom_kill)
}

#[test]
fn what_was_used_is_told_until_delete_though_the_cgroup_is_gone() {
    if !can_make_containers() {
        return;
    }
    let node = Node::new();
    let _daemon = Daemon::listen(&node);
    let socket = node.start("u", "{}");
    let script = "until [ -e /go ]; do busybox sleep 0.02; done";
    let bundle = bundle(&node, "u", script);
    let task = task(&socket);
    task.create(limit(), &creation("u", &bundle)).unwrap();
    let start = named("u", |request: &mut api::StartRequest, id| request.id = id);
    task.start(limit(), &start).unwrap();
    let before = stats(&task, "u");
    let (used, kills) = counters(&before);
    assert!(used > 0);
    assert_eq!(kills, 0);
    fs::write(bundle.join("rootfs/go"), "").unwrap();
    let wait = named("u", |request: &mut api::WaitRequest, id| request.id = id);
    task.wait(limit(), &wait).unwrap();
    let (more, _) = counters(&stats(&task, "u"));
    assert!(more >= used, "it is still there");
    sweep("u");
    for _ in 0..2 {
        let after = stats(&task, "u");
        assert_eq!(after.type_url, before.type_url);
        assert_eq!(counters(&after), (more, 0));
    }
    let delete = named("u", |request: &mut api::DeleteRequest, id| request.id = id);
    task.delete(limit(), &delete).unwrap();
    node.end("u", &socket);
    forget_cgroups();
}

#[test]
fn a_kill_for_want_of_memory_is_passed_on_before_the_end_is_answered_and_counted_until_delete() {
    if !can_make_containers() {
        return;
    }
    let node = Node::new();
    let daemon = Daemon::listen(&node);
    let socket = node.start("o", "{}");
    let memory = json!({ "memory": { "limit": 8 << 20, "swap": 8 << 20 } });
    let bundle = limited(&node, "o", "exec busybox tail /dev/zero", &memory);
    let task = task(&socket);
    task.create(limit(), &creation("o", &bundle)).unwrap();
    let start = named("o", |request: &mut api::StartRequest, id| request.id = id);
    task.start(limit(), &start).unwrap();
    let wait = named("o", |request: &mut api::WaitRequest, id| request.id = id);
    assert_eq!(task.wait(limit(), &wait).unwrap().exit_status, 137);
    let heard = daemon.heard();
    assert!(heard.contains(&"/tasks/oom".to_owned()), "{heard:?}");
    sweep("o");
    assert_eq!(counters(&stats(&task, "o")).1, 1);
    let delete = named("o", |request: &mut api::DeleteRequest, id| request.id = id);
    task.delete(limit(), &delete).unwrap();
    let heard = daemon.heard_to("/tasks/delete");
    node.end("o", &socket);
    let topics = ["create", "start", "oom", "exit", "delete"];
    assert_eq!(heard, topics.map(|topic| format!("/tasks/{topic}")));
    forget_cgroups();
}

#[test]
fn a_birth_that_is_killed_for_want_of_memory_says_so_and_names_the_limit() {
    if !can_make_containers() {
        return;
    }
    let node = Node::new();
    let _daemon = Daemon::listen(&node);
    let socket = node.start("s", "{}");
    let memory = json!({ "memory": { "limit": 4096, "swap": 4096 } });
    let bundle = limited(&node, "s", "exit 0", &memory);
    let task = task(&socket);
    let (code, message) = code(task.create(limit(), &creation("s", &bundle)));
    node.end("s", &socket);
    forget_cgroups();
    assert_eq!(code, Code::RESOURCE_EXHAUSTED, "{message}");
    let why = "linux.resources.memory.limit 4096: out of memory before the program ran; raise the limit: \
               the process ended before its program ran, with code 137";
    assert!(message.ends_with(why), "{message}");
}

#[test]
fn an_exit_is_not_lost_to_a_containerd_that_comes_back_when_the_cgroup_is_gone() {
    if !can_make_containers() {
        return;
    }
    let node = Node::new();
    let _daemon = Daemon::listen(&node);
    let socket = node.start("g", "{}");
    let bundle = bundle(&node, "g", "exit 7");
    let task = task(&socket);
    let pid = task.create(limit(), &creation("g", &bundle)).unwrap().pid;
    let start = named("g", |request: &mut api::StartRequest, id| request.id = id);
    task.start(limit(), &start).unwrap();
    let wait = named("g", |request: &mut api::WaitRequest, id| request.id = id);
    task.wait(limit(), &wait).unwrap();
    sweep("g");

    // What containerd asks when it is started again: without a process it deletes the task.
    let pids = named("g", |request: &mut api::PidsRequest, id| request.id = id);
    let pids = task.pids(limit(), &pids).unwrap().processes;
    assert_eq!(pids.iter().map(|one| one.pid).collect::<Vec<_>>(), [pid]);
    let state = named("g", |request: &mut api::StateRequest, id| request.id = id);
    let state = task.state(limit(), &state).unwrap();
    assert_eq!(state.status.unwrap(), api::Status::STOPPED);
    assert_eq!(state.exit_status, 7);
    let delete = named("g", |request: &mut api::DeleteRequest, id| request.id = id);
    assert_eq!(task.delete(limit(), &delete).unwrap().exit_status, 7);
    node.end("g", &socket);
    forget_cgroups();
}
