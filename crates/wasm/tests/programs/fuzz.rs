//! Nonsense of every kind, thrown at the compiler, the runner and a server as they are shipped. A find is a
//! signal that nobody sent, a program at fault where its input is (125), or one that does not end when it is told to.
//!
//! CI throws the same each time. `make fuzz` throws as much as there is time for, from a seed that it prints. Each
//! round has a seed of its own, the number after the last: with `DUET_FUZZ_SEED` of a find, that is the first round.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use duet_wasm::{Error, Preview};
use rustix::process::Signal;

use crate::harness::{Ended, Guest, PATIENCE, compile_for, root};
use crate::refusals::leb128;
use crate::servers::{Server, of_both_previews};

/// How long a guest may do what it likes before it is told to stop.
const LIFE: Duration = Duration::from_millis(200);

/// How the harness tells of an end by TERM.
const OURS: i32 = 1000 + 15;

/// The numbers of a round: xorshift.
struct Chance(u64);

impl Chance {
    fn of(seed: u64) -> Self {
        // Neighbours must not begin alike, and 0 would stay 0.
        let mut chance = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            chance.below(2);
        }
        chance
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 8).unwrap() % limit
    }

    fn byte(&mut self) -> u8 {
        self.below(256).to_le_bytes()[0]
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Plays rounds: `few` of them, or as many as there is time for.
fn rounds(few: u64, mut play: impl FnMut(u64, Chance)) {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let seed: u64 = number("DUET_FUZZ_SEED").unwrap_or(0x5eed);
    let end = number("DUET_FUZZ_SECONDS").map(|time| Instant::now() + Duration::from_secs(time));
    let mut played = 0;
    while end.map_or(played < few, |end| Instant::now() < end) {
        play(seed + played, Chance::of(seed + played));
        played += 1;
    }
    eprintln!("{played} rounds from seed {seed}");
}

/// How a guest ended that was told to after a while; with a complaint if it was not as guests end.
#[track_caller]
fn lived(guest: Guest, seed: u64) -> Ended {
    let mut running = guest.start();
    let (born, mut told) = (Instant::now(), None);
    while running.is_running() {
        match told {
            // It is there, for it was not waited for.
            None if born.elapsed() > LIFE => {
                running.signal(Signal::TERM);
                told = Some(Instant::now());
            }
            Some(told) => assert!(told.elapsed() < PATIENCE, "seed {seed}: does not end"),
            None => {}
        }
        sleep(Duration::from_millis(2));
    }
    let ended = running.wait();
    // Ours may come before it listens to any: on a busy machine 200 ms are not for ever.
    let at_fault = ended.code >= 1000 && ended.code != OURS || ended.code == 125;
    assert!(!at_fault, "seed {seed}: {ended:?}");
    ended
}

/// Where each section begins, its header included, and where the last ends.
fn sections(wasm: &[u8]) -> Vec<usize> {
    let mut at = 8;
    let mut found = vec![at];
    while at < wasm.len() {
        let (mut length, mut shift) = (0, 0);
        let mut next = at + 1;
        while let Some(byte) = wasm.get(next) {
            length |= usize::from(byte & 0x7f) << shift;
            (next, shift) = (next + 1, shift + 7);
            if byte & 0x80 == 0 {
                break;
            }
        }
        at = next + length;
        found.push(at.min(wasm.len()));
    }
    found
}

/// Numbers of variable length at which readers stumble.
fn edge(chance: &mut Chance) -> Vec<u8> {
    match chance.below(6) {
        0 => vec![0],
        1 => vec![0x7f],
        2 => leb128(0x7fff_ffff),
        3 => leb128(0xffff_ffff),
        // Longer than a number may be, and without an end.
        4 => vec![0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
        _ => vec![0xff; 11],
    }
}

/// Does something to a module or component.
fn mutate(wasm: &mut Vec<u8>, chance: &mut Chance) {
    let at = chance.below(wasm.len());
    match chance.below(8) {
        0 => wasm.truncate(at),
        1 => {
            // Random bytes behind a good beginning.
            let from = 8 + chance.below(wasm.len().max(9) - 8);
            wasm.truncate(wasm.len().min(from + 4096));
            for byte in wasm.iter_mut().skip(from) {
                *byte = chance.byte();
            }
        }
        2 | 3 => {
            for _ in 0..=chance.below(4) {
                let at = chance.below(wasm.len());
                wasm[at] ^= 1 << chance.below(8);
            }
        }
        4 => {
            let edge = edge(chance);
            let end = (at + chance.below(3)).min(wasm.len());
            wasm.splice(at..end, edge);
        }
        kind => {
            let bounds = sections(wasm);
            let section = |chance: &mut Chance| {
                let number = chance.below(bounds.len().max(2) - 1);
                bounds[number]..bounds.get(number + 1).copied().unwrap_or(wasm.len())
            };
            let (one, other) = (section(chance), section(chance));
            let (one_at, copy) = (one.start, wasm[other.clone()].to_vec());
            match kind {
                // Swapped, twice there, or away.
                5 => {
                    let (first, second) = if one.start < other.start {
                        (one, other)
                    } else {
                        (other, one)
                    };
                    let (early, late) =
                        (wasm[first.clone()].to_vec(), wasm[second.clone()].to_vec());
                    if first.end <= second.start {
                        wasm.splice(second, early);
                        wasm.splice(first, late);
                    }
                }
                6 => drop(wasm.splice(one_at..one_at, copy)),
                _ => drop(wasm.drain(one)),
            }
        }
    }
    if wasm.len() < 8 {
        wasm.resize(8, 0);
    }
}

#[test]
fn a_module_that_is_none_is_refused_and_one_that_still_is_runs_to_an_end() {
    if !root() {
        return;
    }
    let module = wat::parse_str(
        r#"(module (memory 1) (table 4 funcref) (elem (i32.const 0) $f) (data (i32.const 8) "data")
            (func $f (param i32) (result i32) (i32.add (local.get 0) (i32.load (i32.const 8))))
            (func (export "_start") (drop (call_indirect (param i32) (result i32) (i32.const 1) (i32.const 0)))))"#,
    );
    let guest = |name: &str| {
        let guests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guests/");
        std::fs::read(format!("{guests}{name}")).unwrap()
    };
    let bases = [
        (Preview::Two, module.unwrap()),
        (Preview::Two, guest("server.wasm")),
        (Preview::Two, guest("probe-p1.wasm")),
        (Preview::Three, guest("probe-p3.wasm")),
    ];
    let place = tempfile::tempdir().unwrap();
    rounds(64, |seed, mut chance| {
        let (preview, mut wasm) = chance.one_of(&bases).clone();
        for _ in 0..=chance.below(3) {
            mutate(&mut wasm, &mut chance);
        }
        match compile_for(preview, &wasm) {
            Ok(_) => {}
            Err(Error::Refused { .. }) => return,
            Err(other) => panic!("seed {seed}: {other}"),
        }
        let guest = Guest::wasm(&wasm).within(place.path());
        let guest = guest.http(|http| http.address = Some("127.0.0.1:0".into()));
        let guest = match preview {
            Preview::Two => guest,
            Preview::Three => guest.preview3(),
        };
        lived(guest, seed);
    });
}

/// The functions of WASI preview 1, each with its parameters: `i` is a number of 32 bits, `l` one of 64.
const CALLS: &str = "args_get:ii args_sizes_get:ii clock_res_get:ii clock_time_get:ili environ_get:ii \
    environ_sizes_get:ii fd_advise:illi fd_allocate:ill fd_close:i fd_datasync:i fd_fdstat_get:ii \
    fd_fdstat_set_flags:ii fd_fdstat_set_rights:ill fd_filestat_get:ii fd_filestat_set_size:il \
    fd_filestat_set_times:illi fd_pread:iiili fd_prestat_dir_name:iii fd_prestat_get:ii fd_pwrite:iiili \
    fd_read:iiii fd_readdir:iiili fd_renumber:ii fd_seek:ilii fd_sync:i fd_tell:ii fd_write:iiii \
    path_create_directory:iii path_filestat_get:iiiii path_filestat_set_times:iiiilli path_link:iiiiiii \
    path_open:iiiiillii path_readlink:iiiiii path_remove_directory:iii path_rename:iiiiii path_symlink:iiiii \
    path_unlink_file:iii poll_oneoff:iiii proc_raise:i random_get:ii sched_yield: sock_accept:iii \
    sock_recv:iiiiii sock_send:iiiii sock_shutdown:ii";

/// A module that makes so many calls with arguments by chance, among them some that make sense.
fn caller(chance: &mut Chance, count: usize) -> String {
    let calls: Vec<_> = CALLS
        .split(' ')
        .map(|call| call.split_once(':').unwrap())
        .collect();
    let mut text = String::from("(module\n");
    for (name, parameters) in &calls {
        let types: Vec<_> = parameters
            .chars()
            .map(|kind| if kind == 'i' { "i32" } else { "i64" })
            .collect();
        let types = types.join(" ");
        text += &format!(
            "(import \"wasi_snapshot_preview1\" \"{name}\" (func ${name} (param {types}) (result i32)))\n"
        );
    }
    // Names, and what looks like vectors of small buffers.
    text += "(memory (export \"memory\") 2)\n(data (i32.const 0) \"a/b/../c/./d//e";
    for _ in 0..256 {
        text += &format!("\\{:02x}\\{:02x}\\00\\00", chance.byte(), chance.below(3));
    }
    text += "\")\n(func (export \"_start\")\n";
    for _ in 0..count {
        let (name, parameters) = chance.one_of(&calls);
        let number = |chance: &mut Chance| match chance.below(8) {
            0..3 => chance.below(8),
            3 => 3,
            4 | 5 => chance.below(1024),
            6 => chance.below(2 << 16),
            _ => *chance.one_of(&[0x1_ffff, 0x2_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]),
        };
        let given: Vec<_> = parameters
            .chars()
            .map(|kind| match kind {
                'i' => format!("(i32.const {})", number(chance)),
                _ if chance.below(4) == 0 => format!(
                    "(i64.const {})",
                    i64::MIN + i64::try_from(number(chance)).unwrap()
                ),
                _ => format!("(i64.const {})", number(chance)),
            })
            .collect();
        text += &format!("(drop (call ${name} {}))\n", given.join(" "));
    }
    text + "))"
}

#[test]
fn whatever_a_module_calls_with_whatever_it_ends_as_guests_do() {
    if !root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    rounds(24, |seed, mut chance| {
        let guest = Guest::wat(&caller(&mut chance, 48)).within(place.path());
        let address = "127.0.0.1:0".parse().unwrap();
        // What it writes is small, whatever it asks for.
        let guest = guest.listen(address).ulimit("ulimit -f 64");
        lived(guest.stdin(b"a line\nand another"), seed);
        // What it left behind is not the next one's.
        for entry in std::fs::read_dir(place.path()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != "duet-runner" {
                let path = entry.path();
                let removed = if entry.file_type().unwrap().is_dir() {
                    std::fs::remove_dir_all(path)
                } else {
                    std::fs::remove_file(path)
                };
                removed.unwrap();
            }
        }
    });
}

/// What clients say, for the beginning.
fn sayings() -> &'static [Vec<u8>] {
    static SAYINGS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SAYINGS.get_or_init(|| {
        let mut second = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // SETTINGS; HEADERS of stream 1: GET / by http, all of it in HPACK's static table, and an authority.
        second.extend(b"\0\0\0\x04\0\0\0\0\0");
        second.extend(b"\0\0\x08\x01\x04\0\0\0\x01\x82\x84\x86\x41\x03f:1");
        // DATA, a WINDOW_UPDATE of the connection, PING, RST_STREAM.
        second.extend(b"\0\0\x04\0\x01\0\0\0\x01abcd");
        second.extend(b"\0\0\x04\x08\0\0\0\0\0\0\0\x10\0");
        second.extend(b"\0\0\x08\x06\0\0\0\0\x0012345678");
        second.extend(b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08");
        vec![
            b"GET /count HTTP/1.1\r\nhost: a\r\n\r\nGET /count HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
            b"POST /count HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n"
                .to_vec(),
            b"PUT /drip/2 HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\nhello".to_vec(),
            second,
        ]
    })
}

/// Says something like it over a connection of its own: whether it is ended by the server.
fn say(stream: &mut TcpStream, chance: &mut Chance) -> bool {
    let mut words = chance.one_of(sayings()).clone();
    for _ in 0..=chance.below(4) {
        let at = chance.below(words.len());
        match chance.below(6) {
            0 => words.truncate(at.max(1)),
            1 => words[at] = chance.byte(),
            2 => words[at] ^= 1 << chance.below(8),
            3 => {
                let other = chance.one_of(sayings());
                words.splice(at..at, other.iter().copied());
            }
            4 => {
                let again = words[at..].to_vec();
                words.extend(again);
            }
            _ => {
                let long = vec![chance.byte(); 1 + chance.below(70_000)];
                words.splice(at..at, long);
            }
        }
    }
    // Who is answered in the middle of it may find the connection closed.
    stream.write_all(&words).ok();
    stream.shutdown(Shutdown::Write).ok();
    let ended = stream.read_to_end(&mut Vec::new());
    !ended.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn whatever_clients_say_a_server_serves_others() {
    if !root() {
        return;
    }
    let serve = |guest: Guest| {
        Server::start(guest.http(|http| http.timeout = Some(Duration::from_secs(5))))
    };
    let servers = of_both_previews().map(serve);
    rounds(64, |seed, mut chance| {
        let server = chance.one_of(&servers);
        assert!(
            say(&mut server.connect(), &mut chance),
            "seed {seed}: no end"
        );
        assert_eq!(server.get("/count"), (200, "1".into()), "seed {seed}");
    });
    for server in servers {
        let (code, stderr) = server.end();
        assert_eq!(code, 0, "{stderr}");
    }
}
