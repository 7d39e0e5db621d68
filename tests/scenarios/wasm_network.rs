//! Guests and the network of their pod.

use duet_tests::{Node, image};

#[test]
fn preview_2_sockets_are_on_the_pods_network() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let pod = ["--annotation", "io.containerd.duet.v1.pod=sockets"];
    let serve = "mkdir /www; echo from native > /www/index.html; echo ready; \
                 exec httpd -f -p 127.0.0.1:8081 -h /www";
    let mut native = node.container("native").with(&pod).script(serve).start();
    native.says("ready");
    let waits = "until wget -qO /dev/null http://127.0.0.1:8081/; do sleep 0.05; done";
    let _served = native.exec(&[], &["/bin/sh", "-c", waits]).ok();
    let guest = |id: &str, args: &[&str]| {
        node.container(id)
            .image(image::GUESTS)
            .with(&pod)
            .args(&[&["/probe-p2.wasm"], args].concat())
    };

    // A guest listens, a native program connects.
    let mut server = guest("server", &["listen", "127.0.0.1:7000"]).start();
    server.says("127.0.0.1:7000");
    let talk = "echo to you | nc 127.0.0.1 7000";
    let answer = native.exec(&[], &["/bin/sh", "-c", talk]).ok();
    assert_eq!(answer.stdout, "TO YOU\n");
    assert_eq!(server.wait().code, 0);

    // A native program listens, a guest connects. Twice: the guest before left the network as it was.
    for id in ["first", "second"] {
        let request = "GET / HTTP/1.0\r\n\r\n";
        let client = guest(id, &["connect", "127.0.0.1:8081", request])
            .run()
            .ok();
        assert!(client.stdout.contains("200 OK"), "{client:?}");
    }
    // Outside of the pod nobody listens there.
    let stranger = node
        .container("stranger")
        .image(image::GUESTS)
        .args(&["/probe-p2.wasm", "connect", "127.0.0.1:8081", "?"])
        .run();
    assert_ne!(stranger.code, 0, "{stranger:?}");
    native.end();
}

#[test]
fn a_preview_1_guest_answers_its_native_neighbour() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let pod = ["--annotation", "io.containerd.duet.v1.pod=listeners"];
    let listen = [
        "--annotation",
        "io.containerd.duet.v1.listen=127.0.0.1:7000",
    ];
    let mut native = node
        .container("native")
        .with(&pod)
        .script("echo ready; exec sleep 3600")
        .start();
    native.says("ready");
    let ask = |port: &str| {
        let talk = format!("echo to you | nc 127.0.0.1 {port}");
        native.exec(&[], &["/bin/sh", "-c", &talk]).ok().stdout
    };
    let guest = |id: &str, options: &[&str]| {
        node.container(id)
            .image(image::GUESTS)
            .with(&pod)
            .with(options)
            .args(&["/sockets.wasm", "echo", "1"])
    };
    let mut first = guest("annotated", &listen).start();
    first.says("listening at 1");
    // In a pod of Kubernetes a container can only be told by its environment.
    let mut second = guest("told", &["--env", "DUET_LISTEN=127.0.0.1:7001"]).start();
    second.says("listening at 1");
    assert_eq!(ask("7000"), "to you\n");
    assert_eq!(ask("7001"), "to you\n");
    assert_eq!((first.wait().code, second.wait().code), (0, 0));
    native.end();
}

#[test]
fn sockets_that_nobody_would_find_are_refused_by_name() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let listen = [
        "--annotation",
        "io.containerd.duet.v1.listen=127.0.0.1:7000",
    ];
    let native = node
        .container("native")
        .with(&listen)
        .script("exit 0")
        .run();
    let component = node
        .container("component")
        .image(image::GUESTS)
        .with(&listen)
        .args(&["/probe-p2.wasm", "args"])
        .run();
    let mistaken = node
        .container("mistaken")
        .with(&["--env", "DUET_LISTEN=here"])
        .probe(&["args"])
        .run();
    for (outcome, words) in [
        (
            native,
            "annotations.io.containerd.duet.v1.listen \"127.0.0.1:7000\": a native program",
        ),
        (
            component,
            "annotations.io.containerd.duet.v1.listen \"127.0.0.1:7000\": a component",
        ),
        (
            mistaken,
            "process.env DUET_LISTEN \"here\": is not a list of IP:port, such as 127.0.0.1:9000,[::1]:9000 (no host names)",
        ),
    ] {
        assert_ne!(outcome.code, 0, "{outcome:?}");
        assert!(outcome.stderr.contains(words), "{outcome:?}");
    }
}
