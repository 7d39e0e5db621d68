//! Every pod of `examples/`, through `duet run`, as its README says.
#![forbid(unsafe_code)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use duet_tests::command::{self, Running};
use duet_tests::machine::{binary, workspace};
use duet_tests::{Node, wait};

/// A pod that `duet run` has started.
struct Pod {
    client: Running,
    address: String,
}

/// An answer to an http request: the status and everything after it.
type Answer = (u16, String);

/// Makes the images, once for all tests.
fn images(node: &Node) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let dir = node.daemon().dir.join("example-images");
        let mut script = Command::new(workspace().join("examples/images.sh"));
        let _made = command::run(script.arg(&dir).env("DUET", binary("duet"))).ok();
        dir
    };
    DIR.get_or_init(make).clone()
}

/// `duet run` of the example `name`.
fn duet_run(node: &Node, name: &str) -> Command {
    let mut duet = Command::new(binary("duet"));
    duet.arg("run")
        // So that the leak check knows the processes of the containerd that duet starts.
        .env("DUET_TEST_RUN", &node.daemon().dir)
        .arg("--root")
        .arg(node.scratch().join("duet"))
        .arg("--images-dir")
        .arg(images(node))
        .arg(workspace().join("examples").join(name).join("pod.yaml"));
    duet
}

/// Starts the example `name`, and waits until it answers.
fn start(node: &Node, name: &str) -> Pod {
    let client = command::start(&mut duet_run(node, name));
    let address = wait::until("the pod's address", || {
        let steps = client.stderr();
        let line = steps
            .lines()
            .find(|line| line.contains(": sandbox created, "))?;
        Some(line.rsplit_once(", ")?.1.to_owned())
    });
    let pod = Pod { client, address };
    let answered = wait::within(wait::patience(), || pod.get("/", "").ok());
    assert!(
        answered.is_some(),
        "{name} does not answer: {}",
        pod.client.stderr()
    );
    pod
}

impl Pod {
    /// Asks for `path` with `header` (a whole line, or nothing).
    fn get(&self, path: &str, header: &str) -> std::io::Result<Answer> {
        let mut stream = TcpStream::connect((self.address.as_str(), 8080))?;
        stream.set_read_timeout(Some(wait::patience()))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: pod\r\n{header}Connection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        status
            .map(|status| (status, answer))
            .ok_or_else(|| std::io::Error::other("no status"))
    }

    /// Asks, and expects an answer.
    fn ask(&self, path: &str, header: &str) -> Answer {
        self.get(path, header)
            .unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Ends it as Ctrl-C would.
    fn interrupt(mut self) {
        self.client.terminate();
        let ended = || self.client.has_ended().then_some(());
        wait::until("duet run to clean up", ended);
        let steps = self.client.stderr();
        assert!(!steps.contains("left behind"), "{steps}");
    }
}

impl Drop for Pod {
    /// A test that failed still gives `duet run` the time to clean up.
    fn drop(&mut self) {
        self.client.terminate();
        let _ended = wait::within(wait::patience(), || self.client.has_ended().then_some(()));
    }
}

#[test]
fn ambassador_lets_in_who_knows_the_token() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let pod = start(&node, "ambassador");
    assert_eq!(pod.ask("/", "").0, 401);
    assert_eq!(
        pod.ask("/", "Authorization: Bearer wrong-password\r\n").0,
        401
    );
    let (status, text) = pod.ask("/secret", "Authorization: Bearer open-sesame\r\n");
    assert_eq!(status, 200, "{text}");
    assert!(
        text.contains("hello from nginx, asked for /secret"),
        "{text}"
    );
    assert!(text.to_lowercase().contains("x-duet-ambassador"), "{text}");
    pod.interrupt();
}

#[test]
fn log_shipper_counts_what_nginx_writes() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let mut pod = start(&node, "log-shipper");
    // The first answer was one of 200; two more make three.
    for _ in 0..2 {
        assert_eq!(pod.ask("/", "").0, 200);
    }
    assert_eq!(pod.ask("/nothing-here", "").0, 404);
    pod.client.says("status=200 count=3");
    pod.client.says("status=404 count=1");
    pod.interrupt();
}

#[test]
fn init_config_serves_what_was_prepared() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let mut pod = start(&node, "init-config");
    pod.client.says("the page is ready");
    let (status, text) = pod.ask("/", "");
    assert_eq!(status, 200);
    assert!(
        text.contains("<h1>prepared by Linux on init-config</h1>"),
        "{text}"
    );
    pod.interrupt();
}

#[test]
fn every_example_has_a_manifest_a_readme_and_a_test() {
    let this = include_str!("main.rs");
    let examples = std::fs::read_dir(workspace().join("examples")).expect("part of the repository");
    let dirs = examples.flatten().filter(|entry| entry.path().is_dir());
    let mut count = 0;
    for dir in dirs {
        let name = dir.file_name().to_string_lossy().into_owned();
        for file in ["pod.yaml", "README.md"] {
            assert!(dir.path().join(file).is_file(), "examples/{name}/{file}");
        }
        assert!(
            this.contains(&format!("start(&node, {name:?})")),
            "no test runs {name}"
        );
        count += 1;
    }
    assert!(count >= 3);
}
