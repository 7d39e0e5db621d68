//! What a further process sees beside a first one of the other kind. busybox plays the runner.

use std::os::fd::AsFd;

use duet_launch::{Error, Newborn, Stop, Supplies};
use duet_linux::process;
use duet_plan::{Facts, Filesystem, Kinds, Program, Seen};
use duet_spec::Process;
use serde_json::json;

use crate::stage::{self, Stage, ask, stage};
use crate::user_namespaces;

/// Where the kernel was still seen when nothing more could be mounted, and what the process then said.
struct Beside {
    kernels: Vec<String>,
    said: String,
}

/// A process of kind `kinds.process` in a container whose first process has run `script`; of what that
/// sees, only what `known` says yes to is known when the other is planned.
fn beside(stage: &Stage, kinds: Kinds, asked: &str, known: impl Fn(&Seen) -> bool) -> Beside {
    let ready = stage.root().join("tmp/ready");
    let made = std::process::Command::new("mkfifo").arg(&ready).status();
    assert!(made.unwrap().success());
    let first = "mount -t proc proc /home/web && busybox mkdir -p /dev/shm && \
                 mount -t tmpfs tmpfs /dev/shm && \
                 touch /dev/tape && mount -o bind /dev/full /dev/tape && word=ready; echo $word >/tmp/ready; exec sleep 100";
    let mut spec = stage.spec(["sh", "-c", first]);
    let capabilities = &mut spec["process"]["capabilities"];
    for set in ["bounding", "effective", "permitted"] {
        let set = capabilities[set].as_array_mut().unwrap();
        set.push(json!("CAP_SYS_ADMIN"));
    }
    let container = stage.container(&spec);
    let plan = stage.plan(&spec);
    let (
        Newborn {
            pid, pidfd, gate, ..
        },
        _pipes,
    ) = stage.create(&plan).unwrap();
    gate.open().unwrap();
    assert_eq!(std::fs::read_to_string(&ready).unwrap(), "ready\n");
    let process = json!({"args": ["sh", "-c", asked], "cwd": "/",
        "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]});
    let process = Process::parse(process.to_string().as_bytes()).unwrap();
    let facts = duet_launch::exec_facts(ask(&container, &process)).unwrap();
    let mut tree = duet_launch::tree(pid).unwrap();
    tree.retain(known);
    let plan = duet_plan::exec(&process, &container, &Facts { tree, ..facts }, kinds).unwrap();
    let runner = duet_linux::mount::clone_read_only(&stage.root().join("bin/busybox")).unwrap();
    let module = duet_linux::memfd::sealed("module", b"module\n").unwrap();
    let (mut said, stdout) = std::io::pipe().unwrap();
    let supplies = Supplies {
        init: Some(pidfd.as_fd()),
        stdout: Some(stdout.as_fd()),
        stderr: Some(stdout.as_fd()),
        runner: Some(runner.as_fd()),
        module: Some(module.as_fd()),
        handoff: Some(module.as_fd()),
        memory: Some(module.as_fd()),
        tally: Some(module.as_fd()),
        ..Supplies::default()
    };
    let mut kernels = Vec::new();
    let newborn = duet_launch::spawn_with(&plan, supplies, |at| {
        if let Stop::Pause { pid, .. } = at {
            let tree = duet_launch::tree(pid)?.into_iter();
            let seen = tree.filter(|seen| seen.filesystem != Filesystem::Other);
            kernels = seen.map(|seen| seen.point.display().to_string()).collect();
        }
        Ok::<(), Error>(())
    });
    let newborn = newborn.unwrap();
    drop(stdout);
    newborn.gate.open().unwrap();
    let said = std::io::read_to_string(&mut said).unwrap();
    process::wait(&newborn.pidfd).unwrap();
    process::send_signal(&pidfd, 9).unwrap();
    process::wait(&pidfd).unwrap();
    Beside { kernels, said }
}

/// A guest beside a native program.
const GUEST: Kinds = Kinds {
    container: Program::Native,
    process: Program::Wasm,
};

#[test]
fn what_shows_the_kernel_is_covered_for_a_guest_and_what_was_missed_is_seen_in_time() {
    stage(|stage| {
        let list =
            "for d in /proc /sys /home/web /dev/pts /dev/mqueue; do echo $d/*; done; echo /dev/*";
        let all = beside(stage, GUEST, list, |_| true);
        assert_eq!(all.kernels, Vec::<String>::new());
        let said = "/proc/*\n/sys/*\n/home/web/*\n/dev/pts/*\n/dev/mqueue/*\n";
        let dev = all
            .said
            .strip_prefix(said)
            .unwrap_or_else(|| panic!("{}", all.said));
        let names: Vec<_> = dev.split_whitespace().collect();
        let known = [
            "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero",
        ];
        assert_eq!(names, known.map(|name| format!("/dev/{name}")));

        std::fs::remove_file(stage.root().join("tmp/ready")).unwrap();
        let missed = beside(stage, GUEST, "true", |seen| !seen.point.ends_with("web"));
        assert_eq!(missed.kernels, ["/home/web"]);
    });
}

/// An executable beside a guest.
const NATIVE: Kinds = Kinds {
    container: Program::Wasm,
    process: Program::Native,
};

#[test]
fn an_executable_beside_a_mapped_guest_has_the_number_that_the_host_knows() {
    // It is born in the container's PID namespace. With the number of its message, it was process 3.
    stage(|stage| {
        let spec = user_namespaces::spec(stage, ["sleep", "100"]);
        let container = stage.container(&spec);
        let (guest, _pipes) = stage.create_guest(&spec);
        guest.gate.open().unwrap();
        let process = json!({"args": ["sleep", "100"], "cwd": "/",
            "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]});
        let process = Process::parse(process.to_string().as_bytes()).unwrap();
        let facts = duet_launch::exec_facts(ask(&container, &process)).unwrap();
        let tree = duet_launch::tree(guest.pid).unwrap();
        let plan = duet_plan::exec(&process, &container, &Facts { tree, ..facts }, NATIVE);
        let supplies = Supplies {
            init: Some(guest.pidfd.as_fd()),
            ..Supplies::default()
        };
        let (newborn, _pipes) = stage::create(&plan.unwrap(), supplies).unwrap();
        let numbers = std::fs::read_to_string(format!("/proc/{}/status", newborn.pid)).unwrap();
        let numbers = numbers.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let numbers: Vec<_> = numbers.unwrap().split_whitespace().collect();
        assert_eq!(numbers.len(), 2, "{numbers:?}");
        let [own, init] = [newborn.pid, guest.pid]
            .map(|pid| std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap());
        assert_eq!(own, init);
        for pidfd in [newborn.pidfd, guest.pidfd] {
            process::send_signal(&pidfd, 9).unwrap();
            process::wait(&pidfd).unwrap();
        }
    });
}
