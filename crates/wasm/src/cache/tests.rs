//! The cache with a shell script for a compiler.

use std::fs::Permissions;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::time::SystemTime;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;

use super::*;
use crate::{BLOCKS, CODE};

mod failures;
mod rooms;
mod underneath;

/// A cache in a directory of its own, filled by `script`.
struct Node {
    root: tempfile::TempDir,
}

/// Makes a program without opening it for writing here: what another test's thread forks would have it
/// open for a moment, and the kernel executes no file that somebody writes to.
fn program(path: &Path, text: &str) {
    let script = "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\"";
    let mut shell = std::process::Command::new("sh");
    let made = shell.args(["-c", script]).arg(path).arg(text).status();
    assert!(made.unwrap().success());
}

impl Node {
    /// The script `write` copies the module and notes that it ran.
    fn new(script: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let compiler = root.path().join("compiler");
        let runs = root.path().join("runs");
        let script = script.replace("RUNS", runs.to_str().unwrap());
        program(&compiler, &format!("#!/bin/sh\n{script}\n"));
        Self { root }
    }

    fn copying() -> Self {
        Self::new("echo run >> RUNS; printf 'code of '; cat")
    }

    fn cache(&self) -> Cache {
        Cache::open(
            &self.root.path().join("cache"),
            &Program::at(self.root.path().join("compiler")),
        )
        .unwrap()
    }

    fn runs(&self) -> usize {
        std::fs::read_to_string(self.root.path().join("runs"))
            .unwrap_or_default()
            .lines()
            .count()
    }

    fn module(&self, content: &str) -> File {
        let path = self.root.path().join("module");
        std::fs::write(&path, content).unwrap();
        File::open(path).unwrap()
    }

    fn compiled(&self, content: &str) -> Result<Compiled, Error> {
        self.cache()
            .compiled(&self.module(content), "/app.wasm", Preview::Two, soon())
    }

    fn code(&self, key: Key) -> PathBuf {
        self.root
            .path()
            .join("cache")
            .join(key.to_string())
            .join(CODE)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.path().join("cache")).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// What an entry's reader would see, without the trailer.
fn content(compiled: &Compiled) -> String {
    let code = openat(&compiled.directory, CODE, OFlags::CLOEXEC, Mode::empty()).unwrap();
    let code = File::from(code);
    let mut bytes = vec![0; usize::try_from(code.metadata().unwrap().len()).unwrap()];
    code.read_exact_at(&mut bytes, 0).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    text.split("duetcode").next().unwrap().to_owned()
}

/// An error and its causes, as they are shown to the user.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |e| e.source())
        .fold(error.to_string(), |all, e| format!("{all}: {e}"))
}

#[test]
fn a_module_is_compiled_once() {
    let node = Node::copying();
    let first = node.compiled("one").unwrap();
    assert!(matches!(first.source, Source::Fresh(_)));
    let second = node.compiled("one").unwrap();
    assert_eq!((second.source, second.key), (Source::Cached, first.key));
    let other = node.compiled("two").unwrap();
    assert!(matches!(other.source, Source::Fresh(_)) && other.key != first.key);
    assert_eq!(node.runs(), 2);
    let code = std::fs::metadata(node.code(first.key)).unwrap();
    assert_eq!(code.permissions().mode() & 0o777, 0o444);
}

#[test]
fn code_for_preview_3_lies_beside_the_other_and_its_compiler_is_told() {
    let node = Node::new("echo run >> RUNS; printf '%s: ' \"${DUET_PREVIEW3-false}\"; cat");
    let (cache, module) = (node.cache(), node.module("one"));
    let compiled = |preview| cache.compiled(&module, "/app.wasm", preview, soon());
    let [two, three] = [Preview::Two, Preview::Three].map(|it| compiled(it).unwrap());
    assert_eq!(
        [content(&two), content(&three)],
        ["false: one", "true: one"]
    );
    assert_eq!(compiled(Preview::Three).unwrap().source, Source::Cached);
    assert_eq!(node.runs(), 2);
}

#[test]
fn what_loading_fills_lies_beside_the_code_if_the_runner_can_tell() {
    let wasm = "\0asm\x01\0\0\0";
    let table = [
        ("printf blocks; test -f /proc/self/fd/0/code", Ok("blocks")),
        (
            "echo no memory >&2; exit 125",
            Err("/app.wasm: the runner ended with exit status: 125: no memory"),
        ),
    ];
    for (script, expected) in table {
        let node = Node::copying();
        let runner = Node::new(script);
        let cache = node
            .cache()
            .with_runner(&Program::at(runner.root.path().join("compiler")));
        let compiled = cache
            .compiled(&node.module(wasm), "/app.wasm", Preview::Two, soon())
            .unwrap();
        let blocks = node.code(compiled.key).with_file_name(BLOCKS);
        let told = match compiled.unshared {
            None => Ok(std::fs::read_to_string(&blocks).unwrap()),
            Some(error) => Err(error.to_string()),
        };
        assert_eq!(told.as_deref().map_err(String::as_str), expected);
        assert_eq!(blocks.exists(), expected.is_ok());
        // Whichever it was, the entry can be thrown away and made again.
        std::fs::remove_file(node.code(compiled.key)).unwrap();
        let again = cache
            .compiled(&node.module(wasm), "/app.wasm", Preview::Two, soon())
            .unwrap();
        assert!(matches!(again.source, Source::Fresh(_)));
    }
}

#[test]
fn another_build_of_the_compiler_does_not_use_its_predecessors_code() {
    let node = Node::copying();
    let first = node.compiled("one").unwrap();
    let compiler = node.root.path().join("compiler");
    let script = std::fs::read_to_string(&compiler).unwrap();
    program(&compiler, &format!("{script}# a security fix\n"));
    let second = node.compiled("one").unwrap();
    assert!(matches!(second.source, Source::Fresh(_)) && second.key != first.key);
}

#[test]
fn an_unfit_entry_is_thrown_away_and_made_again() {
    type Spoil = fn(&Path);
    let unlock = |code: &Path| {
        std::fs::set_permissions(code, Permissions::from_mode(0o644)).unwrap();
    };
    let lock = |code: &Path| {
        std::fs::set_permissions(code, Permissions::from_mode(0o444)).unwrap();
    };
    let table: [(&str, Spoil); 8] = [
        ("cut off", |code| {
            let file = File::options().write(true).open(code).unwrap();
            file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        }),
        ("empty", |code| {
            File::options()
                .write(true)
                .open(code)
                .unwrap()
                .set_len(0)
                .unwrap()
        }),
        ("one bit", |code| {
            File::options()
                .write(true)
                .open(code)
                .unwrap()
                .write_all_at(b"d", 0)
                .unwrap();
        }),
        ("replaced", |code| {
            std::fs::remove_file(code).unwrap();
            std::fs::write(code, "evil").unwrap();
        }),
        ("missing", |code| std::fs::remove_file(code).unwrap()),
        ("a link", |code| {
            std::fs::rename(code, code.with_file_name("x")).unwrap();
            symlink("x", code).unwrap();
            std::fs::rename(code, code.with_file_name("y")).unwrap();
            std::fs::remove_file(code.with_file_name("x")).unwrap();
            std::fs::rename(code.with_file_name("y"), code).unwrap();
        }),
        ("writable", |code| {
            std::fs::set_permissions(code, Permissions::from_mode(0o664)).unwrap();
        }),
        ("a file for a directory", |code| {
            let entry = code.parent().unwrap();
            std::fs::remove_dir_all(entry).unwrap();
            std::fs::write(entry, "evil").unwrap();
        }),
    ];
    for (how, spoil) in table {
        let node = Node::copying();
        let first = node.compiled("one").unwrap();
        let code = node.code(first.key);
        unlock(&code);
        spoil(&code);
        if how != "writable" && code.is_file() {
            lock(&code);
        }
        let second = node.compiled("one").unwrap();
        assert!(
            matches!(second.source, Source::Fresh(_)),
            "{how}: {:?}",
            second.source
        );
        assert_eq!(content(&second), "code of one", "{how}");
        assert_eq!(
            node.compiled("one").unwrap().source,
            Source::Cached,
            "{how}"
        );
        assert_eq!(node.runs(), 2, "{how}");
    }
}

#[test]
fn code_of_another_module_is_not_run() {
    let node = Node::copying();
    let (one, two) = (node.compiled("one").unwrap(), node.compiled("two").unwrap());
    std::fs::remove_file(node.code(one.key)).unwrap();
    std::fs::rename(node.code(two.key), node.code(one.key)).unwrap();
    let again = node.compiled("one").unwrap();
    assert!(matches!(again.source, Source::Fresh(_)));
    assert_eq!(content(&again), "code of one");
}

#[test]
fn an_entry_that_was_touched_but_not_changed_is_kept() {
    let node = Node::copying();
    let first = node.compiled("one").unwrap();
    std::fs::set_permissions(node.code(first.key), Permissions::from_mode(0o444)).unwrap();
    assert_eq!(node.compiled("one").unwrap().source, Source::Cached);
    assert_eq!(node.runs(), 1);
}

#[test]
fn many_starts_at_once_compile_once() {
    let node = Node::new("echo run >> RUNS; sleep 0.3; printf 'code of '; cat");
    let module = node.module("one");
    let sources = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    node.cache()
                        .compiled(&module, "/app.wasm", Preview::Two, soon())
                        .unwrap()
                })
            })
            .collect();
        starts
            .into_iter()
            .map(|start| start.join().unwrap().source)
            .collect::<Vec<_>>()
    });
    assert_eq!(node.runs(), 1, "{sources:?}");
    assert_eq!(
        sources
            .iter()
            .filter(|s| matches!(s, Source::Fresh(_)))
            .count(),
        1,
        "{sources:?}"
    );
}

#[test]
fn a_compiler_that_takes_too_long_is_stopped() {
    let node = Node::new("exec sleep 60");
    let module = node.module("one");
    let mut cache = node.cache();
    cache.patience = Duration::from_millis(200);
    let error = cache
        .compiled(&module, "/app.wasm", Preview::Two, soon())
        .unwrap_err();
    assert!(
        error.to_string().contains("the compiler was stopped; not"),
        "{error}"
    );
    assert!(node.has_only_failed(), "nothing half-made is left");
}

#[test]
fn a_start_that_cannot_wait_says_so_and_the_next_finds_the_result() {
    // The compiler works until it is told that it may end.
    let node = Node::new("echo run >> RUNS; until [ -e RUNS.go ]; do sleep 0.01; done; cat");
    let module = node.module("code of one");
    let cache = node.cache();
    let hasty = || {
        let soon = Instant::now() + Duration::from_millis(100);
        cache
            .compiled(&module, "/app.wasm", Preview::Two, soon)
            .unwrap_err()
            .to_string()
    };
    let first = hasty();
    assert!(
        first.starts_with("/app.wasm: not compiled after ")
            && first.ends_with("the compiler goes on while the pod is there: try again later"),
        "{first}"
    );
    let second = hasty();
    assert!(
        second.ends_with("another container's start is still compiling it: try again later"),
        "{second}"
    );
    std::fs::write(node.root.path().join("runs.go"), "").unwrap();
    let third = cache
        .compiled(&module, "/app.wasm", Preview::Two, soon())
        .unwrap();
    assert!(
        matches!(third.source, Source::Awaited(_) | Source::Cached),
        "{:?}",
        third.source
    );
    assert_eq!((content(&third).as_str(), node.runs()), ("code of one", 1));
}

/// A module of 64 KiB.
fn large(name: &str) -> String {
    name.repeat((64 << 10) / name.len())
}

impl Node {
    /// Says that an entry was last used so many seconds ago.
    fn used(&self, key: Key, ago: u64) {
        let lock = self.root.path().join("cache").join(format!("{key}.lock"));
        let then = SystemTime::now() - Duration::from_secs(ago);
        File::options()
            .write(true)
            .open(lock)
            .unwrap()
            .set_modified(then)
            .unwrap();
    }

    /// Waits until nobody has the entry locked: a process that another test begins right now has a copy of
    /// each of our descriptors until its exec.
    fn idle(&self, key: Key) {
        let cache = self.root.path().join("cache");
        for name in [key.to_string(), format!("{key}.lock")] {
            let locked = File::open(cache.join(name)).unwrap();
            flock(&locked, FlockOperation::LockExclusive).unwrap();
            flock(&locked, FlockOperation::Unlock).unwrap();
        }
    }

    fn has(&self, key: Key) -> bool {
        self.code(key).exists()
    }
}

#[test]
fn what_was_not_used_for_longest_goes_when_the_cache_is_full() {
    let node = Node::copying();
    let room_for_three = 250 << 10;
    let compiled = |name: &str| {
        let module = node.module(&large(name));
        let cache = node.cache().with_size(room_for_three);
        let compiled = cache
            .compiled(&module, "/app.wasm", Preview::Two, soon())
            .unwrap();
        assert!(compiled.crowded.is_none(), "{:?}", compiled.crowded);
        compiled.key
    };
    let [one, two, three] = ["one1", "two2", "thre"].map(compiled);
    assert!([one, two, three].map(|key| node.has(key)) == [true; 3]);
    for (key, ago) in [(one, 300), (two, 200), (three, 100)] {
        node.used(key, ago);
    }
    // To be used is to be young again.
    assert_eq!(compiled("one1"), one);
    for key in [one, two, three] {
        node.idle(key);
    }
    let four = compiled("four");
    let there = [one, two, three, four].map(|key| node.has(key));
    assert_eq!(there, [true, false, true, true]);
    // Nothing of it is left, its lock neither; and it can be made again.
    assert!(!node.names().contains(&format!("{two}.lock")));
    assert_eq!(compiled("two2"), two);
    assert_eq!(node.runs(), 5);
}

#[test]
fn what_is_in_use_stays_in_a_cache_that_is_full() {
    let node = Node::copying();
    let compiled = |name: &str| {
        let cache = node.cache().with_size(0);
        cache
            .compiled(&node.module(name), "/app.wasm", Preview::Two, soon())
            .unwrap()
    };
    let (one, two) = (compiled("one"), compiled("two"));
    assert!(node.has(one.key) && node.has(two.key));
    let again = compiled("one");
    assert_eq!(again.source, Source::Cached);
    // Two containers use it, of which one ends.
    let unused = two.key;
    drop((one, two));
    node.idle(unused);
    let three = compiled("three");
    assert!(node.has(again.key) && node.has(three.key));
    assert_eq!(node.names().len(), 4, "{:?}", node.names());
}

#[test]
fn what_is_half_made_and_has_no_maker_goes_and_what_is_not_ours_stays() {
    let node = Node::copying();
    let one = node.compiled("one").unwrap();
    let path = |name: &str| node.root.path().join("cache").join(name);
    let key = |digit: &str| digit.repeat(64);
    std::fs::create_dir(path(&format!("{}.new", key("a")))).unwrap();
    std::fs::write(path(&format!("{}.new/code", key("a"))), "half").unwrap();
    std::fs::write(path(&format!("{}.lock", key("b"))), "").unwrap();
    std::fs::write(path("a file of somebody's"), "").unwrap();
    let two = node.compiled("two").unwrap();
    let mut expected = vec!["a file of somebody's".to_owned()];
    for key in [one.key, two.key] {
        expected.extend([key.to_string(), format!("{key}.lock")]);
    }
    expected.sort();
    assert_eq!(node.names(), expected);
}

#[test]
fn what_a_killed_shim_left_is_cleared_away() {
    let node = Node::copying();
    let first = node.compiled("one").unwrap();
    let entry = node.code(first.key).parent().unwrap().to_owned();
    std::fs::rename(&entry, entry.with_extension("new")).unwrap();
    let second = node.compiled("one").unwrap();
    assert!(matches!(second.source, Source::Fresh(_)));
    assert_eq!(
        node.names(),
        [first.key.to_string(), format!("{}.lock", first.key)]
    );
}

#[test]
fn what_the_compiler_says_reaches_the_user() {
    let table = [
        (
            "echo 'invalid at byte 0x8' >&2; exit 1",
            "/app.wasm: invalid at byte 0x8",
        ),
        (
            "echo 'jail: EPERM' >&2; exit 2",
            "/app.wasm: the compiler ended with 2: jail: EPERM",
        ),
        ("cat > /dev/null", "code: the compiler wrote nothing"),
        (
            "exit 2",
            "/app.wasm: the compiler ended with 2: it said nothing",
        ),
    ];
    for (script, expected) in table {
        let node = Node::new(script);
        let text = chain(&node.compiled("one").unwrap_err());
        assert!(
            text.ends_with(expected.trim_start_matches("code")),
            "{script}: {text}"
        );
        assert!(node.has_only_failed(), "{script}");
    }
}

#[test]
fn the_compiler_is_process_1_of_a_namespace_that_ends_with_it() {
    if !rustix::process::geteuid().is_root() {
        let required = std::env::var("DUET_TEST_REQUIRE").unwrap_or_default();
        assert!(
            !required.contains("root"),
            "this test needs root, and DUET_TEST_REQUIRE says so"
        );
        eprintln!("skipped: needs root");
        return;
    }
    // What it leaves behind holds the pipe open, and would hold up whoever waits for its end.
    let node = Node::new("sleep 1000 & echo process $$ >&2; exit 1");
    let text = node.compiled("one").unwrap_err().to_string();
    assert_eq!(text, "/app.wasm: process 1");
}

#[test]
fn a_cache_that_others_can_write_to_is_refused() {
    let node = Node::copying();
    drop(node.cache());
    let directory = node.root.path().join("cache");
    std::fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
    let error =
        Cache::open(&directory, &Program::at(node.root.path().join("compiler"))).unwrap_err();
    assert!(
        error.to_string().ends_with(
            "mode 777; it must belong to the shim's user, root, with mode 700, or be removed"
        ),
        "{error}"
    );
}

#[test]
fn the_version_is_the_one_in_the_lock_file() {
    let lock = include_str!("../../../../Cargo.lock");
    let after = lock
        .split("name = \"wasmtime\"\nversion = \"")
        .nth(1)
        .unwrap();
    let version = after.split('"').next().unwrap();
    assert!(
        crate::VERSION.ends_with(&format!("wasmtime {version}")),
        "{version}"
    );
}

#[test]
fn a_missing_compiler_is_named() {
    let node = Node::copying();
    let error = Cache::open(
        &node.root.path().join("cache"),
        &Program::at("/no/compiler"),
    )
    .unwrap_err();
    assert_eq!(
        chain(&error),
        "wasm compiler /no/compiler: No such file or directory (os error 2)"
    );
}

#[test]
fn what_the_runner_is_given_leads_nowhere_and_cannot_be_written() {
    if !rustix::process::geteuid().is_root() {
        let required = std::env::var("DUET_TEST_REQUIRE").unwrap_or_default();
        assert!(
            !required.contains("root"),
            "this test needs root, and DUET_TEST_REQUIRE says so"
        );
        eprintln!("skipped: needs root");
        return;
    }
    let node = Node::copying();
    let tree = node.compiled("one").unwrap().tree().unwrap();
    let path = OFlags::PATH | OFlags::CLOEXEC;
    let number = |place: OwnedFd| rustix::fs::fstat(place).unwrap().st_ino;
    let above = openat(&tree, "../../..", path, Mode::empty()).unwrap();
    assert_eq!(number(above), number(tree.try_clone().unwrap()));
    let write = openat(&tree, CODE, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    assert_eq!(write.unwrap_err(), Errno::ROFS);
}
