//! What a native container's clients notice of the guests beside it: the time of a request while a module of the same
//! pod is compiled, a guest computes, and a guest grows.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use duet_tests::bench::{self, Subject, Table};
use duet_tests::{Node, command, machine, wait};

use crate::Stage;
use crate::serving::inside;
use crate::specs::{Specs, Stop};
use crate::stops::is_there;

/// Requests of one run, one after the other; fewer where what happens beside them is over before.
const REQUESTS: usize = 100;

/// Where busybox's httpd is the neighbour.
const ADDRESS: &str = "127.0.0.1:8081";

/// What happens in the pod meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Compiled,
    Spins,
    Grows,
    Nothing,
}

/// The question, and which of a run's times answers it, of 100.
const QUESTIONS: [(&str, usize); 2] = [
    ("A request to a native neighbour, the median of a run", 50),
    ("The same, the slowest but one of a hundred", 99),
];

/// Asks a native container of a pod, again and again.
pub(crate) fn measure(node: &Node, rounds: usize) -> [Table; 2] {
    let program = machine::binary("containerd-shim-duet-v1");
    let stage = Stage::new(node, "duet-neighbours", &program);
    let (id, bundle) = stage.bundle(Specs::native_server);
    let pid = stage.shim.create(&id, &bundle.dir).expect("Create");
    // Nobody else has made the pod a network.
    let mut up = inside(pid.cast_signed(), "ip");
    let _said = command::run(up.args(["link", "set", "lo", "up"])).ok();
    stage.shim.begin(&id).expect("Start");
    wait::until("the neighbour to answer", || {
        let times = Client::start(pid).times();
        (times.len() == REQUESTS).then_some(())
    });
    let tables = QUESTIONS.map(|(question, part)| {
        let all = [
            Beside::Compiled,
            Beside::Spins,
            Beside::Grows,
            Beside::Nothing,
        ];
        let subject = |beside: Beside| -> Subject<'_> {
            let stage = &stage;
            let run = move || {
                let mut times = beside.run(stage, pid);
                times.sort_unstable();
                times[(times.len() * part / 100).min(times.len() - 1)]
            };
            (beside.name(), Box::new(run))
        };
        bench::interleaved(question, rounds, all.map(subject).into())
    });
    stage.end((id, bundle));
    stage.close();
    tables
}

// === impl Beside ===

impl Beside {
    fn name(self) -> &'static str {
        match self {
            Self::Compiled => "a module is compiled",
            Self::Spins => "a guest computes",
            Self::Grows => "a guest grows",
            Self::Nothing => "nothing beside it",
        }
    }

    /// The times of the requests while it lasts.
    fn run(self, stage: &Stage, neighbour: u32) -> Vec<Duration> {
        let (id, bundle) = match self {
            Self::Nothing => return Client::start(neighbour).times(),
            Self::Compiled => stage.bundle(Specs::never_compiled),
            Self::Spins => stage.bundle(|specs, id| specs.to_be_stopped(id, Stop::Spinning)),
            Self::Grows => stage.bundle(Specs::that_grows),
        };
        // A module is compiled by Create; the others come to what they do after Start.
        let early = (self == Self::Compiled).then(|| Client::start(neighbour));
        let pid = stage.shim.create(&id, &bundle.dir).expect("Create");
        let times = early.map(Client::stop);
        stage.shim.begin(&id).expect("Start");
        let times = times.unwrap_or_else(|| {
            wait::until("the guest to come to what it does", || {
                is_there(pid, Stop::Spinning).then_some(())
            });
            Client::start(neighbour).times()
        });
        stage.end((id, bundle));
        times
    }
}

/// One that asks, in the network of a process.
struct Client(Child);

// === impl Client ===

impl Client {
    /// Returns when it has had its first answer.
    fn start(pid: u32) -> Self {
        let own = std::env::current_exe().expect("procfs is mounted");
        let mut client = inside(pid.cast_signed(), own.to_str().expect("a path in UTF-8"));
        let client = client
            .arg("requests")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut client = client.spawn().expect("nsenter starts");
        let said = client.stdout.as_mut().expect("a pipe");
        let _first = said.read(&mut [0; 1]).expect("a pipe");
        Self(client)
    }

    /// The times of as many as it makes.
    fn times(mut self) -> Vec<Duration> {
        let mut said = String::new();
        let stdout = self.0.stdout.as_mut().expect("a pipe");
        stdout.read_to_string(&mut said).expect("a pipe");
        let _status = self.0.wait().expect("our own child");
        let micros = said.lines().map(|line| line.parse().expect("a number"));
        micros.map(Duration::from_micros).collect()
    }

    /// The times of those that it has made until now.
    fn stop(mut self) -> Vec<Duration> {
        drop(self.0.stdin.take());
        self.times()
    }
}

/// The client: says a letter when it has had an answer, and the times of those that follow, in microseconds. It ends
/// after [`REQUESTS`] of them or, with one at least, when its standard input does.
pub(crate) fn ask() {
    if request().is_err() {
        return;
    }
    print!(".");
    std::io::stdout().flush().expect("a pipe");
    let (sender, over) = mpsc::channel::<()>();
    thread::spawn(move || {
        let _end = std::io::stdin().read(&mut [0; 1]);
        drop(sender);
    });
    let mut times = Vec::new();
    while times.len() < REQUESTS {
        times.push(request().expect("it answers").as_micros());
        if over.try_recv() == Err(TryRecvError::Disconnected) {
            break;
        }
    }
    for time in times {
        println!("{time}");
    }
}

/// One request over a connection of its own.
fn request() -> std::io::Result<Duration> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(ADDRESS)?;
    stream.write_all(b"GET /passwd HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.") && answer.contains(" 200 ") {
        Ok(began.elapsed())
    } else {
        Err(std::io::Error::other(answer))
    }
}
