//! The container's memory limit, as a guest meets it.

use std::io::Write as _;

use crate::harness::{Guest, root};

#[test]
fn growth_past_the_limit_fails_and_says_so_and_follows_a_change() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let limit = directory.path().join("memory.max");
    let set = |bytes: &str| std::fs::write(&limit, format!("{bytes}\n")).unwrap();
    set("16777216");
    let guest = Guest::of_the_scenarios("probe.wasm").args(["ask", "32"]);
    let mut running = guest.limit(&limit).typing().start();
    let mut stdin = running.typing();
    assert_eq!(running.line(), "ready");
    let mut ask = || {
        stdin.write_all(b"?\n").unwrap();
        running.line()
    };
    assert_eq!(ask(), "Out of memory");
    assert_eq!(ask(), "Out of memory");
    set("67108864");
    assert_eq!(ask(), "grown");
    drop(stdin);
    let ended = running.wait();
    // Once, however often it asks.
    let words: Vec<_> = ended.stderr.lines().collect();
    assert!(
        matches!(words.as_slice(), [line] if line.starts_with("duet: a growth of the guest's memory to ")
            && line.ends_with(" is refused: the container's limit is 16384 KiB")),
        "{words:?}"
    );
}

#[test]
fn without_a_limit_there_is_none() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let unlimited = directory.path().join("limit");
    for text in ["max\n", "9223372036854771712\n"] {
        std::fs::write(&unlimited, text).unwrap();
        let guest = Guest::of_the_scenarios("probe.wasm").args(["grow", "64"]);
        let ended = guest.limit(&unlimited).run();
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "grown\n"));
    }
}
