//! `wasi:keyvalue`: a server keeps values, which all its requests see.

use crate::harness::{Guest, root};
use crate::servers::Server;

fn server() -> Server {
    Server::start(Guest::named("keyvalue.wasm"))
}

#[test]
fn every_function_answers_as_the_proposal_says() {
    if !root() {
        return;
    }
    let server = server();
    for (path, answer) in [
        ("/open/", "opened"),
        ("/open/default", "opened"),
        ("/open/other", "Error::NoSuchStore"),
        (
            "/every/store",
            "(None, false) (Some([116, 119, 111]), Some([]), true) Some([116, 119, 111]) \
             [\"a\", \"b\"] None [\"b\"]",
        ),
        (
            "/every/atomics",
            "(2, 42) 42 Err(Error::Other(\"the value of \\\"n\\\", 42, plus 18446744073709551615 is not a u64\")) \
             Err(Error::Other(\"the value of \\\"n\\\" is not a number\"))",
        ),
        (
            "/every/batch",
            "[Some((\"x\", [49])), None, Some((\"z\", [51]))] [None, None, None]",
        ),
        ("/pages/1000", "2 pages, 1000 keys"),
    ] {
        assert_eq!(server.get(path), (200, answer.into()), "{path}");
    }
}

#[test]
fn requests_see_what_others_have_kept() {
    if !root() {
        return;
    }
    let counting = server();
    for count in 1..=3 {
        assert_eq!(counting.get("/count"), (200, count.to_string()));
    }
    // And nobody else does.
    assert_eq!(server().get("/count"), (200, "1".into()));
}

#[test]
fn what_does_not_fit_is_refused_and_the_rest_stays() {
    if !root() {
        return;
    }
    let unlimited = server();
    // A value of 16 MiB, four times, is more than 64 MiB with its key.
    for key in ["a", "b", "c"] {
        assert_eq!(unlimited.get(&format!("/fill/{key}/16777216")).1, "kept");
    }
    let full = "Error::Other(\"this is more than the store has room for: 64 MiB\")";
    assert_eq!(unlimited.get("/fill/d/16777216").1, full);
    assert_eq!(unlimited.get("/fill/a/1").1, "kept");
    assert_eq!(unlimited.get("/fill/d/16777216").1, "kept");

    let directory = tempfile::tempdir().unwrap();
    let limit = directory.path().join("memory.max");
    std::fs::write(&limit, "16777216\n").unwrap();
    let guest = Guest::named("keyvalue.wasm").memory(directory.path());
    // One instance, so that no other's memory counts as well.
    let limited = Server::start(guest.http(|http| (http.reuse, http.concurrency) = (1000, 1)));
    assert_eq!(limited.get("/fill/a/4194304").1, "kept");
    let mut kept = 1;
    let refused = loop {
        let answer = limited.get(&format!("/fill/{kept}/1048576")).1;
        if answer != "kept" {
            break answer;
        }
        kept += 1;
        assert!(kept < 16, "16 MiB and more are kept in 16 MiB");
    };
    assert!(
        refused.contains("the container's memory limit leaves no room for it"),
        "{refused}"
    );
    assert_eq!(limited.get("/count").1, "1");
    // Nor is what is kept copied where there is no room for a copy.
    let full = format!(
        "Error::Other({:?})",
        "the container's memory limit leaves no room for it"
    );
    assert_eq!(limited.get("/copies/a/1").1, full);
    std::fs::write(&limit, "67108864\n").unwrap();
    assert_eq!(limited.get("/copies/a/1").1, "1 copies");
    assert_eq!(limited.get("/copies/a/7").1, "7 copies");
    assert_eq!(limited.get("/copies/a/13").1, full);
}
