//! Counts system calls, by running a test of the same program again under strace. Of the tests of
//! `duet-pod` too, which include this file.

use std::fs;
use std::process::Command;

/// Files that are looked for to mark a place in a trace.
const BEGIN: &str = "/what-is-counted-begins";
const END: &str = "/what-is-counted-is-over";

/// Marks where what is counted begins.
pub(crate) fn begin() {
    assert!(fs::metadata(BEGIN).is_err());
}

/// Marks where it is over.
pub(crate) fn end() {
    assert!(fs::metadata(END).is_err());
}

/// The system calls that the ignored test of this name makes between its marks, one a line. Without
/// strace there are none, and it says so.
pub(crate) fn calls(test: &str) -> Option<Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let traced = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test])
        .output();
    let Ok(traced) = traced else {
        eprintln!("skipped: needs strace");
        assert!(
            std::env::var_os("DUET_TEST_REQUIRE").is_none(),
            "DUET_TEST_REQUIRE is set: nothing may be skipped"
        );

        return None;
    };
    assert!(traced.status.success(), "{traced:?}");
    let text = fs::read_to_string(trace).unwrap();
    let lines = text.lines().skip_while(|line| !line.contains(BEGIN));
    let counts = |line: &&str| {
        !["resumed>", "+++", "---"]
            .iter()
            .any(|no| line.contains(no))
    };
    let calls = lines.take_while(|line| !line.contains(END)).filter(counts);
    Some(calls.map(ToOwned::to_owned).collect())
}
