//! WASI by groups: `tests/guests/calls.c` calls every function of preview 1 and judges, and `groups` does what
//! Rust's standard library makes of it, of both previews. For every function of preview 2 see `in_c.rs`.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::{Ended, Guest, Running, eventually, root};

/// The groups that need an empty folder and nothing else.
const GROUPS: [&str; 13] = [
    "clocks", "random", "process", "files", "rights", "paths", "readdir", "emptied", "poll",
    "large", "outside", "durable", "much",
];

fn run(group: &str, more: &[&str]) -> Ended {
    let directory = tempfile::tempdir().unwrap();
    let guest = in_folder(group, directory.path(), more);
    guest.env("A=1=2").env("B=").run()
}

fn in_folder(group: &str, folder: &Path, more: &[&str]) -> Guest {
    let folder = folder.to_str().unwrap();
    Guest::of_the_scenarios("calls.wasm").args([&[group, folder], more].concat())
}

fn well(ended: &Ended) {
    let seen = (ended.code, ended.stderr.as_str());
    assert_eq!(seen, (0, ""), "{ended:?}");
}

/// By the program of that name.
fn made(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}: {status}");
}

/// A folder with the FIFOs `questions` and `answers`.
fn fifos() -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let [questions, answers] = ["questions", "answers"].map(|name| folder.path().join(name));
    made(
        "mkfifo",
        &[&questions, &answers].map(|path| path.to_str().unwrap()),
    );
    (folder, questions, answers)
}

#[test]
fn every_group_of_functions_works() {
    if !root() {
        return;
    }
    for group in GROUPS {
        let ended = run(group, &[]);
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{group}");
    }
}

#[test]
fn arguments_and_environment_are_told_as_they_are() {
    if !root() {
        return;
    }
    let ended = run("args", &["ä b", ""]);
    let said: Vec<_> = ended.stdout.lines().collect();
    assert!(
        matches!(said.as_slice(), ["guest", "args", _, "ä b", ""]),
        "{ended:?}"
    );
    assert_eq!(run("environ", &[]).stdout, "A=1=2\nB=\n");
}

#[test]
fn nothing_is_moved_from_one_file_system_to_another() {
    if !root() {
        return;
    }
    let other = tempfile::tempdir_in("/dev/shm").unwrap();
    let ended = run("across", &[other.path().to_str().unwrap()]);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
}

#[test]
fn every_group_works_for_rusts_standard_library_in_both_previews() {
    if !root() {
        return;
    }
    let well = (0, "well\n", "");
    let table = [
        ("environ", well),
        ("clocks", well),
        ("random", well),
        ("files", well),
        ("paths", well),
        ("readdir", well),
        ("streams", (0, "well\n", "on stderr\n")),
    ];
    // What that library asks for in preview 2 is `exit`, which knows success and failure.
    for (guest, code) in [("groups-p1.wasm", 42), ("groups-p2.wasm", 1)] {
        for (group, expected) in table.into_iter().chain([("process", (code, "", ""))]) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().to_str().unwrap();
            let ended = Guest::named(guest)
                .args([group, path])
                .env("COLOUR=blue")
                .run();
            let seen = (ended.code, ended.stdout.as_str(), ended.stderr.as_str());
            assert_eq!(seen, expected, "{guest} {group}");
        }
    }
}

#[test]
fn a_fifo_without_another_end_keeps_nobody_who_does_not_want_to_wait() {
    if !root() {
        return;
    }
    let (folder, ..) = fifos();
    well(&in_folder("fifo", folder.path(), &["alone"]).run());
}

#[test]
fn a_guest_and_its_neighbour_meet_at_a_fifo() {
    if !root() {
        return;
    }
    for how in ["read", "poll"] {
        let (folder, questions, answers) = fifos();
        let guest = in_folder("fifo", folder.path(), &[how]).start();
        // Each waits for the other end to be opened, as the kernel has it.
        let mut asked = OpenOptions::new().write(true).open(questions).unwrap();
        asked.write_all(b"hello").unwrap();
        let mut heard = File::open(answers).unwrap();
        let mut hear = |expected: &str| {
            let mut answer = [0; 64];
            let count = heard.read(&mut answer).unwrap();
            assert_eq!(answer[..count], *expected.as_bytes());
        };
        hear("heard hello");
        asked.write_all(b"once more").unwrap();
        hear("heard once more");
        // More than a pipe holds.
        let long = "x".repeat(200_000);
        let text = std::thread::scope(|scope| {
            scope.spawn(|| {
                asked.write_all(long.as_bytes()).unwrap();
                drop(asked);
            });
            let mut text = String::new();
            heard.read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!(text.replace("heard ", ""), long);
        well(&guest.wait());
    }
}

#[test]
fn a_guest_that_waits_at_a_fifo_ends_when_it_is_told() {
    if !root() {
        return;
    }
    let (folder, questions, answers) = fifos();
    let wait = |guest: &Running, call: libc::c_long| {
        let syscall = format!("/proc/{}/syscall", guest.pid());
        let call = format!("{call} ");
        eventually("the guest to wait", || {
            let now = fs::read_to_string(&syscall).unwrap_or_default();
            now.starts_with(&call).then_some(())
        });
    };
    // For somebody who opens it.
    let guest = in_folder("fifo", folder.path(), &["read"]).start();
    wait(&guest, libc::SYS_openat2);
    guest.signal(Signal::TERM);
    assert_eq!(guest.wait().code, 143);
    // For somebody who writes.
    for (how, call) in [("read", libc::SYS_read), ("poll", libc::SYS_ppoll)] {
        fs::remove_file(folder.path().join("link")).unwrap();
        let guest = in_folder("fifo", folder.path(), &[how]).start();
        let _asked = OpenOptions::new().write(true).open(&questions).unwrap();
        let _heard = (how == "read").then(|| File::open(&answers).unwrap());
        wait(&guest, call);
        guest.signal(Signal::TERM);
        assert_eq!(guest.wait().code, 143);
    }
}

#[test]
fn sockets_and_devices_on_a_volume_are_not_opened_but_those_that_are_bytes() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let _socket = UnixListener::bind(path("socket")).unwrap();
    for (name, kind, major, minor) in [
        ("block", "b", "7", "200"),
        ("terminal", "c", "5", "0"),
        ("kmsg", "c", "1", "11"),
        ("null", "c", "1", "3"),
        ("zero", "c", "1", "5"),
        ("random", "c", "1", "9"),
    ] {
        made("mknod", &[&path(name), kind, major, minor]);
    }
    std::os::unix::fs::symlink("block", path("to-block")).unwrap();
    let log = folder.path().join("log");
    let guest = in_folder("special", folder.path(), &[]);
    well(&guest.traced("openat2,openat,open", &log).run());
    let opened = fs::read_to_string(log).unwrap();
    assert!(opened.contains("\"null\""), "{opened}");
    for name in ["block", "terminal", "kmsg", "socket"] {
        assert!(!opened.contains(&format!("{name}\"")), "{opened}");
    }
}

#[test]
fn a_name_that_is_no_text_hides_no_other() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in [&b"before"[..], b"caf\xe9", b"z-after"] {
        let name = std::ffi::OsStr::from_bytes(name);
        fs::write(folder.path().join(name), "").unwrap();
    }
    let ended = in_folder("names", folder.path(), &[]).run();
    well(&ended);
    let mut said: Vec<_> = ended.stdout.lines().collect();
    said.sort_unstable();
    // 25 is `EILSEQ`.
    assert_eq!(said, ["before: 0", "caf\\e9: 25", "z-after: 0"]);
}

#[test]
fn folders_are_read_where_the_kernel_is_not_asked_in_the_new_way() {
    if !root() {
        return;
    }
    // As under a filter of a container's that does not know statx.
    let folder = tempfile::tempdir().unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let guest = in_folder("readdir", folder.path(), &[]);
    well(&guest.traced("inject=statx:error=ENOSYS", log.path()).run());
    let asked = fs::read_to_string(log.path()).unwrap();
    assert!(asked.contains("ENOSYS"), "{asked}");
}
