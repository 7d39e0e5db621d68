//! What a wasm container may take, and what it takes before its guest has begun.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};

use duet_tests::{Node, command, guests, image, wait};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::serving::Server;

#[test]
fn the_first_start_of_a_module_of_800_kb_fits_into_32_mib() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let mount = of_800_kb(&node, true);
    let task = node
        .container("large")
        .with(&["--memory-limit", "33554432", "--mount", &mount])
        .args(&["/app.wasm"])
        .start();
    let pid = task.pid();
    wait::until("the guest to wait", || {
        // Its poll, and nothing of what comes before it, is without an end.
        let call = fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
        let number = call.split(' ').next()?;
        // poll and ppoll, of x86-64 and of arm64.
        ["7", "271", "73"].contains(&number).then_some(())
    });
    // containerd copies the log of its shims when it comes to it.
    wait::until("the line that says that it was compiled now", || {
        let log = node.daemon().log();
        let fresh = |line: &str| line.contains("\"large\"") && line.contains("Fresh");
        log.lines().any(fresh).then_some(())
    });
    // Not only was nobody killed: nothing had to be given back for want of room.
    let (file, refused) = memory(pid);
    assert_eq!(refused, 0, "{}", file.display());
    task.kill("SIGKILL");
    assert_eq!(task.wait().code, 137);
}

/// A module of 800 kB that no other run has compiled, as a mount at `/app.wasm`.
fn of_800_kb(node: &Node, waits: bool) -> String {
    let mut module = guests::made(1_000, 300 << 10, waits);
    // A section of its own name and nobody's use.
    let only = node.scratch().display().to_string();
    let length = u8::try_from(only.len()).expect("a short path");
    module.extend([0, length + 1, length]);
    module.extend(only.as_bytes());
    let path = node.scratch().join("app.wasm");
    fs::write(&path, module).expect("our own folder");
    let path = path.display();
    format!("type=bind,src={path},dst=/app.wasm,options=rbind:ro")
}

#[test]
fn two_pods_that_start_the_same_module_at_once_compile_it_once() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let mount = of_800_kb(&node, false);
    // Names that no other test has: all of them share one log.
    let twins = ["compiled-once", "compiled-once-too"];
    let clients = twins.map(|id| {
        let container = node.container(id).with(&["--mount", &mount]);
        command::start(&mut container.args(&["/app.wasm"]).command("--rm"))
    });
    for client in clients {
        let _ended = client.wait().ok();
    }
    // containerd copies the log of its shims when it comes to it.
    wait::until("both starts in the log", || {
        let log = node.daemon().log();
        let told = |source: &str| {
            let started = |line: &&str| {
                let is_one = |id| line.contains(&format!("\"{id}\""));
                twins.iter().any(is_one) && line.contains("\"compiled\"") && line.contains(source)
            };
            log.lines().filter(started).count()
        };
        let fresh = told("Fresh");
        assert!(fresh <= 1, "{log}");
        (fresh == 1 && told("") == 2).then_some(())
    });
}

/// How often the cgroup of a process was at its limit of memory, and the file that says so.
fn memory(pid: i32) -> (PathBuf, u64) {
    count(pid, ("memory.failcnt", ""), ("memory.events", "max "))
}

/// How many of its processes the kernel has killed for want of memory.
fn kills(pid: i32) -> u64 {
    let field = "oom_kill ";
    count(pid, ("memory.oom_control", field), ("memory.events", field)).1
}

/// A number in the memory cgroup of a process: the file and what is before it in its line, for v1 and for v2.
fn count(pid: i32, v1: (&str, &str), v2: (&str, &str)) -> (PathBuf, u64) {
    let (file, is_v1) = file(pid, "memory", v1.0, v2.0);
    let field = if is_v1 { v1.1 } else { v2.1 };
    let text = fs::read_to_string(&file).expect("the limit is kept");
    let count = text.lines().find_map(|line| line.strip_prefix(field));
    let count = count.and_then(|count| count.trim().parse().ok());
    (file, count.expect("a number"))
}

/// A file in the cgroup of a process, by its names on v1 and on v2, and whether this is v1.
fn file(pid: i32, controller: &str, v1: &str, v2: &str) -> (PathBuf, bool) {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    // Under systemd two controllers of v1 have one hierarchy, and each its name as a link to it.
    let path = groups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (names, path) = rest.split_once(':')?;
        names
            .split(',')
            .any(|name| name == controller)
            .then_some(path)
    });
    let root = PathBuf::from("/sys/fs/cgroup");
    match path {
        Some(path) => (root.join(format!("{controller}{path}/{v1}")), true),
        None => {
            let path = groups.lines().find_map(|line| line.strip_prefix("0::"));
            let path = path.expect("it is in a cgroup");
            (root.join(format!("{}/{v2}", &path[1..])), false)
        }
    }
}

/// Whether what is written into a folder is kept in memory only as long as there is room.
fn on_disk(folder: &Path) -> bool {
    let filesystem = statfs(folder).expect("our own folder").filesystem_type();
    filesystem != TMPFS_MAGIC
}

#[test]
fn a_guest_that_looks_up_all_it_can_has_no_more_threads_than_there_are_for_it() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    // A name server that never answers, at an address of this test's own.
    let [.., high, low] = std::process::id().to_be_bytes();
    let silent = UdpSocket::bind((Ipv4Addr::new(127, 77, high, low), 53)).expect("a free address");
    let address = silent.local_addr().expect("it is bound").ip();
    let resolver = node.scratch().join("resolv.conf");
    fs::write(&resolver, format!("nameserver {address}\n")).expect("our own folder");
    let mount = format!(
        "type=bind,src={},dst=/etc/resolv.conf,options=rbind:ro",
        resolver.display()
    );
    let server = Server::start_without_names(&node, "flood", &["--mount", &mount]);
    // The answer is there before those of the name server, and its instance gone.
    assert_eq!(server.get("/flood/200"), "200");
    assert_eq!(server.get("/"), "hello\n");
    let tasks = format!("/proc/{}/task", server.task.pid());
    let threads = || fs::read_dir(&tasks).expect("it runs").count();
    wait::until("64 to wait", || (threads() >= 64).then_some(()));
    let mut asked = [0; 512];
    silent
        .set_read_timeout(Some(wait::patience()))
        .expect("a socket");
    silent.recv(&mut asked).expect("the name server is asked");
    // Beside those are the ones that run guests, the clock and the first.
    let own = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(8)
        + 2;
    assert!(threads() <= 64 + own, "{}", threads());
    assert_eq!(server.get("/"), "hello\n");
    assert_eq!(server.end(), "");

    // Where the container may have few more, each has those that there are, and the server goes on.
    let server = Server::start_without_names(&node, "few", &["--mount", &mount]);
    let pid = server.task.pid();
    let most = fs::read_dir(format!("/proc/{pid}/task"))
        .expect("it runs")
        .count()
        + 4;
    let (limit, _) = file(pid, "pids", "pids.max", "pids.max");
    fs::write(limit, most.to_string()).expect("our own container's");
    assert_eq!(server.get("/flood/200"), "200");
    assert_eq!(server.get("/"), "hello\n");
    assert_eq!(server.get("/flood/200"), "200");
    assert_eq!(server.get("/"), "hello\n");
    assert_eq!(server.end(), "");
}

/// Touches 24 MiB, says so, and waits.
const HOLDS: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 32) "held\n")
    (func (export "_start")
        (if (i32.eq (memory.grow (i32.const 384)) (i32.const -1)) (then unreachable))
        (memory.fill (i32.const 65536) (i32.const 1) (i32.const 25165824))
        (i64.store (i32.const 0) (i64.const 0x0000_0005_0000_0020))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        ;; One subscription: the real-time clock, in some years.
        (i64.store (i32.const 152) (i64.const 0x0fff_ffff_ffff_ffff))
        (drop (call $poll (i32.const 128) (i32.const 192) (i32.const 1) (i32.const 256)))))"#;

#[test]
fn memory_that_others_of_the_container_have_is_not_there_to_grow_into() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let folder = node.scratch().join("volume");
    fs::create_dir(&folder).expect("our own folder");
    let module = wat::parse_str(HOLDS).expect("it is a module");
    fs::write(folder.join("holds.wasm"), module).expect("our own folder");
    let volume = format!("type=bind,src={},dst=/data,options=rbind", folder.display());
    let container = |id: &str| {
        let options = ["--memory-limit", "33554432", "--mount", &volume];
        node.container(id).with(&options)
    };
    let refused = |ended: &command::Outcome| {
        assert_eq!(ended.code, 1, "{ended:?}");
        for words in [
            "malloc: Out of memory",
            "the container's limit is 32768 KiB, and ",
            " KiB of it are in use",
        ] {
            assert!(ended.stderr.contains(words), "{ended:?}");
        }
    };
    let grow = ["/probe.wasm", "grow", "24"];

    // A guest beside a guest, the second of a user who owns none of the cgroup's files.
    let mut first = container("first")
        .image(image::GUESTS)
        .args(&["/data/holds.wasm"])
        .start();
    first.says("held");
    refused(&first.exec(&["--user", "4711"], &grow));
    assert_eq!(kills(first.pid()), 0);
    first.end();

    // Files in memory, which another exec has left; and files that the kernel only keeps.
    for (id, file, fits) in [
        ("tmpfs", "/dev/shm/file", false),
        ("cache", "/data/file", on_disk(&folder)),
    ] {
        let mut task = container(id).probe(&["idle"]).start();
        task.says("idle");
        let _filled = task.exec(&[], &["/probe.wasm", "fill", file, "24"]).ok();
        let grown = task.exec(&[], &grow);
        if fits {
            assert_eq!(grown.ok().stdout, "grown\n");
        } else {
            refused(&grown);
        }
        assert_eq!(kills(task.pid()), 0, "{id}");
        task.end();
    }
}

#[test]
fn more_requests_than_there_is_memory_for_are_each_answered() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let folder = node.scratch().join("volume");
    fs::create_dir(&folder).expect("our own folder");
    let text = "x".repeat(3 << 20);
    fs::write(folder.join("large"), &text).expect("our own folder");
    let volume = format!(
        "type=bind,src={},dst=/data,options=rbind:ro",
        folder.display()
    );
    let options = ["--memory-limit", "33554432", "--mount", &volume];
    let server = Server::start(&node, "small", &options);
    // Whatever the machine's own is: of an instance nobody asks whether what it never touches fits.
    let status = fs::read_to_string(format!("/proc/{}/status", server.task.pid()));
    let status = status.expect("it runs");
    assert!(status.contains("THP_enabled:\t0"), "{status}");
    let answers = server.answers(40, "/file/data/large");
    let mut whole = 0;
    for answer in answers {
        let head = answer.lines().next().unwrap_or_default();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        match head {
            "HTTP/1.0 200 OK" if body == text => whole += 1,
            // The guest's own words, when it could not have the file whole.
            "HTTP/1.0 200 OK" => assert_eq!(body, "out of memory"),
            // It had no memory for less, either.
            "HTTP/1.0 500 Internal Server Error" => {}
            other => panic!("{other:?}, {} bytes", answer.len()),
        }
    }
    assert!(whole > 0, "nobody was answered");
    assert_eq!(kills(server.task.pid()), 0);
    // It has all of its memory again.
    assert_eq!(server.get("/file/data/large"), text);
    let refused = "is refused: the container's limit is 32768 KiB";
    let said = server.end();
    assert_eq!(said.matches(refused).count(), 1, "{said}");
}

#[test]
fn a_quota_of_processor_time_holds_a_guest_back() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let quota = ["--cpu-quota", "10000", "--cpu-period", "100000"];
    let task = node.container("slow").with(&quota).probe(&["spin"]).start();
    let (stat, _) = file(task.pid(), "cpu", "cpu.stat", "cpu.stat");
    let throttled = || {
        let text = fs::read_to_string(&stat).ok()?;
        let count = text.lines().find_map(|l| l.strip_prefix("nr_throttled "))?;
        count.parse::<u64>().ok()
    };
    // Again and again, as it computes without an end.
    wait::until("the kernel to hold it back", || {
        throttled().filter(|count| *count > 2)
    });
    task.kill("SIGKILL");
    assert_eq!(task.wait().code, 137);
}
