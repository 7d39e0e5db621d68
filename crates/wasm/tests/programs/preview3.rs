//! WASI preview 3: refused unless it is asked for, and then with all that preview 2 has.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;

use duet_wasm::{Http, Preview};
use rustix::process::Signal;

use crate::harness::{Guest, compile_for, eventually, free_port, root};
use crate::servers::{Server, ask, read, whole};

fn probe<const N: usize>(args: [&str; N]) -> Guest {
    Guest::named("probe-p3.wasm").args(args).preview3()
}

fn server() -> Guest {
    Guest::named("server-p3.wasm").preview3()
}

#[test]
fn who_does_not_ask_for_it_does_not_have_it() {
    if !root() {
        return;
    }
    let refused = |text: &str| {
        let wasm = wat::parse_str(text).unwrap();
        compile_for(Preview::Two, &wasm).unwrap_err().to_string()
    };
    let ask =
        "this is preview 3, which the annotation io.containerd.duet.v1.preview3: \"true\" provides";
    let import = "wasi:random/random@0.3.0";
    let text = refused(&format!(
        r#"(component (import "{import}" (instance)) (instance $r)
            (export "wasi:cli/run@0.2.0" (instance $r)))"#,
    ));
    assert_eq!(text, format!("/guest.wasm: imports {import:?}: {ask}"));
    for export in ["wasi:cli/run@0.3.0", "wasi:http/handler@0.3.1"] {
        let text = refused(&format!(
            r#"(component (instance $i) (export "{export}" (instance $i)))"#
        ));
        assert_eq!(text, format!("/guest.wasm: exports {export:?}: {ask}"));
    }
    // No name says so, but what it is made of.
    let text = refused(
        r#"(component (type (stream u8)) (instance $r) (export "wasi:cli/run@0.2.0" (instance $r)))"#,
    );
    let words = format!("/guest.wasm: has asynchronous functions, streams or futures: {ask}");
    assert_eq!(text, words);
}

#[test]
fn a_command_sees_the_world_of_preview_2() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    let file = file.to_str().unwrap();
    let out = |guest: Guest| {
        let ended = guest.run();
        assert_eq!(
            (ended.code, ended.stderr.as_str()),
            (0, ""),
            "{}",
            ended.stdout
        );
        ended.stdout
    };
    assert_eq!(
        out(probe(["args", "one", "two words"])),
        "[\"guest\", \"args\", \"one\", \"two words\"]\n"
    );
    assert_eq!(out(probe(["env"]).env("COLOUR=blue")), "COLOUR=blue\n");
    assert_eq!(out(probe(["write", file, "written"])), "");
    assert_eq!(out(probe(["cat", file])), "written");
    assert_eq!(out(probe(["both", file])), "written\n");
    assert_eq!(
        out(probe(["ls", directory.path().to_str().unwrap()])),
        "file\n"
    );
    // Larger than any buffer on its way.
    let text = "a line of the input\n".repeat(20_000);
    let upper = out(probe(["upper"]).stdin(text.as_bytes()));
    assert!(upper == text.to_uppercase(), "{} bytes", upper.len());
    assert_eq!(out(probe(["terminal"])), "false false\n");
    assert_eq!(out(probe(["random"])), "true\n");
    assert_eq!(out(probe(["sleep", "20"])), "asleep\nawake\n");
}

#[test]
fn a_command_ends_as_it_says() {
    if !root() {
        return;
    }
    assert_eq!(probe(["exit", "0"]).run().code, 0);
    assert_eq!(probe(["exit", "255"]).run().code, 255);
    assert_eq!(probe(["fail"]).run().code, 1);
    let trapped = probe(["trap"]).run();
    assert_eq!((trapped.code, trapped.told.traps), (134, 1));
    assert!(trapped.stderr.contains("unreachable"), "{}", trapped.stderr);
    let deep = probe(["deep"]).run();
    assert_eq!(deep.code, 134, "{deep:?}");
    assert!(deep.stderr.contains("call stack exhausted"), "{deep:?}");
    for (args, word) in [
        (["sleep", "60000"].as_slice(), "asleep"),
        (&["spin"], "spinning"),
    ] {
        let mut guest = probe([]).args(args).start();
        assert_eq!(guest.line(), word);
        guest.signal(Signal::TERM);
        assert_eq!(guest.wait().code, 143);
    }
}

#[test]
fn its_memory_is_held_to_the_limit() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let limit = directory.path().join("memory.max");
    std::fs::write(&limit, "33554432\n").unwrap();
    let ended = probe(["grow"]).memory(directory.path()).run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let words = "is refused: the container's limit is 32768 KiB";
    assert!(ended.stderr.contains(words), "{}", ended.stderr);
}

#[test]
fn it_speaks_tcp_udp_and_http() {
    if !root() {
        return;
    }
    let port = free_port().to_string();
    let mut listening = probe(["echo", &port]).start();
    assert_eq!(listening.line(), "listening");
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    stream.write_all(b"to you").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "TO YOU");
    assert_eq!(listening.wait().code, 0);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let client = probe(["tcp", &port, "to me"]).start();
    let (mut stream, _) = listener.accept().unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"to me");
    stream.write_all(b"heard").unwrap();
    drop(stream);
    assert_eq!(client.wait().stdout, "heard");

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    let client = probe(["udp", &port, "to me"]).start();
    let (size, sender) = socket.recv_from(&mut heard).unwrap();
    assert_eq!(&heard[..size], b"to me");
    socket.send_to(b"heard", sender).unwrap();
    assert_eq!(client.wait().stdout, "heard");
    assert_eq!(probe(["resolve", "localhost"]).run().stdout, "true\n");

    // Its own requests are those of preview 2 as well; who answers is of preview 3.
    let server = Server::start(server());
    let authority = format!("127.0.0.1:{}", server.port);
    for path in ["/", ""] {
        let ended = probe(["get", &authority, path]).run();
        assert_eq!(ended.stdout, "200 hello\n", "{path:?}: {}", ended.stderr);
    }
    let nobody = format!("127.0.0.1:{}", free_port());
    assert_eq!(probe(["get", &nobody, "/"]).run().stdout, "no answer\n");
}

#[test]
fn a_handler_has_the_whole_of_its_container() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "prepared").unwrap();
    // With one place the next request waits until the instance is done with the last, which is after its answer.
    let one = |http: &mut Http| (http.reuse, http.concurrency) = (2, 1);
    let mut server = Server::start(server().env("WHO=me").http(one));
    let counts: Vec<_> = (0..3).map(|_| server.get("/count").1).collect();
    assert_eq!(counts, ["1", "2", "1"]);
    assert_eq!(server.get("/env/WHO"), (200, "me".into()));
    assert_eq!(
        server.get(&format!("/file{}", file.display())),
        (200, "prepared".into())
    );
    let mut stream = server.connect();
    let head = "POST /echo HTTP/1.1\r\nhost: test\r\nconnection: close\r\n";
    let body = "all of it ".repeat(20_000);
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let (status, echoed) = read(&mut stream);
    assert!(status == 200 && echoed == body, "{status} {}", echoed.len());
    // The same over HTTP/2, whose streams have windows of their own.
    let sent = directory.path().join("body");
    std::fs::write(&sent, &body).unwrap();
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--http2-prior-knowledge", "--data-binary"])
        .arg(format!("@{}", sent.display()))
        .arg(format!("http://127.0.0.1:{}/echo", server.port));
    let echoed = curl.output().unwrap().stdout;
    assert!(echoed == body.as_bytes(), "{} bytes", echoed.len());
    assert_eq!(
        server.get("/authority").1,
        "Some(Scheme::Http) Some(\"test\")"
    );
    assert_eq!(server.get("/say/something").0, 200);
    assert_eq!(server.guest.line(), "[9] something");
    // It is not over with its answer.
    assert_eq!(server.get("/after/afterwards").0, 200);
    assert_eq!(server.guest.line(), "[10] afterwards");
}

#[test]
fn an_answer_may_be_a_stream_of_the_hosts() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    // Larger than any buffer on its way.
    let text = "a line of the file\n".repeat(100_000);
    std::fs::write(&file, &text).unwrap();
    for reuse in [1, 2] {
        let server = Server::start(server().http(|http| http.reuse = reuse));
        let path = format!("/stream{}", file.display());
        for number in 1..=3 {
            let (status, body) = server.get(&path);
            assert!(
                status == 200 && body == text,
                "{status}: {} bytes, request {number}, reuse {reuse}",
                body.len()
            );
        }
        // Who has gone is not waited for.
        let mut gone = server.connect();
        ask(&mut gone, &path, "");
        gone.read_exact(&mut [0; 12]).unwrap();
        drop(gone);
        server.guest.signal(Signal::TERM);
        let ended = server.guest.wait();
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    }
}

#[test]
fn what_fails_is_one_requests_500_with_its_reason() {
    if !root() {
        return;
    }
    let server = Server::start(server().http(|http| http.reuse = 9));
    assert_eq!(server.get("/trap").0, 500);
    assert_eq!(server.get("/error").0, 500);
    assert_eq!(server.get("/count").0, 200);
    server.guest.signal(Signal::TERM);
    let ended = server.guest.wait();
    assert_eq!(
        (ended.code, ended.told.requests, ended.told.traps),
        (0, 3, 1)
    );
    for words in [
        "[1] /guest.wasm: GET /trap: wasm trap: wasm `unreachable`",
        "[2] /guest.wasm: GET /error: the guest answered with an error: ErrorCode::InternalError",
    ] {
        assert!(ended.stderr.contains(words), "{words} in {}", ended.stderr);
    }
}

#[test]
fn told_to_stop_a_server_finishes_what_it_has() {
    if !root() {
        return;
    }
    let mut server = Server::start(server());
    let mut busy = server.connect();
    ask(&mut busy, "/sleep/3000", "");
    assert!(server.guest.line().ends_with("] asleep"));
    let mut dripping = server.connect();
    ask(&mut dripping, "/drip/50", "");
    dripping.read_exact(&mut [0; 12]).unwrap();
    server.guest.signal(Signal::TERM);
    eventually("the listener to close", || {
        TcpStream::connect(("127.0.0.1", server.port)).err()
    });
    let text = whole(&mut dripping);
    assert!(text.ends_with("\r\n0\r\n\r\n"), "{text}");
    assert_eq!(read(&mut busy), (200, "awake".into()));
    let ended = server.guest.wait();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
}

#[test]
fn a_component_of_preview_2_runs_as_well_and_its_code_is_another() {
    if !root() {
        return;
    }
    let ended = Guest::named("probe-p2.wasm")
        .args(["exit", "1"])
        .preview3()
        .run();
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let server = Server::start(Guest::named("server.wasm").preview3());
    assert_eq!(server.get("/"), (200, "hello\n".into()));
    let wasm = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/guests/probe-p2.wasm"
    ));
    let wasm = wasm.unwrap();
    let keys = [Preview::Two, Preview::Three].map(|it| compile_for(it, &wasm).unwrap().key);
    assert_ne!(keys[0], keys[1]);
    // Code for those who asked does not run for one who did not.
    let guest = Guest::named("probe-p2.wasm").args(["exit", "0"]);
    let compiled = compile_for(Preview::Three, &wasm).unwrap();
    let ended = guest.start_in(&compiled).wait();
    assert_eq!(ended.code, 125);
    assert!(
        ended.stderr.contains("concurrency support"),
        "{}",
        ended.stderr
    );
}
