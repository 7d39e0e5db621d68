//! Sockets of preview 1: found open, accepted, polled, ended.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};

use rustix::process::Signal;

use crate::harness::{Guest, Running, eventually, free_port, root};

/// A guest that has one socket, and where.
fn guest(args: &[&str]) -> (Running, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let guest = Guest::of_the_scenarios("sockets.wasm").listen(address);
    (guest.args(args).typing().start(), address)
}

/// What a connection answers to `said`.
fn exchange(address: SocketAddr, said: &[u8]) -> Vec<u8> {
    let mut connection = TcpStream::connect(address).unwrap();
    let mut answer = Vec::new();
    std::thread::scope(|scope| {
        let mut reader = connection.try_clone().unwrap();
        let reader = scope.spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        connection.write_all(said).unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        answer = reader.join().unwrap();
    });
    answer
}

#[test]
fn a_guest_finds_its_socket_at_3_and_accepts() {
    if !root() {
        return;
    }
    let (mut running, address) = guest(&["echo", "3"]);
    assert_eq!(running.line(), "listening at 1");
    let megabyte: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
    for said in [b"hello".as_slice(), b"", &megabyte] {
        assert!(exchange(address, said) == said, "{} bytes", said.len());
    }
    let ended = running.wait();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
}

#[test]
fn rusts_standard_library_accepts_there_as_well() {
    if !root() {
        return;
    }
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let guest = Guest::named("probe-p1.wasm").args(["serve", "2"]);
    let mut running = guest.listen(address).start();
    assert_eq!(running.line(), "listening");
    for _ in 0..2 {
        assert_eq!(exchange(address, b"to you"), b"TO YOU");
    }
    let ended = running.wait();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
}

#[test]
fn many_connections_are_polled_at_a_time() {
    if !root() {
        return;
    }
    let (mut running, address) = guest(&["poll", "20"]);
    assert_eq!(running.line(), "listening at 1");
    // All are open before the first one says anything.
    let mut connections: Vec<_> = (0..20)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    for round in 0..3 {
        for (n, connection) in connections.iter_mut().enumerate().rev() {
            let said = format!("{round} from {n}");
            connection.write_all(said.as_bytes()).unwrap();
            let mut answer = vec![0; said.len()];
            connection.read_exact(&mut answer).unwrap();
            assert_eq!(answer, said.as_bytes());
        }
    }
    drop(connections);
    assert_eq!(running.line(), "20 accepted");
    assert_eq!(running.wait().code, 0);
}

#[test]
fn standard_input_and_a_socket_are_waited_for_together() {
    if !root() {
        return;
    }
    let (mut running, address) = guest(&["stdin"]);
    let mut stdin = running.typing();
    assert_eq!(running.line(), "waiting");
    drop(TcpStream::connect(address).unwrap());
    assert_eq!(running.line(), "connection");
    stdin.write_all(b"typed\n").unwrap();
    assert_eq!(running.line(), "line typed");
    drop(TcpStream::connect(address).unwrap());
    assert_eq!(running.line(), "connection");
    drop(stdin);
    assert_eq!(running.wait().code, 0);
}

#[test]
fn calls_that_make_no_sense_are_answered_as_a_kernel_does() {
    if !root() {
        return;
    }
    let (running, address) = guest(&["errors"]);
    let mut connection = eventually("the guest to listen", || TcpStream::connect(address).ok());
    connection.write_all(b"?").unwrap();
    let ended = running.wait();
    let expected = "accept of a connection: Invalid argument\n\
        accept of stdin: Not a socket\n\
        accept of nothing: Bad file descriptor\n\
        recv of a listener: Socket not connected\n\
        send to a listener: Socket not connected\n\
        shutdown of a listener: Socket not connected\n\
        lseek: Invalid seek\n\
        pread: Invalid seek\n\
        pwrite: Invalid seek\n\
        ftruncate: Invalid argument\n\
        fsync: Invalid argument\n\
        openat: Not a directory\n\
        send of stdout: Not a socket\n\
        fstat: fine\n\
        a socket: 1\n\
        peek: fine\n\
        recv: fine\n\
        shutdown: fine\n\
        send after it: Broken pipe\n\
        close: fine\n\
        close again: Bad file descriptor\n";
    assert_eq!((ended.code, ended.stdout.as_str()), (0, expected));
}

#[test]
fn term_ends_a_guest_that_waits_for_a_connection() {
    if !root() {
        return;
    }
    let (mut running, _) = guest(&["echo", "1"]);
    running.line();
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code, 143);
}

#[test]
fn an_address_that_is_taken_is_named() {
    if !root() {
        return;
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let guest = Guest::of_the_scenarios("sockets.wasm").listen(address);
    let ended = guest.args(["echo", "1"]).run();
    assert_eq!(ended.code, 126);
    let words = format!("/guest.wasm: cannot listen on {address}: Address already in use");
    assert!(ended.stderr.starts_with(&words), "{}", ended.stderr);
}

#[test]
fn a_guest_that_is_out_of_descriptors_is_told_so() {
    if !root() {
        return;
    }
    let (mut running, address) = guest(&["full"]);
    assert_eq!(running.line(), "listening");
    let limit = rustix::process::Rlimit {
        current: Some(32),
        maximum: Some(32),
    };
    let pid = rustix::process::Pid::from_raw(running.pid().cast_signed());
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).unwrap();
    // It is gone before the last.
    let connections: Vec<_> = (0..40)
        .map_while(|_| TcpStream::connect(address).ok())
        .collect();
    assert_eq!(running.line(), "No file descriptors available after some");
    assert_eq!(running.wait().code, 0);
    drop(connections);
}
