//! `wasi:http` servers: answers, instances, and leaving in good order.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use duet_wasm::Http;
use rustix::process::{Resource, Rlimit, Signal, setrlimit};

use crate::harness::{Guest, PATIENCE, Running, eventually, free_port, root};

/// A server and its port.
pub(crate) struct Server {
    pub(crate) guest: Running,
    pub(crate) port: u16,
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

    /// Tells it to stop: its exit code, and what is on its stderr.
    pub(crate) fn end(self) -> (i32, String) {
        self.guest.signal(Signal::TERM);
        let ended = self.guest.wait();
        (ended.code, ended.stderr)
    }

    pub(crate) fn connect(&self) -> TcpStream {
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

pub(crate) fn ask(stream: &mut TcpStream, path: &str, headers: &str) {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\n{headers}\r\n").unwrap();
}

/// Everything until the connection ends.
pub(crate) fn whole(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// The same; a chunked body is put together.
pub(crate) fn read(stream: &mut TcpStream) -> (u16, String) {
    let text = whole(stream);
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

/// What a handler waits for until the test lets it go on.
pub(crate) struct Gate(tempfile::TempDir);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The path of a request whose handler waits.
    pub(crate) fn wait(&self) -> String {
        format!("/wait{}/open", self.0.path().display())
    }

    pub(crate) fn open(&self) {
        std::fs::write(self.0.path().join("open"), "").unwrap();
    }
}

fn server() -> Guest {
    Guest::named("server.wasm")
}

/// The same for either preview, for what must hold for both.
pub(crate) fn of_both_previews() -> [Guest; 2] {
    [server(), Guest::named("server-p3.wasm").preview3()]
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
    assert_eq!(server.guest.line(), "[4] something");
}

#[test]
fn what_handlers_print_has_the_number_of_the_request_in_whole_lines() {
    if !root() {
        return;
    }
    let ends = |plain| {
        let mut server = Server::start(server().http(|http| http.plain_log = plain));
        assert_eq!(server.get("/complain/much").0, 200);
        assert_eq!(server.get("/trap").0, 500);
        assert_eq!(server.get("/say/last").0, 200);
        let said = server.guest.line();
        server.guest.signal(Signal::TERM);
        (said, server.guest.wait().stderr)
    };
    let (said, stderr) = ends(false);
    assert_eq!(said, "[3] last");
    let (mine, trap) = stderr.split_at("[1] much indeed\n[1] and without an end\n".len());
    assert_eq!(mine, "[1] much indeed\n[1] and without an end\n");
    assert!(
        trap.contains("[2] /guest.wasm: GET /trap: wasm trap: wasm `unreachable`"),
        "{trap}"
    );
    assert!(trap.lines().all(|line| line.starts_with("[2] ")), "{trap}");
    let (said, stderr) = ends(true);
    assert_eq!(said, "last");
    assert!(
        stderr.starts_with("much indeed\nand without an end"),
        "{stderr}"
    );
    assert!(!stderr.contains("[2]"), "{stderr}");
}

#[test]
fn a_line_is_cut_where_container_runtimes_cut_theirs() {
    if !root() {
        return;
    }
    let mut server = Server::start(server());
    let whole = "x".repeat(16 << 10);
    for (number, more, parts) in [(1, "", 1), (2, "yz", 2)] {
        assert_eq!(server.get(&format!("/say/{whole}{more}")).0, 200);
        for part in [whole.as_str(), more].iter().take(parts) {
            assert!(server.guest.line() == format!("[{number}] {part}"));
        }
    }
}

#[test]
fn http_2_without_tls_is_spoken_on_the_same_port() {
    if !root() {
        return;
    }
    for guest in of_both_previews() {
        let server = Server::start(guest);
        let curl = |version: &str, path: &str| {
            let mut curl = Command::new("curl");
            let url = format!("http://127.0.0.1:{}/{path}", server.port);
            let told = curl.args(["-sS", version, "-w", " %{http_version}", &url]);
            String::from_utf8(told.output().unwrap().stdout).unwrap()
        };
        assert_eq!(curl("--http2-prior-knowledge", "count"), "1 2");
        assert_eq!(curl("--http2-prior-knowledge", "drip/3"), "dripdripdrip 2");
        assert_eq!(curl("--http1.1", "count"), "1 1.1");
    }
}

#[test]
fn those_who_find_no_room_to_wait_are_told_to_come_again() {
    if !root() {
        return;
    }
    let guest = server().http(|http| (http.concurrency, http.queue) = (1, 1));
    let mut server = Server::start(guest);
    let mut inside = server.connect();
    let gate = Gate::new();
    ask(&mut inside, &gate.wait(), "connection: close\r\n");
    assert_eq!(server.guest.line(), "[1] asleep");
    // One of two finds room; which, only the server knows.
    let (sender, answers) = std::sync::mpsc::channel();
    for _ in 0..2 {
        let mut stream = server.connect();
        ask(&mut stream, "/count", "connection: close\r\n");
        let sender = sender.clone();
        std::thread::spawn(move || sender.send(whole(&mut stream)));
    }
    let refused = answers.recv_timeout(PATIENCE).unwrap();
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("\r\nretry-after: 1\r\n"), "{refused}");
    gate.open();
    let answered = answers.recv_timeout(PATIENCE).unwrap();
    assert!(answered.starts_with("HTTP/1.1 200 "), "{answered}");
    assert_eq!(read(&mut inside), (200, "awake".into()));
}

#[test]
fn a_request_has_its_time_and_no_more() {
    if !root() {
        return;
    }
    for guest in of_both_previews() {
        let limit = Some(Duration::from_secs(5));
        let server = Server::start(guest.http(|http| http.timeout = limit));
        let (mut late, mut endless) = (server.connect(), server.connect());
        ask(&mut late, "/sleep/60000", "connection: close\r\n");
        ask(&mut endless, "/drip/x", "");
        assert_eq!(server.get("/drip/2"), (200, "dripdrip".into()));
        assert_eq!(read(&mut late).0, 504);
        // What had begun cannot be taken back, but its end is missing.
        let text = whole(&mut endless);
        assert!(
            text.starts_with("HTTP/1.1 200 ") && text.contains("drip"),
            "{text}"
        );
        assert!(!text.contains("\r\n0\r\n"), "{text}");
        server.guest.signal(Signal::TERM);
        let stderr = server.guest.wait().stderr;
        let ended = |path| format!("/guest.wasm: GET {path}: stopped after 5s (http.timeout)");
        assert!(stderr.contains(&ended("/sleep/60000")), "{stderr}");
        assert!(stderr.contains(&ended("/drip/x")), "{stderr}");
    }
}

#[test]
fn a_file_that_takes_for_ever_keeps_neither_the_other_requests_nor_a_signal() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success(), "{made}");
    let path = format!("/file{}", fifo.display());
    for guest in [server(), Guest::named("server-p3.wasm").preview3()] {
        let set = |http: &mut Http| {
            http.timeout = Some(Duration::from_secs(5));
            http.drain = Duration::from_secs(1);
        };
        let server = Server::start(guest.http(set));
        let ask_all = || {
            // More than there are threads to serve.
            let mut all: Vec<_> = (0..12).map(|_| server.connect()).collect();
            for stream in &mut all {
                ask(stream, &path, "connection: close\r\n");
            }
            all
        };
        let mut waiting = ask_all();
        assert_eq!(server.get("/"), (200, "hello\n".into()));
        for stream in &mut waiting {
            assert_eq!(read(stream).0, 504);
        }
        let _waiting = ask_all();
        assert_eq!(server.get("/env/NOTHING"), (200, String::new()));
        assert_eq!(server.end().0, 143);
    }
}

#[test]
fn a_server_ends_when_told_although_nobody_reads_what_it_says() {
    if !root() {
        return;
    }
    // The guest on stdout; and on stderr the server about a guest that is gone, and no other is inside.
    for (plain, what, concurrency) in [
        (false, "say", 16),
        (true, "say", 16),
        (false, "silence", 1),
        (true, "trap", 1),
    ] {
        let set = |http: &mut Http| {
            (http.plain_log, http.concurrency) = (plain, concurrency);
            http.drain = Duration::from_secs(1);
        };
        let mut server = Server::start(server().http(set));
        // Twice what the pipe takes.
        let path = format!("/{what}/{}", "x".repeat(8 << 10));
        let mut all: Vec<_> = (0..16).map(|_| server.connect()).collect();
        for stream in &mut all {
            ask(stream, &path, "connection: close\r\n");
        }
        server.guest.signal(Signal::TERM);
        eventually("the server to end", || {
            (!server.guest.is_running()).then_some(())
        });
        assert_eq!(server.guest.wait().code, 143);
    }
}

#[test]
fn those_who_spin_are_ended_and_nobody_waits_for_them() {
    if !root() {
        return;
    }
    for guest in of_both_previews() {
        let limit = Some(Duration::from_secs(5));
        let server = Server::start(guest.http(|http| http.timeout = limit));
        // More than there are threads to serve.
        let mut spinning: Vec<_> = (0..9)
            .map(|_| {
                let mut stream = server.connect();
                ask(&mut stream, "/spin", "connection: close\r\n");
                stream
            })
            .collect();
        assert_eq!(server.get("/count"), (200, "1".into()));
        for stream in &mut spinning {
            assert_eq!(read(stream).0, 504);
        }
        assert_eq!(server.get("/count"), (200, "1".into()));
    }
}

#[test]
fn no_request_that_was_sent_is_lost_when_the_server_leaves() {
    if !root() {
        return;
    }
    const EACH: usize = 5_000;
    const PLACES: u32 = 8;
    // For our own ends of the connections; the server has the same limit, and raises its own.
    let files = Rlimit {
        current: Some(12_000),
        maximum: Some(20_000),
    };
    setrlimit(Resource::Nofile, files).unwrap();
    let mut server = Server::start(server().http(|http| {
        (http.concurrency, http.queue) = (PLACES, 20_000);
        http.drain = Duration::from_secs(600);
    }));
    let answer = |text: &str| text.starts_with("HTTP/1.1 200 ") && text.ends_with("1\r\n0\r\n\r\n");
    // A connection is kept by each of these, and they go on asking.
    let mut kept: Vec<_> = (0..EACH).map(|_| server.connect()).collect();
    for stream in &mut kept {
        ask(stream, "/count", "");
        let mut text = String::new();
        let mut bytes = [0; 256];
        while !answer(&text) {
            let read = stream.read(&mut bytes).unwrap();
            assert_ne!(read, 0, "{text}");
            text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
        }
    }
    // All places are taken: whatever is sent from now on is not answered before TERM.
    let gate = Gate::new();
    let mut inside: Vec<_> = (0..PLACES).map(|_| server.connect()).collect();
    for stream in &mut inside {
        ask(stream, &gate.wait(), "");
        assert!(server.guest.line().ends_with("asleep"));
    }
    // These are at the door, some of them still outside.
    let mut fresh: Vec<_> = (0..EACH).map(|_| server.connect()).collect();
    for stream in kept.iter_mut().chain(&mut fresh) {
        ask(stream, "/count", "");
    }
    server.guest.signal(Signal::TERM);
    eventually("the listener to close", || {
        TcpStream::connect(("127.0.0.1", server.port)).err()
    });
    gate.open();
    for stream in kept.iter_mut().chain(&mut fresh) {
        let text = whole(stream);
        assert!(answer(&text), "{text}");
    }
    for mut stream in inside {
        let text = whole(&mut stream);
        assert!(
            text.contains("awake") && text.contains("\r\nconnection: close\r\n"),
            "{text}"
        );
    }
    assert_eq!(server.guest.wait().code, 0);
}

#[test]
fn a_client_of_http_2_that_never_pauses_is_told_to_go() {
    if !root() {
        return;
    }
    for guest in of_both_previews() {
        let server = Server::start(guest.http(|http| http.drain = Duration::from_secs(60)));
        // More requests than it could ever make in that time, one after the other over one connection.
        let url = format!("http://127.0.0.1:{}/count?[1-9999999]", server.port);
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "--http2-prior-knowledge",
            "--fail-early",
            "-o",
            "/dev/null",
        ])
        .args(["-w", "%{http_code}\n", &url])
        .stdout(Stdio::piped());
        let mut curl = curl.spawn().unwrap();
        let mut codes = BufReader::new(curl.stdout.take().unwrap()).lines();
        assert_eq!(codes.next().unwrap().unwrap(), "200");
        server.guest.signal(Signal::TERM);
        let codes: Vec<_> = codes.map(Result::unwrap).collect();
        curl.wait().unwrap();
        // The last one found nobody to connect to.
        let (last, answered) = codes.split_last().unwrap();
        assert_eq!(last, "000");
        assert!(answered.iter().all(|code| code == "200"), "{answered:?}");
        assert_eq!(server.guest.wait().code, 0);
    }
}

#[test]
fn each_request_has_an_instance_of_its_own_unless_told_otherwise() {
    if !root() {
        return;
    }
    let fresh = Server::start(server());
    let counts: Vec<_> = (0..3).map(|_| fresh.get("/count").1).collect();
    assert_eq!(counts, ["1", "1", "1"]);
    // With one place the next request waits until the instance is done with the last, which is after its answer.
    let guest = server().http(|http| (http.reuse, http.concurrency) = (2, 1));
    let reused = Server::start(guest);
    let counts: Vec<_> = (0..4).map(|_| reused.get("/count").1).collect();
    assert_eq!(counts, ["1", "2", "1", "2"]);
}

#[test]
fn a_trap_is_one_requests_500_and_nobody_elses() {
    if !root() {
        return;
    }
    for (guest, silent) in of_both_previews().into_iter().zip([true, false]) {
        let server = Server::start(guest.http(|http| http.reuse = 9));
        assert_eq!(server.get("/trap").0, 500);
        assert_eq!(server.get("/deep").0, 500);
        // A handler of preview 3 returns its answer, or does not return.
        let silence = silent.then(|| server.get("/silence").0);
        assert_eq!(server.get("/count"), (200, "1".into()));
        let (code, stderr) = server.end();
        assert_eq!(code, 0);
        for words in [
            "/guest.wasm: GET /trap: wasm trap: wasm `unreachable`",
            "/guest.wasm: GET /deep: wasm trap: call stack exhausted",
        ] {
            assert!(stderr.contains(words), "{words} in {stderr}");
        }
        let words = "/guest.wasm: GET /silence: the guest returned without an answer";
        assert_eq!(silence, silent.then_some(500));
        assert_eq!(stderr.contains(words), silent, "{stderr}");
    }
}

#[test]
fn more_requests_than_places_wait_their_turn() {
    if !root() {
        return;
    }
    for guest in of_both_previews() {
        let server = Server::start(guest.http(|http| http.concurrency = 2));
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
}

#[test]
fn told_to_stop_a_server_finishes_what_it_has() {
    if !root() {
        return;
    }
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let guest = server().http(|http| http.drain = Duration::from_secs(60));
        let mut server = Server::start(guest);
        let mut idle = server.connect();
        ask(&mut idle, "/", "");
        idle.read_exact(&mut [0; 12]).unwrap();
        let mut busy = server.connect();
        let gate = Gate::new();
        ask(&mut busy, &gate.wait(), "");
        assert!(server.guest.line().ends_with("] asleep"));
        server.guest.signal(signal);
        eventually("the listener to close", || {
            TcpStream::connect(("127.0.0.1", server.port)).err()
        });
        // The idle connection is closed while the busy one is still being served.
        idle.read_to_end(&mut Vec::new()).unwrap();
        assert!(server.guest.is_running());
        gate.open();
        assert_eq!(read(&mut busy), (200, "awake".into()));
        let ended = server.guest.wait();
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{signal:?}");
    }
}

#[test]
fn patience_ends() {
    if !root() {
        return;
    }
    let mut server = Server::start(server().http(|http| http.drain = Duration::from_millis(100)));
    let mut busy = server.connect();
    ask(&mut busy, "/sleep/60000", "");
    assert!(server.guest.line().ends_with("] asleep"));
    server.guest.signal(Signal::TERM);
    let ended = server.guest.wait();
    assert_eq!(ended.code, 143);
    assert!(
        ended
            .stderr
            .contains("requests were still open after 100ms (http.drain)"),
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
    assert!(server.guest.line().ends_with("] asleep"));
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

#[test]
fn requests_and_traps_are_told() {
    if !root() {
        return;
    }
    let server = Server::start(server());
    for (path, status) in [("/", 200), ("/trap", 500), ("/env/HOME", 200)] {
        assert_eq!(server.get(path).0, status);
    }
    server.guest.signal(Signal::TERM);
    let told = server.guest.wait().told;
    assert_eq!((told.requests, told.traps), (3, 1));
    assert!(told.trap.unwrap().contains("unreachable"));
    assert!(told.memory >= 1 << 20, "{}", told.memory);
}
