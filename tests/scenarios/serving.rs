//! `wasi:http` servers in containers: what annotations ask for holds, and the log says what happened.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use duet_tests::cri::Wish;
use duet_tests::ctr::Task;
use duet_tests::{Node, command, image, leaks, wait};

const POD: &str = "io.containerd.duet.v1.pod=serving";

/// The component of the tests in the machine's own network, where a test can listen, too.
pub(crate) struct Server<'n> {
    pub(crate) task: Task<'n>,
    port: u16,
}

// === impl Server ===

impl<'n> Server<'n> {
    /// Starts it with options of `ctr run`, at a port that nobody listens on just now.
    pub(crate) fn start(node: &'n Node, name: &str, options: &[&str]) -> Self {
        Self::at(node, free_port(), name, options)
    }

    /// As [`Server::start`], but for the host's `/etc/resolv.conf`, which `ctr --net-host` mounts over any other.
    pub(crate) fn start_without_names(node: &'n Node, name: &str, options: &[&str]) -> Self {
        let network = format!("network:/proc/{}/ns/net", std::process::id());
        Self::within(node, free_port(), name, &["--with-ns", &network], options)
    }

    /// As [`Server::start`], at this port.
    fn at(node: &'n Node, port: u16, name: &str, options: &[&str]) -> Self {
        Self::within(node, port, name, &["--net-host"], options)
    }

    fn within(node: &'n Node, port: u16, name: &str, network: &[&str], options: &[&str]) -> Self {
        let address = format!("io.containerd.duet.v1.http.listen=127.0.0.1:{port}");
        let listen = ["--annotation", &address];
        Self::told(node, port, name, &[network, &listen, options].concat())
    }

    /// With these options alone, one of which says that it is to listen at this port.
    fn told(node: &'n Node, port: u16, name: &str, options: &[&str]) -> Self {
        let task = node
            .container(name)
            .image(image::GUESTS)
            .with(options)
            .args(&["/server.wasm"])
            .start();
        wait::until("the component to listen", || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self { task, port }
    }

    /// The body of its answer.
    pub(crate) fn get(&self, path: &str) -> String {
        get(self.port, path).expect("it answers")
    }

    /// The answers to so many requests at the same time, whole; nothing of one that breaks off.
    pub(crate) fn answers(&self, count: usize, path: &str) -> Vec<String> {
        let port = self.port;
        let door = Barrier::new(count);
        let client = || {
            door.wait();
            let mut answer = String::new();
            let read = send(port, path).and_then(|mut stream| stream.read_to_string(&mut answer));
            read.map_or_else(|_| String::new(), |_| answer)
        };
        thread::scope(|clients| {
            let all: Vec<_> = (0..count).map(|_| clients.spawn(client)).collect();
            let joined = all.into_iter().map(thread::ScopedJoinHandle::join);
            joined.map(|answer| answer.expect("a client")).collect()
        })
    }

    /// Tells it to stop: what is on its stderr.
    pub(crate) fn end(self) -> String {
        self.task.kill("SIGTERM");
        let ended = self.task.wait();
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.stderr
    }
}

/// A port that nobody listens on just now, and that the kernel gives to nobody who asks for any: other tests run beside
/// this one, and it is a while until the guest listens.
fn free_port() -> u16 {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() % 1_000 * 16;
    loop {
        let number = u32::from(COUNT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(10_000 + (first + number) % 16_000).expect("below 26000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A request that is sent over a connection of its own.
fn send(port: u16, path: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(wait::patience()))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: guest\r\n\r\n").as_bytes())?;
    Ok(stream)
}

/// The body of the answer to it.
fn receive(mut stream: TcpStream) -> io::Result<String> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.0 200 ") => Ok(body.to_owned()),
        _ => Err(io::Error::other(answer)),
    }
}

fn get(port: u16, path: &str) -> io::Result<String> {
    send(port, path).and_then(receive)
}

/// Asks a path of the server, and tells what busybox's wget says.
fn ask(client: &Task<'_>, path: &str) -> (i32, String) {
    ask_at(client, "127.0.0.1", path)
}

/// As [`ask`], at this address of the pod.
fn ask_at(client: &Task<'_>, address: &str, path: &str) -> (i32, String) {
    let url = format!("http://{address}:8080{path}");
    let answer = client.exec(&[], &["/bin/wget", "-q", "-O", "-", &url]);
    (answer.code, answer.stdout + &answer.stderr)
}

#[test]
fn the_limits_of_a_server_are_those_of_its_annotations() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let mut client = node
        .container("client")
        .with(&["--annotation", POD])
        .script("echo ready; exec sleep 1000")
        .start();
    client.says("ready");
    let server = node
        .container("server")
        .image(image::GUESTS)
        .with(&[
            "--annotation",
            POD,
            "--annotation",
            "io.containerd.duet.v1.http.reuse=2",
            "--annotation",
            "io.containerd.duet.v1.http.timeout=5s",
        ])
        .args(&["/server.wasm"])
        .start();
    wait::until("the component to answer", || {
        (ask(&client, "/").0 == 0).then_some(())
    });
    let (code, words) = ask(&client, "/spin");
    assert!(code != 0 && words.contains("504"), "{code} {words}");
    let (code, words) = ask(&client, "/trap");
    assert!(code != 0 && words.contains("500"), "{code} {words}");
    assert_eq!(ask(&client, "/count"), (0, "1".to_owned()));
    assert_eq!(ask(&client, "/count"), (0, "2".to_owned()));
    assert_eq!(ask(&client, "/count"), (0, "1".to_owned()));
    assert_eq!(ask(&client, "/say/goodbye"), (0, String::new()));
    server.kill("SIGTERM");
    let ended = server.wait();
    assert_eq!(ended.code, 0);
    let line = ended.stdout.lines().find(|line| line.ends_with("goodbye"));
    assert!(line.is_some_and(|line| line.starts_with('[')), "{ended:?}");
    for words in [
        "/server.wasm: GET /spin: stopped after 5s (http.timeout)",
        "/server.wasm: GET /trap: wasm trap: wasm `unreachable`",
    ] {
        assert!(ended.stderr.contains(words), "{words}: {ended:?}");
    }
    client.end();
}

#[test]
fn what_further_annotations_ask_for_is_seen_at_work() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let volume = node.scratch().join("gate");
    fs::create_dir(&volume).expect("our own folder");
    let mount = format!(
        "type=bind,src={},dst=/gate,options=rbind:ro",
        volume.display()
    );
    let port = free_port();
    // The one setting that can be a single container's: a variable.
    let address = format!("DUET_HTTP_ADDR=127.0.0.1:{port}");
    let settings = [
        "concurrency=2",
        "queue=1",
        "idle=1s",
        "drain=1s",
        "log=plain",
    ];
    let settings = settings.map(|setting| format!("io.containerd.duet.v1.http.{setting}"));
    let mut options = vec!["--net-host", "--env", &address, "--mount", &mount];
    options.extend(
        settings
            .iter()
            .flat_map(|setting| ["--annotation", setting]),
    );
    let server = Server::told(&node, port, "server", &options);

    // `idle`: without it the connection would be kept for longer than a client here waits.
    let mut kept = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    kept.set_read_timeout(Some(wait::patience()))
        .expect("a socket");
    kept.write_all(b"GET / HTTP/1.1\r\nhost: guest\r\n\r\n")
        .expect("it reads");
    let mut answer = String::new();
    kept.read_to_string(&mut answer)
        .expect("it closes the connection");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!answer.contains("connection: close"), "{answer}");

    // `concurrency` and `log`: two are inside, and say so without a number; `queue`: of two more one waits.
    let asleep = |count: usize| {
        wait::until("the handlers to begin", || {
            let said = server.task.stdout();
            (said.lines().filter(|line| *line == "asleep").count() == count).then_some(())
        });
    };
    let path = "/wait/gate/open";
    let mut inside = vec![send(port, path).expect("it listens")];
    asleep(1);
    inside.push(send(port, path).expect("it listens"));
    asleep(2);
    let (sender, answers) = std::sync::mpsc::channel();
    for _ in 0..2 {
        let sender = sender.clone();
        let stream = send(port, "/count").expect("it listens");
        thread::spawn(move || sender.send(receive(stream)));
    }
    let next = || answers.recv_timeout(wait::patience()).expect("an answer");
    let refused = next().expect_err("there is no place").to_string();
    assert!(refused.starts_with("HTTP/1.0 503 "), "{refused}");
    fs::write(volume.join("open"), "").expect("our own folder");
    assert_eq!(next().expect("its turn has come"), "1");
    for stream in inside {
        assert_eq!(receive(stream).expect("an answer"), "awake");
    }

    // `drain`: what takes longer is given up.
    let _late = send(port, "/sleep/600000").expect("it listens");
    asleep(3);
    server.task.kill("SIGTERM");
    let ended = server.task.wait();
    assert_eq!(ended.code, 143, "{ended:?}");
    let words = "requests were still open after 1s (http.drain)";
    assert!(ended.stderr.contains(words), "{ended:?}");
}

/// To be asked for by number: `EAFNOSUPPORT` for a socket of `AF_INET6`, as from a kernel without IPv6.
const WITHOUT_IPV6: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{
    "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97,
    "args": [{"index": 0, "value": 10, "op": "SCMP_CMP_EQ"}]}]}"#;

#[test]
fn where_nobody_says_where_a_server_is_reached_by_every_address_of_the_pod() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let profile = node.scratch().join("without-ipv6.json");
    fs::write(&profile, WITHOUT_IPV6).expect("our own folder");
    let profile = profile.display().to_string();
    // Whether it is reached by IPv6, too, in a pod of its own whose network `first` has changed.
    let reached = |name: &str, first: &str, options: &[&str]| {
        let pod = format!("io.containerd.duet.v1.pod={name}");
        let mut client = node
            .container(&format!("client-{name}"))
            .with(&["--annotation", &pod])
            .script("echo ready; exec sleep 1000")
            .start();
        client.says("ready");
        let network = format!("--net=/proc/{}/ns/net", client.pid());
        let _said = command::run(Command::new("nsenter").args([&network, "sh", "-c", first])).ok();
        let server = node
            .container(name)
            .image(image::GUESTS)
            .with(&["--annotation", &pod, "--annotation", KEPT])
            .with(options)
            .args(&["/server.wasm"])
            .start();
        wait::until("the component to answer", || {
            (ask(&client, "/").0 == 0).then_some(())
        });
        let by_ipv6 = ask_at(&client, "[::1]", "/").0 == 0;
        server.kill("SIGTERM");
        let ended = server.wait();
        // Nor has the pod refused its listener.
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{name}");
        client.end();
        by_ipv6
    };
    let has_ipv6 = Path::new("/proc/net/if_inet6").exists();
    assert_eq!(reached("both", "true", &[]), has_ipv6);
    if has_ipv6 {
        let off = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6";
        assert!(!reached("off", off, &[]));
    }
    let without = ["--seccomp", "--seccomp-profile", &profile];
    assert!(!reached("none", "true", &without));
}

#[test]
fn an_annotation_that_makes_no_sense_is_refused_by_its_name() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    for (name, value, why) in [
        ("timeout", "soon", "is neither none nor a time such as 30s"),
        ("listener", "node", "is neither container nor pod"),
    ] {
        let annotation = format!("io.containerd.duet.v1.http.{name}={value}");
        let refused = node
            .container("refused")
            .image(image::GUESTS)
            .with(&["--annotation", &annotation])
            .args(&["/server.wasm"])
            .run();
        assert_ne!(refused.code, 0);
        let words = format!("annotations.io.containerd.duet.v1.http.{name}: {value}: {why}");
        assert!(refused.stderr.contains(&words), "{refused:?}");
    }
}

const KEPT: &str = "io.containerd.duet.v1.http.listener=pod";

#[test]
fn a_server_that_is_replaced_loses_nobody_who_connects() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let options = ["--annotation", POD, "--annotation", KEPT];
    let mut anchor = node
        .container("anchor")
        .with(&["--net-host", "--annotation", POD])
        .script("echo ready; exec sleep 1000")
        .start();
    anchor.says("ready");
    let first = Server::start(&node, "first", &options);
    let port = first.port;
    let start = |name: &str| {
        let who = format!("WHO={name}");
        Server::at(
            &node,
            port,
            name,
            &[&options[..], &["--env", &who]].concat(),
        )
    };
    assert_eq!(get(port, "/count").expect("it answers"), "1");

    // Killed: whoever comes before its successor waits for that.
    first.task.end();
    let waiting: Vec<_> = (0..100).map(|_| send(port, "/env/WHO")).collect();
    let second = start("second");
    for stream in waiting {
        let answer = stream.and_then(receive).expect("nobody is refused");
        assert_eq!(answer, "second");
    }

    // Told to stop while clients come without a pause and another has begun beside it.
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let ended = Ended(&over);
        let client = || {
            let mut answers = 0;
            while !over.load(Ordering::Relaxed) {
                ask_in_time(port);
                answers += 1;
            }
            answers
        };
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        let third = start("third");
        wait::until("both to answer", || {
            (ask_in_time(port) == "third").then_some(())
        });
        second.end();
        for _ in 0..100 {
            assert_eq!(get(port, "/env/WHO").expect("it answers"), "third");
        }
        drop(ended);
        for client in clients {
            assert!(client.join().expect("it lost nothing") > 0);
        }

        // And with nobody beside it.
        third.end();
    });
    let waiting: Vec<_> = (0..100).map(|_| send(port, "/env/WHO")).collect();
    let fourth = start("fourth");
    for stream in waiting {
        let answer = stream.and_then(receive).expect("nobody is refused");
        assert_eq!(answer, "fourth");
    }
    let stderr = fourth.end();
    assert_eq!(stderr, "");
    // The pod ends, and the listener with it.
    anchor.end();
    wait::until("the listener to be closed", || {
        // Who came just before was at the door, and is reset.
        let error = get(port, "/").err()?;
        (error.kind() == io::ErrorKind::ConnectionRefused).then_some(())
    });
}

/// Ends what goes on beside a test, also when the test has failed.
pub(crate) struct Ended<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Who answers a request that is sent as soon as its connection is there. One that this busy machine held up is asked
/// again: a server that leaves waits a quarter of a second for whoever has connected and says nothing.
fn ask_in_time(port: u16) -> String {
    wait::until("a request that is sent in time", || {
        let began = Instant::now();
        let sent = send(port, "/env/WHO");
        let in_time = began.elapsed() < Duration::from_millis(100);
        match sent.and_then(receive) {
            Err(error) if in_time => panic!("refused or lost: {error}"),
            answer => answer.ok(),
        }
    })
}

/// The sockets that listen in the network of a process, by number.
fn listening(pid: i32) -> Vec<String> {
    let tables = ["tcp", "tcp6"]
        .map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).expect("it runs"));
    let row = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        // TCP_LISTEN, and the inode.
        (columns[3] == "0A").then(|| format!("socket:[{}]", columns[9]))
    };
    let rows = tables.iter().flat_map(|table| table.lines().skip(1));
    rows.filter_map(row).collect()
}

/// Whether a process has this socket open; one that is gone has none.
fn has(pid: i32, socket: &str) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let mut links = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.any(|link| link.to_str() == Some(socket))
}

#[test]
fn a_listener_that_the_pod_keeps_ends_with_the_pod() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let cri = node.cri();
    let pod = cri.pod_with("kept", |config| {
        let (name, value) = KEPT.split_once('=').expect("an annotation");
        config.annotations.insert(name.to_owned(), value.to_owned());
    });
    let server = |name| Wish::wasm(name, &[]).command(&["/server.wasm"]);
    let first = pod.start(&server("first"));
    let shim = leaks::parent_of(first.pid()).expect("it runs");
    let socket = wait::until("the component to listen", || listening(first.pid()).pop());
    wait::until("the pod to keep it", || has(shim, &socket).then_some(()));
    first.stop(wait::patience());
    assert_eq!(first.wait().0, 0);
    assert!(has(shim, &socket));
    let second = pod.start(&server("second"));
    wait::until("the successor to have it", || {
        has(second.pid(), &socket).then_some(())
    });
    assert_eq!(listening(second.pid()), std::slice::from_ref(&socket));
    pod.stop();
    // Around a pause container the shim has ended by now; one that made the pod itself is there until it is removed.
    assert!(!has(shim, &socket));
    pod.remove();
}
