//! SIGKILL to the shim, to containerd and to a pod's holder, at the points of a life: what is left is gone
//! a second after containerd has cleaned up.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry};
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use duet_tests::command::{self, Running};
use duet_tests::{Node, wait};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

mod pods;

/// Where a container's life is interrupted, in its order.
#[derive(Debug, Clone, Copy)]
enum Point {
    /// `start` has made the shim and not answered yet.
    Start,
    /// The container's cgroup is made.
    Create,
    /// The program waits to be started.
    Gate,
    /// The program runs.
    Running,
    /// A second program runs beside it.
    Exec,
    /// All of them stand still.
    Paused,
    /// The program was asked to end and does not.
    Stopping,
    /// It has ended and was not deleted.
    Stopped,
    /// The container's cgroup is gone.
    Delete,
    /// It was deleted; the shim is about to go.
    Shutdown,
}

const POINTS: [Point; 10] = [
    Point::Start,
    Point::Create,
    Point::Gate,
    Point::Running,
    Point::Exec,
    Point::Paused,
    Point::Stopping,
    Point::Stopped,
    Point::Delete,
    Point::Shutdown,
];

const SCRIPT: &str = "trap 'echo stopping' TERM; echo ready; while :; do sleep 0.05; done";

/// A container on its way to a point.
struct Life<'n> {
    node: &'n Node,
    id: String,
    /// Clients that are under way.
    clients: Vec<Running>,
}

/// Asks without a pause: for what lasts a millisecond.
fn closely<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + wait::patience();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited for {what}");
        thread::yield_now();
    }
}

/// The shims that `start` has made for a containerd namespace, by the bundle that asked for them.
fn shims(node: &Node, namespace: &str) -> BTreeMap<String, Pid> {
    let dirs = node.daemon().task_dirs(namespace);
    let bundles = dirs.iter().flat_map(fs::read_dir).flatten().flatten();
    let shim = |bundle: DirEntry| {
        let pid = fs::read_to_string(bundle.path().join("shim.pid")).ok()?;
        let id = bundle.file_name().into_string().ok()?;
        Some((id, Pid::from_raw(pid.parse().ok()?)))
    };
    bundles.filter_map(shim).collect()
}

/// Ends shims without a task as an administrator must under 1.6, which keeps what it has started
/// and not used, or no longer uses (containerd/containerd#6860, mended in 1.7).
fn end_unused_shims(node: &Node, namespace: &str) {
    if !node.daemon().version().starts_with("1.6") {
        return;
    }
    let listed = command::run(node.daemon().ctr(namespace).args(["task", "ls"])).ok();
    let has_task = |id: &str| {
        listed.stdout.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(id) && words.next() != Some("0")
        })
    };
    for (id, shim) in shims(node, namespace) {
        if !has_task(&id) {
            // It may be gone already.
            let _sent = signal::kill(shim, Signal::SIGKILL);
        }
    }
}

// === impl Life ===

impl<'n> Life<'n> {
    /// Leads a new container to `point`.
    fn to(point: Point, node: &'n Node) -> Self {
        let id = format!("{point:?}").to_lowercase();
        let mut this = Self {
            node,
            id,
            clients: Vec::new(),
        };
        this.lead(point);
        this
    }

    fn lead(&mut self, point: Point) {
        let pid_file = self.node.scratch().join(format!("{}.pid", self.id));
        let log = format!("file://{}", self.log().display());
        let options = [
            "--log-uri",
            &log,
            "--pid-file",
            &pid_file.display().to_string(),
        ];
        let container = self.node.container(&self.id).with(&options).script(SCRIPT);
        self.clients
            .push(command::start(&mut container.command("-d")));
        match point {
            Point::Start => return closely("the shim", || self.shim().map(drop)),
            Point::Create => return closely("the cgroup", || self.has_cgroup().then_some(())),
            Point::Gate => return closely("the pid", || pid_file.exists().then_some(())),
            Point::Running
            | Point::Exec
            | Point::Paused
            | Point::Stopping
            | Point::Stopped
            | Point::Delete
            | Point::Shutdown => self.says("ready"),
        }
        match point {
            Point::Start | Point::Create | Point::Gate | Point::Running => {}
            Point::Exec => {
                let script = ["/bin/sh", "-c", "echo in; exec sleep 1000"];
                let words = ["task", "exec", "--exec-id", "x", &self.id];
                let mut exec = self.ctr(&[&words[..], &script].concat());
                exec.says("in");
                self.clients.push(exec);
            }
            Point::Paused => drop(self.ctr(&["task", "pause", &self.id]).wait().ok()),
            Point::Stopping => {
                self.kill("SIGTERM");
                self.says("stopping");
            }
            Point::Stopped => self.stop(),
            Point::Delete => {
                self.stop();
                self.clients.push(self.ctr(&["task", "delete", &self.id]));
                closely("the cgroup to go", || (!self.has_cgroup()).then_some(()));
            }
            Point::Shutdown => {
                self.stop();
                drop(self.ctr(&["task", "delete", &self.id]).wait());
            }
        }
    }

    fn stop(&self) {
        self.kill("SIGKILL");
        wait::until("the task to be stopped", || {
            let list = self.node.ctr(&["task", "ls"]).ok().stdout;
            let stopped = |line: &str| line.starts_with(&self.id) && line.contains("STOPPED");
            list.lines().any(stopped).then_some(())
        });
    }

    fn kill(&self, signal: &str) {
        let words = ["task", "kill", "--signal", signal, &self.id];
        let _sent = self.node.ctr(&words).ok();
    }

    fn ctr(&self, args: &[&str]) -> Running {
        let mut ctr = self.node.daemon().ctr(self.node.namespace());
        command::start(ctr.args(args))
    }

    /// Its shim, as soon as there is one.
    fn shim(&self) -> Option<Pid> {
        let shims = shims(self.node, self.node.namespace());
        shims.get(&self.id).copied()
    }

    fn has_cgroup(&self) -> bool {
        self.node.has_cgroup(Some(&self.id))
    }

    fn says(&self, needle: &str) {
        let said = || fs::read_to_string(self.log()).is_ok_and(|log| log.contains(needle));
        wait::until(needle, || said().then_some(()));
    }

    fn log(&self) -> PathBuf {
        self.node.scratch().join(format!("{}.log", self.id))
    }

    /// Has containerd forget it, whatever is still known of it, as an administrator would.
    fn forget(self) {
        let gone = |words: &[&str]| {
            let done = self.node.ctr(words);
            (done.code == 0 || done.stderr.contains("not found")).then_some(())
        };
        for client in self.clients {
            // It may have lost whom it talked to: what it says is not judged.
            let _ended = client.wait();
        }
        let id = &self.id;
        wait::until("the task to go", || {
            gone(&["task", "delete", "--force", id])
        });
        wait::until("the container to go", || gone(&["container", "delete", id]));
    }
}

#[test]
fn a_shim_that_is_killed_at_any_point_leaves_nothing() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    for point in POINTS {
        let life = Life::to(point, &node);
        if let Some(shim) = life.shim() {
            // It may be gone by itself, at the last point.
            let _sent = signal::kill(shim, Signal::SIGKILL);
        }
        life.forget();
        if matches!(point, Point::Start) {
            // containerd runs no `delete` for a shim that it could not connect to: the next pod that
            // ends takes the socket along.
            let next = node.container("next").args(&["/bin/true"]);
            let _ran = next.run().ok();
        }
        node.expect_nothing_left_after_cleanup(&format!("the shim was killed at {point:?}"));
    }
}

#[test]
fn a_containerd_that_is_killed_at_any_point_leaves_nothing() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    for point in POINTS {
        let mut life = Life::to(point, &node);
        node.daemon().end(Signal::SIGKILL);
        node.daemon().start_again();
        // A client that has lost its daemon may wait for ever (1.6's exec does).
        life.clients.clear();
        end_unused_shims(&node, node.namespace());
        life.forget();
        node.expect_nothing_left_after_cleanup(&format!("containerd was killed at {point:?}"));
    }
}
