//! Clients that would have more of a server than their due: its memory, or the time of its end.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::clients::{DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, SECOND};
use crate::harness::{Guest, eventually, root};
use crate::servers::{Server, ask, of_both_previews, read, whole};

const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
/// `SETTINGS_INITIAL_WINDOW_SIZE`, of 0: no answer may be sent but its head.
const NO_WINDOW: &[u8] = b"\0\x04\0\0\0\0";

/// GET by http of `/count`, for `me`.
const COUNT: &[u8] = b"\x82\x86\x04\x06/count\x41\x02me";
/// 200 in HPACK's static table.
const OK: u8 = 0x88;

/// A container's memory as its cgroup would count it, of which nothing is in use: 8 MiB.
fn of_8_mib() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("memory.max"), "8388608\n").unwrap();
    std::fs::write(directory.path().join("memory.current"), "0\n").unwrap();
    directory
}

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

/// Whether a server has ended this connection, on which it has said nothing.
fn is_cut(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.peek(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
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
        let memory = of_8_mib();
        let limit = Some(Duration::from_secs(5));
        let guest = guest
            .http(|http| http.timeout = limit)
            .memory(memory.path());
        let server = Server::start(guest);
        let mut stream = server.connect();
        let mut say = |frames: &[u8]| stream.write_all(frames).unwrap();
        say(SECOND);
        say(&Frame::say(SETTINGS, 0, 0, NO_WINDOW));
        let request =
            |number: u8| Frame::say(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, COUNT);
        (0..40).for_each(|number| say(&request(number)));
        // Of 4 MiB each answer has 128 KiB and the connection 80.
        let (mut answered, mut refused, mut ended) = (0, 0, 0);
        while ended < 40 {
            let frame = Frame::read(&mut stream).expect("the connection goes on");
            match frame.kind {
                HEADERS if frame.payload[0] == OK => answered += 1,
                HEADERS => refused += 1,
                RST_STREAM => ended += 1,
                kind => assert!(kind != DATA && kind != GOAWAY, "{kind}"),
            }
        }
        assert_eq!((answered, refused), (31, 9));
        // What they had is free again.
        stream.write_all(&request(40)).unwrap();
        assert_eq!(Frame::next(&mut stream, HEADERS, GOAWAY)[0], OK);
        drop(stream);
        // A handler of preview 3 is told, and so is the log.
        assert_eq!(server.end().0, 0);
    }
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

#[test]
fn clients_have_half_of_the_memory_and_no_more() {
    if !root() {
        return;
    }
    let memory = of_8_mib();
    let server = Server::start(Guest::named("server.wasm").memory(memory.path()));
    // Of 4 MiB each has 16 KiB and 64 for what it says: 51 have room for it.
    let begin = format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(60 << 10));
    let mut halves: Vec<_> = (0..80).map(|_| server.connect()).collect();
    eventually("all of them to be let in", || {
        (accepted(&server) == 80).then_some(())
    });
    for stream in &mut halves {
        // Some are gone before they have said all.
        stream.write_all(begin.as_bytes()).ok();
    }
    eventually("29 to be cut", || {
        let cut = halves.iter().filter(|stream| is_cut(stream)).count();
        (cut >= 29).then_some(())
    });
    drop(halves);
    assert_eq!(server.get("/count").0, 200);
    // There is room for 256 who say nothing. The others are at the door until some go.
    let silent: Vec<_> = (0..300).map(|_| server.connect()).collect();
    let mut last = server.connect();
    ask(&mut last, "/count", "connection: close\r\n");
    eventually("as many as there is room for", || {
        (accepted(&server) == 256).then_some(())
    });
    drop(silent);
    assert_eq!(read(&mut last), (200, "1".into()));
    let said = "/guest.wasm: no more connections: clients have half of the memory limit\n";
    assert_eq!(server.end(), (0, said.into()));
}
