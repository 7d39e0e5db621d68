//! A node that has no process left to give.

use std::fs;
use std::path::{Path, PathBuf};

use containerd_shim_protos::api;

use crate::life::{Daemon, bundle, can_make_containers, creation, forget_cgroups, named};
use crate::node::{Node, connect, limit, task, until};

/// A cgroup of the test's that may have only so many tasks; it goes with its value.
struct Crowded(PathBuf);

impl Crowded {
    /// One with room for the tasks that a process has, and for no other.
    fn around(pid: u32) -> Self {
        let v1 = Path::new("/sys/fs/cgroup/pids");
        let root = Path::new("/sys/fs/cgroup");
        let hierarchy = if v1.is_dir() { v1 } else { root };
        let cgroup = Self(hierarchy.join(format!("duet-crowded-{pid}")));
        fs::create_dir(&cgroup.0).unwrap();
        fs::write(cgroup.0.join("cgroup.procs"), pid.to_string()).unwrap();
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
        cgroup.allow(&tasks.to_string());
        cgroup
    }

    fn allow(&self, tasks: &str) {
        fs::write(self.0.join("pids.max"), tasks).unwrap();
    }
}

impl Drop for Crowded {
    fn drop(&mut self) {
        // Who ended there leaves it a moment later.
        if !std::thread::panicking() {
            until("it is empty", || fs::remove_dir(&self.0).is_ok());
        }
    }
}

#[test]
fn a_shim_that_can_have_no_further_thread_says_so_and_lives_on() {
    if !can_make_containers() {
        return;
    }
    let node = Node::new();
    let daemon = Daemon::listen(&node);
    // Nothing was asked of it that takes a thread of its own.
    let socket = node.start("p", "{}");
    let bundle = bundle(&node, "p", "exit 0");
    let task = task(&socket);
    let pid = task.connect(limit(), &connect("p")).unwrap().shim_pid;
    let crowded = Crowded::around(pid);

    let error = task.create(limit(), &creation("p", &bundle)).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("container p: clone3: EAGAIN"), "{said}");
    assert_eq!(task.connect(limit(), &connect("p")).unwrap().shim_pid, pid);

    crowded.allow("max");
    task.create(limit(), &creation("p", &bundle)).unwrap();
    let start = named("p", |request: &mut api::StartRequest, id| request.id = id);
    task.start(limit(), &start).unwrap();
    let wait = named("p", |request: &mut api::WaitRequest, id| request.id = id);
    assert_eq!(task.wait(limit(), &wait).unwrap().exit_status, 0);
    let delete = named("p", |request: &mut api::DeleteRequest, id| request.id = id);
    task.delete(limit(), &delete).unwrap();
    node.end("p", &socket);
    assert_eq!(daemon.heard().last().unwrap(), "/tasks/delete");
    forget_cgroups();
}
