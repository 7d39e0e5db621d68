//! `ctr task`: ls, ps, exec, kill, pause, metrics; and a shim that is shot.

use std::fs;

use duet_tests::command::Outcome;
use duet_tests::machine::Runtime;
use duet_tests::{Node, wait};

#[test]
fn a_running_container_is_listed_with_the_pid_the_kernel_knows() {
    let Some(node) = Node::enter() else { return };
    let mut task = node
        .container("listed")
        .script("echo ready; exec sleep 1000")
        .start();
    task.says("ready");
    assert_eq!(task.status().as_deref(), Some("RUNNING"));
    wait::until("the pid's program to be the container's", || {
        let command = fs::read(format!("/proc/{}/cmdline", task.pid())).expect("it runs");
        (command == b"sleep\x001000\0").then_some(())
    });

    let table = task.ctr("ps", &[]).ok().stdout;
    let mut lines = table.lines();
    assert_eq!(
        lines.next().map(|l| l.split_whitespace().collect()),
        Some(vec!["PID", "INFO"])
    );
    assert_eq!(
        lines
            .next()
            .map(|l| l.split_whitespace().collect::<Vec<_>>()),
        Some(vec![task.pid().to_string().as_str(), "-"])
    );
    task.end();
}

#[test]
fn exec_runs_beside_the_program_with_a_code_of_its_own() {
    let Some(node) = Node::enter() else { return };
    let mut task = node
        .container("host")
        .with(&["--env", "WHOSE=container"])
        .script("echo ready; exec sleep 1000")
        .start();
    task.says("ready");
    let script = "echo $WHOSE; echo err >&2; exit 9";
    let outcome = heard(&node, "container\n", "err\n", || {
        task.exec(&[], &["/bin/sh", "-c", script])
    });
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (9, "container\n"),
        "{outcome:?}"
    );
    assert!(outcome.stderr.contains("err\n"), "{outcome:?}");

    let other = ["--user", "1000", "--cwd", "/tmp"];
    let outcome = heard(&node, "/tmp\n", "", || {
        task.exec(&other, &["/bin/sh", "-c", "id -u; pwd"])
    });
    assert_eq!(outcome.ok().stdout, "1000\n/tmp\n");

    // It is in the container's PID namespace: the program is 1 there too.
    wait::until("the program to be the second one", || {
        let outcome = task.exec(&[], &["/bin/sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline"]);
        (outcome.ok().stdout == "sleep 1000 ").then_some(())
    });

    let outcome = task.exec(&[], &["/bin/nothing-here"]);
    assert_ne!(outcome.code, 0);
    assert!(outcome.stderr.contains("/bin/nothing-here"), "{outcome:?}");
    task.end();
}

#[test]
fn exec_with_a_terminal_is_on_a_terminal() {
    let Some(node) = Node::enter() else { return };
    let mut task = node
        .container("host")
        .script("echo ready; exec sleep 1000")
        .start();
    task.says("ready");
    let outcome = heard(&node, "/dev/pts/0", "", || {
        on_a_terminal(&node, "tty; stty size; exit 5")
    });
    assert!(outcome.stdout.contains("/dev/pts/0"), "{outcome:?}");
    assert_eq!(outcome.code, 5, "{outcome:?}");
    task.end();
}

/// What an exec came to, which says this. Under runc it is repeated until ctr has heard it: ctr gives up an output that
/// it has not opened when the exec is over, and runc's shim does not wait for that (decision 49).
fn heard(node: &Node, stdout: &str, stderr: &str, exec: impl Fn() -> Outcome) -> Outcome {
    wait::until("an exec that ctr hears", || {
        let outcome = exec();
        let whole = outcome.stdout.contains(stdout) && outcome.stderr.contains(stderr);
        (whole || node.runtime() == Runtime::Duet).then_some(outcome)
    })
}

/// Runs a shell script on a terminal in the container `host`.
fn on_a_terminal(node: &Node, script: &str) -> Outcome {
    // ctr needs a terminal of its own; `script` gives it one.
    let mut ctr = node.daemon().ctr(node.namespace());
    ctr.args(["task", "exec", "--tty", "--exec-id", "t", "host"]);
    let words: Vec<_> = std::iter::once(ctr.get_program())
        .chain(ctr.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .chain(["/bin/sh -c".to_owned(), format!("'{script}'")])
        .collect();
    let mut terminal = std::process::Command::new("script");
    terminal.args(["-qec", &words.join(" "), "/dev/null"]);
    duet_tests::command::run(&mut terminal)
}

#[test]
fn a_hundred_thousand_lines_on_a_terminal_arrive_each_time() {
    let Some(node) = Node::enter() else { return };
    let mut task = node
        .container("host")
        .script("echo ready; exec sleep 1000")
        .start();
    task.says("ready");
    let whole: String = (1..=100_000).map(|line| format!("{line}\n")).collect();
    for _ in 0..5 {
        let outcome = on_a_terminal(&node, "seq 1 100000").ok();
        // `script` types an end of its own input, which the terminal echoes wherever it stands.
        // And each of the two terminals on the way adds its CR.
        let said = outcome.stdout.replace("^@", "").replace('\r', "");
        assert!(said == whole, "{} bytes", said.len());
    }
    task.end();
}

#[test]
fn a_signal_reaches_the_program_and_its_answer_is_the_code() {
    let Some(node) = Node::enter() else { return };
    let mut task = node
        .container("polite")
        .script("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 1 & wait $!; done")
        .start();
    task.says("ready");
    task.kill("SIGTERM");
    let outcome = task.wait();
    assert_eq!((outcome.code, outcome.stdout.as_str()), (3, "ready\nbye\n"));

    // 1 in a PID namespace ignores what it has no handler for; KILL does not ask.
    let mut task = node
        .container("stubborn")
        .script("echo ready; exec sleep 1000")
        .start();
    task.says("ready");
    task.kill("SIGTERM");
    assert_eq!(task.status().as_deref(), Some("RUNNING"));
    task.end();
}

#[test]
fn kill_all_reaches_every_process_of_the_container() {
    let Some(node) = Node::enter() else { return };
    let mut task = node
        .container("family")
        .script("sleep 1000 & sleep 1000 & echo ready; wait")
        .start();
    task.says("ready");
    let _sent = task.ctr("kill", &["--all", "--signal", "SIGKILL"]).ok();
    assert_eq!(task.wait().code, 137);
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed() {
    let Some(node) = Node::enter() else { return };
    let beat = "date +%s%N > /tmp/beat; echo ready; \
                while :; do date +%s%N > /tmp/beat; sleep 0.02; done";
    let mut task = node.container("heart").script(beat).start();
    task.says("ready");
    let _paused = task.ctr("pause", &[]).ok();
    assert_eq!(task.status().as_deref(), Some("PAUSED"));
    let root = format!("/proc/{}/root/tmp/beat", task.pid());
    let before = fs::read(&root).expect("it has a beat");
    let moved = wait::within(std::time::Duration::from_millis(300), || {
        (fs::read(&root).ok()? != before).then_some(())
    });
    assert!(moved.is_none(), "a paused container ran on");

    let _resumed = task.ctr("resume", &[]).ok();
    assert_eq!(task.status().as_deref(), Some("RUNNING"));
    wait::until("the heart to beat", || {
        (fs::read(&root).ok()? != before).then_some(())
    });
    task.end();
}

#[test]
fn metrics_have_the_names_that_ctr_prints_for_runc() {
    let Some(node) = Node::enter() else { return };
    let mut task = node
        .container("measured")
        .script("echo ready; exec sleep 1000")
        .start();
    task.says("ready");
    let table = task.ctr("metrics", &[]).ok().stdout;
    for name in [
        "memory.usage_in_bytes",
        "memory.limit_in_bytes",
        "cpuacct.usage",
        "pids.current",
    ] {
        let v2 = match name {
            "memory.usage_in_bytes" => "memory.usage",
            "memory.limit_in_bytes" => "memory.usage_limit",
            "cpuacct.usage" => "cpu.usage_usec",
            other => other,
        };
        let row = table
            .lines()
            .find(|line| line.starts_with(name) || line.starts_with(v2));
        let row = row.unwrap_or_else(|| panic!("no {name} in\n{table}"));
        let value = row.split_whitespace().nth(1).expect("a value");
        assert_ne!(value, "0", "{row}");
    }
    task.end();
}

#[test]
fn a_deleted_container_may_come_again_under_its_name() {
    let Some(node) = Node::enter() else { return };
    for _ in 0..3 {
        assert_eq!(node.container("again").script("exit 4").run().code, 4);
    }
}

#[test]
fn a_task_that_ended_waits_to_be_deleted() {
    let Some(node) = Node::enter() else { return };
    let ended = node
        .container("ended")
        .with(&["--null-io"])
        .script("exit 6");
    let _started = duet_tests::command::run(&mut ended.command("-d")).ok();
    let listed = || {
        let table = node.ctr(&["task", "ls"]).ok().stdout;
        table
            .lines()
            .any(|line| line.contains("STOPPED"))
            .then_some(())
    };
    wait::until("the task to stop", listed);
    let outcome = node.ctr(&["task", "delete", "ended"]);
    assert!(outcome.stderr.contains("exit code 6"), "{outcome:?}");
    let _gone = node.ctr(&["container", "delete", "ended"]).ok();
}

#[test]
fn a_shim_that_is_shot_takes_its_container_with_it() {
    let Some(node) = Node::enter() else { return };
    let mut task = node
        .container("orphan")
        .script("sleep 1000 & echo ready; exec sleep 1000")
        .start();
    task.says("ready");
    let shim = shim_of(&node, task.pid());
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(shim),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("the shim runs");
    let outcome = task.wait();
    assert_ne!(outcome.code, 0);
    // What `ctr run --rm` could not do without a shim.
    let _gone = node.ctr(&["task", "delete", "--force", "orphan"]);
    let _gone = node.ctr(&["container", "delete", "orphan"]);
}

/// The nearest ancestor of a container's program that is a shim.
fn shim_of(node: &Node, pid: i32) -> i32 {
    let name = match node.runtime() {
        Runtime::Duet => "containerd-shim-duet-v1",
        Runtime::Runc => "containerd-shim-runc-v2",
    };
    let mut pid = pid;
    loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("an ancestor runs");
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1));
        pid = parent
            .and_then(|pid| pid.parse().ok())
            .expect("a process has a parent");
        let exe = fs::read_link(format!("/proc/{pid}/exe")).expect("it has a program");
        if exe.file_name().is_some_and(|file| file == name) {
            return pid;
        }
        assert!(pid > 1, "no {name} above the container");
    }
}
