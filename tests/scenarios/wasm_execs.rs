//! Execs where wasm is: a second guest, an executable beside a guest, a guest beside an executable,
//! and the programs that Duet brings along.

use std::fs;
use std::process::{Command, Stdio};

use duet_tests::{Node, command, image, wait};

const PREVIEW3: &str = "io.containerd.duet.v1.preview3=true";

/// A terminal for `ctr`, which needs one of its own: `script` gives it.
fn on_a_terminal(ctr: &Command, args: &[&str]) -> command::Outcome {
    let mut script = Command::new("script");
    let mut outcome = command::run(script.args(["-qec", &words(ctr, args), "/dev/null"]));
    // What `script` types at its end, which is echoed anywhere.
    outcome.stdout = outcome.stdout.replace("^@", "");
    outcome
}

/// A command and more of its arguments, as a shell is told of them.
fn words(ctr: &Command, args: &[&str]) -> String {
    let words: Vec<_> = std::iter::once(ctr.get_program())
        .chain(ctr.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .chain(args.iter().map(|arg| format!("'{arg}'")))
        .collect();
    words.join(" ")
}

#[test]
fn a_guest_is_executed_beside_a_guest() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let volume = node.scratch().join("volume");
    fs::create_dir(&volume).expect("our own folder");
    fs::write(volume.join("late.wasm"), duet_tests::guests::PROBE.bytes).expect("our own folder");
    let mount = format!(
        "type=bind,src={},dst=/data,options=rbind:rw",
        volume.display()
    );
    let mut task = node
        .container("first")
        .with(&["--mount", &mount, "--env", "PATH=/bin:/"])
        .with(&["--env", "COLOUR=blue"])
        .probe(&["idle"])
        .start();
    task.says("idle");
    // By its path, by PATH, from a volume.
    for program in ["/probe.wasm", "probe.wasm", "/data/late.wasm"] {
        let said = task.exec(&[], &[program, "args", "two words"]).ok().stdout;
        assert_eq!(said, format!("{program}\nargs\ntwo words\n"));
    }
    let env = task.exec(&[], &["/probe.wasm", "env"]).ok().stdout;
    assert!(env.lines().any(|line| line == "COLOUR=blue"), "{env}");
    assert_eq!(task.exec(&[], &["/probe.wasm", "exit", "7"]).code, 7);
    let trapped = task.exec(&[], &["/probe.wasm", "trap"]);
    assert_eq!(trapped.code, 134, "{trapped:?}");
    assert!(trapped.stderr.contains("unreachable"), "{trapped:?}");
    // One file for both, whoever writes it.
    let _written = task
        .exec(&[], &["/probe.wasm", "write", "/tmp/said", "hi"])
        .ok();
    let read = task
        .exec(&[], &["/data/late.wasm", "cat", "/tmp/said"])
        .ok();
    assert_eq!(read.stdout, "hi\n");
    let missing = task.exec(&[], &["/nothing.wasm"]);
    assert_ne!(missing.code, 0);
    assert!(missing.stderr.contains("/nothing.wasm"), "{missing:?}");
    let broken = task.exec(&[], &["/truncated.wasm"]);
    assert!(
        broken.stderr.contains("/truncated.wasm: cut off"),
        "{broken:?}"
    );
    task.end();
}

#[test]
fn term_ends_a_guest_that_was_executed_and_the_end_of_the_first_ends_the_others() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let mut task = node.container("first").probe(&["idle"]).start();
    task.says("idle");
    let exec = |name: &str, job: &str| {
        let mut ctr = node.daemon().ctr(node.namespace());
        ctr.args([
            "task",
            "exec",
            "--exec-id",
            name,
            "first",
            "/probe.wasm",
            job,
        ]);
        let mut exec = command::start(&mut ctr);
        exec.says(if job == "spin" { "spinning" } else { "idle" });
        exec
    };
    for job in ["spin", "idle"] {
        let ended = exec(job, job);
        let signal = [
            "task",
            "kill",
            "--exec-id",
            job,
            "--signal",
            "SIGTERM",
            "first",
        ];
        let _sent = node.ctr(&signal).ok();
        assert_eq!(ended.wait().code, 143, "{job}");
    }
    let left = exec("left", "spin");
    task.end();
    assert_eq!(left.wait().code, 137);
}

#[test]
fn an_executable_runs_beside_a_guest_with_a_procfs_of_its_own() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let busybox = image::busybox();
    let mount = format!(
        "type=bind,src={},dst=/busybox,options=rbind:ro",
        busybox.display()
    );
    let mapped = ["--uidmap", "0:300000:65536", "--gidmap", "0:300000:65536"];
    for (id, more) in [
        ("open", &[][..]),
        ("closed", &["--read-only"]),
        ("mapped", &mapped),
    ] {
        let mut task = node
            .container(id)
            .with(&["--mount", &mount])
            .with(more)
            .probe(&["idle"])
            .start();
        task.says("idle");
        let script = "/busybox cat /proc/1/cmdline | /busybox tr '\\0' ' '; /busybox cat /proc/self/comm; \
                      /busybox ls /dev/fd/ >/dev/null && \
                      echo x >/dev/tty || echo no terminal; \
                      echo a > /proc/sys/kernel/hostname || echo read-only; exit 4";
        let outcome = task.exec(&[], &["/busybox", "sh", "-c", script]);
        assert_eq!(outcome.code, 4, "{outcome:?}");
        assert_eq!(
            outcome.stdout, "/probe.wasm idle busybox\nno terminal\nread-only\n",
            "{outcome:?}"
        );
        // The guest's own view is what it was.
        let seen = task.exec(&[], &["/probe.wasm", "cat", "/proc/self/comm"]);
        assert_eq!((seen.code, seen.stdout.as_str()), (1, ""), "{seen:?}");
        let dev = task.exec(&[], &["/probe.wasm", "list", "/dev"]).ok().stdout;
        assert!(!dev.contains("tty") && !dev.contains("pts"), "{dev}");
        task.end();
    }
}

#[test]
fn a_guest_beside_an_executable_sees_its_files_and_nothing_of_the_kernel() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let probe = node.scratch().join("probe.wasm");
    fs::write(&probe, duet_tests::guests::PROBE.bytes).expect("our own folder");
    let mount = format!(
        "type=bind,src={},dst=/probe.wasm,options=rbind:ro",
        probe.display()
    );
    let script = "mkdir /own && mount -t proc proc /own && mkdir -p /made/below && \
                  mount -t tmpfs tmpfs /made && echo from tmpfs > /made/file; \
                  echo shared > /dev/shm/file; echo ready; exec sleep 1000";
    for options in [&[][..], &["--privileged"][..]] {
        let mut task = node
            .container("native")
            .with(&["--mount", &mount])
            .with(options)
            .script(script)
            .start();
        task.says("ready");
        let guest = |args: &[&str]| task.exec(&[], &[&["/probe.wasm"], args].concat());
        for path in ["/proc", "/sys", "/own"] {
            let listed = guest(&["list", path]);
            assert_eq!(listed.stdout, "", "{path}: {listed:?}");
        }
        for path in [
            "/proc/self/mem",
            "/own/1/mem",
            "/dev/tty",
            "/dev/mem",
            "/dev/pts/ptmx",
        ] {
            let seen = guest(&["cat", path]);
            assert_eq!(
                (seen.code, seen.stdout.as_str()),
                (1, ""),
                "{path}: {seen:?}"
            );
        }
        assert_eq!(guest(&["cat", "/dev/shm/file"]).ok().stdout, "shared\n");
        assert_eq!(guest(&["cat", "/dev/null"]).ok().stdout, "");
        if !options.is_empty() {
            assert_eq!(guest(&["cat", "/made/file"]).ok().stdout, "from tmpfs\n");
        }
        // It was hidden from the guest alone.
        let proc = task
            .exec(&[], &["/bin/sh", "-c", "ls /dev/tty /proc/1/exe"])
            .ok();
        assert_eq!(proc.stdout, "/dev/tty\n/proc/1/exe\n");
        task.end();
    }
}

#[test]
fn a_guest_reads_a_terminal() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let container = node.container("console").with(&["--tty"]).probe(&["tty"]);
    let outcome = on_a_terminal(&container.command("--rm"), &[]);
    assert!(outcome.stdout.contains("1 1 1\r"), "{outcome:?}");
    let container = node
        .container("third")
        .image(image::GUESTS)
        .with(&["--tty", "--annotation", PREVIEW3])
        .args(&["/probe-p3.wasm", "terminal"]);
    let outcome = on_a_terminal(&container.command("--rm"), &[]);
    assert!(outcome.stdout.contains("true true\r"), "{outcome:?}");
    let mut task = node.container("first").probe(&["idle"]).start();
    task.says("idle");
    let mut ctr = node.daemon().ctr(node.namespace());
    ctr.args(["task", "exec", "--tty", "--exec-id", "t", "first"]);
    let outcome = on_a_terminal(&ctr, &["/probe.wasm", "tty"]);
    assert!(outcome.stdout.contains("1 1 1\r"), "{outcome:?}");
    let piped = task.exec(&[], &["/probe.wasm", "tty"]).ok();
    assert_eq!(piped.stdout, "0 0 0\n");
    let outcome = on_a_terminal(&ctr, &["test", "-t", "0", "-a", "-t", "1"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(task.exec(&[], &["test", "-t", "1"]).code, 1);
    // No path leads to any of it.
    let pts = task.exec(&[], &["/probe.wasm", "list", "/dev"]).ok().stdout;
    assert!(!pts.contains("pts") && !pts.contains("console"), "{pts}");
    task.end();
}

/// A guest has no call that asks for it; what counts is that the terminal has it, and that the guest goes on.
#[test]
fn the_terminal_of_a_guest_has_the_size_that_it_is_given() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let mut task = node.container("first").probe(&["idle"]).start();
    task.says("idle");
    let first = task.pid();
    let mut exec = node.daemon().ctr(node.namespace());
    exec.args(["task", "exec", "--tty", "--exec-id", "t", "first"]);
    exec.args(["/probe.wasm", "idle"]);
    let run = node.container("other").with(&["--tty"]).probe(&["idle"]);
    for (ctr, of) in [(exec, "first"), (run.command("--rm"), "other")] {
        // ctr hands on the size of its own terminal when that changes.
        let script = format!("tty; exec {}", words(&ctr, &[]));
        let mut terminal = Command::new("script");
        // Not the terminal of whoever runs the tests.
        terminal
            .args(["-qec", &script, "/dev/null"])
            .stdin(Stdio::null());
        let mut client = command::start(&mut terminal);
        client.says("idle");
        let stdout = client.stdout();
        let own = stdout.lines().next().expect("tty says something");
        let table = node.ctr(&["task", "ps", of]).ok().stdout;
        let mut pids = table.lines().filter_map(|line| {
            let pid: i32 = line.split_whitespace().next()?.parse().ok()?;
            (pid != first).then_some(pid)
        });
        let guest = pids.next().expect("the guest runs");
        let stty = |terminal: &str, more: &[&str]| {
            let mut stty = Command::new(image::busybox());
            command::run(stty.args(["stty", "-F", terminal]).args(more)).ok()
        };
        let terminal = format!("/proc/{guest}/fd/0");
        wait::until("the size to arrive", || {
            // Changed each time: `ctr run` does not hear of it from the start.
            let _other = stty(own, &["rows", "42"]);
            let _set = stty(own, &["rows", "43", "cols", "132"]);
            (stty(&terminal, &["size"]).stdout == "43 132\n").then_some(())
        });
        let signal = ["task", "kill", "--signal", "SIGTERM"];
        let whom = if of == "first" {
            &["--exec-id", "t", of][..]
        } else {
            &[of]
        };
        let _sent = node.ctr(&[&signal, whom].concat()).ok();
        assert_eq!(client.wait().code, 143, "{of}");
    }
    task.end();
}

#[test]
fn the_programs_that_an_image_lacks_are_there() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let pod = ["--annotation", "io.containerd.duet.v1.pod=tools"];
    let serve = "mkdir /www; echo from native > /www/index.html; echo ready; \
                 exec httpd -f -p 127.0.0.1:8082 -h /www";
    let mut server = node.container("server").with(&pod).script(serve).start();
    server.says("ready");
    let waits = "until wget -qO /dev/null http://127.0.0.1:8082/; do sleep 0.05; done";
    let _served = server.exec(&[], &["/bin/sh", "-c", waits]).ok();
    let mut task = node
        .container("bare")
        .with(&pod)
        .with(&["--env", "COLOUR=blue"])
        .probe(&["idle"])
        .start();
    task.says("idle");
    let said = |args: &[&str]| task.exec(&[], args).ok().stdout;
    for (args, code) in [
        (&["true"][..], 0),
        (&["false"], 1),
        (&["/bin/sleep", "0.01"], 0),
        (&["test", "-f", "/motd", "-a", "!", "-d", "/motd"], 0),
        (&["[", "3", "-gt", "4", "]"], 1),
        (&["wget", "-q", "--spider", "http://127.0.0.1:8082/none"], 1),
        (&["wget", "-q", "--spider", "http://127.0.0.1:8082/"], 0),
    ] {
        let outcome = task.exec(&[], args);
        assert_eq!(outcome.code, code, "{args:?}: {outcome:?}");
    }
    assert_eq!(said(&["echo", "two", "words"]), "two words\n");
    assert_eq!(said(&["cat", "motd"]), "a file of the image\n");
    assert!(said(&["ls", "/"]).lines().any(|name| name == "probe.wasm"));
    assert!(said(&["env"]).lines().any(|line| line == "COLOUR=blue"));
    let page = said(&["wget", "-qO-", "http://127.0.0.1:8082/index.html"]);
    assert_eq!(page, "from native\n");
    // What it is refused, it is refused as any guest.
    let nosy = task.exec(&[], &["cat", "/proc/self/mem"]);
    assert_eq!((nosy.code, nosy.stdout.as_str()), (1, ""), "{nosy:?}");
    // `kubectl cp`, both ways.
    let exec = |args: &[&str]| {
        let mut ctr = node.daemon().ctr(node.namespace());
        ctr.args(["task", "exec", "--exec-id", "cp", "bare"]);
        ctr.args(args);
        ctr
    };
    let name = format!("dir/{}", "long".repeat(40));
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o600);
    archive
        .append_data(&mut header, &name, &b"hello"[..])
        .expect("in memory");
    let archive = archive.into_inner().expect("in memory");
    let extract = ["tar", "-xmf", "-", "-C", "/tmp"];
    let _extracted = command::run_with_input(&mut exec(&extract), &archive).ok();
    assert_eq!(said(&["cat", &format!("/tmp/{name}")]), "hello");
    let back = exec(&["tar", "cf", "-", "tmp/dir"])
        .output()
        .expect("ctr runs");
    let mut back = tar::Archive::new(back.stdout.as_slice());
    let names: Vec<_> = back
        .entries()
        .expect("an archive")
        .map(|entry| {
            entry
                .expect("whole")
                .path()
                .expect("a path")
                .display()
                .to_string()
        })
        .collect();
    assert_eq!(names, ["tmp/dir/".to_owned(), format!("tmp/{name}")]);
    // Its own come first, and a native container has its own or none.
    let absent = server.exec(&[], &["/usr/local/bin/cat", "/etc/passwd"]);
    assert_ne!(absent.code, 0, "{absent:?}");
    // Compiled once, whatever else its container may use.
    let third = node
        .container("third")
        .with(&["--annotation", PREVIEW3])
        .probe(&["idle"])
        .start();
    let _done = third.exec(&[], &["true"]).ok();
    assert_eq!(key_of_tool(&node, "third"), key_of_tool(&node, "bare"));
    third.end();
    task.end();
    server.end();
}

/// Which compiled code the last exec of a container was, from the log.
fn key_of_tool(node: &Node, container: &str) -> String {
    let container = format!("\"container\":\"{container}\"");
    // containerd copies the log of its shims when it comes to it.
    wait::until("the line in the log", || {
        let log = node.daemon().log();
        let ended = |line: &&str| {
            ["guest ended", "\"exec\":", &container]
                .iter()
                .all(|word| line.contains(word))
        };
        let line = log.lines().rev().find(ended)?;
        let (_, rest) = line.split_once("\"key\":\"")?;
        rest.split_once('"').map(|(key, _)| key.to_owned())
    })
}
