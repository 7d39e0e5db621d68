//! SIGKILL to the shim and to the holder of a CRI pod, at the points of the pod's life.
//!
//! The holder of a pod's namespaces is the pause container's program, or Duet's own.

use std::fs;
use std::path::PathBuf;

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
}

#[test]
fn a_pod_whose_shim_is_killed_at_any_point_is_removed_with_all_its_members() {
    kill_at_every_point(Victim::Shim);
}

#[test]
fn a_pod_whose_holder_is_killed_at_any_point_is_removed_with_all_its_members() {
    kill_at_every_point(Victim::Holder);
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
            | Point::AllStopped => {
                let pod = cri.pod(&name);
                let (shim, holder) = (shim(&node), pod.holder());
                let clients = lead(&node, &pod, point);
                kill(match victim {
                    Victim::Shim => shim,
                    Victim::Holder => Some(holder),
                });
                if victim == Victim::Holder {
                    // Without its shim, CRI has nobody to ask.
                    wait::until("the pod to be not ready", || {
                        (!pod.is_ready()).then_some(())
                    });
                }
                pod.remove_insistently();
                for client in clients {
                    // It has lost whom it talked to: what it says is not judged.
                    let _ended = client.wait();
                }
            }
        }
        node.expect_nothing_left_after_cleanup(&format!("the {victim:?} was killed at {point:?}"));
    }
}

/// Kills somebody while the pod is made.
fn interrupt(node: &Node, cri: &Cri<'_>, name: &str, point: Point, victim: Victim) {
    let starting = cri.begin_pod(name);
    let server = closely("the shim", || shim(node));
    let socket = closely("the shim's arguments", || socket_of(server));
    if matches!(point, Point::Holder) {
        closely("the cgroup", || node.has_cgroup(None).then_some(()));
    }
    kill(match victim {
        Victim::Shim => Some(server),
        // The only child that a shim has by then.
        Victim::Holder => Some(closely("the holder", || child_of(server))),
    });
    // It may have been too late to be noticed by then.
    let _answer = starting.wait();
    cri.remove_all();
    if victim == Victim::Shim {
        // Nobody cleans up after a shim that containerd could not connect to, and no pod of that name
        // comes again.
        let _removed = fs::remove_file(socket);
    }
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
fn kill(pid: Option<i32>) {
    if let Some(pid) = pid {
        let _sent = signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// The shim of the only pod, as soon as there is one.
fn shim(node: &Node) -> Option<i32> {
    let dirs = node.daemon().task_dirs("k8s.io");
    let bundles = dirs.iter().flat_map(fs::read_dir).flatten().flatten();
    bundles
        .filter_map(|bundle| fs::read_to_string(bundle.path().join("shim.pid")).ok())
        .find_map(|pid| pid.parse().ok())
}

/// The socket that a shim serves. A process whose execve(2) is under way has no arguments yet,
/// though its parent knows already that it succeeds (the kernel closes descriptors first).
fn socket_of(shim: i32) -> Option<PathBuf> {
    let line = fs::read_to_string(format!("/proc/{shim}/cmdline")).expect("it runs");
    let mut words = line.split('\0').skip_while(|word| *word != "-socket");
    words.nth(1).map(PathBuf::from)
}

/// A child of a process. (`children` of procfs has those of one thread.)
fn child_of(parent: i32) -> Option<i32> {
    let pids = fs::read_dir("/proc").expect("procfs is mounted").flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace());
        let ppid = fields.and_then(|mut fields| fields.nth(1)?.parse().ok());
        ppid == Some(parent)
    })
}
