//! Pods by plain `ctr run`: the same annotation makes one sandbox, without CRI or CNI.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use duet_tests::ctr::Task;
use duet_tests::{Node, image, wait};

const POD: &str = "io.containerd.duet.v1.pod=web";

/// Asks `url` from inside a container until it answers.
fn ask(task: &Task<'_>, url: &str) -> String {
    wait::until(url, || {
        let answer = task.exec(&[], &["/bin/wget", "-q", "-O", "-", url]);
        (answer.code == 0).then_some(answer.stdout)
    })
}

/// The namespace of `kind` that a task's program is in.
fn namespace(task: &Task<'_>, kind: &str) -> String {
    let path = format!("/proc/{}/ns/{kind}", task.pid());
    fs::read_link(path).expect("it runs").display().to_string()
}

/// The shims that serve containerd namespaces called `name`.
fn shims(name: &str) -> BTreeSet<String> {
    let processes = fs::read_dir("/proc").expect("procfs is mounted").flatten();
    let shim = |dir: &Path| {
        let command = fs::read(dir.join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).into_owned();
        (command.contains("containerd-shim-") && command.contains(name))
            .then(|| dir.display().to_string())
    };
    processes.filter_map(|entry| shim(&entry.path())).collect()
}

#[test]
fn containers_of_one_pod_meet_on_localhost() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let serve = "mkdir /www; echo hi there > /www/index.html; echo ready; exec httpd -f -p 127.0.0.1:8080 -h /www";
    let mut server = node
        .container("server")
        .with(&["--annotation", POD])
        .script(serve)
        .start();
    server.says("ready");
    let mut client = node
        .container("client")
        .with(&["--annotation", POD])
        .script("echo ready; exec sleep 1000")
        .start();
    client.says("ready");
    assert_eq!(ask(&client, "http://127.0.0.1:8080/"), "hi there\n");

    for kind in ["net", "ipc", "uts"] {
        assert_eq!(namespace(&server, kind), namespace(&client, kind), "{kind}");
    }
    for kind in ["mnt", "pid"] {
        assert_ne!(namespace(&server, kind), namespace(&client, kind), "{kind}");
    }
    assert_eq!(shims(node.namespace()).len(), 1);
    client.end();
    // One that goes does not take the pod along.
    let mut second = node
        .container("second")
        .with(&["--annotation", POD])
        .script("echo ready; exec sleep 1000")
        .start();
    second.says("ready");
    assert_eq!(ask(&second, "http://127.0.0.1:8080/"), "hi there\n");
    second.end();
    server.end();
}

#[test]
fn two_pods_and_a_loner_are_strangers() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let options = |pod: &str| {
        [
            "--annotation".to_owned(),
            format!("io.containerd.duet.v1.pod={pod}"),
        ]
    };
    let start = |id: &str, options: &[String]| {
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let mut task = node
            .container(id)
            .with(&options)
            .script("echo ready; exec sleep 1000")
            .start();
        task.says("ready");
        task
    };
    let (one, other, loner) = (
        start("one", &options("a")),
        start("other", &options("b")),
        start("loner", &[]),
    );
    for kind in ["net", "ipc", "uts"] {
        let namespaces: BTreeSet<_> = [&one, &other, &loner]
            .into_iter()
            .map(|task| namespace(task, kind))
            .collect();
        assert_eq!(namespaces.len(), 3, "{kind}: {namespaces:?}");
    }
    assert_eq!(shims(node.namespace()).len(), 3);
    for task in [one, other, loner] {
        task.end();
    }
}

#[test]
fn a_native_and_a_wasm_container_share_a_sandbox_and_a_volume() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let volume = node.scratch().join("shared");
    fs::create_dir(&volume).expect("our own folder");
    let mount = format!(
        "type=bind,src={},dst=/data,options=rbind:rw",
        volume.display()
    );
    let options = ["--annotation", POD, "--mount", &mount];
    let mut native = node
        .container("native")
        .with(&options)
        .script("echo from native > /data/native; echo ready; exec sleep 1000")
        .start();
    native.says("ready");
    let mut wasm = node
        .container("wasm")
        .with(&options)
        .probe(&["idle"])
        .start();
    wasm.says("idle");
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(namespace(&native, kind), namespace(&wasm, kind), "{kind}");
    }
    let read = node
        .container("reader")
        .with(&options)
        .probe(&["cat", "/data/native"])
        .run()
        .ok();
    assert_eq!(read.stdout, "from native\n");
    let write = ["write", "/data/wasm", "from wasm"];
    let _written = node
        .container("writer")
        .with(&options)
        .probe(&write)
        .run()
        .ok();
    let read = native.exec(&[], &["/bin/cat", "/data/wasm"]).ok();
    assert_eq!(read.stdout, "from wasm\n");
    assert_eq!(shims(node.namespace()).len(), 1);
    wasm.end();
    native.end();
}

#[test]
fn a_native_and_a_wasm_container_meet_on_localhost_without_cri() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let serve = "mkdir /www; echo from native > /www/index.html; echo ready; \
                 exec httpd -f -p 127.0.0.1:8081 -h /www";
    let mut native = node
        .container("native")
        .with(&["--annotation", POD])
        .script(serve)
        .start();
    native.says("ready");
    let wasm = node
        .container("wasm")
        .image(image::GUESTS)
        .with(&[
            "--annotation",
            POD,
            "--env",
            "TOKEN=sesame",
            "--env",
            "UPSTREAM=8081",
        ])
        .args(&["/ambassador.wasm"])
        .start();
    let token = "Authorization: Bearer sesame";
    let answer = wait::until("the component to answer", || {
        let url = "http://127.0.0.1:8080/";
        let answer = native.exec(&[], &["/bin/wget", "-q", "-O", "-", "--header", token, url]);
        (answer.code == 0).then_some(answer.stdout)
    });
    assert_eq!(answer, "from native\n");
    // A server that could finish all it had in flight ends well.
    wasm.kill("SIGTERM");
    assert_eq!(wasm.wait().code, 0);
    native.end();
}

#[test]
fn a_shot_shim_takes_every_container_of_its_pod_along() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let start = |id: &str| {
        let mut task = node
            .container(id)
            .with(&["--annotation", POD])
            .script("sleep 1000 & echo ready; exec sleep 1000")
            .start();
        task.says("ready");
        task
    };
    let tasks = [start("first"), start("second"), start("third")];
    let shim = shims(node.namespace());
    let shim = shim
        .iter()
        .next()
        .expect("there is one")
        .trim_start_matches("/proc/");
    let shim = nix::unistd::Pid::from_raw(shim.parse().expect("a pid"));
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).expect("it runs");
    for (task, id) in tasks.into_iter().zip(["first", "second", "third"]) {
        assert_ne!(task.wait().code, 0, "{id}");
        let _gone = node.ctr(&["task", "delete", "--force", id]);
        let _gone = node.ctr(&["container", "delete", id]);
    }
}
