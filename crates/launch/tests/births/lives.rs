//! Births, execs, consoles and ends.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use duet_launch::{Error, Newborn, Supplies};
use duet_linux::process;
use duet_plan::{Facts, Plan, Program as Kind};
use duet_spec::{Capabilities, Process};
use duet_step::{Insn, Program, Step, Text};
use serde_json::json;

use crate::stage::{self, Stage, ask, descriptors, exists, read_console, stage};

#[test]
fn true_ends_with_0_and_a_number_is_kept() {
    stage(|stage| {
        assert_eq!(stage.run(&stage.spec(["true"])).code, 0);
        assert_eq!(stage.run(&stage.spec(["sh", "-c", "exit 7"])).code, 7);
        assert_eq!(
            stage.run(&stage.spec(["sh", "-c", "kill -9 $$"])).code,
            0,
            "init of a PID namespace cannot kill itself"
        );
    });
}

#[test]
fn a_missing_program_is_named_before_the_gate() {
    stage(|stage| {
        let error = stage
            .live(&stage.plan(&stage.spec(["/bin/nope"])))
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("exec: \"/bin/nope\": no such file"),
            "{text}"
        );
        let error = stage.live(&stage.plan(&stage.spec(["nope"]))).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("executable file not found in $PATH"),
            "{text}"
        );
        fs::write(stage.root().join("bin/plain"), "x").unwrap();
        let error = stage.live(&stage.plan(&stage.spec(["plain"]))).unwrap_err();
        assert!(error.to_string().contains("EACCES"), "{error}");
    });
}

#[test]
fn the_mounts_are_those_of_the_spec() {
    stage(|stage| {
        let mounts = stage.script("cat /proc/self/mounts");
        for line in [
            "proc /proc proc rw,nosuid,nodev,noexec,relatime",
            "tmpfs /dev tmpfs rw,nosuid,size=65536k,mode=755",
            "devpts /dev/pts devpts rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666",
            "mqueue /dev/mqueue mqueue rw,nosuid,nodev,noexec,relatime",
            "sysfs /sys sysfs ro,nosuid,nodev,noexec,relatime",
            "stage /etc/hosts tmpfs rw",
        ] {
            assert!(mounts.contains(line), "{line} is not in\n{mounts}");
        }
        assert!(
            !mounts.contains(&stage.bundle.display().to_string()),
            "{mounts}"
        );
        assert_eq!(stage.script("cat /etc/hosts"), "hosts\n");
        let dev = stage.script("ls -1 /dev");
        let names = "core\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n";
        assert_eq!(dev, names);
        assert_eq!(stage.script("stat -c '%a %t:%T' /dev/null"), "666 1:3\n");
    });
}

#[test]
fn masked_paths_are_empty_and_read_only_paths_refuse() {
    stage(|stage| {
        assert_eq!(
            stage.script("cat /proc/timer_list /proc/keys | wc -c"),
            "0\n"
        );
        assert_eq!(stage.script("ls -A /sys/firmware"), "");
        let spec = stage.spec([
            "sh",
            "-c",
            "echo 1 > /proc/sys/kernel/msgmax; touch /sys/firmware/x",
        ]);
        let outcome = stage.run(&spec);
        assert!(
            outcome.err.contains("/proc/sys/kernel/msgmax: Read-only"),
            "{outcome:?}"
        );
        assert!(
            outcome.err.contains("/sys/firmware/x: Read-only"),
            "{outcome:?}"
        );
    });
}

#[test]
fn a_read_only_root_refuses_and_its_mounts_do_not() {
    stage(|stage| {
        let mut spec = stage.spec([
            "sh",
            "-c",
            "touch /x; echo more >> /etc/hosts && cat /etc/hosts",
        ]);
        spec["root"]["readonly"] = json!(true);
        let outcome = stage.run(&spec);
        assert!(outcome.err.contains("/x: Read-only"), "{outcome:?}");
        assert_eq!(outcome.out, "hosts\nmore\n");
    });
}

#[test]
fn privileges_are_those_of_the_spec() {
    stage(|stage| {
        let status = stage.script(
            "grep -E '^(Cap|NoNew|Sig(Blk|Ign))' /proc/self/status; cat /proc/self/oom_score_adj",
        );
        let default = "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
            CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n500\n";
        let signals = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n";
        assert_eq!(status, format!("{signals}{default}"));

        let mut spec = stage.spec([
            "sh",
            "-c",
            "id; umask; grep Cap /proc/self/status; echo $HOME; cat /proc/self/limits | grep files",
        ]);
        spec["process"]["user"] =
            json!({"uid": 33, "gid": 34, "additionalGids": [5, 6], "umask": 63});
        spec["process"]["noNewPrivileges"] = json!(false);
        let chown = json!(["CAP_CHOWN"]);
        spec["process"]["capabilities"] = json!({"bounding": chown, "permitted": chown,
            "effective": chown, "inheritable": chown, "ambient": chown});
        spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
        let out = stage.run(&spec).out;
        let caps: String = ["Inh", "Prm", "Eff", "Bnd", "Amb"]
            .map(|set| format!("Cap{set}:\t0000000000000001\n"))
            .concat();
        assert!(
            out.starts_with("uid=33(web) gid=34 groups=5,6\n0077\n"),
            "{out}"
        );
        assert!(out.contains(&caps), "{out}");
        assert!(out.contains("/home/web\n"), "{out}");
        assert!(out.contains("100                  200"), "{out}");
    });
}

#[test]
fn a_label_is_the_processs_own() {
    stage(|stage| {
        let mut plan = stage.plan(&stage.spec(["cat", "/proc/self/oom_score_adj"]));
        let keyring = |step: &Step| matches!(step, Step::Keyring(_));
        let at = plan.steps.iter().position(keyring).unwrap() + 2;
        // Any file of the process's will do: not every kernel has labels.
        let attribute = add_text(&mut plan, "self/oom_score_adj");
        let value = add_text(&mut plan, "777");
        plan.steps.insert(at, Step::Label(attribute, value));
        assert_eq!(stage.live(&plan).unwrap().out, "777\n");
        // No link of procfs leads out of it.
        let attribute = add_text(&mut plan, "self/root/tmp");
        plan.steps[at] = Step::Label(attribute, value);
        let error = stage.live(&plan).unwrap_err().to_string();
        assert!(error.contains("(ELOOP, openat2,"), "{error}");
    });
}

#[test]
fn an_apparmor_profile_that_is_not_there_is_named() {
    stage(|stage| {
        let mut spec = stage.spec(["true"]);
        spec["process"]["apparmorProfile"] = json!("duet-has-no-such-profile");
        let container = stage.container(&spec);
        let facts = Facts {
            apparmor: true,
            ..duet_launch::facts(ask(&container, &container.process))
                .unwrap()
                .0
        };
        let plan = duet_plan::container(&container, &facts, Kind::Native).unwrap();
        let error = stage.live(&plan).unwrap_err().to_string();
        let start = "process.apparmorProfile: duet-has-no-such-profile: ";
        assert!(error.starts_with(start), "{error}");
    });
}

#[test]
fn a_privileged_process_has_all_that_its_parent_has() {
    stage(|stage| {
        let held = process::permitted_capabilities().unwrap();
        let names = (0..u64::BITS).filter(|number| held & (1 << number) != 0);
        let names: Vec<_> = names.map(|n| Capabilities::name(n).unwrap()).collect();
        let mut spec = stage.spec(["grep", "Cap[PEB]", "/proc/self/status"]);
        spec["process"]["capabilities"] =
            json!({"bounding": names, "effective": names, "permitted": names});
        let expected: String = ["Prm", "Eff", "Bnd"]
            .map(|set| format!("Cap{set}:\t{held:016x}\n"))
            .concat();
        assert_eq!(stage.run(&spec).out, expected);
    });
}

#[test]
fn a_score_that_the_parent_may_not_give_is_named() {
    stage(|stage| {
        const SYS_RESOURCE: u32 = 24;
        if process::permitted_capabilities().unwrap() & (1 << SYS_RESOURCE) != 0 {
            return;
        }
        let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        let lower = own.trim().parse::<i32>().unwrap() - 1;
        let mut spec = stage.spec(["true"]);
        spec["process"]["oomScoreAdj"] = json!(lower);
        let error = stage.live(&stage.plan(&spec)).unwrap_err().to_string();
        let start = format!("process.oomScoreAdj: {lower}: the shim lacks CAP_SYS_RESOURCE");
        assert!(error.starts_with(&start), "{error}");
    });
}

#[test]
fn nothing_of_the_parents_is_left_open() {
    // CVE-2024-21626. Without closing at the first step and on exec there were more.
    stage(|stage| {
        // Not through `ls`, which would show its own.
        let spec = stage.spec([
            "sh",
            "-c",
            "for f in /proc/self/fd/*; do echo ${f##*/}; done",
        ]);
        let out = stage.run(&spec).out;
        let numbers: Vec<_> = out.lines().collect();
        assert!(numbers.starts_with(&["0", "1", "2"]), "{out}");
        assert!(
            numbers.len() <= 4,
            "the fourth is the shell's own look: {out}"
        );
    });
}

#[test]
fn at_the_gate_nothing_of_the_parents_is_open_that_the_plan_does_not_name() {
    stage(|stage| {
        let (reader, writer) = std::io::pipe().unwrap();
        let plan = stage.plan(&stage.spec(["true"]));
        let (newborn, _pipes) = stage.create(&plan).unwrap();
        let held = descriptors(newborn.pid);
        let strange: Vec<_> = held
            .iter()
            .filter(|link| link.contains("/tmp") || link.contains(env!("CARGO_MANIFEST_DIR")))
            .collect();
        assert!(strange.is_empty(), "{held:?}");
        // The pipe's reader sees its end although the child lives. Without the closing it waits for ever.
        drop(writer);
        let mut reader = reader;
        assert_eq!(std::io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
        stage::reaped(newborn);
    });
}

#[test]
fn a_console_is_a_terminal_of_the_containers_own() {
    stage(|stage| {
        let script =
            "tty; stty size; test -t 0 && echo yes; stat -c %t:%T /dev/console; echo x > /dev/tty";
        let mut spec = stage.spec(["sh", "-c", script]);
        spec["process"]["terminal"] = json!(true);
        spec["process"]["consoleSize"] = json!({"height": 30, "width": 100});
        let (newborn, _pipes) = stage.create(&stage.plan(&spec)).unwrap();
        newborn.gate.open().unwrap();
        let said = read_console(newborn.console.unwrap());
        assert_eq!(said, "/dev/pts/0\r\n30 100\r\nyes\r\n88:0\r\nx\r\n");
        assert_eq!(process::wait(newborn.pidfd).unwrap().code, 0);
    });
}

#[test]
fn a_pid_namespace_is_joined_and_the_parent_stays_the_parent() {
    stage(|stage| {
        let (first, _pipes) = stage
            .create(&stage.plan(&stage.spec(["sleep", "100"])))
            .unwrap();
        let own = fs::read_link("/proc/thread-self/ns/pid_for_children").unwrap();
        let mut spec = stage.spec([
            "sh",
            "-c",
            "echo $$; ls -d /proc/1 && readlink /proc/self/ns/pid",
        ]);
        let path = format!("/proc/{}/ns/pid", first.pid);
        let theirs = fs::read_link(&path).unwrap();
        spec["linux"]["namespaces"][0] = json!({"type": "pid", "path": path});
        let outcome = stage.run(&spec);
        assert_eq!(
            outcome.out,
            format!("2\n/proc/1\n{}\n", theirs.display()),
            "{outcome:?}"
        );
        assert_eq!(
            fs::read_link("/proc/thread-self/ns/pid_for_children").unwrap(),
            own
        );
        stage::reaped(first);
    });
}

/// A further process at its gate, in a container that sleeps.
pub(crate) fn exec(stage: &Stage, process: serde_json::Value) -> (Newborn, stage::Pipes, OwnedFd) {
    exec_in(stage, &stage.spec(["sleep", "100"]), process)
}

/// As [`exec`], in a container of this spec.
pub(crate) fn exec_in(
    stage: &Stage,
    spec: &serde_json::Value,
    process: serde_json::Value,
) -> (Newborn, stage::Pipes, OwnedFd) {
    let container = stage.container(spec);
    let (
        Newborn {
            pidfd: init, gate, ..
        },
        _,
    ) = stage.create(&stage.plan(spec)).unwrap();
    gate.open().unwrap();
    let process = Process::parse(process.to_string().as_bytes()).unwrap();
    let facts = duet_launch::exec_facts(ask(&container, &process)).unwrap();
    let plan = duet_plan::exec(&process, &container, &facts, duet_plan::Kinds::NATIVE).unwrap();
    let supplies = Supplies {
        init: Some(init.as_fd()),
        ..Supplies::default()
    };
    let (newborn, pipes) = stage::create(&plan, supplies).unwrap();
    (newborn, pipes, init)
}

#[test]
fn an_exec_is_in_the_container() {
    stage(|stage| {
        let (newborn, pipes, init) = exec(
            stage,
            json!({
                "args": ["sh", "-c", "ps; hostname; pwd; for p in 1 $$; do readlink /proc/$p/ns/mnt; done; for p in 1 $$; do readlink /proc/$p/ns/pid; done; grep CapEff /proc/self/status"],
                "cwd": "/tmp", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]
            }),
        );
        newborn.gate.open().unwrap();
        let outcome = pipes.outcome(&newborn.pidfd);
        assert!(outcome.out.contains("sleep 100"), "{outcome:?}");
        let lines: Vec<_> = outcome
            .out
            .lines()
            .skip_while(|line| *line != "stage")
            .collect();
        assert_eq!(lines[..2], ["stage", "/tmp"], "{outcome:?}");
        assert_eq!(lines[2], lines[3], "{outcome:?}");
        assert_eq!(lines[4], lines[5], "{outcome:?}");
        assert_eq!(lines[6], "CapEff:\t00000000a80425fb");
        process::send_signal(&init, 9).unwrap();
        assert_eq!(process::wait(&init).unwrap().code, 137);
    });
}

#[test]
fn an_exec_has_a_console_of_the_containers() {
    stage(|stage| {
        let (newborn, _pipes, init) = exec(
            stage,
            json!({
                "args": ["sh", "-c", "tty; echo x > /dev/tty"], "terminal": true,
                "cwd": "/", "user": {"uid": 33, "gid": 33}, "env": ["PATH=/bin"]
            }),
        );
        newborn.gate.open().unwrap();
        assert_eq!(
            read_console(newborn.console.unwrap()),
            "/dev/pts/0\r\nx\r\n"
        );
        assert_eq!(process::wait(&newborn.pidfd).unwrap().code, 0);
        process::send_signal(&init, 9).unwrap();
        process::wait(&init).unwrap();
    });
}

#[test]
fn a_wasm_container_ends_in_the_runner_with_its_three_descriptors() {
    stage(|stage| {
        let spec = stage.spec([
            "sh",
            "-c",
            "cat <&3; cat <&4; cat <&5; ls -1 /dev; umask; exit 9",
        ]);
        let outcome = stage.run_as_guest(&spec);
        let dev = "full\nnull\nrandom\nstderr\nstdin\nstdout\nurandom\nzero\n";
        assert_eq!(
            outcome.out,
            format!("module\nhandoff\nlimit\n{dev}0022\n"),
            "{outcome:?}"
        );
        assert_eq!(outcome.code, 9);
    });
}

#[test]
fn what_ends_a_guest_is_kept_until_it_listens() {
    stage(|stage| {
        // In the shell's children, as the kernel spares process 1.
        let script = "for signal in TERM INT USR1; do \
                      sh -c \"kill -s $signal \\$\\$; echo $signal\"; done 2>&-";
        let spec = stage.spec(["sh", "-c", script]);
        assert_eq!(stage.run_as_guest(&spec).out, "TERM\nINT\n");
        assert_eq!(stage.run(&spec).out, "");
    });
}

#[test]
fn a_dropped_gate_ends_the_process() {
    stage(|stage| {
        let (newborn, _pipes) = stage.create(&stage.plan(&stage.spec(["true"]))).unwrap();
        assert!(exists(newborn.pid));
        let pid = newborn.pid;
        assert_eq!(stage::reaped(newborn).code, 1);
        assert!(!exists(pid));
    });
}

#[test]
fn one_killed_at_the_gate_cannot_be_started() {
    stage(|stage| {
        let (newborn, _pipes) = stage.create(&stage.plan(&stage.spec(["true"]))).unwrap();
        process::send_signal(&newborn.pidfd, 9).unwrap();
        assert_eq!(process::wait(&newborn.pidfd).unwrap().code, 137);
        let error = newborn.gate.open().unwrap_err();
        assert_eq!(error.to_string(), "gate: EPIPE");
    });
}

#[test]
fn what_fails_at_the_gate_is_named_when_it_is_opened() {
    stage(|stage| {
        let mut plan = stage.plan(&stage.spec(["true"]));
        // No program for a filter: it would not end.
        let first = u32::try_from(plan.programs.len()).unwrap();
        plan.programs.push(Insn {
            code: 0,
            jt: 0,
            jf: 0,
            k: 0,
        });
        let gate = plan.steps.iter().position(|step| *step == Step::Gate);
        let filter = Step::Seccomp(Program { first, len: 1 }, 0);
        plan.steps.insert(gate.unwrap(), filter);
        let (newborn, _pipes) = stage.create(&plan).unwrap();
        assert_eq!(process::wait(&newborn.pidfd).unwrap().code, 1);
        let error = newborn.gate.open().unwrap_err().to_string();
        assert!(error.contains("EINVAL, seccomp, step"), "{error}");
    });
}

#[test]
fn one_without_a_gate_runs_while_nobody_opens_it() {
    stage(|stage| {
        let plan = stage.plan(&stage.spec(["echo", "here"])).at_once();
        let (newborn, pipes) = stage.create(&plan).unwrap();
        let outcome = pipes.outcome(&newborn.pidfd);
        assert_eq!((outcome.code, &*outcome.out), (0, "here\n"));
        newborn.gate.open().unwrap();

        let mut plan = stage.plan(&stage.spec(["true"])).at_once();
        let nowhere = add_text(&mut plan, "/no/such/place");
        let exec = plan.steps.len() - 1;
        plan.steps.insert(exec, Step::Chdir(nowhere));
        let (newborn, _pipes) = stage.create(&plan).unwrap();
        let error = newborn.gate.open().unwrap_err().to_string();
        assert!(error.contains("/no/such/place"), "{error}");
        assert_eq!(process::wait(&newborn.pidfd).unwrap().code, 1);
    });
}

#[test]
fn one_that_dies_on_the_way_is_reaped_and_its_end_told() {
    stage(|stage| {
        let mut plan = stage.plan(&stage.spec(["true"]));
        // A filter that kills at the next call, whatever it is.
        let first = u32::try_from(plan.programs.len()).unwrap();
        plan.programs.push(Insn {
            code: 6,
            jt: 0,
            jf: 0,
            k: 0x8000_0000,
        });
        let kill = Step::Seccomp(Program { first, len: 1 }, 0);
        plan.steps.insert(3, kill);
        let error = stage.live(&plan).unwrap_err();
        let text = "the process ended before its program ran, with code 159";
        assert_eq!(error.to_string(), text);
        assert_eq!(children(), Vec::<i32>::new(), "a zombie is left");
    });
}

#[test]
fn a_failing_step_names_itself_and_leaves_nothing() {
    stage(|stage| {
        let before = stage_mounts(stage);
        let mut plan = stage.plan(&stage.spec(["true"]));
        let pivot = plan
            .steps
            .iter()
            .position(|step| *step == Step::Pivot)
            .unwrap();
        let nowhere = add_text(&mut plan, "/no/such/place");
        plan.steps.insert(pivot, Step::Remount(nowhere, 1, 0));
        let error = stage.live(&plan).unwrap_err();
        let text = error.to_string();
        let place = format!(
            "(ENOENT, openat2, step {} of {})",
            pivot + 1,
            plan.steps.len()
        );
        assert!(
            text.contains("/no/such/place") && text.ends_with(&place),
            "{text}"
        );
        assert_eq!(stage_mounts(stage), before);
        assert_eq!(children(), Vec::<i32>::new(), "a zombie is left");
    });
}

#[test]
fn what_cannot_be_opened_is_named() {
    stage(|stage| {
        let mut spec = stage.spec(["true"]);
        spec["linux"]["namespaces"][2] = json!({"type": "ipc", "path": "/run/no-such-namespace"});
        let error = stage.live(&stage.plan(&spec)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "namespace /run/no-such-namespace: no such file or directory (ENOENT)"
        );

        let spec = stage.spec(["true"]);
        let plan = stage.plan(&spec);
        fs::remove_file(stage.bundle.join("hosts")).unwrap();
        let error = stage.live(&plan).unwrap_err();
        let path = stage.bundle.join("hosts");
        assert_eq!(
            error.to_string(),
            format!(
                "mount source {}: no such file or directory (ENOENT)",
                path.display()
            )
        );

        let error = stage::create(&plan, Supplies::default())
            .map(|_| ())
            .unwrap_err();
        assert!(
            matches!(error, Error::Open { .. } | Error::Missing(_)),
            "{error}"
        );
    });
}

#[test]
fn many_threads_give_birth_at_once() {
    stage(|stage| {
        let plan = stage.plan(&stage.spec(["sh", "-c", "exit 3"]));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..4 {
                        assert_eq!(stage.live(&plan).unwrap().code, 3);
                    }
                });
            }
        });
    });
}

fn add_text(plan: &mut Plan, text: &str) -> Text {
    let at = u32::try_from(plan.text.len()).unwrap();
    plan.text.extend(text.bytes().chain([0]));
    Text(at)
}

fn stage_mounts(stage: &Stage) -> Vec<std::path::PathBuf> {
    duet_linux::mount::mounts_below(&stage.bundle).unwrap()
}

/// The children of the calling thread, zombies included.
fn children() -> Vec<i32> {
    let list = fs::read_to_string("/proc/thread-self/children").unwrap();
    list.split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}
