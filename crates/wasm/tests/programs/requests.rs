//! What a guest asks of others, and how long it waits for it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::harness::{Guest, PATIENCE, Running, eventually, root};
use crate::network::answer;

/// The head of an answer of which there are two parts.
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n";

/// Accepts a guest's connection and returns it with the head of its request.
fn accepted(listener: &TcpListener, what: &str) -> (TcpStream, String) {
    listener.set_nonblocking(true).unwrap();
    let (mut stream, _) = eventually(what, || listener.accept().ok());
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    (stream, String::from_utf8(head).unwrap())
}

/// Starts the guest that waits in this way, and answers it the first part of what it is promised.
fn asked(way: &str) -> (Running, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let running = Guest::named("c-http-patience.wasm")
        .args([address.as_str(), way])
        .start();
    let (mut stream, _) = accepted(&listener, way);
    stream.write_all(&[HEAD, b"one"].concat()).unwrap();
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

#[test]
fn an_address_that_does_not_answer_holds_up_nobody_who_has_another() {
    if !root() {
        return;
    }
    // This test's own: port 53 is the only one that resolv.conf can mean.
    let [.., high, low] = std::process::id().to_be_bytes();
    let own = |net| Ipv4Addr::new(127, net, high, low);
    let server = UdpSocket::bind((own(79), 53)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let image = tempfile::tempdir().unwrap();
    std::fs::create_dir(image.path().join("etc")).unwrap();
    let text = format!("nameserver {}\n", own(79));
    std::fs::write(image.path().join("etc/resolv.conf"), text).unwrap();

    // Whatever the resolver makes of the order, in one of these the dead one is first.
    for [alive, dead] in [[80, 81], [81, 80]].map(|pair| pair.map(own)) {
        let listener = TcpListener::bind((alive, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let silent = TcpListener::bind((dead, port)).unwrap();
        let _crowd = crowd(silent.local_addr().unwrap());
        for addresses in [[alive, dead], [dead, alive]] {
            let to = format!("a.name.example:{port}");
            let guest = Guest::named("c-http-patience.wasm").args([&to, "takes"]);
            let running = guest.within(image.path()).start();
            // It asks for addresses of both kinds.
            for _ in 0..2 {
                let mut asked = [0; 512];
                let (length, from) = server.recv_from(&mut asked).unwrap();
                let answer = answer(&asked[..length], &addresses);
                server.send_to(&answer, from).unwrap();
            }
            let (mut stream, head) = accepted(&listener, "a connection");
            assert!(head.contains(&format!("host: {to}\r\n")), "{head}");
            stream.write_all(&[HEAD, b"onetwo"].concat()).unwrap();
            let ended = running.wait();
            let seen = (ended.code, ended.stdout.as_str(), ended.stderr.as_str());
            assert_eq!(seen, (0, "well\n", ""), "{addresses:?}");
        }
    }
}

/// Connections that nobody accepts, so many that the kernel answers no more.
fn crowd(address: SocketAddr) -> Vec<TcpStream> {
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
    std::iter::from_fn(connect).collect()
}

#[test]
fn a_server_is_not_told_the_user_and_password_of_an_address() {
    if !root() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let authority = format!("me:secret@{address}");
    let running = Guest::named("c-http-patience.wasm")
        .args([authority.as_str(), "takes"])
        .start();
    let (mut stream, head) = accepted(&listener, "a connection");
    assert!(head.contains(&format!("host: {address}\r\n")), "{head}");
    assert!(!head.contains("secret"), "{head}");
    stream.write_all(&[HEAD, b"onetwo"].concat()).unwrap();
    let ended = running.wait();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "well\n"));
}

#[test]
fn a_guest_without_a_descriptor_for_a_connection_is_told_so() {
    if !root() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let ended = Guest::named("c-http-patience.wasm")
        .args([address.as_str(), "floods"])
        .ulimit("ulimit -n 64")
        .run();
    let seen = (ended.code, ended.stdout.as_str(), ended.stderr.as_str());
    assert_eq!(seen, (0, "well\n", ""));
}
