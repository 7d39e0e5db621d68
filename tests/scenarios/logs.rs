//! Where output goes when no client reads it: `ctr run --log-uri`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use duet_tests::machine::Runtime;
use duet_tests::{Node, wait};

/// Waits until a file has these lines, in any order.
fn has(file: &std::path::Path, lines: &[&str]) {
    wait::until(&format!("{lines:?} in {}", file.display()), || {
        let text = fs::read_to_string(file).unwrap_or_default();
        let found = |line: &&str| text.lines().any(|found| found == *line);
        lines.iter().all(found).then_some(())
    });
}

#[test]
fn a_logger_reads_both_outputs_and_leaves_with_the_container() {
    let Some(node) = Node::enter() else { return };
    let (log, logger) = (node.scratch().join("log"), node.scratch().join("logger"));
    let script = format!(
        "#!/bin/sh\nexec >{}\necho \"$CONTAINER_NAMESPACE/$CONTAINER_ID $*\"\nexec 5>&-\n\
         cat <&3 3<&- 4<&- &\ncat <&4 3<&- 4<&-\nwait\n",
        log.display()
    );
    fs::write(&logger, script).unwrap();
    fs::set_permissions(&logger, Permissions::from_mode(0o755)).unwrap();
    let uri = format!("binary://{}?--tag=web", logger.display());
    let task = node
        .container("logged")
        .with(&["--log-uri", &uri])
        .script("echo out; echo err >&2; exec sleep 1000")
        .start();
    has(
        &log,
        &[
            &format!("{}/logged --tag web", node.namespace()),
            "out",
            "err",
        ],
    );
    task.end();
}

#[test]
fn a_file_takes_both_outputs() {
    let Some(node) = Node::enter() else { return };
    let log = node.scratch().join("logs/web.log");
    let uri = format!("file://{}", log.display());
    // It lives until it was read: runc's shim now and then loses what was written by one that is over at once.
    let task = node
        .container("logged")
        .with(&["--log-uri", &uri])
        .script("echo out; echo err >&2; exec sleep 1000")
        .start();
    has(&log, &["out", "err"]);
    assert_eq!(task.stdout(), "");
    task.end();
}

#[test]
fn a_file_is_not_the_programs_to_read_or_rewrite() {
    let Some(node) = Node::enter() else { return };
    let log = node.scratch().join("web.log");
    let uri = format!("file://{}", log.display());
    let script = "echo first; echo second > /dev/stdout; echo third > /dev/stderr; \
                  [ -f /proc/self/fd/1 ] && echo a file; exec sleep 1000";
    let with = ["--log-uri", &uri];
    let task = node.container("logged").with(&with).script(script).start();
    let judge = |times: usize| {
        // Runc's shim closes the file for both outputs when one of them has ended ("error copying stderr").
        let said = match node.runtime() {
            Runtime::Duet => "first\nsecond\nthird\n",
            Runtime::Runc => "first\nsecond\n",
        };
        let text = wait::until("all that it says", || {
            let text = fs::read_to_string(&log).ok()?;
            let all = said.lines().all(|line| text.matches(line).count() >= times);
            all.then_some(text)
        });
        assert!(!text.contains("a file"), "{text}");
        if node.runtime() == Runtime::Duet {
            assert_eq!(text, said.repeat(times));
        }
    };
    // Root could truncate it.
    judge(1);
    // Who is not root could not open it.
    let script = script.replace("exec sleep 1000", "exit 7");
    let outcome = task.exec(
        &["--user", "1000", "--log-uri", &uri],
        &["/bin/sh", "-c", &script],
    );
    assert_eq!(outcome.code, 7, "{outcome:?}");
    judge(2);
    task.end();
}

#[test]
fn a_logger_that_is_missing_is_named() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let outcome = node
        .container("logged")
        .with(&["--log-uri", "binary:///bin/nothing-here"])
        .args(&["/bin/true"])
        .run();
    assert_ne!(outcome.code, 0);
    let why = "stdout \"binary:///bin/nothing-here\": the logger: exec: \"/bin/nothing-here\"";
    assert!(outcome.stderr.contains(why), "{outcome:?}");
}

/// What Duet has logged in its own words from `start` to the end of a guest, without the requests of containerd, of
/// which a client makes as many as it likes.
fn told(node: &Node, start: usize) -> Vec<String> {
    wait::until("the end of the guest in the log", || {
        let log = node.daemon().log();
        let lines = log[start..].lines();
        let ours = lines.filter(|line| line.starts_with('{') && !line.contains("\"request\""));
        let mut ours: Vec<_> = ours.map(str::to_owned).collect();
        let end = ours.iter().position(|line| line.contains("guest ended"))?;
        ours.truncate(end + 1);
        Some(ours)
    })
}

#[test]
fn what_a_guest_calls_leaves_no_line_in_any_log() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let told = ["1", "3000"].map(|count| {
        let start = node.daemon().log().len();
        // As many files opened, read and closed, and the one line that it found in all of them.
        let looks = node.container("looks").probe(&["look", "/motd", count]);
        let outcome = looks.run().ok();
        assert_eq!(outcome.stdout, "a file of the image\n");
        assert_eq!(outcome.stderr, "");
        told(&node, start)
    });
    assert_eq!(told[0].len(), told[1].len(), "{told:#?}");
}
