//! The life of a container over a real socket, with a containerd that only hears events.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use containerd_shim_protos::api;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Events, create_events};
use protobuf::Message as _;
use serde_json::json;
use tokio::runtime::Runtime;
use ttrpc::asynchronous::{Server, TtrpcContext};
use ttrpc::{Code, context};

use crate::node::{Node, code, connect, gone, limit, shim, task, text, until};

/// A static program that is a whole userland; the package `busybox-static` or `busybox`.
const BUSYBOX: &str = "/bin/busybox";

/// A containerd that only hears events.
pub(crate) struct Daemon {
    topics: Arc<Topics>,
    _server: Server,
    // Dropped last: the server lives in it.
    _runtime: Runtime,
}

#[derive(Default)]
struct Topics(Mutex<Vec<String>>);

#[async_trait::async_trait]
impl Events for Topics {
    async fn forward(
        &self,
        _: &TtrpcContext,
        request: ForwardRequest,
    ) -> ttrpc::Result<api::Empty> {
        let topic = request.envelope.unwrap().topic;
        if topic == "/tasks/oom" {
            // Busy, as a node that runs out of memory is: what is answered meanwhile came too early.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.0.lock().unwrap().push(topic);
        Ok(api::Empty::new())
    }
}

impl Daemon {
    pub(crate) fn listen(node: &Node) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let topics = Arc::new(Topics::default());
        let address = format!("unix://{}", node.dir.path().join("events").display());
        let server = runtime.block_on(async {
            let mut server = Server::new()
                .bind(&address)
                .unwrap()
                .register_service(create_events(Arc::<Topics>::clone(&topics) as _));
            server.start().await.unwrap();
            server
        });
        Self {
            topics,
            _server: server,
            _runtime: runtime,
        }
    }

    /// What it has heard when the last of it is this.
    pub(crate) fn heard_to(&self, topic: &str) -> Vec<String> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let heard = self.heard();
            if heard.last().is_some_and(|last| last == topic) {
                return heard;
            }
            assert!(Instant::now() < end, "{topic} is not the last of {heard:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn heard(&self) -> Vec<String> {
        self.topics.0.lock().unwrap().clone()
    }
}

/// Whether containers can be made here; a run that promises root must not skip.
pub(crate) fn can_make_containers() -> bool {
    let able = nix::unistd::geteuid().is_root() && Path::new(BUSYBOX).exists();
    let required = std::env::var("DUET_TEST_REQUIRE").is_ok_and(|names| names.contains("root"));
    assert!(
        able || !required,
        "DUET_TEST_REQUIRE=root, but this is not root or busybox is missing"
    );
    if !able {
        eprintln!("skipped: needs root and {BUSYBOX}");
    }
    able
}

/// A bundle whose container runs `script`.
pub(crate) fn bundle(node: &Node, id: &str, script: &str) -> PathBuf {
    limited(node, id, script, &json!({}))
}

/// As [`bundle`], with limits.
pub(crate) fn limited(
    node: &Node,
    id: &str,
    script: &str,
    resources: &serde_json::Value,
) -> PathBuf {
    let bundle = node.bundle(id, "{}");
    let bin = bundle.join("rootfs/bin");
    fs::create_dir_all(&bin).unwrap();
    // By another program: what another test's thread forks would have it open for writing for a moment, and
    // the kernel executes no such file.
    let mut install = std::process::Command::new("install");
    let install = install.args(["-m", "0755", BUSYBOX]).arg(&bin);
    assert!(install.status().unwrap().success());
    let namespaces = ["mount", "pid", "network", "ipc", "uts"].map(|kind| json!({ "type": kind }));
    let config = json!({
        "ociVersion": "1.0.2",
        "root": { "path": "rootfs" },
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": ["/bin/busybox", "sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
        },
        "linux": {
            "namespaces": namespaces,
            "resources": resources,
            "cgroupsPath": format!("/duet-wire-{}/{id}", std::process::id()),
        },
    });
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    bundle
}

/// Removes the parent of the containers' cgroups, which nobody else would.
pub(crate) fn forget_cgroups() {
    for dir in cgroups("") {
        // Another test's may be in there; the last one removes it.
        drop(fs::remove_dir(dir));
    }
}

/// The cgroups of a container, one for each hierarchy that has it; without a name their parents.
pub(crate) fn cgroups(id: &str) -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let entries = fs::read_dir(&root).into_iter().flatten().flatten();
    let hierarchies = entries.map(|entry| entry.path()).chain([root]);
    hierarchies
        .map(|hierarchy| hierarchy.join(format!("duet-wire-{}/{id}", std::process::id())))
        .filter(|dir| dir.is_dir())
        .collect()
}

pub(crate) fn creation(id: &str, bundle: &Path) -> api::CreateTaskRequest {
    api::CreateTaskRequest {
        id: id.to_owned(),
        bundle: bundle.display().to_string(),
        ..Default::default()
    }
}

pub(crate) fn named<R: Default>(id: &str, set: impl FnOnce(&mut R, String)) -> R {
    let mut request = R::default();
    set(&mut request, id.to_owned());
    request
}

#[test]
fn the_exit_of_a_program_that_ends_at_once_comes_after_its_start() {
    if !can_make_containers() {
        return;
    }
    let node = Node::new();
    let daemon = Daemon::listen(&node);
    let socket = node.start("a", "{}");
    let bundle = bundle(&node, "a", "exit 7");
    let task = task(&socket);

    let pid = task.create(limit(), &creation("a", &bundle)).unwrap().pid;
    assert_ne!(pid, 0);
    assert_eq!(task.connect(limit(), &connect("a")).unwrap().task_pid, pid);
    assert_eq!(
        code(task.create(limit(), &creation("a", &bundle))).0,
        Code::ALREADY_EXISTS
    );
    let start = named("a", |request: &mut api::StartRequest, id| request.id = id);
    assert_eq!(task.start(limit(), &start).unwrap().pid, pid);
    let wait = named("a", |request: &mut api::WaitRequest, id| request.id = id);
    assert_eq!(task.wait(limit(), &wait).unwrap().exit_status, 7);
    assert_eq!(
        task.wait(limit(), &wait).unwrap().exit_status,
        7,
        "asked again after the exit"
    );
    let state = named("a", |request: &mut api::StateRequest, id| request.id = id);
    let state = task.state(limit(), &state).unwrap();
    assert_eq!(state.status.unwrap(), api::Status::STOPPED);
    let mut kill = named("a", |request: &mut api::KillRequest, id| request.id = id);
    kill.signal = 9;
    assert_eq!(code(task.kill(limit(), &kill)).0, Code::NOT_FOUND);
    let delete = named("a", |request: &mut api::DeleteRequest, id| request.id = id);
    assert_eq!(task.delete(limit(), &delete).unwrap().exit_status, 7);
    assert_eq!(code(task.delete(limit(), &delete)).0, Code::NOT_FOUND);

    // Before it ends: then it waits for its last words, but not for ever.
    let heard = daemon.heard_to("/tasks/delete");
    node.end("a", &socket);
    assert_eq!(
        heard,
        [
            "/tasks/create",
            "/tasks/start",
            "/tasks/exit",
            "/tasks/delete"
        ]
    );
    forget_cgroups();
}

#[test]
fn an_early_shutdown_is_remembered_until_the_last_task_is_gone() {
    if !can_make_containers() {
        return;
    }
    let node = Node::new();
    let daemon = Daemon::listen(&node);
    let socket = node.start("b", "{}");
    let bundle = bundle(&node, "b", "busybox sleep 60");
    let task = task(&socket);
    task.create(limit(), &creation("b", &bundle)).unwrap();
    let start = named("b", |request: &mut api::StartRequest, id| request.id = id);
    task.start(limit(), &start).unwrap();

    let shutdown = named("b", |request: &mut api::ShutdownRequest, id| {
        request.id = id
    });
    task.shutdown(limit(), &shutdown).unwrap();
    let pid = task.connect(limit(), &connect("b")).unwrap().shim_pid;
    let mut kill = named("b", |request: &mut api::KillRequest, id| request.id = id);
    (kill.signal, kill.all) = (9, true);
    task.kill(limit(), &kill).unwrap();
    let wait = named("b", |request: &mut api::WaitRequest, id| request.id = id);
    assert_eq!(task.wait(limit(), &wait).unwrap().exit_status, 137);
    let delete = named("b", |request: &mut api::DeleteRequest, id| request.id = id);
    assert_eq!(
        task.delete(limit(), &delete).unwrap().exit_status,
        137,
        "the last answer arrives"
    );
    // Whoever waits for two things at once must not hear of the connection's end first.
    let answered = Instant::now();
    until("no new caller finds it", || !socket.exists());
    let heard = task.connect(limit(), &connect("b"));
    assert!(
        heard.is_ok() || answered.elapsed() > Duration::from_secs(1),
        "its last caller is heard for a second: {heard:?}"
    );
    // But not with a new container, which would end with the shim.
    let refused = task.create(limit(), &creation("b", &bundle)).unwrap_err();
    assert!(
        refused.to_string().contains("the shim ends")
            || answered.elapsed() > Duration::from_secs(1),
        "{refused}"
    );
    drop(task);

    until("the shim is gone", || gone(pid));
    assert_eq!(
        daemon.heard().last().unwrap(),
        "/tasks/delete",
        "the last event arrives"
    );
    forget_cgroups();
}

#[test]
fn a_last_delete_whose_caller_gives_up_is_the_end_too() {
    if !can_make_containers() {
        return;
    }
    let node = Node::new();
    let _daemon = Daemon::listen(&node);
    let socket = node.start("d", "{}");
    let bundle = bundle(&node, "d", "exit 0");
    let task = task(&socket);
    task.create(limit(), &creation("d", &bundle)).unwrap();
    let start = named("d", |request: &mut api::StartRequest, id| request.id = id);
    task.start(limit(), &start).unwrap();
    let wait = named("d", |request: &mut api::WaitRequest, id| request.id = id);
    assert_eq!(task.wait(limit(), &wait).unwrap().exit_status, 0);
    let shutdown = named("d", |request: &mut api::ShutdownRequest, id| {
        request.id = id
    });
    task.shutdown(limit(), &shutdown).unwrap();
    let pid = task.connect(limit(), &connect("d")).unwrap().shim_pid;
    // No removal is that fast.
    let hurry = context::with_duration(Duration::from_nanos(1));
    let delete = named("d", |request: &mut api::DeleteRequest, id| request.id = id);
    assert!(task.delete(hurry, &delete).is_err());
    until("the shim is gone", || gone(pid));
    assert!(!socket.exists());
    forget_cgroups();
}

#[test]
fn a_create_whose_caller_gives_up_is_undone() {
    if !can_make_containers() {
        return;
    }
    let node = Node::new();
    let daemon = Daemon::listen(&node);
    let socket = node.start("c", "{}");
    let bundle = bundle(&node, "c", "exit 0");
    let task = task(&socket);
    let pid = task.connect(limit(), &connect("c")).unwrap().shim_pid;
    // No birth is that fast.
    let hurry = context::with_duration(Duration::from_nanos(1));
    assert!(task.create(hurry, &creation("c", &bundle)).is_err());
    // As containerd does: Delete, which may find nothing yet, then Shutdown, and that is all.
    let delete = named("c", |request: &mut api::DeleteRequest, id| request.id = id);
    if let Err(error) = task.delete(limit(), &delete) {
        assert_eq!(code::<()>(Err(error)).0, Code::NOT_FOUND);
    }
    let shutdown = named("c", |request: &mut api::ShutdownRequest, id| {
        request.id = id
    });
    // The shim may be gone before its answer is read.
    drop(task.shutdown(limit(), &shutdown));
    until("the shim is gone", || gone(pid));
    assert!(!socket.exists());
    assert!(!bundle.join("duet.json").exists(), "it is still on record");
    let heard = daemon.heard();
    assert!(
        heard.is_empty() || heard.last().unwrap() == "/tasks/delete",
        "{heard:?}"
    );
    forget_cgroups();
}

/// Under version 3 containerd runs `delete` for the sandbox only, and only after its shim is gone.
#[test]
fn delete_of_the_sandbox_cleans_every_member_twice_and_waits_for_nobody() {
    if !can_make_containers() {
        return;
    }
    let node = Node::new();
    let _daemon = Daemon::listen(&node);
    let socket = node.start("p", "{}");
    let task = task(&socket);
    let mut pids = vec![task.connect(limit(), &connect("p")).unwrap().shim_pid];
    let mut bundles = Vec::new();
    for id in ["p", "m"] {
        let bundle = bundle(&node, id, "busybox sleep 60");
        let request = creation(id, &bundle);
        pids.push(task.create(limit(), &request).unwrap().pid);
        let start = named(id, |request: &mut api::StartRequest, id| request.id = id);
        task.start(limit(), &start).unwrap();
        bundles.push(bundle);
    }
    kill(pids[0]);
    until("the shim is gone", || gone(pids[0]));
    for bundle in &bundles {
        // Nobody reads them: whoever opens one waits for ever.
        fs::remove_file(bundle.join("log")).unwrap();
        nix::unistd::mkfifo(&bundle.join("log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let args = ["-namespace", "test", "-id", "p", "-bundle"];
    let args = [&args[..], &[bundles[0].to_str().unwrap(), "delete"]].concat();
    for _ in 0..2 {
        let output = shim(&bundles[0], &args, b"");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let answer = api::DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!(answer.exit_status, 137);
        until("the members are gone", || pids.iter().all(|pid| gone(*pid)));
        for bundle in &bundles {
            assert!(!bundle.join("duet.json").exists(), "{}", bundle.display());
        }
        assert!(!socket.exists());
    }
    forget_cgroups();
}

/// As a containerd does that could not connect when it came back: one after the other, each with its bundle.
#[test]
fn a_forgotten_shim_ends_when_the_last_of_its_members_is_cleaned() {
    if !can_make_containers() {
        return;
    }
    let node = Node::new();
    let daemon = Daemon::listen(&node);
    let pod = r#"{"io.kubernetes.cri.sandbox-id":"r"}"#;
    let socket = node.start("r", pod);
    assert_eq!(node.start("t", pod), socket);
    let task = task(&socket);
    let shim_pid = task.connect(limit(), &connect("r")).unwrap().shim_pid;
    for id in ["r", "t"] {
        let bundle = bundle(&node, id, "busybox sleep 60");
        task.create(limit(), &creation(id, &bundle)).unwrap();
        let start = named(id, |request: &mut api::StartRequest, id| request.id = id);
        task.start(limit(), &start).unwrap();
    }
    drop(task);
    let deleted = || {
        let heard = daemon.heard().into_iter();
        heard.filter(|topic| topic == "/tasks/delete").count()
    };
    let let_go_of = |id: &str| {
        let bundle = node.dir.path().join(id);
        let before = deleted();
        let output = shim(&bundle, &["-namespace", "test", "-id", id, "delete"], b"");
        assert!(output.status.success(), "{}", text(&output.stderr));
        fs::remove_dir_all(&bundle).unwrap();
        until("the shim lets go of it", || deleted() > before);
    };
    let_go_of("r");
    assert!(!gone(shim_pid), "its other member lives");
    let_go_of("t");
    until("the shim is gone", || gone(shim_pid));
    assert!(!socket.exists());
    forget_cgroups();
}

fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn a_test_that_fails_leaves_nothing_running() {
    if !can_make_containers() {
        return;
    }
    let failed = std::thread::spawn(|| {
        let node = Node::new();
        let _daemon = Daemon::listen(&node);
        let socket = node.start("f", "{}");
        let bundle = bundle(&node, "f", "busybox sleep 60");
        let task = task(&socket);
        let shim = task.connect(limit(), &connect("f")).unwrap().shim_pid;
        let init = task.create(limit(), &creation("f", &bundle)).unwrap().pid;
        assert!(!cgroups("f").is_empty());
        // A panic, without its words.
        std::panic::resume_unwind(Box::new(([shim, init], node.dir.path().to_owned())))
    });
    let failed = failed.join().unwrap_err();
    let Ok(left) = failed.downcast::<([u32; 2], PathBuf)>() else {
        panic!("it failed too early");
    };
    let (pids, dir) = *left;
    until("they are gone", || pids.iter().all(|pid| gone(*pid)));
    assert!(!dir.exists(), "{} is left", dir.display());
    assert_eq!(cgroups("f"), [] as [PathBuf; 0]);
    forget_cgroups();
}
