//! The network of preview 2: datagrams, and names.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use crate::harness::{Guest, PATIENCE, root};

/// A socket of this test's, and where it is.
fn socket(address: SocketAddr) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[test]
fn datagrams_go_both_ways() {
    if !root() {
        return;
    }
    let (socket, address) = socket(([127, 0, 0, 1], 0).into());
    let guest = Guest::named("probe-p2.wasm").args(["datagram", &address.to_string(), "a word"]);
    let running = guest.start();
    for _ in 0..2 {
        let mut said = [0; 64];
        let (length, from) = socket.recv_from(&mut said).unwrap();
        said.make_ascii_uppercase();
        socket.send_to(&said[..length], from).unwrap();
    }
    let ended = running.wait();
    let words = format!("A WORD from {address}\nAGAIN\n");
    assert_eq!((ended.code, ended.stdout), (0, words), "{}", ended.stderr);
}

#[test]
fn a_name_is_asked_of_the_server_that_resolv_conf_names() {
    if !root() {
        return;
    }
    // Port 53 is the only one that the file can mean, so the address is this test's own.
    let [.., high, low] = std::process::id().to_be_bytes();
    let (server, address) = socket((Ipv4Addr::new(127, 78, high, low), 53).into());
    let image = tempfile::tempdir().unwrap();
    std::fs::create_dir(image.path().join("etc")).unwrap();
    let text = format!("nameserver {}\n", address.ip());
    std::fs::write(image.path().join("etc/resolv.conf"), text).unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let to = format!("a.name.example:{port}");
    let guest = Guest::named("probe-p2.wasm").args(["connect", &to, "a question"]);
    let running = guest.within(image.path()).start();
    // It asks for addresses of both kinds.
    for _ in 0..2 {
        let mut asked = [0; 512];
        let (length, from) = server.recv_from(&mut asked).unwrap();
        let answer = answer(&asked[..length], &[Ipv4Addr::LOCALHOST]);
        server.send_to(&answer, from).unwrap();
    }
    let ended = running.answered_at(&listener);
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (0, "an answer\n"),
        "{}",
        ended.stderr
    );
}

/// What RFC 1035 has a name server answer: that `a.name.example` has these addresses, and nothing else.
pub(crate) fn answer(asked: &[u8], addresses: &[Ipv4Addr]) -> Vec<u8> {
    const NAME: &[u8] = b"\x01a\x04name\x07example\0";
    let (header, question) = asked.split_at(12);
    assert!(question.starts_with(NAME), "{question:?}");
    // Its type and its class follow.
    let question = &question[..NAME.len() + 4];
    let is_v4 = question[NAME.len()..].starts_with(&[0, 1]);
    let addresses = if is_v4 { addresses } else { &[] };
    let count = u8::try_from(addresses.len()).unwrap();
    let mut answer = header[..2].to_vec();
    // An answer, without an error, to one question.
    answer.extend([0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0]);
    answer.extend(question);
    for address in addresses {
        // The name that begins at byte 12, an address of the internet, for a minute, of four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}
