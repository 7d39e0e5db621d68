//! `wasi:http` servers: answers, instances, and leaving in good order.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use rustix::process::Signal;

use crate::harness::{Guest, PATIENCE, Running, eventually, free_port, root};

/// A server and its port.
pub(crate) struct Server {
    guest: Running,
    port: u16,
}

impl Server {
    pub(crate) fn start(guest: Guest) -> Self {
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let mut guest = guest.http(|http| http.address = Some(address)).start();
        eventually("the server to listen", || {
            assert!(guest.is_running());
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self { guest, port }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The status and the body of one request on a connection of its own.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = self.connect();
        ask(&mut stream, path, "connection: close\r\n");
        read(&mut stream)
    }
}

fn ask(stream: &mut TcpStream, path: &str, headers: &str) {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\n{headers}\r\n").unwrap();
}

/// Everything until the connection ends; a chunked body is put together.
fn read(stream: &mut TcpStream) -> (u16, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, mut rest) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    if !head.contains("chunked") {
        return (status, rest.to_owned());
    }
    let mut body = String::new();
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        body.push_str(&after[..length]);
        rest = after.get(length + 2..).unwrap_or_default();
    }
    (status, body)
}

fn server() -> Guest {
    Guest::named("server.wasm")
}

#[test]
fn a_handler_has_the_whole_of_its_container() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "prepared").unwrap();
    let mut server = Server::start(server().env("WHO=me"));
    assert_eq!(server.get("/"), (200, "hello\n".into()));
    assert_eq!(server.get("/env/WHO"), (200, "me".into()));
    assert_eq!(
        server.get(&format!("/file{}", file.display())),
        (200, "prepared".into())
    );
    assert_eq!(server.get("/say/something"), (200, String::new()));
    assert_eq!(server.guest.line(), "something");
}

#[test]
fn each_request_has_an_instance_of_its_own_unless_told_otherwise() {
    if !root() {
        return;
    }
    let fresh = Server::start(server());
    let counts: Vec<_> = (0..3).map(|_| fresh.get("/count").1).collect();
    assert_eq!(counts, ["1", "1", "1"]);
    let reused = Server::start(server().http(|http| http.reuse = 2));
    let counts: Vec<_> = (0..4).map(|_| reused.get("/count").1).collect();
    assert_eq!(counts, ["1", "2", "1", "2"]);
}

#[test]
fn a_trap_is_one_requests_500_and_nobody_elses() {
    if !root() {
        return;
    }
    let server = Server::start(server().http(|http| http.reuse = 9));
    assert_eq!(server.get("/trap").0, 500);
    assert_eq!(server.get("/silence").0, 500);
    assert_eq!(server.get("/count"), (200, "1".into()));
    server.guest.signal(Signal::TERM);
    let ended = server.guest.wait();
    assert_eq!(ended.code, 0);
    for words in [
        "/guest.wasm: GET /trap: wasm trap: wasm `unreachable`",
        "/guest.wasm: GET /silence: ",
    ] {
        assert!(ended.stderr.contains(words), "{words} in {}", ended.stderr);
    }
}

#[test]
fn more_requests_than_places_wait_their_turn() {
    if !root() {
        return;
    }
    let server = Server::start(server().http(|http| http.concurrency = 2));
    let mut streams: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = server.connect();
            ask(&mut stream, "/sleep/50", "connection: close\r\n");
            stream
        })
        .collect();
    for stream in &mut streams {
        assert_eq!(read(stream), (200, "awake".into()));
    }
}

#[test]
fn told_to_stop_a_server_finishes_what_it_has() {
    if !root() {
        return;
    }
    let mut server = Server::start(server());
    let mut idle = server.connect();
    ask(&mut idle, "/", "");
    idle.read_exact(&mut [0; 12]).unwrap();
    let mut busy = server.connect();
    ask(&mut busy, "/sleep/700", "");
    assert_eq!(server.guest.line(), "asleep");
    server.guest.signal(Signal::TERM);
    eventually("the listener to close", || {
        TcpStream::connect(("127.0.0.1", server.port)).err()
    });
    // The idle connection is closed while the busy one is still being served.
    idle.read_to_end(&mut Vec::new()).unwrap();
    assert!(server.guest.is_running());
    assert_eq!(read(&mut busy), (200, "awake".into()));
    let ended = server.guest.wait();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
}

#[test]
fn patience_ends() {
    if !root() {
        return;
    }
    let mut server = Server::start(server().http(|http| http.drain_ms = 100));
    let mut busy = server.connect();
    ask(&mut busy, "/sleep/60000", "");
    assert_eq!(server.guest.line(), "asleep");
    server.guest.signal(Signal::TERM);
    let ended = server.guest.wait();
    assert_eq!(ended.code, 143);
    assert!(
        ended
            .stderr
            .contains("requests were still in flight after 100ms"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_second_signal_is_obeyed_at_once() {
    if !root() {
        return;
    }
    let mut server = Server::start(server());
    let mut busy = server.connect();
    ask(&mut busy, "/sleep/60000", "");
    assert_eq!(server.guest.line(), "asleep");
    server.guest.signal(Signal::TERM);
    eventually("the listener to close", || {
        TcpStream::connect(("127.0.0.1", server.port)).err()
    });
    server.guest.signal(Signal::INT);
    assert_eq!(server.guest.wait().code, 130);
}

#[test]
fn an_address_that_cannot_be_had_is_named() {
    if !root() {
        return;
    }
    let ended = server().env("DUET_HTTP_ADDR=nowhere").run();
    assert_eq!(ended.code, 126);
    assert_eq!(
        ended.stderr,
        "/guest.wasm: DUET_HTTP_ADDR is \"nowhere\", expected an address such as 0.0.0.0:8080\n"
    );
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = server()
        .http(|http| http.address = Some(address.clone()))
        .run();
    assert_eq!(ended.code, 126);
    let start = format!(
        "/guest.wasm: cannot listen on {address} (io.containerd.duet.v1.http.listen): Address"
    );
    assert!(ended.stderr.starts_with(&start), "{}", ended.stderr);
}
