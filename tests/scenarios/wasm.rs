//! Wasm containers: the same promises as for native ones, kept by another engine.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};

use duet_tests::machine::{self, Cgroups};
use duet_tests::{Node, guests, image};

#[test]
fn a_module_says_hello_without_an_annotation() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let outcome = node.container("hello").probe(&[]).run();
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (0, "hello from wasm\n"),
        "{outcome:?}"
    );
}

#[test]
fn every_exit_code_is_handed_on() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    for code in [0, 1, 7, 125, 126, 255] {
        let outcome = node
            .container("code")
            .probe(&["exit", &code.to_string()])
            .run();
        assert_eq!(outcome.code, code, "{outcome:?}");
    }
}

#[test]
fn a_trap_is_134_and_its_text_is_on_stderr() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let outcome = node.container("trapped").probe(&["trap"]).run();
    assert_eq!(outcome.code, 134, "{outcome:?}");
    assert!(outcome.stderr.contains("before the trap\n"), "{outcome:?}");
    assert!(outcome.stderr.contains("unreachable"), "{outcome:?}");
}

#[test]
fn a_module_that_throws_runs_and_what_it_does_not_catch_ends_it() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let run = |id: &str, start: &str| {
        let module = format!(
            r#"(module
                (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                (memory (export "memory") 1)
                (tag $thrown (param i32))
                (func $throw (throw $thrown (i32.const 42)))
                (func (export "_start") {start}))"#
        );
        let path = node.scratch().join(format!("{id}.wasm"));
        fs::write(&path, wat::parse_str(module).expect("a module")).expect("our own folder");
        let mount = format!(
            "type=bind,src={},dst=/app.wasm,options=rbind:ro",
            path.display()
        );
        let container = node.container(id).with(&["--mount", &mount]);
        container.args(&["/app.wasm"]).run()
    };
    let catches = "
        (block $handler (result i32)
            (try_table (catch $thrown $handler) (call $throw))
            unreachable)
        call $exit";
    let outcome = run("catches", catches);
    assert_eq!(outcome.code, 42, "{outcome:?}");
    let outcome = run("throws", "(call $throw)");
    assert_eq!(outcome.code, 134, "{outcome:?}");
    assert!(outcome.stderr.contains("uncaught exception"), "{outcome:?}");
}

#[test]
fn term_ends_a_guest_at_once_even_while_it_spins() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    for job in ["spin", "idle"] {
        let mut task = node.container(job).probe(&[job]).start();
        task.says(if job == "spin" { "spinning" } else { "idle" });
        task.kill("SIGTERM");
        assert_eq!(task.wait().code, 143);
    }
}

#[test]
fn kill_is_137_and_a_paused_guest_stands_still() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let mut task = node.container("killed").probe(&["spin"]).start();
    task.says("spinning");
    let _paused = task.ctr("pause", &[]).ok();
    assert_eq!(task.status().as_deref(), Some("PAUSED"));
    // In the time of another's whole life it would have computed.
    let before = processor_time(task.pid());
    let _meanwhile = node.container("meanwhile").probe(&[]).run().ok();
    assert_eq!(processor_time(task.pid()), before);
    let _resumed = task.ctr("resume", &[]).ok();
    duet_tests::wait::until("it to compute again", || {
        (processor_time(task.pid()) > before).then_some(())
    });
    task.end();
}

/// What a process has computed, in ticks of the kernel's clock.
fn processor_time(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is there");
    let (_, fields) = stat.rsplit_once(')').expect("its name ends");
    // Both are behind the state and ten numbers.
    let fields = fields.split_ascii_whitespace().skip(11).take(2);
    fields
        .map(|ticks| ticks.parse::<u64>().expect("a number"))
        .sum()
}

#[test]
fn arguments_and_environment_are_those_of_the_spec() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let outcome = node
        .container("args")
        .probe(&["args", "one", "two words", ""])
        .run()
        .ok();
    assert_eq!(outcome.stdout, "/probe.wasm\nargs\none\ntwo words\n\n");

    let outcome = node
        .container("env")
        .with(&["--env", "COLOUR=blue"])
        .probe(&["env"])
        .run()
        .ok();
    let variables: Vec<_> = outcome.stdout.lines().collect();
    assert!(variables.contains(&"COLOUR=blue"), "{variables:?}");
    // Nothing of the shim or the runner leaks into a guest.
    let foreign = |line: &&&str| {
        !["COLOUR=", "PATH=", "HOME=", "PWD="]
            .iter()
            .any(|k| line.starts_with(k))
    };
    assert_eq!(variables.iter().find(foreign), None);
}

#[test]
fn wasi_config_tells_a_container_what_its_annotations_say() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let text = include_str!("../../crates/wasm/tests/guests/config.wat");
    let path = node.scratch().join("config.wasm");
    fs::write(&path, wat::parse_str(text).expect("a component")).expect("our own folder");
    let path = path.display();
    let mount = format!("type=bind,src={path},dst=/config.wasm,options=rbind:ro");
    let length = |options: &[&str]| {
        let with = [&["--mount", &mount, "--env", "colour=blue"], options].concat();
        let container = node.container("config").with(&with);
        container.args(&["/config.wasm"]).run().code
    };
    assert_eq!(length(&[]), 4);
    let annotation = "io.containerd.duet.v1.config.colour=green";
    assert_eq!(length(&["--annotation", annotation]), 5);
}

#[test]
fn stdin_and_stdout_are_streams_of_the_container() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let text = "a line of the input\n".repeat(10_000);
    let outcome = node
        .container("copy")
        .probe(&["copy"])
        .run_with_input(text.as_bytes())
        .ok();
    assert_eq!(outcome.stdout.len(), text.len());
    assert_eq!(outcome.stdout, text);
}

#[test]
fn a_volume_is_read_and_written_and_the_image_is_seen() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let volume = node.scratch().join("volume");
    fs::create_dir(&volume).expect("our own folder");
    fs::write(volume.join("question"), "what?\n").expect("our own folder");
    let mount = |options: &str| {
        format!(
            "type=bind,src={},dst=/data,options={options}",
            volume.display()
        )
    };

    let writable = mount("rbind:rw");
    let read = node
        .container("read")
        .with(&["--mount", &writable])
        .probe(&["cat", "/data/question"]);
    assert_eq!(read.run().ok().stdout, "what?\n");
    let write = ["write", "/data/answer", "that"];
    let _written = node
        .container("write")
        .with(&["--mount", &writable])
        .probe(&write)
        .run()
        .ok();
    assert_eq!(
        fs::read_to_string(volume.join("answer")).expect("written"),
        "that\n"
    );

    let read_only = mount("rbind:ro");
    let refused = node
        .container("ro")
        .with(&["--mount", &read_only])
        .probe(&write)
        .run();
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("/data/answer"), "{refused:?}");

    let image = node.container("image").probe(&["cat", "/motd"]).run().ok();
    assert_eq!(image.stdout, "a file of the image\n");
}

#[test]
fn symbolic_links_of_the_image_are_followed_if_they_are_relative() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let cat = |path| node.container("linked").probe(&["cat", path]).run();
    for path in ["/relative", "/etc/up"] {
        assert_eq!(cat(path).ok().stdout, "a file of the image\n", "{path}");
    }
    // Decision 4 says why: for the engine, an absolute path is one that leaves the preopen.
    let outcome = cat("/absolute");
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(
        outcome.stderr.contains("Operation not permitted"),
        "{outcome:?}"
    );
}

#[test]
fn the_working_directory_is_told_by_pwd() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    // Preview 1 has no working directory: a C library starts at /. What is left is to say it.
    let outcome = node
        .container("cwd")
        .with(&["--cwd", "/data"])
        .probe(&["env"])
        .run()
        .ok();
    assert!(
        outcome.stdout.lines().any(|line| line == "PWD=/data"),
        "{outcome:?}"
    );
}

#[test]
fn the_host_and_its_kernel_are_out_of_a_guests_sight() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    for path in [
        "/proc/self/mem",
        "/sys/kernel",
        "/dev/kmsg",
        "/../../etc/shadow",
        "/dev/mem",
    ] {
        let outcome = node.container("nosy").probe(&["cat", path]).run();
        assert_eq!(outcome.code, 1, "{path}: {outcome:?}");
        assert_eq!(outcome.stdout, "", "{path}");
    }
    let listed = node.container("lister").probe(&["list", "/dev"]).run();
    for name in ["stdin", "stdout", "stderr"] {
        assert!(listed.stdout.lines().any(|line| line == name), "{listed:?}");
    }
    for name in listed.stdout.lines() {
        let known = [
            "null", "zero", "full", "random", "urandom", "shm", "stdin", "stdout", "stderr", "fd",
        ];
        assert!(known.contains(&name), "/dev/{name}");
    }
}

#[test]
fn what_is_written_to_a_name_of_a_stream_is_not_lost_in_a_file() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let write = |name: &str| {
        node.container("logger")
            .probe(&["write", name, "a line"])
            .run()
    };
    for name in ["/dev/stdout", "/access.log"] {
        assert_eq!(write(name).ok().stdout, "a line\n", "{name}");
    }
    assert_eq!(write("/dev/stderr").ok().stderr, "a line\n");
    // The streams of later previews are no files, and their files no streams.
    for name in ["/dev/stdout", "/dev/stderr"] {
        let outcome = node
            .container("logger")
            .image(image::GUESTS)
            .args(&["/probe-p2.wasm", "write", name, "a line of the log"])
            .run();
        assert_eq!(outcome.code, 134, "{outcome:?}");
        assert!(
            outcome.stderr.contains("Operation not permitted"),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_guest_over_its_memory_limit_does_not_take_the_node_along() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let limit = ["--memory-limit", "33554432"];
    let run = |args: &[&str]| node.container("hungry").with(&limit).probe(args).run();
    // A guest that asks for too much is told so, and ends as it likes.
    let told = run(&["grow", "256"]);
    assert_eq!(told.code, 1, "{told:?}");
    for words in [
        "malloc: Out of memory",
        "the container's limit is 32768 KiB",
    ] {
        assert!(told.stderr.contains(words), "{told:?}");
    }
    let fits = run(&["grow", "24"]).ok();
    assert_eq!(fits.stdout, "grown\n");
    // What is taken without asking, files in memory, is for the kernel to end.
    let overrun = run(&["fill", "/dev/shm/file", "48"]);
    assert_eq!(overrun.code, 137, "{overrun:?}");
}

#[test]
fn a_second_start_uses_what_the_first_one_compiled() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    for number in 0..3 {
        let _said = node
            .container(&format!("start-{number}"))
            .probe(&[])
            .run()
            .ok();
    }
    // No timing is asserted here (see `make bench`): the shim's log says what it did.
    let told = |log: &str, source: &str| {
        let started = |line: &&str| line.contains("\"start-") && line.contains(source);
        log.lines().filter(started).count()
    };
    // containerd copies the log of its shims when it comes to it.
    duet_tests::wait::until("three starts in the log", || {
        let log = node.daemon().log();
        let (fresh, cached) = (told(&log, "Fresh"), told(&log, "Cached"));
        assert!(fresh <= 1, "{log}");
        (fresh + cached == 3).then_some(())
    });
}

#[test]
fn what_became_of_a_guest_is_one_line_of_the_log() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let outcome = node.container("became").probe(&["trap"]).run();
    assert_eq!(outcome.code, 134, "{outcome:?}");
    // containerd copies the log of its shims when it comes to it.
    let line = duet_tests::wait::until("the line in the log", || {
        let log = node.daemon().log();
        let ended = |line: &&str| line.contains("guest ended") && line.contains("\"became\"");
        log.lines().find(ended).map(str::to_owned)
    });
    for word in [
        "\"code\":134",
        "\"cached\":",
        "\"compile_ms\":",
        "\"memory_kib\":",
        "\"requests\":0",
        "\"traps\":1",
        "unreachable",
    ] {
        assert!(line.contains(word), "{word}: {line}");
    }
}

#[test]
fn what_is_no_module_is_named_and_never_run() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let refused = |file: &str| {
        let broken = node.container("broken").image(image::GUESTS);
        let outcome = broken.args(&[file]).run();
        assert_ne!(outcome.code, 0);
        assert!(outcome.stderr.contains(file), "{outcome:?}");
        outcome.stderr
    };
    for file in ["/random.wasm", "/truncated.wasm"] {
        let first = refused(file);
        // What the node remembers of it, and of others. One that is made again is another file.
        let remembered = failures();
        assert_eq!(refused(file), first);
        let now = failures();
        assert!(remembered.is_subset(&now), "{remembered:?}: {now:?}");
    }
    assert!(!failures().is_empty());
}

/// The compilations of this node that are known to fail: their records, and which files they are.
fn failures() -> BTreeSet<(OsString, u64)> {
    let cache = fs::read_dir("/var/lib/duet/cache").expect("there is a cache");
    let all = cache.map(|entry| entry.expect("it can be read"));
    let failed = all.filter(|entry| entry.path().extension().is_some_and(|it| it == "failed"));
    failed
        .map(|entry| (entry.file_name(), entry.ino()))
        .collect()
}

#[test]
fn an_import_that_nothing_provides_is_named() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let outcome = node
        .container("lacking")
        .image(image::GUESTS)
        .args(&["/missing-import.wasm"])
        .run();
    assert_ne!(outcome.code, 0);
    assert!(outcome.stderr.contains("nowhere"), "{outcome:?}");
    assert!(outcome.stderr.contains("nothing"), "{outcome:?}");
}

#[test]
fn a_guest_is_an_ordinary_process_of_its_own() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let mut task = node.container("guest").probe(&["idle"]).start();
    task.says("idle");
    let pid = task.pid();
    // The runner was exec'd by descriptor, so its link has no path; the file is the same.
    let exe = fs::metadata(format!("/proc/{pid}/exe")).expect("root may look");
    let runner = fs::metadata(machine::binary("duet-runner")).expect("it was built");
    assert_eq!((exe.dev(), exe.ino()), (runner.dev(), runner.ino()));
    let own = |kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("it runs");
    let ours = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).expect("we run");
    for kind in ["mnt", "pid", "ipc", "uts", "net"] {
        assert_ne!(own(kind), ours(kind), "{kind}");
    }
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let namespace = node.namespace();
    let place = match Cgroups::chosen() {
        Cgroups::Cgroupfs => format!("/{namespace}/guest"),
        Cgroups::Systemd => format!("/{namespace}.slice/ctr-guest.scope"),
    };
    assert!(cgroup.contains(&place), "{cgroup}");
    task.end();
}

#[test]
fn every_group_of_preview_1_works_in_a_container() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    for group in [
        "args", "environ", "clocks", "random", "process", "files", "rights", "paths", "readdir",
        "emptied", "poll", "large", "outside", "durable", "across",
    ] {
        let outcome = node
            .container("calls")
            .image(image::GUESTS)
            .args(&["/calls.wasm", group, "/data", "/dev/shm"])
            .run();
        assert_eq!(
            (outcome.code, outcome.stderr.as_str()),
            (0, ""),
            "{group}: {outcome:?}"
        );
    }
}

#[test]
fn what_a_preview_1_guest_cannot_write_is_told_as_read_only() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let volume = node.scratch().join("volume");
    fs::create_dir(&volume).expect("our own folder");
    fs::write(volume.join("file"), "text").expect("our own folder");
    let mount = format!(
        "type=bind,src={},dst=/other,options=rbind:ro",
        volume.display()
    );
    let outcome = node
        .container("calls")
        .image(image::GUESTS)
        .with(&["--mount", &mount])
        .args(&["/calls.wasm", "read-only", "/data", "/other"])
        .run();
    let seen = (outcome.code, outcome.stderr.as_str());
    assert_eq!(seen, (0, ""), "{outcome:?}");
}

#[test]
fn what_preview_2_has_of_a_container_works_in_one() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let folder = node.scratch().join("guests");
    fs::create_dir(&folder).expect("our own folder");
    for guest in guests::IN_C {
        fs::write(folder.join(guest.name), guest.bytes).expect("our own folder");
        let mount = format!(
            "type=bind,src={},dst=/guests,options=rbind:ro",
            folder.display()
        );
        let outcome = node
            .container("calls")
            .image(image::GUESTS)
            .with(&["--net-host", "--mount", &mount])
            .with(&["--annotation", "io.containerd.duet.v1.config.colour=blue"])
            .with(&["--annotation", "io.containerd.duet.v1.config.empty="])
            .args(&[&format!("/guests/{}", guest.name), "/data"])
            .run_with_input(b"0123456789");
        let seen = (
            outcome.code,
            outcome.stdout.as_str(),
            outcome.stderr.as_str(),
        );
        assert_eq!(seen, (0, "well\n", ""), "{}", guest.name);
    }
}
