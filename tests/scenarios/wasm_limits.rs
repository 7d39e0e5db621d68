//! What a wasm container may take, and what it takes before its guest has begun.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;

use duet_tests::{Node, guests, wait};

use crate::serving::Server;

#[test]
fn the_first_start_of_a_module_of_800_kb_fits_into_32_mib() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let mut module = guests::made(1_000, 300 << 10, true);
    // A section of its own name and nobody's use: no other run has compiled this one.
    let only = node.scratch().display().to_string();
    let length = u8::try_from(only.len()).expect("a short path");
    module.extend([0, length + 1, length]);
    module.extend(only.as_bytes());
    let path = node.scratch().join("app.wasm");
    fs::write(&path, module).expect("our own folder");
    let mount = format!(
        "type=bind,src={},dst=/app.wasm,options=rbind:ro",
        path.display()
    );
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

/// How often the cgroup of a process was at its limit of memory, and the file that says so.
fn memory(pid: i32) -> (PathBuf, u64) {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let v1 = groups.lines().find_map(|line| line.split_once(":memory:"));
    let root = PathBuf::from("/sys/fs/cgroup");
    let (file, field) = match v1 {
        Some((_, path)) => (root.join(format!("memory{path}/memory.failcnt")), ""),
        None => {
            let path = groups.lines().find_map(|line| line.strip_prefix("0::"));
            let path = path.expect("it is in a cgroup");
            (root.join(format!("{}/memory.events", &path[1..])), "max ")
        }
    };
    let text = fs::read_to_string(&file).expect("the limit is kept");
    let count = text.lines().find_map(|line| line.strip_prefix(field));
    let count = count.and_then(|count| count.trim().parse().ok());
    (file, count.expect("a number"))
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
}
