//! What a call of preview 1 costs under the runner, and under plain wasmtime beside it.
//!
//! Each program runs the same compiled module, which makes one call again and again; what counts is processor
//! time, less that of a run without calls. `DUET_RUNNER`, `DUET_PLAIN` and `DUET_COMPILER` name the programs.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use duet_wasm::{Cache, Compiled, Format, Handoff, Http, Preview, Program, Tally};

/// How often each call is measured, the two programs in turn.
const ROUNDS: usize = 5;

/// A call by its name, how often it is made, what it is declared as, and how it is made.
///
/// Descriptor 4 is a file of 1 MiB; at 64 is a place of 8 bytes at 128, at 80 one of 1 byte there.
const CALLS: [(&str, u32, &str, &str); 9] = [
    (
        "clock_time_get",
        3_000_000,
        "i32 i64 i32",
        "(i32.const 1) (i64.const 0) (i32.const 32)",
    ),
    (
        "random_get",
        1_000_000,
        "i32 i32",
        "(i32.const 128) (i32.const 8)",
    ),
    (
        "args_sizes_get",
        3_000_000,
        "i32 i32",
        "(i32.const 32) (i32.const 36)",
    ),
    (
        "fd_seek",
        3_000_000,
        "i32 i64 i32 i32",
        "(i32.const 4) (i64.const 0) (i32.const 0) (i32.const 32)",
    ),
    (
        "fd_read",
        500_000,
        "i32 i32 i32 i32",
        "(i32.const 4) (i32.const 80) (i32.const 1) (i32.const 32)",
    ),
    (
        "fd_write",
        500_000,
        "i32 i32 i32 i32",
        "(i32.const 4) (i32.const 64) (i32.const 1) (i32.const 32)",
    ),
    (
        "fd_filestat_get",
        500_000,
        "i32 i32",
        "(i32.const 4) (i32.const 160)",
    ),
    (
        "path_filestat_get",
        200_000,
        "i32 i32 i32 i32 i32",
        "(i32.const 3) (i32.const 0) (i32.const 256) (global.get $length) (i32.const 160)",
    ),
    (
        "fd_read of stdin",
        1_000_000,
        "i32 i32 i32 i32",
        "(i32.const 0) (i32.const 80) (i32.const 1) (i32.const 32)",
    ),
];

fn main() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    std::fs::write(&file, vec![1; 1 << 20]).unwrap();
    let program = |name: &str| {
        PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set")))
    };
    let cache = Cache::open(
        &scratch.path().join("cache"),
        &Program::at(program("DUET_COMPILER")),
    )
    .unwrap();
    let (ours, plain) = (program("DUET_RUNNER"), program("DUET_PLAIN"));

    println!("A call of WASI preview 1, processor time, {ROUNDS} rounds");
    println!(
        "  {:<20}{:>10}{:>10}{:>8}",
        "", "Duet ns", "plain ns", "ratio"
    );
    for (name, count, types, arguments) in CALLS {
        let module = |count| compile(&cache, &module(name, count, types, arguments, &file));
        let (none, all) = (module(0), module(count));
        let mut times = [Duration::ZERO; 2];
        for _ in 0..ROUNDS {
            for (program, time) in [&ours, &plain].into_iter().zip(&mut times) {
                let base = run(program, &none, &file);
                *time += run(program, &all, &file).saturating_sub(base);
            }
        }
        let calls = f64::from(count) * f64::from(u32::try_from(ROUNDS).unwrap());
        let [ours, plain] = times.map(|time| time.as_secs_f64() * 1e9 / calls);
        println!("  {name:<20}{ours:>10.0}{plain:>10.0}{:>8.2}", ours / plain);
    }
}

/// A module that opens `file`, to read, write, seek and ask, and makes a call `count` times; a call that fails is a trap.
fn module(name: &str, count: u32, types: &str, arguments: &str, file: &Path) -> String {
    let function = name.split(' ').next().unwrap_or_default();
    let path = file.to_str().unwrap().trim_start_matches('/');
    let length = path.len();
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "{function}" (func $call (param {types}) (result i32)))
            (memory (export "memory") 1)
            (global $length i32 (i32.const {length}))
            (data (i32.const 64) "\80\00\00\00\08\00\00\00")
            (data (i32.const 80) "\80\00\00\00\01\00\00\00")
            (data (i32.const 256) "{path}")
            (func (export "_start") (local $left i32)
                (if (call $open (i32.const 3) (i32.const 0) (i32.const 256) (global.get $length)
                        (i32.const 0) (i64.const 0x200066) (i64.const 0) (i32.const 0) (i32.const 32))
                    (then unreachable))
                (if (i32.ne (i32.load (i32.const 32)) (i32.const 4)) (then unreachable))
                (local.set $left (i32.const {count}))
                (block $done (loop $next
                    (br_if $done (i32.eqz (local.get $left)))
                    (if (call $call {arguments}) (then unreachable))
                    (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                    (br $next)))))"#
    )
}

fn compile(cache: &Cache, text: &str) -> Compiled {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&wat::parse_str(text).unwrap()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    cache
        .compiled(&file, "/calls.wasm", Preview::Two, deadline)
        .unwrap()
}

/// The processor time of one run.
fn run(program: &Path, compiled: &Compiled, stdin: &Path) -> Duration {
    let entry = compiled.tree().unwrap();
    let handoff = Handoff {
        name: "/calls.wasm".into(),
        format: Format::Module,
        preview: Preview::Two,
        argv: vec!["calls".into()],
        env: Vec::new(),
        cwd: "/".into(),
        mounts: Vec::new(),
        http: Http::default(),
        config: Default::default(),
        listen: Vec::new(),
    };
    let handoff = handoff.seal().unwrap();
    let tally = Tally::new().unwrap();
    let before = of_children();
    let path = |fd: i32| format!("/proc/{}/fd/{fd}", std::process::id());
    let status = Command::new("sh")
        .args([
            "-c",
            "exec \"$0\" 3<\"$ENTRY\" 4<\"$HANDOFF\" 5</dev/null 6<>\"$TALLY\"",
        ])
        .arg(program)
        .env_clear()
        .env("ENTRY", path(entry.as_raw_fd()))
        .env("HANDOFF", path(handoff.as_raw_fd()))
        .env("TALLY", path(std::os::fd::AsFd::as_fd(&tally).as_raw_fd()))
        .stdin(Stdio::from(piped(stdin)))
        .status()
        .unwrap();
    assert!(status.success(), "{}: {status}", program.display());
    of_children() - before
}

/// The file, by way of a pipe.
fn piped(file: &Path) -> std::io::PipeReader {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut file = File::open(file).unwrap();
    // Ends with the file, or with the pipe's last reader.
    std::thread::spawn(move || std::io::copy(&mut file, &mut writer).ok());
    reader
}

/// The processor time of all children that have ended: `cutime` and `cstime` of proc(5), in ticks of 10 ms.
fn of_children() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(13).take(2);
    let ticks = ticks
        .map(|field| field.parse::<u64>().unwrap())
        .sum::<u64>();
    Duration::from_millis(ticks * 10)
}
