//! SIGKILL to the shim and to the holder of a CRI pod and to containerd, at the points of the pod's life.
//!
//! The holder of a pod's namespaces is the pause container's program, or Duet's own.

use std::fs;

use duet_tests::command::{self, Running};
use duet_tests::cri::{Cri, Member, Pod, Wish};
use duet_tests::{Node, wait};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::{SCRIPT, closely};

/// Where a pod's life is interrupted, in its order.
#[derive(Debug, Clone, Copy)]
enum Point {
    /// Its shim is there, and nothing else.
    Shim,
    /// Its holder's cgroup is made.
    Holder,
    /// It is ready, and empty.
    Ready,
    /// A container is known to CRI and was not started.
    Created,
    /// A native and a wasm container run.
    Running,
    /// A second program runs beside one of them.
    Exec,
    /// One of them stands still.
    Paused,
    /// One of them was asked to end and does not.
    Stopping,
    /// One of them has ended.
    Stopped,
    /// All was stopped, and nothing removed.
    AllStopped,
}

const POINTS: [Point; 10] = [
    Point::Shim,
    Point::Holder,
    Point::Ready,
    Point::Created,
    Point::Running,
    Point::Exec,
    Point::Paused,
    Point::Stopping,
    Point::Stopped,
    Point::AllStopped,
];

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Shim,
    Holder,
    Containerd,
}

#[test]
fn a_pod_whose_shim_is_killed_at_any_point_is_removed_with_all_its_members() {
    kill_at_every_point(Victim::Shim);
}

#[test]
fn a_pod_whose_holder_is_killed_at_any_point_is_removed_with_all_its_members() {
    kill_at_every_point(Victim::Holder);
}

#[test]
fn a_pod_whose_containerd_is_killed_at_any_point_is_removed_with_all_its_members() {
    kill_at_every_point(Victim::Containerd);
}

fn kill_at_every_point(victim: Victim) {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let cri = node.cri();
    for point in POINTS {
        let name = format!("{point:?}").to_lowercase();
        match point {
            Point::Shim | Point::Holder => interrupt(&node, &cri, &name, point, victim),
            Point::Ready
            | Point::Created
            | Point::Running
            | Point::Exec
            | Point::Paused
            | Point::Stopping
            | Point::Stopped
            | Point::AllStopped => end(&node, &cri, &name, point, victim),
        }
        node.expect_nothing_left_after_cleanup(&format!("the {victim:?} was killed at {point:?}"));
    }
}

/// Kills somebody when the pod is ready, or later.
fn end(node: &Node, cri: &Cri<'_>, name: &str, point: Point, victim: Victim) {
    let pod = cri.pod(name);
    let (shim, holder) = (shim(node), pod.holder());
    let mut clients = lead(node, &pod, point);
    match victim {
        Victim::Shim => kill(shim),
        Victim::Holder => {
            kill(Some(Pid::from_raw(holder)));
            // Without its shim, CRI has nobody to ask.
            wait::until("the pod to be not ready", || {
                (!pod.is_ready()).then_some(())
            });
        }
        Victim::Containerd => {
            restart(node, cri);
            // A client that has lost its daemon may wait for ever (1.6's exec does).
            clients.clear();
        }
    }
    pod.remove_insistently();
    for client in clients {
        // It has lost whom it talked to: what it says is not judged.
        let _ended = client.wait();
    }
}

/// Kills somebody while the pod is made.
fn interrupt(node: &Node, cri: &Cri<'_>, name: &str, point: Point, victim: Victim) {
    let starting = cri.begin_pod(name);
    let server = closely("the shim", || shim(node));
    if matches!(point, Point::Holder) {
        closely("the cgroup", || node.has_cgroup(None).then_some(()));
    }
    match victim {
        Victim::Shim => kill(Some(server)),
        // The only child that a shim has by then.
        Victim::Holder => kill(Some(closely("the holder", || child_of(server)))),
        Victim::Containerd => restart(node, cri),
    }
    // It may have been too late to be noticed by then.
    let _answer = starting.wait();
    cri.remove_all();
    if victim == Victim::Shim {
        // containerd runs no `delete` for a shim that it could not connect to: the next pod that ends
        // takes the socket along.
        cri.pod("next").remove();
    }
}

fn restart(node: &Node, cri: &Cri<'_>) {
    node.daemon().end(Signal::SIGKILL);
    node.daemon().start_again();
    cri.reconnect();
    super::end_unused_shims(node, "k8s.io");
}

/// Leads a pod that is ready to `point`.
fn lead(node: &Node, pod: &Pod<'_>, point: Point) -> Vec<Running> {
    let ctr = |args: &[&str]| command::start(node.daemon().ctr("k8s.io").args(args));
    let native = Wish::native("native", SCRIPT);
    match point {
        Point::Shim | Point::Holder | Point::Ready => return Vec::new(),
        Point::Created => {
            let _created = pod.create(&native).expect("CRI takes it");
            return Vec::new();
        }
        Point::Running
        | Point::Exec
        | Point::Paused
        | Point::Stopping
        | Point::Stopped
        | Point::AllStopped => {}
    }
    let native = pod.start(&native);
    native.says("ready");
    let wasm = pod.start(&Wish::wasm("wasm", &["idle"]));
    wasm.says("idle");
    let ask = |words: &[&str]| drop(ctr(&[words, &[native.id()]].concat()).wait().ok());
    match point {
        Point::Exec => {
            let words = ["task", "exec", "--exec-id", "x", native.id()];
            let mut exec =
                ctr(&[&words[..], &["/bin/sh", "-c", "echo in; exec sleep 1000"]].concat());
            exec.says("in");
            return vec![exec];
        }
        Point::Paused => ask(&["task", "pause"]),
        Point::Stopping => {
            ask(&["task", "kill", "--signal", "SIGTERM"]);
            native.says("stopping");
        }
        Point::Stopped => {
            ask(&["task", "kill", "--signal", "SIGKILL"]);
            let _how: (i32, String) = Member::wait(&native);
        }
        Point::AllStopped => pod.stop(),
        Point::Shim | Point::Holder | Point::Ready | Point::Created | Point::Running => {}
    }
    Vec::new()
}

/// Whoever has gone by itself need not be killed.
fn kill(pid: Option<Pid>) {
    if let Some(pid) = pid {
        let _sent = signal::kill(pid, Signal::SIGKILL);
    }
}

/// The shim of the only pod, as soon as there is one.
fn shim(node: &Node) -> Option<Pid> {
    super::shims(node, "k8s.io").into_values().next()
}

/// A child of a process. (`children` of procfs has those of one thread.)
fn child_of(parent: Pid) -> Option<Pid> {
    let pids = fs::read_dir("/proc").expect("procfs is mounted").flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let child = pids.find(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace());
        let ppid = fields.and_then(|mut fields| fields.nth(1)?.parse().ok());
        ppid == Some(parent.as_raw())
    });
    child.map(Pid::from_raw)
}
