//! What root of the container's user namespace cannot do to what was mounted for it, though the mount
//! namespace is its own and it has every capability there.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;

use duet_launch::Supplies;
use duet_linux::process;
use duet_plan::{Facts, Kinds, Plan, Program};
use duet_spec::Process;
use duet_step::Step;
use nix::libc::SYS_clone3;
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use crate::stage::{self, Stage, ask, read_console, stage};
use crate::user_namespaces::{filter_at, spec};

/// Each attack, and what is asked for by it. The flags that are not attacked are said again: who leaves one
/// out clears it.
const ATTACKS: [(&str, &str); 11] = [
    ("rw", "mount -o remount,bind,rw,nodev,nosuid /v"),
    ("dev", "mount -o remount,bind,ro,dev,nosuid /v"),
    ("suid", "mount -o remount,bind,ro,nodev,suid /v"),
    ("rw where the host has ro", "mount -o remount,bind,rw /host"),
    ("root", "mount -o remount,bind,rw /"),
    ("volume", "umount /v"),
    ("mask", "umount /proc/timer_list"),
    ("masked directory", "umount /sys/firmware"),
    ("read-only path", "umount -l /proc/sys"),
    ("procfs without masks", "mount -o bind /proc /tmp"),
    ("another procfs", "mount -t proc proc /tmp"),
];

/// Gives a container the capability that mounting takes.
fn empower(spec: &mut Value) {
    let capabilities = &mut spec["process"]["capabilities"];
    for set in ["bounding", "effective", "permitted"] {
        capabilities[set]
            .as_array_mut()
            .unwrap()
            .push(json!("CAP_SYS_ADMIN"));
    }
}

/// A container of root's with `CAP_SYS_ADMIN`, a volume that it is to leave as it is, one that the host has
/// mounted read-only, and a read-only root.
fn besieged<const N: usize>(stage: &Stage, args: [&str; N]) -> Value {
    let none = None::<&str>;
    for (name, flags) in [("volume", MsFlags::empty()), ("host", MsFlags::MS_RDONLY)] {
        let path = stage.bundle.join(name);
        fs::create_dir(&path).unwrap();
        mount(Some(name), &path, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        let again = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags;
        mount(none, &path, none, again, none).unwrap();
    }
    let mut spec = spec(stage, args);
    let mounts = spec["mounts"].as_array_mut().unwrap();
    mounts.push(
        json!({"destination": "/v", "type": "bind", "source": stage.bundle.join("volume"),
        "options": ["rbind", "ro", "nodev", "nosuid"]}),
    );
    mounts.push(
        json!({"destination": "/host", "type": "bind", "source": stage.bundle.join("host"),
        "options": ["rbind"]}),
    );
    spec["root"]["readonly"] = json!(true);
    empower(&mut spec);
    spec
}

/// Says which attacks have succeeded.
fn attack() -> String {
    let tries = ATTACKS.map(|(name, attack)| format!("{attack} 2>/dev/null && echo '{name}'; "));
    format!("{}true", tries.concat())
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

fn without_locks(mut plan: Plan) -> Plan {
    let before = plan.steps.len();
    plan.steps.retain(|step| *step != Step::LockMounts);
    assert_eq!(plan.steps.len() + 1, before);
    plan
}

#[test]
fn what_is_mounted_for_a_container_stays_as_it_is() {
    stage(|stage| {
        let plan = stage.plan(&besieged(stage, ["sh", "-c", &attack()]));
        let outcome = stage.live(&plan).unwrap();
        assert_eq!(lines(&outcome.out), Vec::<&str>::new(), "{outcome:?}");
        // These are attacks: without the defence each of them succeeds.
        let outcome = stage.live(&without_locks(plan)).unwrap();
        let all = ATTACKS.map(|(name, _)| name);
        assert_eq!(lines(&outcome.out), all, "{outcome:?}");
    });
}

#[test]
fn what_the_container_mounts_itself_is_its_own() {
    stage(|stage| {
        let script = "mount -t tmpfs x /tmp && mount -o remount,bind,ro /tmp && ! touch /tmp/x 2>&- && umount /tmp &&
            mount -t tmpfs x /v && touch /v/x && umount /v && mount -o rbind /v /tmp && umount -l /tmp &&
            readlink /proc/self/fd/0; echo /proc/[0-9]*";
        let outcome = stage.run(&besieged(stage, ["sh", "-c", script]));
        // And nothing that was opened before leads elsewhere, and no process is left of it.
        assert_eq!(outcome.out, "/dev/null\n/proc/1\n", "{outcome:?}");
    });
}

#[test]
fn a_terminal_in_a_locked_tree_has_a_path_there() {
    stage(|stage| {
        let script = "readlink /proc/self/fd/0; tty; stat -c %t:%T /dev/console; echo x > /dev/tty";
        let mut spec = besieged(stage, ["sh", "-c", script]);
        spec["process"]["terminal"] = json!(true);
        let (newborn, _pipes) = stage.create(&stage.plan(&spec)).unwrap();
        newborn.gate.open().unwrap();
        let said = read_console(newborn.console.unwrap());
        assert_eq!(said, "/dev/pts/0\r\n/dev/pts/0\r\n88:0\r\nx\r\n");
        assert_eq!(process::wait(newborn.pidfd).unwrap().code, 0);
    });
}

#[test]
fn locked_mounts_are_shared_and_listen_as_they_were_asked_to() {
    stage(|stage| {
        let none = None::<&str>;
        mount(none, &stage.bundle, none, MsFlags::MS_SHARED, none).unwrap();
        let mut spec = spec(stage, ["cat", "/proc/self/mountinfo"]);
        empower(&mut spec);
        spec["linux"]["rootfsPropagation"] = json!("rshared");
        for (at, how) in [
            ("/v", "rshared"),
            ("/w", "rslave"),
            ("/x", "rprivate"),
            ("/y", "unbindable"),
        ] {
            let bind = json!({"destination": at, "type": "bind", "source": stage.bundle,
                "options": ["rbind", how]});
            spec["mounts"].as_array_mut().unwrap().push(bind);
        }
        let seen = |plan: &Plan| -> Vec<String> {
            let outcome = stage.live(plan).unwrap();
            let told = |line: &str| {
                let words: Vec<_> = line.split(' ').collect();
                let kinds = words[6..].iter().take_while(|word| **word != "-");
                let kinds = kinds.map(|word| word.split(':').next().unwrap());
                format!("{} {}", words[4], kinds.collect::<Vec<_>>().join(" "))
            };
            let of_interest = |line: &String| {
                let at = line.split(' ').next().unwrap();
                ["/", "/v", "/w", "/x", "/y"].contains(&at)
            };
            outcome.out.lines().map(told).filter(of_interest).collect()
        };
        let plan = stage.plan(&spec);
        let expected = [
            "/ shared master",
            "/v shared master",
            "/w master",
            "/x ",
            "/y unbindable",
        ];
        assert_eq!(seen(&plan), expected);
        assert_eq!(seen(&without_locks(plan)), expected);
    });
}

#[test]
fn a_destination_that_leads_to_the_root_is_refused_by_its_name() {
    // Whose root lies below another mount may make no user namespace: nothing would be locked.
    stage(|stage| {
        let mut plain = besieged(stage, ["umount", "/host"]);
        let confined = plain.clone();
        let namespaces = plain["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "user");
        plain["linux"]["uidMappings"] = json!([]);
        plain["linux"]["gidMappings"] = json!([]);
        for target in ["/", ".", "../.."] {
            symlink(target, stage.root().join("v")).unwrap();
            for spec in [&plain, &confined] {
                let error = stage.live(&stage.plan(spec)).unwrap_err().to_string();
                let start = "mounts.destination: /v: leads to the root of the container (EBUSY";
                assert!(error.starts_with(start), "{error}");
            }
            fs::remove_file(stage.root().join("v")).unwrap();
        }
    });
}

#[test]
fn what_a_later_mount_covers_is_announced_to_nobody() {
    stage(|stage| {
        let mut spec = besieged(stage, ["sh", "-c", "grep -c ' /[xy]' /proc/self/mounts"]);
        let shared = |at: &str| {
            json!({"destination": at, "type": "bind", "source": stage.bundle.join("volume"),
                "options": ["rbind", "rshared"]})
        };
        let tmpfs = json!({"destination": "/x", "type": "tmpfs", "source": "tmpfs"});
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.extend([shared("/x/below"), tmpfs, shared("/y"), shared("/y")]);
        spec["root"]["readonly"] = json!(false);
        let outcome = stage.run(&spec);
        assert_eq!(outcome.out, "4\n", "{outcome:?}");
    });
}

#[test]
fn where_no_user_namespace_may_make_another_nothing_is_locked_and_else_nothing_is_born() {
    stage(|stage| {
        let mut plan = stage.plan(&besieged(stage, ["umount", "/v"]));
        let lock = plan.steps.iter().position(|step| *step == Step::LockMounts);
        // The number of the call; clone3 fails with EPERM, all else is allowed.
        let clone3 = u32::try_from(SYS_clone3).unwrap();
        let filter = [
            (0x20, 0, 0),
            (0x15, 1, clone3),
            (6, 0, 0x0005_0001),
            (6, 0, 0x7fff_0000),
        ];
        filter_at(&mut plan, lock.unwrap(), &filter);
        // Of Debian's kernels, and 1 by default.
        let knob = fs::read("/proc/sys/kernel/unprivileged_userns_clone");
        if knob.is_ok_and(|knob| knob.starts_with(b"0")) {
            assert_eq!(stage.live(&plan).unwrap().code, 0);
        } else {
            let error = stage.live(&plan).unwrap_err().to_string();
            assert!(
                error.starts_with("lock mounts: operation not permitted (EPERM, clone3"),
                "{error}"
            );
        }
    });
}

#[test]
fn an_executable_beside_a_guest_leaves_the_guests_mounts_as_they_are() {
    const NATIVE: Kinds = Kinds {
        container: Program::Wasm,
        process: Program::Native,
    };
    stage(|stage| {
        let spec = besieged(stage, ["sleep", "100"]);
        let container = stage.container(&spec);
        let (guest, _pipes) = stage.create_guest(&spec);
        guest.gate.open().unwrap();
        let process = json!({"args": ["sh", "-c", attack()], "cwd": "/",
            "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]});
        let process = Process::parse(process.to_string().as_bytes()).unwrap();
        let facts = duet_launch::exec_facts(ask(&container, &process)).unwrap();
        let tree = duet_launch::tree(guest.pid).unwrap();
        let plan = duet_plan::exec(&process, &container, &Facts { tree, ..facts }, NATIVE).unwrap();
        let run = |plan: &Plan| {
            let supplies = Supplies {
                init: Some(guest.pidfd.as_fd()),
                ..Supplies::default()
            };
            let (newborn, pipes) = stage::create(plan, supplies).unwrap();
            newborn.gate.open().unwrap();
            pipes.outcome(&newborn.pidfd)
        };
        let outcome = run(&plan);
        assert_eq!(lines(&outcome.out), Vec::<&str>::new(), "{outcome:?}");
        let outcome = run(&without_locks(plan));
        assert_eq!(
            lines(&outcome.out)[..3],
            ["rw", "dev", "suid"],
            "{outcome:?}"
        );
        process::send_signal(&guest.pidfd, 9).unwrap();
        process::wait(&guest.pidfd).unwrap();
    });
}
