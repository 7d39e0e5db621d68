//! What a native program finds when it wakes up in its container.

use std::fs;
use std::process::Command;

use duet_tests::{Node, command, image, wait};

#[test]
fn a_container_ends_with_its_programs_code() {
    let Some(node) = Node::enter() else { return };
    assert_eq!(node.container("seven").script("exit 7").run().code, 7);
    assert_eq!(node.container("zero").script("exit 0").run().code, 0);
    assert_eq!(node.container("most").script("exit 255").run().code, 255);
}

#[test]
fn what_it_writes_arrives_whole_and_on_the_right_stream() {
    let Some(node) = Node::enter() else { return };
    let outcome = node
        .container("words")
        .script("echo out; echo err >&2")
        .run()
        .ok();
    assert_eq!(outcome.stdout, "out\n");
    // ctr may say something there first: a newer one warns of old settings and kernels.
    assert_eq!(outcome.stderr.lines().last(), Some("err"), "{outcome:?}");

    let many = node.container("many").script("seq 1 100000").run().ok();
    assert_eq!(many.stdout.lines().count(), 100_000);
    assert!(many.stdout.ends_with("\n100000\n"));
}

#[test]
fn what_is_typed_reaches_it() {
    let Some(node) = Node::enter() else { return };
    let outcome = node
        .container("reader")
        .script("read line; echo \"<$line>\"");
    let outcome = outcome.run_with_input(b"a line\n").ok();
    assert_eq!(outcome.stdout, "<a line>\n");
}

#[test]
fn env_cwd_user_and_groups_are_those_of_the_spec() {
    let Some(node) = Node::enter() else { return };
    let outcome = node
        .container("who")
        .image(image::BUSYBOX_AS_USER)
        .with(&["--env", "COLOUR=blue", "--cwd", "/made/on/demand"])
        .script("echo $COLOUR; pwd; id -u; id -g")
        .run()
        .ok();
    assert_eq!(outcome.stdout, "blue\n/made/on/demand\n1000\n1000\n");
}

#[test]
fn it_is_alone_with_its_processes_mounts_and_name() {
    let Some(node) = Node::enter() else { return };
    let script = "echo $$; ls /proc | grep -c '^[0-9]'; hostname; ls -A /sys/class/net; mount | grep -c ' / '";
    let outcome = node.container("alone").script(script).run().ok();
    let lines: Vec<_> = outcome.stdout.lines().collect();
    // The shell is 1; `ls` and `grep` run beside it for the moment of the question.
    assert_eq!(lines[0], "1");
    assert!(lines[1].parse::<u32>().expect("a count") <= 3, "{lines:?}");
    assert_eq!(lines[3..], ["lo", "1"], "{lines:?}");
}

#[test]
fn only_the_capabilities_of_the_spec_are_there_and_seccomp_when_asked() {
    let Some(node) = Node::enter() else { return };
    let script = "grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status";
    let outcome = node
        .container("fenced")
        .with(&["--seccomp"])
        .script(script)
        .run()
        .ok();
    let value = |key: &str| {
        let line = outcome.stdout.lines().find(|line| line.starts_with(key));
        line.unwrap_or_else(|| panic!("{key}: {outcome:?}"))
            .split_whitespace()
            .last()
            .map(str::to_owned)
    };
    // containerd's default set: 14 capabilities.
    assert_eq!(value("CapEff").as_deref(), Some("00000000a80425fb"));
    assert_eq!(value("CapBnd").as_deref(), Some("00000000a80425fb"));
    assert_eq!(value("NoNewPrivs").as_deref(), Some("1"));
    assert_eq!(value("Seccomp").as_deref(), Some("2"));
}

#[test]
fn masked_and_read_only_paths_stay_what_they_are() {
    let Some(node) = Node::enter() else { return };
    let script =
        "head -c1 /proc/kcore | wc -c; ls /proc/scsi | wc -l; echo 1 > /proc/sys/vm/swappiness";
    let outcome = node.container("masked").script(script).run();
    assert!(outcome.stdout.starts_with("0\n0\n"), "{outcome:?}");
    assert_ne!(outcome.code, 0);
    assert!(
        outcome.stderr.contains("Read-only file system"),
        "{outcome:?}"
    );
}

#[test]
fn a_read_only_root_and_its_mounts_are_as_asked() {
    let Some(node) = Node::enter() else { return };
    let volume = node.scratch().join("volume");
    fs::create_dir(&volume).expect("our own folder");
    let mount = |options: &str| {
        format!(
            "type=bind,src={},dst=/volume,options={options}",
            volume.display()
        )
    };
    let script = "touch /x 2>/dev/null && echo root; echo kept > /volume/file && echo volume";
    let outcome = node
        .container("ro-root")
        .with(&["--read-only", "--mount", &mount("rbind:rw")])
        .script(script)
        .run();
    assert_eq!(outcome.stdout, "volume\n");
    assert_eq!(
        fs::read_to_string(volume.join("file")).expect("written"),
        "kept\n"
    );

    let outcome = node
        .container("ro-mount")
        .with(&["--mount", &mount("rbind:ro")])
        .script(script)
        .run();
    assert_eq!(outcome.stdout, "root\n");
}

#[test]
fn limits_are_in_force_from_the_first_instruction() {
    let Some(node) = Node::enter() else { return };
    let own = "memory=$(sed -n 's/.*:memory://p' /proc/self/cgroup); \
               [ -n \"$memory\" ] && cat /sys/fs/cgroup/memory/memory.limit_in_bytes \
               || cat /sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/memory.max";
    let limits = [
        "--memory-limit",
        "33554432",
        "--mount",
        "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro",
    ];
    let outcome = node.container("small").with(&limits).script(own).run().ok();
    assert_eq!(outcome.stdout, "33554432\n", "{outcome:?}");
}

#[test]
fn running_out_of_memory_is_137() {
    let Some(node) = Node::enter() else { return };
    let outcome = node
        .container("hungry")
        .with(&["--memory-limit", "16777216"])
        // tail keeps what has no newline; /dev/zero has none.
        .script("exec tail /dev/zero")
        .run();
    assert_eq!(outcome.code, 137, "{outcome:?}");
}

#[test]
fn a_birth_execs_nothing_but_the_shim_and_then_the_program() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let trace = node.scratch().join("trace");
    let pid = node.daemon().pid().to_string();
    let strace = command::start(
        Command::new("strace")
            .args([
                "-f",
                "-qq",
                "-e",
                "trace=execve,execveat",
                "-e",
                "signal=none",
                "-s",
                "200",
            ])
            .arg("-o")
            .arg(&trace)
            .args(["-p", &pid]),
    );
    // Each of its threads: any may be the one that starts the shim.
    let attached = || {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
        let mut each = threads.map(|thread| fs::read_to_string(thread.path().join("status")));
        let is_traced = |status: String| {
            let mut lines = status.lines();
            lines.any(|l| l.starts_with("TracerPid:") && !l.ends_with("\t0"))
        };
        each.all(|status| status.is_ok_and(is_traced)).then_some(())
    };
    wait::until("strace to attach", attached);
    let _ran = node.container("traced").args(&["/bin/true"]).run().ok();
    strace.terminate();
    let _ended = strace.wait();

    let trace = fs::read_to_string(trace).expect("strace wrote it");
    let program = |line: &str| -> Option<String> {
        // "123 execve("/bin/true", ["/bin/true"], 0x...) = 0"
        let call = line.split_once("execve")?.1;
        call.ends_with("= 0")
            .then(|| call.split('"').nth(1).map(str::to_owned))?
    };
    let programs: Vec<_> = trace.lines().filter_map(program).collect();
    let others: Vec<_> = programs
        .iter()
        .filter(|program| {
            !program.contains("containerd-shim-duet-v1") && *program != "/proc/self/exe"
        })
        .collect();
    assert_eq!(others, ["/bin/true"], "{trace}");
}
