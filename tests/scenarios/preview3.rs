//! WASI preview 3 in containers: off, unless an annotation says otherwise.

use duet_tests::{Node, image, wait};

const PREVIEW3: &str = "io.containerd.duet.v1.preview3=true";

#[test]
fn without_the_annotation_it_is_refused_and_told_how_to_have_it() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let probe = |annotations: &[&str]| {
        node.container("refused")
            .image(image::GUESTS)
            .with(annotations)
            .args(&["/probe-p3.wasm", "args"])
            .run()
    };
    let mistaken = "io.containerd.duet.v1.preview3=yes";
    for (outcome, words) in [
        (
            probe(&[]),
            "/probe-p3.wasm: imports \"wasi:cli/environment@0.3.0\": this is preview 3, which the \
             annotation io.containerd.duet.v1.preview3: \"true\" provides",
        ),
        (
            probe(&["--annotation", "io.containerd.duet.v1.preview3=false"]),
            "this is preview 3, which the annotation",
        ),
        (
            probe(&["--annotation", mistaken]),
            "annotations.io.containerd.duet.v1.preview3: yes: is neither true nor false",
        ),
    ] {
        assert_ne!(outcome.code, 0, "{outcome:?}");
        assert!(outcome.stderr.contains(words), "{outcome:?}");
    }
}

#[test]
fn a_command_and_a_service_of_preview_3_share_a_pod_with_a_native_program() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let pod = ["--annotation", "io.containerd.duet.v1.pod=third"];
    let with = ["--annotation", PREVIEW3];
    let mut native = node
        .container("native")
        .with(&pod)
        .script("echo ready; exec sleep 1000")
        .start();
    native.says("ready");
    let guest = |id: &str| {
        node.container(id)
            .image(image::GUESTS)
            .with(&pod)
            .with(&with)
    };

    // Arguments, environment, files, streams and the exit code.
    let outcome = guest("args")
        .args(&["/probe-p3.wasm", "args", "one"])
        .run()
        .ok();
    assert_eq!(outcome.stdout, "[\"/probe-p3.wasm\", \"args\", \"one\"]\n");
    let outcome = guest("env")
        .with(&["--env", "COLOUR=blue"])
        .args(&["/probe-p3.wasm", "env"])
        .run()
        .ok();
    assert!(outcome.stdout.contains("COLOUR=blue\n"), "{outcome:?}");
    let outcome = guest("files")
        .args(&["/probe-p3.wasm", "cat", "/motd"])
        .run()
        .ok();
    assert_eq!(outcome.stdout, "a file of the image\n");
    let outcome = guest("code").args(&["/probe-p3.wasm", "exit", "7"]).run();
    assert_eq!(outcome.code, 7, "{outcome:?}");

    // A guest listens, a native program connects.
    let mut echo = guest("echo")
        .args(&["/probe-p3.wasm", "echo", "7000"])
        .start();
    echo.says("listening");
    let talk = "echo to you | nc 127.0.0.1 7000";
    let answer = native.exec(&[], &["/bin/sh", "-c", talk]).ok();
    assert_eq!(answer.stdout, "TO YOU\n");
    assert_eq!(echo.wait().code, 0);

    // A service answers both halves, and a second guest runs beside it.
    let server = guest("server")
        .with(&["--annotation", "io.containerd.duet.v1.http.reuse=2"])
        .args(&["/server-p3.wasm"])
        .start();
    let url = |path: &str| format!("http://127.0.0.1:8080{path}");
    let ask = |path: &str| native.exec(&[], &["/bin/wget", "-q", "-O", "-", &url(path)]);
    wait::until("the component to answer", || {
        (ask("/").code == 0).then_some(())
    });
    let outcome = guest("client")
        .args(&["/probe-p3.wasm", "get", "127.0.0.1:8080", "/count"])
        .run()
        .ok();
    assert_eq!(outcome.stdout, "200 1");
    assert_eq!(ask("/say/goodbye").code, 0);
    let outcome = server.exec(&[], &["/probe-p3.wasm", "cat", "/motd"]).ok();
    assert_eq!(outcome.stdout, "a file of the image\n");
    server.kill("SIGTERM");
    let ended = server.wait();
    assert_eq!(ended.code, 0);
    let line = ended.stdout.lines().find(|line| line.ends_with("goodbye"));
    assert!(line.is_some_and(|line| line.starts_with('[')), "{ended:?}");

    // Told to stop, a command ends at once.
    let mut idle = guest("idle")
        .args(&["/probe-p3.wasm", "sleep", "600000"])
        .start();
    idle.says("asleep");
    idle.kill("SIGTERM");
    assert_eq!(idle.wait().code, 143);
    native.end();
}
