//! Clients that would have more of a server than their due, its memory or the time of its end; and one that only is slow.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use crate::clients::{DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, SECOND};
use rustix::process::Signal;

use crate::harness::{Guest, PATIENCE, eventually, root};
use crate::servers::{Server, ask, of_both_previews, read, whole};

const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
/// `SETTINGS_INITIAL_WINDOW_SIZE`, of 0: no answer may be sent but its head.
const NO_WINDOW: &[u8] = b"\0\x04\0\0\0\0";
/// The same, of a byte.
const ONE_BYTE: &[u8] = b"\0\x04\0\0\0\x01";

/// GET by http of `/count`, for `me`.
const COUNT: &[u8] = b"\x82\x86\x04\x06/count\x41\x02me";
/// 200 in HPACK's static table.
const OK: u8 = 0x88;

/// How many connections a server has accepted and not closed.
fn accepted(server: &Server) -> usize {
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let here = format!("0100007F:{:04X}", server.port);
    let accepted = |line: &&str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        // Those at the door, and those that nobody has any more, have no inode; nor has the listener a peer.
        fields[1] == here && fields[2] != "00000000:0000" && fields[9] != "0"
    };
    sockets.lines().filter(accepted).count()
}

#[test]
fn who_has_asked_nothing_holds_up_no_end() {
    if !root() {
        return;
    }
    for guest in of_both_previews() {
        let server = Server::start(guest.http(|http| http.drain = Duration::from_secs(20)));
        // Half of a first head, and a client of HTTP/2 that never says that it has read what it is told.
        let mut half = server.connect();
        half.write_all(b"GET / HT").unwrap();
        let mut deaf = server.connect();
        deaf.write_all(SECOND).unwrap();
        // They are heard when somebody is who came later.
        assert_eq!(server.get("/count").0, 200);
        assert_eq!(server.end(), (0, String::new()));
        assert_eq!(whole(&mut half), "");
        Frame::next(&mut deaf, GOAWAY, DATA);
    }
}

#[test]
fn who_does_not_take_an_answer_over_http_2_loses_it_when_its_time_is_over() {
    if !root() {
        return;
    }
    for guest in of_both_previews() {
        let limit = Some(Duration::from_secs(5));
        let server = Server::start(guest.http(|http| http.timeout = limit));
        let mut stream = server.connect();
        let mut say = |frames: &[u8]| stream.write_all(frames).unwrap();
        say(SECOND);
        say(&Frame::say(SETTINGS, 0, 0, NO_WINDOW));
        let request =
            |number: u8| Frame::say(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, COUNT);
        (0..40).for_each(|number| say(&request(number)));
        let (mut answered, mut ended) = (0, 0);
        while ended < 40 {
            let frame = Frame::read(&mut stream).expect("the connection goes on");
            match frame.kind {
                HEADERS => answered += u32::from(frame.payload[0] == OK),
                RST_STREAM => ended += 1,
                kind => assert!(kind != DATA && kind != GOAWAY, "{kind}"),
            }
        }
        assert_eq!(answered, 40);
        stream.write_all(&request(40)).unwrap();
        assert_eq!(Frame::next(&mut stream, HEADERS, GOAWAY)[0], OK);
        drop(stream);
        // A handler of preview 3 is told, and so is the log.
        assert_eq!(server.end().0, 0);
    }
}

#[test]
fn who_takes_an_answer_over_http_2_slowly_has_all_of_it_from_a_server_that_leaves() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "x".repeat(1000)).unwrap();
    let path = format!("/file{}", file.display());
    let length = u8::try_from(path.len()).unwrap();
    let request = [
        b"\x82\x86\x04",
        &[length][..],
        path.as_bytes(),
        b"\x41\x02me",
    ]
    .concat();

    let server = Server::start(Guest::named("server.wasm"));
    let mut stream = server.connect();
    let mut say = |frame: &[u8]| stream.write_all(frame).unwrap();
    say(SECOND);
    say(&Frame::say(SETTINGS, 0, 0, ONE_BYTE));
    say(&Frame::say(HEADERS, END_STREAM | END_HEADERS, 1, &request));
    assert_eq!(Frame::next(&mut stream, HEADERS, GOAWAY)[0], OK);
    // The guest is done by now, or soon: the rest waits for room in the window.
    assert_eq!(Frame::next(&mut stream, DATA, GOAWAY), b"x");
    server.guest.signal(Signal::TERM);
    Frame::next(&mut stream, GOAWAY, DATA);
    Frame::next(&mut stream, PING, DATA);
    // Longer than who has nothing to take is waited for.
    let long = Some(Duration::from_millis(1500));
    stream.set_read_timeout(long).unwrap();
    assert!(stream.peek(&mut [0]).is_err(), "it goes on");
    let rest = 999_u32.to_be_bytes();
    let update = Frame::say(WINDOW_UPDATE, 0, 1, &rest);
    stream.write_all(&update).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut taken = 0;
    while taken < 999 {
        taken += Frame::next(&mut stream, DATA, RST_STREAM).len();
    }
    let ended = server.guest.wait();
    assert_eq!((ended.code, ended.stderr), (0, String::new()));
}

#[test]
fn who_does_not_read_an_answer_over_http_1_loses_its_connection_when_its_time_is_over() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    // More than two sockets take.
    std::fs::write(&file, "x".repeat(24 << 20)).unwrap();
    let limit = Some(Duration::from_secs(5));
    let guest = Guest::named("server.wasm").http(|http| http.timeout = limit);
    let server = Server::start(guest);
    let mut stream = server.connect();
    ask(&mut stream, &format!("/file{}", file.display()), "");
    stream.read_exact(&mut [0; 12]).unwrap();
    eventually("the connection to end", || {
        (accepted(&server) == 0).then_some(())
    });
    assert_eq!(server.get("/count"), (200, "1".into()));
}

#[test]
fn a_head_has_64_kib() {
    if !root() {
        return;
    }
    let server = Server::start(Guest::named("server.wasm"));
    let begin = "GET /count HTTP/1.1\r\nhost: me\r\nconnection: close\r\nx: ";
    let fill = "a".repeat((64 << 10) - begin.len() - "\r\n\r\n".len());
    for (end, status) in [("\r\n\r\n", 200), ("aaaa", 431)] {
        let mut stream = server.connect();
        stream
            .write_all(format!("{begin}{fill}{end}").as_bytes())
            .unwrap();
        assert_eq!(read(&mut stream).0, status);
    }
    assert_eq!(server.end(), (0, String::new()));
}
