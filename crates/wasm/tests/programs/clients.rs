//! What clients say to servers, byte by byte.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Guest, PATIENCE, eventually, root};
use crate::servers::{Gate, Server, ask, of_both_previews, read, whole};

/// How a client of HTTP/2 begins: with the preface and empty SETTINGS.
pub(crate) const SECOND: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The kinds of HTTP/2's frames (RFC 9113, 6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;

pub(crate) const END_STREAM: u8 = 1;
const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) struct Frame {
    pub(crate) kind: u8,
    flags: u8,
    pub(crate) payload: Vec<u8>,
}

// === impl Frame ===

impl Frame {
    pub(crate) fn say(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        let head = [0, 0, length, kind, flags, 0, 0, 0, stream];
        [&head, payload].concat()
    }

    /// The next of a connection that has not ended.
    pub(crate) fn read(stream: &mut TcpStream) -> Option<Self> {
        let mut head = [0; 9];
        if let Err(error) = stream.read_exact(&mut head) {
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
            return None;
        }
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]).try_into().unwrap()];
        stream.read_exact(&mut payload).unwrap();
        Some(Self {
            kind,
            flags,
            payload,
        })
    }

    /// The next of this kind; there is none of `never` before it.
    pub(crate) fn next(stream: &mut TcpStream, kind: u8, never: u8) -> Vec<u8> {
        loop {
            let frame = Self::read(stream).expect("the connection goes on");
            // What DATA has in this place says that it ends its stream.
            if frame.kind == kind && (kind == DATA || frame.flags & ACK == 0) {
                return frame.payload;
            }
            assert_ne!(frame.kind, never);
        }
    }
}

#[test]
fn a_request_is_for_somebody_or_no_business_of_the_guests() {
    if !root() {
        return;
    }
    for guest in of_both_previews() {
        // With one place the next request waits until the instance is free again.
        let server = Server::start(guest.http(|http| (http.reuse, http.concurrency) = (99, 1)));
        assert_eq!(server.get("/count"), (200, "1".into()));
        let here = format!("127.0.0.1:{}", server.port);
        for (request, authority) in [
            ("GET /authority HTTP/1.0\r\n", Some(here.as_str())),
            ("GET /authority HTTP/1.0\r\nhost: me:1\r\n", Some("me:1")),
            ("GET http://me/authority HTTP/1.0\r\n", Some("me")),
            ("GET /authority HTTP/1.1\r\nhost:\r\n", Some(&here)),
            ("GET /authority HTTP/1.1\r\nhost: [::1]\r\n", Some("[::1]")),
            (
                "GET http://me/authority HTTP/1.1\r\nhost: you\r\n",
                Some("me"),
            ),
            ("GET /authority HTTP/1.1\r\n", None),
            ("GET http://me/authority HTTP/1.1\r\n", None),
            ("GET /authority HTTP/1.1\r\nhost: ich-wär's\r\n", None),
            ("GET /authority HTTP/1.1\r\nhost: a b\r\n", None),
            ("GET /authority HTTP/1.0\r\nhost: a\r\nhost: b\r\n", None),
        ] {
            let mut stream = server.connect();
            write!(stream, "{request}connection: close\r\n\r\n").unwrap();
            let (status, text) = read(&mut stream);
            match authority {
                Some(authority) => {
                    let told = text.ends_with(&format!("Some({authority:?})"));
                    assert!(status == 200 && told, "{request:?}: {status}, {text}");
                }
                None => assert_eq!(status, 400, "{request:?}: {text}"),
            }
        }
        // GET / by http, all of it in HPACK's static table, as are the answers' 200 and 400.
        for (more, status) in [
            (b"\x41\x04me:1".as_slice(), 0x88),
            (b"\x0f\x17\x02me", 0x88),
            (b"", 0x8c),
            (b"\x0f\x17\x03a b", 0x8c),
        ] {
            let mut stream = server.connect();
            let block = [b"\x82\x84\x86", more].concat();
            let request = Frame::say(HEADERS, END_STREAM | END_HEADERS, 1, &block);
            stream.write_all(&[SECOND, &request].concat()).unwrap();
            let answer = Frame::next(&mut stream, HEADERS, GOAWAY);
            assert_eq!(answer[0], status, "{more:?}: {answer:?}");
        }
        // None of them cost the instance, or a word.
        assert_eq!(server.get("/count"), (200, "2".into()));
        assert_eq!(server.end(), (0, String::new()));
    }
}

#[test]
fn who_asks_nothing_for_long_is_told_to_go_and_nobody_else() {
    if !root() {
        return;
    }
    // So long that a busy machine lets each client begin in time.
    let idle = Duration::from_secs(4);
    let mut server = Server::start(Guest::named("server.wasm").http(|http| http.idle = idle));
    let second = |server: &Server| {
        let mut stream = server.connect();
        stream.write_all(SECOND).unwrap();
        stream
    };
    let gate = Gate::new();
    let path = gate.wait();
    let length = u8::try_from(path.len()).unwrap();
    // GET by http; the path, and an authority.
    let block = [
        b"\x82\x86\x04",
        &[length][..],
        path.as_bytes(),
        b"\x41\x02me",
    ]
    .concat();
    let mut asking = second(&server);
    let request = Frame::say(HEADERS, END_STREAM | END_HEADERS, 1, &block);
    asking.write_all(&request).unwrap();
    assert_eq!(server.guest.line(), "[1] asleep");
    std::thread::scope(|clients| {
        clients.spawn(|| {
            // Of HTTP/1.1.
            let mut stream = server.connect();
            ask(&mut stream, "/", "");
            assert!(whole(&mut stream).starts_with("HTTP/1.1 200 "));
        });
        // Nobody knows of what.
        clients.spawn(|| assert_eq!(whole(&mut server.connect()), ""));
        clients.spawn(|| {
            let mut stream = second(&server);
            // Told to go, with any stream heard that may be on its way. It says that it has read that.
            let payload = Frame::next(&mut stream, GOAWAY, DATA);
            assert_eq!(payload[..8], [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
            let ping = Frame::next(&mut stream, PING, DATA);
            stream.write_all(&Frame::say(PING, ACK, 0, &ping)).unwrap();
            let payload = Frame::next(&mut stream, GOAWAY, DATA);
            assert_eq!(payload[..8], [0; 8]);
            assert!(Frame::read(&mut stream).is_none());
        });
        clients.spawn(|| {
            // It says nothing at all.
            let mut stream = second(&server);
            Frame::next(&mut stream, GOAWAY, DATA);
            while Frame::read(&mut stream).is_some() {}
        });
        clients.spawn(|| {
            // It is alive, which is not what counts.
            let mut stream = second(&server);
            let mut heard = DATA;
            while heard != GOAWAY {
                let ping = Frame::say(PING, 0, 0, b"12345678");
                stream.write_all(&ping).unwrap();
                heard = DATA;
                while heard != PING && heard != GOAWAY {
                    heard = Frame::read(&mut stream).unwrap().kind;
                }
            }
        });
    });
    // All of them came later than this one, whose request is not answered yet.
    gate.open();
    Frame::next(&mut asking, DATA, GOAWAY);
    Frame::next(&mut asking, GOAWAY, HEADERS);
    assert_eq!(server.end(), (0, String::new()));
}

#[test]
fn whose_time_ends_before_there_is_a_place_is_told_to_come_again() {
    if !root() {
        return;
    }
    // One whose words wait in a log that nobody reads has its time like any other, and keeps its place until they
    // are written.
    let mut server = Server::start(Guest::named("server.wasm").http(|http| {
        (http.concurrency, http.plain_log) = (1, true);
        (http.timeout, http.drain) = (Some(Duration::from_secs(1)), Duration::from_secs(1));
    }));
    // Twice what the pipe takes.
    let path = format!("/say/{}", "x".repeat(8 << 10));
    let mut all: Vec<_> = (0..16).map(|_| server.connect()).collect();
    for stream in &mut all {
        ask(stream, &path, "connection: close\r\n");
    }
    let (sender, answers) = std::sync::mpsc::channel();
    for mut stream in all {
        let sender = sender.clone();
        std::thread::spawn(move || sender.send(whole(&mut stream)));
    }
    drop(sender);
    let all: Vec<_> = (0..16)
        .map(|_| answers.recv_timeout(PATIENCE).unwrap())
        .collect();
    let with = |status| all.iter().filter(move |answer| answer.starts_with(status));
    assert_ne!(with("HTTP/1.1 504 ").count(), 0, "{all:?}");
    for refused in with("HTTP/1.1 503 ") {
        assert!(refused.contains("\r\nretry-after: 1\r\n"), "{refused}");
    }
    assert_ne!(with("HTTP/1.1 503 ").count(), 0, "{all:?}");
    server.guest.signal(Signal::TERM);
    eventually("the server to end", || {
        (!server.guest.is_running()).then_some(())
    });
}
