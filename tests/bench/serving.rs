//! `make bench-serving`: how many requests a `wasi:http` component answers, beside `wasmtime serve`, and
//! what becomes of those that are in flight when its server is told to stop.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use duet_tests::bench::{self, Table};
use duet_tests::ctr::Task;
use duet_tests::{Node, guests, image, wait};

/// Connections that ask at the same time.
const CONNECTIONS: &str = "16";
/// How long each run asks.
const SECONDS: &str = "3";
/// Requests that are in flight when the server is told to stop: of those of a container that may open 1024
/// files, most wait in the backlog.
const FLIGHT: usize = 5_000;

/// Measures in the network namespace of the containers, with `wasmtime` for a peer.
pub(crate) fn measure(node: &Node, rounds: usize, wasmtime: &Path) -> Vec<Table> {
    let component = node.scratch().join("server.wasm");
    fs::write(&component, guests::SERVER.bytes).expect("our own folder");
    let compare = |question, reuse: &str| {
        let annotation = format!("io.containerd.duet.v1.http.reuse={reuse}");
        let duet = server(node, &["--annotation", &annotation]);
        let pid = duet.pid();
        let mut peer = inside(pid, wasmtime.to_str().expect("a path in UTF-8"));
        let mut peer = peer
            .args(["serve", "-Scli", "--max-instance-reuse-count", reuse])
            .args(["--addr", "127.0.0.1:8081"])
            .arg(&component)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nsenter starts");
        join(peer.id(), pid);
        for port in [8080, 8081] {
            wait::until("the server to answer", || {
                (requests(pid, port, "1") > 0.0).then_some(())
            });
        }
        let table = bench::interleaved(
            question,
            rounds,
            vec![
                ("Duet", Box::new(|| thousand(pid, 8080))),
                ("wasmtime serve", Box::new(|| thousand(pid, 8081))),
            ],
        );
        end(&mut peer);
        duet.kill("SIGKILL");
        let _ended = duet.wait();
        table
    };
    vec![
        compare("1000 requests, a new instance for each", "1"),
        compare("1000 requests, instances reused", "1000000"),
    ]
}

/// Tells a server to stop while requests are in flight, and counts those that get no answer.
pub(crate) fn flight(node: &Node) -> usize {
    let server = server(
        node,
        &[
            "--annotation",
            "io.containerd.duet.v1.http.queue=5000",
            "--annotation",
            "io.containerd.duet.v1.http.drain=2m",
        ],
    );
    let pid = server.pid();
    wait::until("the server to answer", || {
        (requests(pid, 8080, "1") > 0.0).then_some(())
    });
    let lost = lost(pid, FLIGHT, 100, || server.kill("SIGTERM"));
    assert_eq!(server.wait().code, 0);
    lost
}

/// How many get no answer of `count` requests of so many milliseconds each, all sent to the server in the network of
/// a process before `stop` is called.
pub(crate) fn lost(pid: i32, count: usize, length: u32, stop: impl FnOnce()) -> usize {
    let own = std::env::current_exe().expect("procfs is mounted");
    let files = format!("--nofile={}", count + 100);
    let mut client = inside(pid, "prlimit")
        .args([&files, own.to_str().expect("a path in UTF-8"), "flight"])
        .args([count.to_string(), length.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("nsenter starts");
    let mut said = client.stdout.take().expect("a pipe");
    said.read_exact(&mut [0; 1]).expect("it sends its requests");
    stop();
    let mut lost = String::new();
    said.read_to_string(&mut lost).expect("it counts");
    let _status = client.wait().expect("our own child");
    lost.trim().parse().expect("a number")
}

/// The client of [`lost`], with how many requests and of how many milliseconds: says a letter when all is sent,
/// and how many answers there were not.
pub(crate) fn fly(mut arguments: impl Iterator<Item = String>) {
    let count = arguments.next().and_then(|count| count.parse().ok());
    let length = arguments.next().expect("how long each takes");
    let mut streams: Vec<_> = (0..count.expect("how many there are"))
        .map(|_: usize| {
            let mut stream = TcpStream::connect("127.0.0.1:8080").expect("it listens");
            write!(stream, "GET /sleep/{length} HTTP/1.1\r\nhost: test\r\n")
                .expect("it is connected");
            stream
        })
        .collect();
    // None is answered while others are still to come.
    for stream in &mut streams {
        stream.write_all(b"\r\n").expect("it is connected");
    }
    print!("s");
    std::io::stdout().flush().expect("a pipe");
    let lost = streams.iter_mut().filter_map(|stream| {
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        let whole = answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("awake\r\n0\r\n\r\n");
        (read.is_err() || !whole).then_some(())
    });
    println!("{}", lost.count());
}

/// A container with the component of the tests.
fn server<'n>(node: &'n Node, options: &[&str]) -> Task<'n> {
    node.container("serving")
        .image(image::GUESTS)
        .with(options)
        .args(&["/server.wasm"])
        .start()
}

/// A command in the network namespace of a process.
pub(crate) fn inside(pid: i32, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--net", "--target", &pid.to_string(), program]);
    command
}

/// Has the peer share the container's processors, and what it may have of them.
fn join(peer: u32, pid: i32) {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (names, path) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let mount = names.trim_start_matches("name=");
        let file = format!("/sys/fs/cgroup/{mount}{path}/cgroup.procs");
        // Hierarchies that are mounted elsewhere have no share of a processor.
        drop(fs::write(file, peer.to_string()));
    }
}

/// How many requests a second `wrk` sees answered.
fn requests(pid: i32, port: u16, seconds: &str) -> f64 {
    let url = format!("http://127.0.0.1:{port}/");
    let told = inside(pid, "wrk")
        .args(["-t1", "-c", CONNECTIONS, "-d", seconds, &url])
        .output()
        .expect("nsenter starts");
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(!text.contains("Non-2xx"), "{text}");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"));
    line.and_then(|number| number.trim().parse().ok())
        .unwrap_or(0.0)
}

/// How long a thousand requests take.
fn thousand(pid: i32, port: u16) -> Duration {
    Duration::from_secs_f64(1000.0 / requests(pid, port, SECONDS))
}

fn end(peer: &mut Child) {
    peer.kill().expect("our own child");
    let _status = peer.wait().expect("our own child");
}
