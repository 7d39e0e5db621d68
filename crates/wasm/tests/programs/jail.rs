//! What the compiler has left when it reads the first byte of a stranger's.

use std::process::{Command, Stdio};

use crate::harness::{binary, eventually, root};

#[test]
fn the_compiler_has_nothing_but_its_streams() {
    if !root() {
        return;
    }
    let mut compiler = Command::new(binary("duet-compiler"))
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let own = |file: &str| format!("/proc/{}/{file}", compiler.id());
    let status = || std::fs::read_to_string(own("status")).unwrap();
    // The filter is the last thing before it reads.
    eventually("the compiler to have a filter", || {
        status().contains("Seccomp:\t2").then_some(())
    });
    let status = status();
    for line in [
        "Uid:\t65534\t65534\t65534\t65534",
        "Gid:\t65534\t65534\t65534\t65534",
        "Groups:\t ",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.lines().any(|l| l == line), "{line:?} in {status}");
    }
    for namespace in ["net", "mnt", "ipc", "uts", "cgroup"] {
        let of = |place: String| std::fs::read_link(place).unwrap();
        let theirs = of(own(&format!("ns/{namespace}")));
        assert_ne!(theirs, of(format!("/proc/self/ns/{namespace}")));
    }
    let limits = std::fs::read_to_string(own("limits")).unwrap();
    for (limit, value) in [
        ("Max data size", "2147483648"),
        ("Max address space", "8589934592"),
        ("Max cpu time", "240"),
        ("Max core file size", "0"),
        ("Max open files", "16"),
    ] {
        let line = limits.lines().find(|line| line.starts_with(limit)).unwrap();
        let soft = line[limit.len()..].split_ascii_whitespace().next();
        assert_eq!(soft, Some(value), "{line}");
    }
    let score = std::fs::read_to_string(own("oom_score_adj")).unwrap();
    assert_eq!(score, "1000\n", "the first to go when memory runs out");
    drop(compiler.stdin.take());
    assert_eq!(
        compiler.wait().unwrap().code(),
        Some(1),
        "nothing is no module"
    );
}

#[test]
fn the_compiler_enters_its_cgroup_first_or_does_not_work() {
    let directory = tempfile::tempdir().unwrap();
    let tasks = directory.path().join("tasks");
    std::fs::write(&tasks, "").unwrap();
    let run = |told: String| {
        Command::new(binary("duet-compiler"))
            .env_clear()
            .env("DUET_TASKS", told)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    let entered = run(tasks.display().to_string());
    assert_eq!(entered.status.code(), Some(1), "nothing is no module");
    assert_eq!(std::fs::read_to_string(&tasks).unwrap(), "0");
    let lost = run(format!("{}\n/gone/tasks", tasks.display()));
    assert_eq!(lost.status.code(), Some(2));
    let text = String::from_utf8(lost.stderr).unwrap();
    assert!(
        text.starts_with("jail: /gone/tasks: No such file"),
        "{text}"
    );
}
