//! What clients say to servers, byte by byte.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::harness::root;
use crate::servers::{Server, of_both_previews, read};

/// How a client of HTTP/2 begins: with the preface and empty SETTINGS.
const SECOND: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The kinds of HTTP/2's frames (RFC 9113, 6).
const HEADERS: u8 = 1;

/// A frame that ends what it begins.
fn frame(kind: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    const END_STREAM_END_HEADERS: u8 = 5;
    let length = u8::try_from(payload.len()).unwrap();
    let head = [0, 0, length, kind, END_STREAM_END_HEADERS, 0, 0, 0, stream];
    [&head, payload].concat()
}

/// The payload of the next frame of this kind.
fn next(stream: &mut TcpStream, kind: u8) -> Vec<u8> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length.try_into().unwrap()];
        stream.read_exact(&mut payload).unwrap();
        if head[3] == kind {
            return payload;
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
            let said = [SECOND, &frame(HEADERS, 1, &block)].concat();
            stream.write_all(&said).unwrap();
            let answer = next(&mut stream, HEADERS);
            assert_eq!(answer[0], status, "{more:?}: {answer:?}");
        }
        // None of them cost the instance, or a word.
        assert_eq!(server.get("/count"), (200, "2".into()));
        assert_eq!(server.end(), (0, String::new()));
    }
}
