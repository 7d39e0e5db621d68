//! `make bench`: what a container's life costs under Duet, and beside it under runc.
//!
//! Nine questions: how long create, start, wait and delete take at the Task API of a
//! running shim, and what a large module adds to it; how long an exec takes there; how long `ctr run --rm` takes; what a pod of the shim's own
//! asks of it beside one around a pause container, in time and in memory; how much memory an idle wasm container
//! adds to its pod; how long it takes from TERM to an end, and whether a request that is in flight then is lost. Nothing here passes or fails: the promises are in SPECIFICATION.md.
//!
//! `duet-bench [ROUNDS] [FILE.json]`; 40 rounds without, and with 0 only the memory. `DUET_BENCH_BEFORE` may
//! name a folder with Duet's programs as they were: they are asked the first three questions too.
//! `duet-bench serving WASMTIME [ROUNDS]` asks servers instead (`make bench-serving`).
//! `duet-bench python [ROUNDS]` asks the CPython that `make others` has fetched: what its second start and fifty of it cost.
//! `duet-bench lives [ROUNDS]` asks the Task API alone: a container's life, and an exec's.
//! `duet-bench stops [ROUNDS]` asks the last two questions alone, and `duet-bench pods [ROUNDS]` what a pod
//! takes to begin.
//! `duet-bench neighbours [ROUNDS]` asks a native container while guests of its pod are compiled, compute and grow.
#![forbid(unsafe_code)]

mod memory;
mod neighbours;
mod sandboxes;
mod serving;
mod specs;
mod stops;

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use duet_tests::bench::{self, Subject, Table};
use duet_tests::machine::{self, Runtime};
use duet_tests::shim::{Bundle, Shim};
use duet_tests::{Node, image};
use serde_json::{Value, json};

use specs::{Module, Specs};

/// How many rounds there are if nobody says otherwise.
const ROUNDS: usize = 40;

fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    match arguments.peek().map(String::as_str) {
        Some("flight") => return serving::fly(arguments.skip(1)),
        Some("requests") => return neighbours::ask(),
        Some("serving") => return serve(arguments.skip(1)),
        Some("lives") => return lives(arguments.nth(1)),
        Some("stops") => return stops(arguments.nth(1)),
        Some("pods") => return pods(arguments.nth(1)),
        Some("neighbours") => return neighbours(arguments.nth(1)),
        Some("python") => return python(arguments.nth(1)),
        Some(_) | None => {}
    }
    let rounds = arguments
        .next()
        .map_or(ROUNDS, |word| word.parse().expect("a number of rounds"));
    let file = arguments.next();
    let node = Node::enter_with_duet().expect("root, containerd and Duet's binaries");

    let machine = describe();
    println!("{}", machine["text"].as_str().unwrap_or_default());
    let mut tables = Vec::new();
    if rounds > 0 {
        for measure in [
            task_api,
            large_modules,
            exec,
            ctr_run,
            sandboxes::begin,
            stops::measure,
        ] {
            let table = measure(&node, rounds);
            println!("\n{table}");
            tables.push(table.json());
        }
    }
    let memory = memory::idle_wasm(&node);
    println!("\n{memory}");
    let pods = sandboxes::memory(&node);
    println!("{}", sandboxes::Cost::heading());
    for pod in &pods {
        println!("{pod}");
    }
    in_flight(&node);
    if let Some(file) = file {
        let report = json!({
            "machine": machine,
            "tables": tables,
            "memory": memory.json(),
            "pods": pods.iter().map(sandboxes::Cost::json).collect::<Vec<_>>(),
        });
        fs::write(&file, format!("{report:#}\n")).expect("the file for the report is writable");
    }
}

/// The Task API alone.
fn lives(rounds: Option<String>) {
    let rounds = rounds.map_or(ROUNDS, |word| word.parse().expect("a number of rounds"));
    let node = Node::enter_with_duet().expect("root, containerd and Duet's binaries");
    println!("{}", describe()["text"].as_str().unwrap_or_default());
    for measure in [task_api, exec] {
        println!("\n{}", measure(&node, rounds));
    }
}

/// TERM alone.
fn stops(rounds: Option<String>) {
    let rounds = rounds.map_or(ROUNDS, |word| word.parse().expect("a number of rounds"));
    let node = Node::enter_with_duet().expect("root, containerd and Duet's binaries");
    println!("{}", describe()["text"].as_str().unwrap_or_default());
    println!("\n{}", stops::measure(&node, rounds));
    in_flight(&node);
}

/// A pod's beginning alone.
fn pods(rounds: Option<String>) {
    let rounds = rounds.map_or(ROUNDS, |word| word.parse().expect("a number of rounds"));
    let node = Node::enter_with_duet().expect("root, containerd and Duet's binaries");
    println!("{}", describe()["text"].as_str().unwrap_or_default());
    println!("\n{}", sandboxes::begin(&node, rounds));
}

/// What a native container notices of the guests of its pod.
fn neighbours(rounds: Option<String>) {
    let rounds = rounds.map_or(ROUNDS, |word| word.parse().expect("a number of rounds"));
    let node = Node::enter_with_duet().expect("root, containerd and Duet's binaries");
    println!("{}", describe()["text"].as_str().unwrap_or_default());
    for table in neighbours::measure(&node, rounds) {
        println!("\n{table}");
    }
}

fn in_flight(node: &Node) {
    let (lost, of) = stops::flight(node);
    println!("Requests without an answer, of {of} in flight at TERM: {lost}");
}

/// The CPython of others, beside a small module.
fn python(rounds: Option<String>) {
    let rounds = rounds.map_or(ROUNDS, |word| word.parse().expect("a number of rounds"));
    assert!(
        specs::python().is_some(),
        "DUET_TEST_OTHERS names no folder: run `make others`"
    );
    let node = Node::enter_with_duet().expect("root, containerd and Duet's binaries");
    println!("{}", describe()["text"].as_str().unwrap_or_default());
    println!("\n{}", python_starts(&node, rounds));
    println!("\n{}", memory::of_python(&node));
}

/// How old a module must be for its time of change to be believed, and a little more
/// (`crates/wasm/src/cache/seen.rs`).
const SETTLED: std::time::Duration = std::time::Duration::from_secs(4);

/// The starts of a CPython that was compiled before, and that ends before it has begun to work.
fn python_starts(node: &Node, rounds: usize) -> Table {
    let duet = Stage::new(
        node,
        "duet-python",
        &machine::binary("containerd-shim-duet-v1"),
    );
    let subjects: Vec<Subject<'_>> = vec![
        (
            "CPython --version",
            Box::new(|| duet.life(Specs::python_version)),
        ),
        ("a small module", Box::new(|| duet.life(Specs::wasm))),
    ];
    // Compiled now; and a file that was just unpacked is hashed at each start, which one of an image is not.
    duet.life(Specs::python_version);
    std::thread::sleep(SETTLED);
    let question = "Task API: create + start + wait + delete of a CPython of 26 MB";
    let table = bench::interleaved(question, rounds, subjects);
    duet.close();
    table
}

/// Servers of `wasi:http`.
fn serve(mut arguments: impl Iterator<Item = String>) {
    let wasmtime = arguments.next().expect("the path of wasmtime");
    let rounds = arguments
        .next()
        .map_or(10, |word| word.parse().expect("a number of rounds"));
    let node = Node::enter_with_duet().expect("root, containerd and Duet's binaries");
    println!("{}", describe()["text"].as_str().unwrap_or_default());
    for table in serving::measure(&node, rounds, Path::new(&wasmtime)) {
        println!("\n{table}");
    }
    println!(
        "Requests without an answer of those in flight at TERM: {}",
        serving::flight(&node)
    );
}

/// What a pod is measured with: a shim, and namespaces that outlive each container.
struct Stage {
    shim: Shim,
    specs: Specs,
    dir: PathBuf,
    count: Cell<u32>,
    holder: Network,
}

/// A process in namespaces of its own, which a pause container would keep.
struct Network(Child);

fn holder() -> Network {
    let holder = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--net", "--ipc", "--uts"])
        .args(["sleep", "infinity"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("unshare of util-linux starts");
    Network(holder)
}

impl Network {
    fn id(&self) -> u32 {
        self.0.id()
    }

    fn close(mut self) {
        self.0.kill().expect("our own child");
        let _reaped = self.0.wait().expect("our own child");
    }
}

impl Stage {
    /// Starts `program` as the shim of a pod with room for many containers.
    fn new(node: &Node, name: &str, program: &Path) -> Self {
        let dir = node.scratch().join(name);
        fs::create_dir(&dir).expect("our own folder");
        let holder = holder();
        let specs = Specs::new(node, name, holder.id());
        let bundle =
            Bundle::new(&dir.join("pod"), Some(&specs.native(name))).expect("our own folder");
        let shim = Shim::start(node.daemon(), program, node.namespace(), name, &bundle)
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Self {
            shim,
            specs,
            dir,
            count: Cell::new(0),
            holder,
        }
    }

    /// A new bundle with what `spec` makes of its name.
    fn bundle(&self, spec: impl Fn(&Specs, &str) -> String) -> (String, Bundle) {
        let number = self.count.replace(self.count.get() + 1);
        // With the pod's name: two pods may have a container of the same number at the same time.
        let pod = self.dir.file_name().unwrap_or_default().display();
        let id = format!("{pod}-c{number}");
        let bundle = Bundle::new(&self.dir.join(&id), Some(&spec(&self.specs, &id)));
        (id, bundle.expect("our own folder"))
    }

    /// One container's life, from Create to Delete.
    fn life(&self, spec: impl Fn(&Specs, &str) -> String) -> Duration {
        let (id, bundle) = self.bundle(spec);
        let time = bench::timed(|| {
            let pid = self.shim.create(&id, &bundle.dir).expect("Create");
            assert_ne!(pid, 0);
            self.shim.begin(&id).expect("Start");
            assert_eq!(self.shim.wait(&id).expect("Wait"), 0);
            self.shim.delete(&id).expect("Delete");
        });
        fs::remove_dir_all(&bundle.dir).expect("our own folder");
        time
    }

    /// Starts a container that waits: its name and bundle.
    fn idle(&self) -> (String, Bundle) {
        let (id, bundle) = self.bundle(Specs::idle_native);
        self.shim.create(&id, &bundle.dir).expect("Create");
        self.shim.begin(&id).expect("Start");
        (id, bundle)
    }

    /// One further process's life in the container `id`, from Exec to Delete.
    fn further(&self, id: &str) -> Duration {
        let name = format!("e{}", self.count.replace(self.count.get() + 1));
        let process = self.specs.further();
        bench::timed(|| {
            assert_eq!(self.shim.exec(id, &name, &process).expect("Exec"), 0);
        })
    }

    /// Ends what [`Stage::idle`] started.
    fn end(&self, (id, bundle): (String, Bundle)) {
        self.shim.kill(&id).expect("Kill");
        assert_eq!(self.shim.wait(&id).expect("Wait"), 137);
        self.shim.delete(&id).expect("Delete");
        fs::remove_dir_all(&bundle.dir).expect("our own folder");
    }

    /// Ends the pod.
    fn close(self) {
        // runc's `delete` complains that the pod itself was never a container.
        let _said = self.shim.shutdown();
        self.holder.close();
    }
}

fn task_api(node: &Node, rounds: usize) -> Table {
    let duet = Stage::new(node, "duet", &machine::binary("containerd-shim-duet-v1"));
    let program = machine::program("containerd-shim-runc-v2").expect("containerd brings it");
    let runc = Stage::new(node, "runc", &program);
    let before = before().map(|program| Stage::new(node, "before", &program));
    let mut subjects: Vec<Subject<'_>> = vec![
        ("Duet, native", Box::new(|| duet.life(Specs::native))),
        ("Duet, wasm (warm)", Box::new(|| duet.life(Specs::wasm))),
    ];
    if let Some(before) = &before {
        subjects.push(("before, native", Box::new(|| before.life(Specs::native))));
        subjects.push(("before, wasm", Box::new(|| before.life(Specs::wasm))));
    }
    subjects.push(("runc", Box::new(|| runc.life(Specs::native))));
    let table = bench::interleaved("Task API: create + start + wait + delete", rounds, subjects);
    duet.close();
    before.into_iter().for_each(Stage::close);
    runc.close();
    table
}

/// The starts of modules that were compiled before, each in 32 MiB, beside that of a small one.
fn large_modules(node: &Node, rounds: usize) -> Table {
    let duet = Stage::new(
        node,
        "duet-large",
        &machine::binary("containerd-shim-duet-v1"),
    );
    let before = before().map(|program| Stage::new(node, "before-large", &program));
    let made = |module| move |specs: &Specs, id: &str| specs.made_and_over(id, module);
    let mut subjects: Vec<Subject<'_>> = Vec::new();
    if let Some(before) = &before {
        subjects.push((
            "before, 800 kB",
            Box::new(|| before.life(made(Module::Middling))),
        ));
        subjects.push((
            "before, 26 MB",
            Box::new(|| before.life(made(Module::Huge))),
        ));
        subjects.push(("before, small", Box::new(|| before.life(Specs::wasm))));
    }
    subjects.push(("800 kB", Box::new(|| duet.life(made(Module::Middling)))));
    subjects.push(("26 MB", Box::new(|| duet.life(made(Module::Huge)))));
    subjects.push(("a small module", Box::new(|| duet.life(Specs::wasm))));
    let question = "Task API: the same, of modules that were compiled before";
    let table = bench::interleaved(question, rounds, subjects);
    before.into_iter().for_each(Stage::close);
    duet.close();
    table
}

fn exec(node: &Node, rounds: usize) -> Table {
    let duet = Stage::new(
        node,
        "duet-exec",
        &machine::binary("containerd-shim-duet-v1"),
    );
    let program = machine::program("containerd-shim-runc-v2").expect("containerd brings it");
    let runc = Stage::new(node, "runc-exec", &program);
    let (ours, theirs) = (duet.idle(), runc.idle());
    let before = before().map(|program| {
        let stage = Stage::new(node, "before-exec", &program);
        let idle = stage.idle();
        (stage, idle)
    });
    let mut subjects: Vec<Subject<'_>> = vec![("Duet, native", Box::new(|| duet.further(&ours.0)))];
    if let Some((before, idle)) = &before {
        subjects.push(("before, native", Box::new(|| before.further(&idle.0))));
    }
    subjects.push(("runc", Box::new(|| runc.further(&theirs.0))));
    let question = "Task API: exec of true, exec + start + wait + delete";
    let table = bench::interleaved(question, rounds, subjects);
    if let Some((before, idle)) = before {
        before.end(idle);
        before.close();
    }
    duet.end(ours);
    runc.end(theirs);
    duet.close();
    runc.close();
    table
}

/// The shim to compare with, if one is named.
fn before() -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os("DUET_BENCH_BEFORE")?);
    Some(dir.join("containerd-shim-duet-v1"))
}

fn ctr_run(node: &Node, rounds: usize) -> Table {
    let run = |runtime, image: &str, args: &[&str]| {
        let mut command = node
            .container("bench")
            .runtime(runtime)
            .image(image)
            .args(args)
            .command("--rm");
        bench::timed(|| {
            let output = command.output().expect("ctr starts");
            assert!(output.status.success(), "{output:?}");
        })
    };
    let subjects: Vec<Subject<'_>> = vec![
        (
            "Duet, native",
            Box::new(|| run(Runtime::Duet, image::BUSYBOX, &["/bin/true"])),
        ),
        (
            "Duet, wasm (warm)",
            Box::new(|| run(Runtime::Duet, image::GUESTS, &["/probe.wasm"])),
        ),
        (
            "runc",
            Box::new(|| run(Runtime::Runc, image::BUSYBOX, &["/bin/true"])),
        ),
    ];
    bench::interleaved("ctr run --rm", rounds, subjects)
}

/// The machine, its kernel and the commit that was built.
fn describe() -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name\t: "))
        .unwrap_or("?");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.trim();
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty"])
        .current_dir(machine::workspace());
    let commit = duet_tests::command::run(&mut git).stdout.trim().to_owned();
    let cgroup = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        "v2"
    } else {
        "v1"
    };
    let text = format!("{model}, {cores} cores, Linux {kernel}, cgroup {cgroup}, commit {commit}");
    json!({ "text": text, "cpu": model, "cores": cores, "kernel": kernel, "cgroup": cgroup, "commit": commit })
}
