//! Births in user namespaces: what the ids are on both sides, and what holds there as elsewhere.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::Path;

use duet_launch::{Newborn, Stop, Supplies};
use duet_linux::{mount, process};
use duet_plan::{Descriptor, Plan, Program as Kind};
use duet_spec::Process;
use duet_step::{Insn, Program, Step};
use nix::mount::MsFlags;
use serde_json::{Value, json};

use crate::id_maps::volume;
use crate::stage::{self, Pipes, Stage, ask, exists, read_console, stage};

/// The host's number of the container's root, and how many ids there are.
pub(crate) const ROOT: u32 = 200_000;
pub(crate) const SIZE: u32 = 65_536;

/// What CRI writes for a pod with `hostUsers: false`, in an image whose files are its root's.
pub(crate) fn spec<const N: usize>(stage: &Stage, args: [&str; N]) -> Value {
    give(&stage.root());
    let mut spec = stage.spec(args);
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.extend([json!({"type": "user"}), json!({"type": "network"})]);
    let ids = json!([{"containerID": 0, "hostID": ROOT, "size": SIZE}]);
    spec["linux"]["uidMappings"] = ids.clone();
    spec["linux"]["gidMappings"] = ids;
    spec
}

/// Gives a tree to the container's root, as containerd does with a snapshot.
fn give(path: &Path) {
    std::os::unix::fs::lchown(path, Some(ROOT), Some(ROOT)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}

fn script(stage: &Stage, script: &str) -> String {
    let outcome = stage.run(&spec(stage, ["sh", "-c", script]));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    outcome.out
}

#[test]
fn root_is_root_inside_and_somebody_else_outside() {
    stage(|stage| {
        let out = script(
            stage,
            "id; cat /proc/self/uid_map /proc/self/setgroups; grep -E '^(CapEff|NoNew)' \
             /proc/self/status; cat /proc/self/oom_score_adj; hostname; touch /made; \
             stat -c '%u:%g' /made /proc/1 /dev /dev/null; echo $$",
        );
        let words: Vec<_> = out
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            words,
            [
                "uid=0(root) gid=0",
                "0 200000 65536",
                "allow",
                "CapEff: 00000000a80425fb",
                "NoNewPrivs: 1",
                "500",
                "stage",
                "0:0",
                "0:0",
                "0:0",
                "0:0",
                "1",
            ]
            .map(str::to_owned),
            "{out}"
        );
        assert_eq!(fs::metadata(stage.root().join("made")).unwrap().uid(), ROOT);
    });
}

#[test]
fn every_namespace_is_the_user_namespaces() {
    stage(|stage| {
        // Root of the user namespace may do there what it may not do in the host's.
        let mut spec = spec(
            stage,
            [
                "sh",
                "-c",
                "mount -t tmpfs x /tmp && hostname other && hostname && cat /proc/sys/net/ipv4/ip_unprivileged_port_start && ls -d /sys/class/net/lo",
            ],
        );
        spec["process"]["capabilities"] = json!({"bounding": ["CAP_SYS_ADMIN"],
            "effective": ["CAP_SYS_ADMIN"], "permitted": ["CAP_SYS_ADMIN"]});
        spec["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "7"});
        let outcome = stage.run(&spec);
        assert_eq!(outcome.out, "other\n7\n/sys/class/net/lo\n", "{outcome:?}");
    });
}

#[test]
fn a_privileged_container_has_every_capability_over_what_is_its_own() {
    stage(|stage| {
        let mut spec = spec(stage, ["grep", "CapEff", "/proc/self/status"]);
        let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
        let last: u32 = last.trim().parse().unwrap();
        let names: Vec<_> = (0..=last)
            .filter_map(duet_spec::Capabilities::name)
            .collect();
        spec["process"]["capabilities"] =
            json!({"bounding": names, "effective": names, "permitted": names});
        let all = (1_u64 << names.len()) - 1;
        assert_eq!(stage.run(&spec).out, format!("CapEff:\t{all:016x}\n"));
    });
}

#[test]
fn another_user_is_another_user_outside_too() {
    stage(|stage| {
        let mut spec = spec(stage, ["sh", "-c", "id -u; id -G; touch /tmp/made"]);
        chown(stage.root().join("tmp"), Some(ROOT + 33), None).unwrap();
        spec["process"]["user"] = json!({"uid": 33, "gid": 34, "additionalGids": [5]});
        spec["process"]["noNewPrivileges"] = json!(false);
        spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        let plan = stage.plan(&spec);
        chown(stage.root().join("tmp"), Some(ROOT + 33), None).unwrap();
        let outcome = stage.live(&plan).unwrap();
        assert_eq!(outcome.out, "33\n34 5\n", "{outcome:?}");
        let made = fs::metadata(stage.root().join("tmp/made")).unwrap();
        assert_eq!((made.uid(), made.gid()), (ROOT + 33, ROOT + 34));
        // Other ids than the namespace has are named.
        spec["process"]["user"]["additionalGids"] = json!([5, SIZE]);
        let text = spec.to_string();
        let error = duet_spec::Container::parse(&stage.bundle, text.as_bytes()).unwrap_err();
        let end = "process.user.additionalGids: 65536: is not mapped";
        assert!(error.to_string().ends_with(end), "{error}");
    });
}

#[test]
fn devices_are_nodes_of_their_own_numbers_and_owners() {
    stage(|stage| {
        let mut spec = spec(
            stage,
            [
                "sh",
                "-c",
                "stat -c '%n %a %t:%T %u:%g' /dev/full /dev/net /dev/net/tun; echo x > /dev/null; head -c 3 /dev/zero | wc -c; ls -1 /dev",
            ],
        );
        spec["linux"]["devices"] = json!([{"path": "/dev/net/tun", "type": "c", "major": 10,
            "minor": 200, "fileMode": 0o640, "uid": 33, "gid": 5}]);
        let outcome = stage.run(&spec);
        let expected = "/dev/full 666 1:7 0:0\n/dev/net 755 0:0 0:0\n/dev/net/tun 640 a:c8 33:5\n3\n\
            core\nfd\nfull\nmqueue\nnet\nnull\nptmx\npts\nrandom\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n";
        assert_eq!(outcome.out, expected, "{outcome:?}");
        // Where no node can be made, none is promised.
        spec["linux"]["devices"][0]["path"] = json!("/tun");
        let container = stage.container(&spec);
        let facts = duet_launch::facts(ask(&container, &container.process))
            .unwrap()
            .0;
        let error = duet_plan::container(&container, &facts, Kind::Native).unwrap_err();
        assert!(
            error.to_string().starts_with("linux.devices: /tun: "),
            "{error}"
        );
    });
}

#[test]
fn a_spec_without_dev_gets_one() {
    stage(|stage| {
        let mut spec = spec(
            stage,
            ["sh", "-c", "echo x > /dev/null && stat -c %t:%T /dev/null"],
        );
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        assert_eq!(stage.run(&spec).out, "1:3\n");
    });
}

/// A container that sleeps in a user namespace of its own: its number and its pidfd.
fn sleeping(stage: &Stage) -> (i32, OwnedFd) {
    let plan = stage.plan(&spec(stage, ["sleep", "100"]));
    let Newborn {
        pid, pidfd, gate, ..
    } = stage.create(&plan).unwrap().0;
    gate.open().unwrap();
    (pid, pidfd)
}

fn end(pidfd: &OwnedFd) {
    process::send_signal(pidfd, 9).unwrap();
    assert_eq!(process::wait(pidfd).unwrap().code, 137);
}

#[test]
fn namespaces_of_another_container_are_joined_by_their_paths() {
    stage(|stage| {
        let (pid, pidfd) = sleeping(stage);
        let kinds = ["user", "ipc", "uts", "network"];
        let file = |kind: &str| kind.replace("network", "net");
        let links: Vec<_> = kinds
            .map(|kind| format!("/proc/self/ns/{}", file(kind)))
            .into();
        let show = format!(
            "cat /proc/self/uid_map; for n in {}; do readlink $n; done; ps | grep -c '[s]leep 100'",
            links.join(" ")
        );
        let theirs: Vec<_> = kinds
            .iter()
            .map(|kind| fs::read_link(format!("/proc/{pid}/ns/{}", file(kind))).unwrap())
            .map(|link| link.display().to_string())
            .collect();
        // As CRI's members of a pod, and as those with a shared PID namespace; with the ids in
        // the spec and without.
        for (share, known) in [(false, true), (true, true), (true, false)] {
            let mut spec = spec(stage, ["sh", "-c", &show]);
            let mut namespaces = vec![json!({"type": "mount"})];
            let path = |kind: &str| json!({"type": kind, "path": format!("/proc/{pid}/ns/{}", file(kind))});
            namespaces.extend(kinds.map(path));
            namespaces.push(if share {
                path("pid")
            } else {
                json!({"type": "pid"})
            });
            spec["linux"]["namespaces"] = namespaces.into();
            if !known {
                spec["linux"]["uidMappings"] = json!([]);
                spec["linux"]["gidMappings"] = json!([]);
            }
            let outcome = stage.run(&spec);
            let lines: Vec<_> = outcome.out.lines().collect();
            assert!(
                lines[0].split_whitespace().eq(["0", "200000", "65536"]),
                "{outcome:?}"
            );
            assert_eq!(lines[1..=kinds.len()], theirs, "{outcome:?}");
            let sees: u32 = lines[1 + kinds.len()].parse().unwrap();
            assert_eq!(sees, u32::from(share), "{outcome:?}");
        }
        end(&pidfd);
        assert_eq!(children(), Vec::<i32>::new(), "a zombie is left");
    });
}

/// A further process at its gate in a container that sleeps.
fn exec(stage: &Stage, process: &Value) -> (Newborn, Pipes, OwnedFd) {
    let container = stage.container(&spec(stage, ["sleep", "100"]));
    let (_, init) = sleeping(stage);
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
fn an_exec_is_in_the_user_namespace() {
    stage(|stage| {
        let script = "id -u; id -G; cat /proc/self/uid_map; cat /proc/self/oom_score_adj; hostname;             for n in user mnt pid net; do for p in 1 self; do readlink /proc/$p/ns/$n; done; done;             grep CapEff /proc/self/status";
        let (newborn, pipes, init) = exec(
            stage,
            &json!({"args": ["sh", "-c", script],
            "cwd": "/tmp", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]}),
        );
        newborn.gate.open().unwrap();
        let outcome = pipes.outcome(&newborn.pidfd);
        let lines: Vec<_> = outcome.out.lines().collect();
        assert_eq!(lines[..2], ["0", "0"], "{outcome:?}");
        assert!(
            lines[2].split_whitespace().eq(["0", "200000", "65536"]),
            "{outcome:?}"
        );
        assert_eq!(lines[3..5], ["500", "stage"], "{outcome:?}");
        for pair in lines[5..13].chunks(2) {
            assert_eq!(pair[0], pair[1], "{outcome:?}");
        }
        assert_eq!(lines[13..], ["CapEff:\t00000000a80425fb"], "{outcome:?}");
        end(&init);
        assert_eq!(children(), Vec::<i32>::new(), "a zombie is left");
    });
}

#[test]
fn consoles_are_the_users() {
    stage(|stage| {
        let script = "tty; stat -c %t:%T /dev/console; stat -c %u:%g /dev/pts/0; echo x > /dev/tty";
        let mut spec = spec(stage, ["sh", "-c", script]);
        spec["process"]["terminal"] = json!(true);
        spec["process"]["user"] = json!({"uid": 33, "gid": 33});
        let (newborn, _pipes) = stage.create(&stage.plan(&spec)).unwrap();
        newborn.gate.open().unwrap();
        let said = read_console(newborn.console.unwrap());
        assert_eq!(said, "/dev/pts/0\r\n88:0\r\n33:5\r\nx\r\n");
        assert_eq!(process::wait(newborn.pidfd).unwrap().code, 0);

        let (newborn, _pipes, init) = exec(
            stage,
            &json!({
            "args": ["sh", "-c", "tty; stat -c %u /dev/pts/0; echo x > /dev/tty"], "terminal": true,
            "cwd": "/", "user": {"uid": 33, "gid": 33}, "env": ["PATH=/bin"]}),
        );
        newborn.gate.open().unwrap();
        assert_eq!(
            read_console(newborn.console.unwrap()),
            "/dev/pts/0\r\n33\r\nx\r\n"
        );
        assert_eq!(process::wait(&newborn.pidfd).unwrap().code, 0);
        end(&init);
    });
}

#[test]
fn ids_that_the_kernel_does_not_take_are_named() {
    stage(|stage| {
        let mut plan = stage.plan(&spec(stage, ["true"]));
        for slot in &mut plan.slots {
            if let Descriptor::UserNamespace(ids) = slot {
                ids.uids.push(ids.uids[0]);
            }
        }
        let error = stage.live(&plan).unwrap_err().to_string();
        assert!(
            error.starts_with("id mapping /proc/")
                && error.ends_with("uid_map: invalid argument (EINVAL)"),
            "{error}"
        );
        assert_eq!(children(), Vec::<i32>::new(), "a zombie is left");
    });
}

#[test]
fn what_the_container_mounts_never_reaches_the_host() {
    stage(|stage| {
        let volume = volume(stage);
        let none = None::<&str>;
        nix::mount::mount(none, &stage.bundle, none, MsFlags::MS_SHARED, none).unwrap();
        let before = mount::table().unwrap();
        let mut spec = spec(
            stage,
            [
                "sh",
                "-c",
                "mount -t tmpfs x /v && grep -c ' /v ' /proc/self/mounts",
            ],
        );
        spec["process"]["capabilities"] = json!({"bounding": ["CAP_SYS_ADMIN"],
            "effective": ["CAP_SYS_ADMIN"], "permitted": ["CAP_SYS_ADMIN"]});
        spec["linux"]["rootfsPropagation"] = json!("rshared");
        // Even of a volume that asks for it: as under runc it is shared among the container's own.
        let bind = json!({"destination": "/v", "type": "bind", "source": volume,
            "options": ["rbind", "rshared"]});
        spec["mounts"].as_array_mut().unwrap().push(bind);
        let outcome = stage.run(&spec);
        assert_eq!(outcome.out, "2\n", "{outcome:?}");
        assert_eq!(mount::table().unwrap(), before);
    });
}

#[test]
fn what_the_image_does_to_its_paths_leads_nowhere() {
    // CVE-2026-41579, CVE-2025-31133 and their kin, with the ids of a user namespace.
    stage(|stage| {
        let victim = stage.bundle.join("victim");
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("null"), "mine").unwrap();
        let dev = stage.root().join("dev");
        symlink(&victim, &dev).unwrap();
        symlink("../../../run/made", stage.root().join("etc/hosts")).unwrap();
        let seen = script(
            stage,
            "stat -c %t:%T /dev/null; cat /run/made; cat /proc/timer_list | wc -c; ls -A /sys/firmware",
        );
        assert_eq!(seen, "1:3\nhosts\n0\n");
        assert_eq!(fs::read(victim.join("null")).unwrap(), b"mine");
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
        let refused = stage.run(&spec(
            stage,
            ["sh", "-c", "echo 1 > /proc/sys/kernel/msgmax"],
        ));
        assert!(refused.err.contains("Read-only"), "{refused:?}");
        for number in 3..40 {
            let mut spec = spec(stage, ["true"]);
            spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
            assert!(stage.live(&stage.plan(&spec)).is_err(), "{number}");
        }
    });
}

#[test]
fn a_process_at_the_gate_holds_nothing_and_cannot_be_looked_into() {
    stage(|stage| {
        let (newborn, _pipes) = stage
            .create(&stage.plan(&spec(stage, ["sleep", "9"])))
            .unwrap();
        // Not even by root of its user namespace, who would see the shim's memory.
        assert_eq!(
            fs::metadata(format!("/proc/{}/environ", newborn.pid))
                .unwrap()
                .uid(),
            0
        );
        let held = stage::descriptors(newborn.pid);
        assert!(!held.iter().any(|link| link.contains("/tmp")), "{held:?}");
        let cwd = fs::read_link(format!("/proc/{}/cwd", newborn.pid)).unwrap();
        assert_eq!(cwd, Path::new("/"));
        newborn.gate.open().unwrap();
        assert_eq!(
            fs::metadata(format!("/proc/{}/environ", newborn.pid))
                .unwrap()
                .uid(),
            ROOT
        );
        end(&newborn.pidfd);
    });
}

#[test]
fn a_failure_of_either_process_is_told_and_leaves_neither() {
    stage(|stage| {
        // In the first: a place that is not there; in the second: a program that is not there.
        let plan = stage.plan(&spec(stage, ["nope"]));
        let error = stage.live(&plan).unwrap_err().to_string();
        assert!(
            error.contains("executable file not found in $PATH"),
            "{error}"
        );
        assert_eq!(children(), Vec::<i32>::new());

        let mut spec = spec(stage, ["true"]);
        spec["root"]["path"] = json!("nowhere");
        let error = stage.live(&stage.plan(&spec)).unwrap_err().to_string();
        let place = stage.bundle.join("nowhere");
        assert!(
            error.starts_with(&format!(
                "go to {}: no such file or directory (ENOENT, chdir",
                place.display()
            )),
            "{error}"
        );
        assert_eq!(children(), Vec::<i32>::new());
    });
}

#[test]
fn a_death_of_either_process_is_told_and_leaves_neither() {
    stage(|stage| {
        let plan = stage.plan(&spec(stage, ["true"]));
        let fork = plan
            .steps
            .iter()
            .position(|step| matches!(step, Step::Fork(_)))
            .unwrap();
        for at in [fork, fork + 1] {
            let mut plan = plan.clone();
            kill_at(&mut plan, at);
            let error = stage.live(&plan).unwrap_err().to_string();
            assert_eq!(
                error,
                "the process ended before its program ran, with code 159"
            );
            assert_eq!(children(), Vec::<i32>::new(), "a zombie is left");
        }
    });
}

/// A filter that kills at the next call, whatever it is.
fn kill_at(plan: &mut Plan, at: usize) {
    filter_at(plan, at, &[(6, 0, 0x8000_0000)]);
}

/// A filter from this step on: opcodes, jumps if false, operands.
pub(crate) fn filter_at(plan: &mut Plan, at: usize, filter: &[(u16, u8, u32)]) {
    let first = u32::try_from(plan.programs.len()).unwrap();
    let len = u16::try_from(filter.len()).unwrap();
    let insns = filter
        .iter()
        .map(|&(code, jf, k)| Insn { code, jt: 0, jf, k });
    plan.programs.extend(insns);
    plan.steps
        .insert(at, Step::Seccomp(Program { first, len }, 0));
}

#[test]
fn a_first_process_that_cannot_tell_of_the_second_says_so_and_ends_it() {
    stage(|stage| {
        let mut plan = stage.plan(&spec(stage, ["true"]));
        let mut steps = plan.steps.iter();
        let fork = steps.position(|step| matches!(step, Step::Fork(_)));
        // The number of the call; sendmsg fails with EPERM, all else is allowed.
        let sendmsg = u32::try_from(nix::libc::SYS_sendmsg).unwrap();
        let filter = [
            (0x20, 0, 0),
            (0x15, 1, sendmsg),
            (6, 0, 0x0005_0001),
            (6, 0, 0x7fff_0000),
        ];
        filter_at(&mut plan, fork.unwrap(), &filter);
        let error = stage.live(&plan).unwrap_err().to_string();
        assert!(error.contains("EPERM, sendmsg"), "{error}");
        // Nobody was told of it: it is left to who reaps strangers, and it does end.
        let left = children();
        assert_eq!(left.len(), 1);
        for pid in left {
            let pidfd = process::pidfd_open(pid).unwrap();
            assert_eq!(process::wait(&pidfd).unwrap().code, 137);
        }
    });
}

#[test]
fn a_wasm_container_ends_in_the_runner_there_too() {
    stage(|stage| {
        let script = "cat <&3; cat <&4; cat <&5; ls -1 /dev; id -u; echo x > /dev/null; exit 9";
        let outcome = stage.run_as_guest(&spec(stage, ["sh", "-c", script]));
        let dev = "full\nnull\nrandom\nstderr\nstdin\nstdout\nurandom\nzero\n";
        assert_eq!(
            outcome.out,
            format!("module\nhandoff\nlimit\n{dev}0\n"),
            "{outcome:?}"
        );
        assert_eq!(outcome.code, 9);
    });
}

/// The children of the calling thread, zombies included.
fn children() -> Vec<i32> {
    let list = fs::read_to_string("/proc/thread-self/children").unwrap();
    let pids: Vec<i32> = list
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect();
    assert!(pids.iter().all(|pid| exists(*pid)));
    pids
}

#[test]
fn whoever_it_stops_for_is_told_of_the_second_process() {
    stage(|stage| {
        let mut spec = spec(stage, ["true"]);
        spec["hooks"] = json!({"createContainer": [{"path": "/bin/hook"}]});
        let tree = duet_launch::root_tree(&stage.root()).unwrap();
        let (null, stop) = (fs::File::open("/dev/null").unwrap(), |pid: i32| {
            let theirs = fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
            assert_ne!(theirs, fs::read_link("/proc/self/ns/user").unwrap());
            // Before the pivot, with the host's tree still there.
            assert!(Path::new(&format!("/proc/{pid}/root{}", stage.bundle.display())).exists());
            pid
        });
        let supplies = Supplies {
            root: Some(tree.as_fd()),
            stdout: Some(null.as_fd()),
            stderr: Some(null.as_fd()),
            ..Supplies::default()
        };
        let mut told = 0;
        let newborn = duet_launch::spawn_with(&stage.plan(&spec), supplies, |at| {
            match at {
                Stop::Pause { pid, .. } => told = stop(pid),
                Stop::Born { .. } | Stop::Listener { .. } => {}
            }
            Ok::<(), duet_launch::Error>(())
        });
        let newborn = newborn.unwrap();
        assert_eq!(newborn.pid, told);
        newborn.gate.open().unwrap();
        assert_eq!(process::wait(&newborn.pidfd).unwrap().code, 0);
    });
}
