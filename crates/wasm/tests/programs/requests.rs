//! What a guest asks of others, and how long it waits for it.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use crate::harness::{Guest, PATIENCE, Running, eventually, root};

/// Starts the guest that waits in this way, and answers it the first part of what it is promised.
fn asked(way: &str) -> (Running, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let running = Guest::named("c-http-patience.wasm")
        .args([address.as_str(), way])
        .start();
    listener.set_nonblocking(true).unwrap();
    let (mut stream, _) = eventually(way, || listener.accept().ok());
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        heard.extend(byte);
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n";
    stream.write_all(format!("{head}one").as_bytes()).unwrap();
    (running, stream)
}

#[test]
fn a_guest_that_computes_finds_what_came_meanwhile_however_long_it_takes() {
    if !root() {
        return;
    }
    for way in ["computes", "looks", "leaves"] {
        let (mut running, mut stream) = asked(way);
        assert_eq!(running.line(), "taken", "{way}");
        // It has six times as long to compute as it would wait.
        stream.write_all(b"two").unwrap();
        let ended = running.wait();
        let seen = (ended.code, ended.stdout.as_str(), ended.stderr.as_str());
        assert_eq!(seen, (0, "well\n", ""), "{way}");
    }
}

#[test]
fn a_guest_whose_answer_does_not_go_on_is_told_so() {
    if !root() {
        return;
    }
    let (running, stream) = asked("stalled");
    let ended = running.wait();
    let seen = (ended.code, ended.stdout.as_str(), ended.stderr.as_str());
    assert_eq!(seen, (0, "well\n", ""));
    // As long as that took, somebody was there.
    drop(stream);
}
