//! Fields that few ask for: schedulers, processors, machines, memory, clocks, and a tmpfs that begins full.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use duet_linux::process;
use serde_json::json;

use crate::stage::{Outcome, Stage, stage};
use crate::user_namespaces;

/// `nice` and `policy` of a process, the 19th and 41st field of its `stat`.
const SCHEDULED: &str = "set -- $(sed 's/.*) //' /proc/$$/stat); echo nice ${17} policy ${39}";

#[test]
fn a_process_is_scheduled_as_its_spec_says() {
    stage(|stage| {
        let mut spec = stage.spec(["sh", "-c", SCHEDULED]);
        spec["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7});
        assert_eq!(stage.run(&spec).out, "nice 7 policy 3\n");
        spec["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": -5});
        assert_eq!(stage.run(&spec).out, "nice -5 policy 0\n");
        spec["process"]["scheduler"] = json!({"policy": "SCHED_IDLE"});
        // Its niceness is this process's: the policy has none.
        assert!(stage.run(&spec).out.ends_with(" policy 5\n"));
    });
}

#[test]
fn what_the_kernel_does_not_schedule_is_named() {
    stage(|stage| {
        let mut spec = stage.spec(["true"]);
        let never = json!({"policy": "SCHED_DEADLINE", "runtime": 2, "deadline": 1, "period": 1});
        spec["process"]["scheduler"] = never;
        let error = stage.live(&stage.plan(&spec)).unwrap_err().to_string();
        assert!(
            error.starts_with("process.scheduler: invalid argument (EINVAL"),
            "{error}"
        );
    });
}

#[test]
fn root_of_a_user_namespace_is_scheduled_as_its_spec_says() {
    stage(|stage| {
        let mut spec = user_namespaces::spec(stage, ["sh", "-c", SCHEDULED]);
        spec["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": -3});
        assert_eq!(stage.run(&spec).out, "nice -3 policy 3\n");
    });
}

#[test]
fn a_container_and_its_execs_see_the_machine_that_its_spec_names() {
    let ask = ["sh", "-c", "uname -m; cat /proc/$$/personality"];
    stage(|stage| {
        let seen = |spec: &serde_json::Value| {
            let outcome = stage.run(spec);
            assert_eq!(outcome.code, 0, "{outcome:?}");
            outcome.out
        };
        let mut plain = stage.spec(ask);
        let own = seen(&plain);
        plain["linux"]["personality"] = json!({"domain": "LINUX"});
        assert_eq!(seen(&plain), own);
        let small = if cfg!(target_arch = "x86_64") {
            "i686\n00000008\n"
        } else {
            "armv8l\n00000008\n"
        };
        plain["linux"]["personality"] = json!({"domain": "LINUX32"});
        assert_eq!(seen(&plain), small);
        // A filter that forbids the call is no obstacle, for it comes later.
        plain["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_KILL_PROCESS"}],
        });
        for promised in [true, false] {
            plain["process"]["noNewPrivileges"] = json!(promised);
            assert_eq!(seen(&plain), small);
        }
        let mut in_user_namespace = user_namespaces::spec(stage, ask);
        in_user_namespace["linux"]["personality"] = json!({"domain": "LINUX32"});
        assert_eq!(seen(&in_user_namespace), small);

        let mut lives = stage.spec(["sleep", "100"]);
        lives["linux"]["personality"] = json!({"domain": "LINUX32"});
        assert_eq!(exec_sees(stage, &lives, ask), small);
    });
}

#[test]
fn a_container_and_its_execs_have_their_memory_from_the_nodes_that_its_spec_names() {
    // Of each mapping the file says by which policy its pages come.
    let ask = ["sh", "-c", "cut -d ' ' -f 2 /proc/$$/numa_maps | sort -u"];
    stage(|stage| {
        let mut spec = stage.spec(ask);
        let mut seen = |policy| {
            spec["linux"]["memoryPolicy"] = policy;
            stage.run(&spec).out
        };
        assert_eq!(seen(serde_json::Value::Null), "default\n");
        assert_eq!(seen(json!({"mode": "MPOL_DEFAULT"})), "default\n");
        assert_eq!(seen(json!({"mode": "MPOL_LOCAL"})), "local\n");
        // Every machine has node 0.
        let bind = json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
        assert_eq!(seen(bind.clone()), "bind=static:0\n");
        let interleave = json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"});
        assert_eq!(seen(interleave), "interleave:0\n");

        let mut in_user_namespace = user_namespaces::spec(stage, ask);
        in_user_namespace["linux"]["memoryPolicy"] = bind.clone();
        assert_eq!(stage.run(&in_user_namespace).out, "bind=static:0\n");
        let mut lives = stage.spec(["sleep", "100"]);
        lives["linux"]["memoryPolicy"] = bind;
        assert_eq!(exec_sees(stage, &lives, ask), "bind=static:0\n");

        // A guest's memory is its runner's, of which it sees nothing itself.
        let (runner, _pipes) = stage.create_guest(&lives);
        let maps = fs::read_to_string(format!("/proc/{}/numa_maps", runner.pid)).unwrap();
        let policies = maps.lines().map(|line| line.split(' ').nth(1).unwrap());
        assert!(
            maps.lines().count() > 0 && policies.clone().all(|policy| policy == "bind=static:0"),
            "{maps}"
        );
        crate::stage::reaped(runner);
    });
}

#[test]
fn a_memory_policy_that_the_kernel_refuses_is_named() {
    stage(|stage| {
        let mut spec = stage.spec(["true"]);
        // No machine has as many nodes; one flag excludes the other.
        for (nodes, flags, policy) in [
            ("1020-1021", vec![], "MPOL_BIND [1020, 1021]"),
            (
                "0",
                vec!["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"],
                "MPOL_BIND|MPOL_F_RELATIVE_NODES|MPOL_F_STATIC_NODES [0]",
            ),
        ] {
            spec["linux"]["memoryPolicy"] =
                json!({"mode": "MPOL_BIND", "nodes": nodes, "flags": flags});
            let error = stage.live(&stage.plan(&spec)).unwrap_err().to_string();
            let expected = format!("linux.memoryPolicy: {policy}: invalid argument (EINVAL");
            assert!(error.starts_with(&expected), "{error}");
        }
    });
}

#[test]
fn a_container_and_its_execs_enter_their_class_of_resctrl_by_themselves() {
    stage(|stage| {
        // Two files stand for those of a class and of its monitoring group.
        let dir = tempfile::tempdir().unwrap();
        let tasks = ["tasks", "group-tasks"].map(|name| dir.path().join(name));
        let entered = || {
            let read = |path: &std::path::PathBuf| fs::read_to_string(path).unwrap();
            tasks.iter().all(|path| read(path) == "0")
        };
        let reset = || tasks.iter().for_each(|path| fs::write(path, "").unwrap());
        for spec in [
            stage.spec(["sleep", "100"]),
            user_namespaces::spec(stage, ["sleep", "100"]),
        ] {
            reset();
            let container = stage.container(&spec);
            let asked = crate::stage::ask(&container, &container.process);
            let mut facts = duet_launch::facts(asked).unwrap().0;
            facts.resctrl = tasks.to_vec();
            let plan = duet_plan::container(&container, &facts, duet_plan::Program::Native);
            let (init, _pipes) = stage.create(&plan.unwrap()).unwrap();
            assert!(entered());
            init.gate.open().unwrap();

            reset();
            let kinds = duet_plan::Kinds::NATIVE;
            let plan = duet_plan::exec(&container.process, &container, &facts, kinds).unwrap();
            let supplies = duet_launch::Supplies {
                init: Some(std::os::fd::AsFd::as_fd(&init.pidfd)),
                ..duet_launch::Supplies::default()
            };
            let (exec, _pipes) = crate::stage::create(&plan, supplies).unwrap();
            assert!(entered());
            for process in [exec.pidfd, init.pidfd] {
                process::send_signal(&process, 9).unwrap();
                process::wait(&process).unwrap();
            }
        }
        let container = stage.container(&stage.spec(["true"]));
        let asked = crate::stage::ask(&container, &container.process);
        let mut facts = duet_launch::facts(asked).unwrap().0;
        facts.resctrl = vec![dir.path().join("gone")];
        let plan = duet_plan::container(&container, &facts, duet_plan::Program::Native).unwrap();
        let error = stage.live(&plan).unwrap_err().to_string();
        let gone = facts.resctrl[0].display();
        let expected = format!(
            "linux.intelRdt: enter by {gone}: no such file or directory (ENOENT, openat2, step 1 of "
        );
        assert!(error.contains(&expected), "{error}");
    });
}

/// What a program says that is executed in a container of this spec.
fn exec_sees<const N: usize>(stage: &Stage, spec: &serde_json::Value, ask: [&str; N]) -> String {
    let process = json!({
        "args": ask.as_slice(), "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"],
    });
    let (newborn, pipes, init) = crate::lives::exec_in(stage, spec, process);
    newborn.gate.open().unwrap();
    let Outcome { out, .. } = pipes.outcome(&newborn.pidfd);
    process::send_signal(&init, 9).unwrap();
    process::wait(&init).unwrap();
    out
}

#[test]
fn an_exec_runs_on_the_processors_that_it_names() {
    stage(|stage| {
        let allowed = ["sh", "-c", "grep Cpus_allowed_list /proc/$$/status"];
        let process = |affinity| {
            json!({
                "args": allowed, "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"],
                "execCPUAffinity": affinity,
            })
        };
        let seen = |affinity| {
            let (newborn, pipes, init) = crate::lives::exec(stage, process(affinity));
            newborn.gate.open().unwrap();
            let Outcome { out, .. } = pipes.outcome(&newborn.pidfd);
            process::send_signal(&init, 9).unwrap();
            process::wait(&init).unwrap();
            out.split_whitespace().last().unwrap().to_owned()
        };
        assert_eq!(seen(json!({"initial": "0"})), "0");
        // The latter counts; one processor is on every machine.
        assert_eq!(seen(json!({"initial": "0-1", "final": "0"})), "0");
        assert_ne!(seen(json!({})), "");
    });
}

#[test]
fn the_clocks_of_a_time_namespace_are_off() {
    stage(|stage| {
        let ask = "cat /proc/self/timens_offsets /proc/uptime; readlink /proc/$$/ns/time; \
                   readlink /proc/$$/ns/time_for_children";
        let own = fs::read_link("/proc/self/ns/time").unwrap();
        let up = |text: &str| -> f64 { text.split(' ').next().unwrap().parse().unwrap() };
        let before = up(&fs::read_to_string("/proc/uptime").unwrap());
        let check = |outcome: &Outcome| {
            let lines: Vec<_> = outcome.out.lines().collect();
            let words = |line: &str| {
                line.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            assert_eq!(words(lines[0]), ["monotonic", "7", "5"], "{outcome:?}");
            assert_eq!(words(lines[1]), ["boottime", "1000000", "0"], "{outcome:?}");
            assert!(up(lines[2]) >= before + 1_000_000.0, "{outcome:?}");
            assert_ne!(lines[3], own.to_str().unwrap());
            // The program itself is in it, not only its children.
            assert_eq!(lines[3], lines[4], "{outcome:?}");
        };
        let with_clocks = |spec: &mut serde_json::Value| {
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.push(json!({"type": "time"}));
            spec["linux"]["timeOffsets"] = json!({
                "monotonic": {"secs": 7, "nanosecs": 5}, "boottime": {"secs": 1_000_000},
            });
        };
        let mut spec = stage.spec(["sh", "-c", ask]);
        with_clocks(&mut spec);
        check(&stage.run(&spec));
        let mut spec = user_namespaces::spec(stage, ["sh", "-c", ask]);
        with_clocks(&mut spec);
        check(&stage.run(&spec));
    });
}

#[test]
fn an_exec_is_in_the_containers_time_namespace_and_another_container_can_join_it() {
    stage(|stage| {
        let mut spec = stage.spec(["sleep", "100"]);
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "time"}));
        spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 5}});
        let ask = ["sh", "-c", "cat /proc/self/timens_offsets"];
        let process = json!({
            "args": ask, "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"],
        });
        let (newborn, pipes, init) = crate::lives::exec_in(stage, &spec, process);
        let pid = newborn.pid;
        newborn.gate.open().unwrap();
        let offsets = pipes.outcome(&newborn.pidfd).out;
        let clock = offsets.lines().find(|line| line.starts_with("boottime"));
        let words: Vec<_> = clock.unwrap().split_whitespace().collect();
        assert_eq!(words, ["boottime", "5", "0"], "process {pid}");

        let number = duet_number(&init);
        let mut joined = stage.spec(ask);
        let namespaces = joined["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "time", "path": format!("/proc/{number}/ns/time")}));
        assert_eq!(stage.run(&joined).out, offsets);
        process::send_signal(&init, 9).unwrap();
        process::wait(&init).unwrap();
    });
}

/// The number of the process behind a pidfd.
fn duet_number(pidfd: &std::os::fd::OwnedFd) -> String {
    use std::os::fd::AsRawFd;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    line.unwrap().trim().to_owned()
}

#[test]
fn a_tmpfs_begins_with_what_it_covers() {
    stage(|stage| {
        let covered = stage.root().join("covered");
        fs::create_dir_all(covered.join("deep/er")).unwrap();
        fs::write(covered.join("deep/er/file"), vec![b'x'; 100_000]).unwrap();
        fs::set_permissions(
            covered.join("deep/er/file"),
            fs::Permissions::from_mode(0o4751),
        )
        .unwrap();
        chown(covered.join("deep"), Some(33), Some(34)).unwrap();
        symlink("deep/er/file", covered.join("link")).unwrap();
        for number in 0..300 {
            fs::write(covered.join(format!("one-of-many-{number}")), "").unwrap();
        }
        nix::unistd::mkfifo(&covered.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::set_permissions(covered.join("pipe"), fs::Permissions::from_mode(0o620)).unwrap();
        let file = fs::metadata(covered.join("deep/er/file")).unwrap();
        let script = "cd /covered; stat -c '%a %u:%g %F %s %N' deep deep/er/file link pipe; \
                      stat -c %Y deep/er/file; ls | wc -l; tail -c 3 deep/er/file; echo; \
                      echo new >deep/er/file; cat deep/er/file; grep ' /covered ' /proc/self/mounts";
        let mut spec = stage.spec(["sh", "-c", script]);
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(json!({
            "destination": "/covered", "type": "tmpfs", "source": "tmpfs",
            "options": ["tmpcopyup", "size=1m", "mode=750"],
        }));
        let outcome = stage.run(&spec);
        let changed = file.mtime().to_string();
        let lines: Vec<_> = outcome.out.lines().collect();
        assert!(lines[0].starts_with("755 33:34 directory"), "{outcome:?}");
        assert!(
            lines[1].starts_with("4751 0:0 regular file 100000"),
            "{outcome:?}"
        );
        assert!(lines[2].ends_with("-> 'deep/er/file'"), "{outcome:?}");
        assert!(lines[3].starts_with("620 0:0 fifo"), "{outcome:?}");
        assert_eq!(
            lines[4..8],
            [changed.as_str(), "303", "xxx", "new"],
            "{outcome:?}"
        );
        assert!(lines[8].contains("size=1024k,mode=750"), "{outcome:?}");
        assert_eq!(
            fs::metadata(covered.join("deep/er/file")).unwrap().len(),
            100_000
        );
    });
}

#[test]
fn what_does_not_fit_into_a_tmpfs_is_said() {
    stage(|stage| {
        let covered = stage.root().join("covered");
        fs::create_dir_all(&covered).unwrap();
        fs::write(covered.join("file"), vec![b'x'; 100_000]).unwrap();
        let mut spec = stage.spec(["true"]);
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(json!({
            "destination": "/covered", "type": "tmpfs", "source": "tmpfs",
            "options": ["tmpcopyup", "size=16k"],
        }));
        let error = stage.live(&stage.plan(&spec)).unwrap_err().to_string();
        assert!(
            error.starts_with("mount /covered: no space left on device (ENOSPC, sendfile"),
            "{error}"
        );
    });
}
