//! `wasi:http` servers in containers: what annotations ask for holds, and the log says what happened.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use duet_tests::ctr::Task;
use duet_tests::{Node, image, wait};

const POD: &str = "io.containerd.duet.v1.pod=serving";

/// The component of the tests in the machine's own network, where a test can listen, too.
pub(crate) struct Server<'n> {
    pub(crate) task: Task<'n>,
    port: u16,
}

// === impl Server ===

impl<'n> Server<'n> {
    /// Starts it with options of `ctr run`, at a port that nobody listens on just now.
    pub(crate) fn start(node: &'n Node, name: &str, options: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let address = format!("io.containerd.duet.v1.http.listen=127.0.0.1:{port}");
        let task = node
            .container(name)
            .image(image::GUESTS)
            .with(&["--net-host", "--annotation", &address])
            .with(options)
            .args(&["/server.wasm"])
            .start();
        wait::until("the component to listen", || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self { task, port }
    }

    /// The body of its answer.
    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        let request = format!("GET {path} HTTP/1.0\r\nhost: guest\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it listens");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (_head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        body.to_owned()
    }

    /// Tells it to stop: what is on its stderr.
    pub(crate) fn end(self) -> String {
        self.task.kill("SIGTERM");
        let ended = self.task.wait();
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.stderr
    }
}

/// Asks a path of the server, and tells what busybox's wget says.
fn ask(client: &Task<'_>, path: &str) -> (i32, String) {
    let url = format!("http://127.0.0.1:8080{path}");
    let answer = client.exec(&[], &["/bin/wget", "-q", "-O", "-", &url]);
    (answer.code, answer.stdout + &answer.stderr)
}

#[test]
fn the_limits_of_a_server_are_those_of_its_annotations() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let mut client = node
        .container("client")
        .with(&["--annotation", POD])
        .script("echo ready; exec sleep 1000")
        .start();
    client.says("ready");
    let server = node
        .container("server")
        .image(image::GUESTS)
        .with(&[
            "--annotation",
            POD,
            "--annotation",
            "io.containerd.duet.v1.http.reuse=2",
            "--annotation",
            "io.containerd.duet.v1.http.timeout=5s",
        ])
        .args(&["/server.wasm"])
        .start();
    wait::until("the component to answer", || {
        (ask(&client, "/").0 == 0).then_some(())
    });
    let (code, words) = ask(&client, "/spin");
    assert!(code != 0 && words.contains("504"), "{code} {words}");
    let (code, words) = ask(&client, "/trap");
    assert!(code != 0 && words.contains("500"), "{code} {words}");
    assert_eq!(ask(&client, "/count"), (0, "1".to_owned()));
    assert_eq!(ask(&client, "/count"), (0, "2".to_owned()));
    assert_eq!(ask(&client, "/count"), (0, "1".to_owned()));
    assert_eq!(ask(&client, "/say/goodbye"), (0, String::new()));
    server.kill("SIGTERM");
    let ended = server.wait();
    assert_eq!(ended.code, 0);
    let line = ended.stdout.lines().find(|line| line.ends_with("goodbye"));
    assert!(line.is_some_and(|line| line.starts_with('[')), "{ended:?}");
    for words in [
        "/server.wasm: GET /spin: ended after 5s, the time it may take",
        "/server.wasm: GET /trap: wasm trap: wasm `unreachable`",
    ] {
        assert!(ended.stderr.contains(words), "{words}: {ended:?}");
    }
    client.end();
}

#[test]
fn a_limit_that_is_none_is_refused_by_its_name() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let refused = node
        .container("refused")
        .image(image::GUESTS)
        .with(&["--annotation", "io.containerd.duet.v1.http.timeout=soon"])
        .args(&["/server.wasm"])
        .run();
    assert_ne!(refused.code, 0);
    let words = "annotations.io.containerd.duet.v1.http.timeout: soon: is neither none nor a time such as 30s";
    assert!(refused.stderr.contains(words), "{refused:?}");
}
