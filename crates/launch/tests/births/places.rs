//! Where a process is born: its cgroup, and what of the host's mounts reaches it and back.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use duet_launch::Supplies;
use duet_linux::{mount, process};
use duet_plan::{CgroupFacts, Facts, Hierarchy, Program};
use nix::mount::MsFlags;
use serde_json::{Value, json};

use crate::stage::{Stage, ask, create, stage};
use crate::user_namespaces;

/// A volume of the host's that is shared, and a spec that binds it at `/vol`.
fn volume(stage: &Stage, propagation: &str, script: &str) -> (PathBuf, Value) {
    let none = None::<&str>;
    let volume = stage.bundle.join("volume");
    fs::create_dir_all(volume.join("in")).unwrap();
    nix::mount::mount(
        Some("volume"),
        &volume,
        Some("tmpfs"),
        MsFlags::empty(),
        none,
    )
    .unwrap();
    for point in [&stage.bundle, &volume] {
        nix::mount::mount(none, point, none, MsFlags::MS_SHARED, none).unwrap();
    }
    fs::create_dir(volume.join("in")).unwrap();
    let mut spec = stage.spec(["sh", "-c", script]);
    let admin = json!(["CAP_SYS_ADMIN"]);
    spec["process"]["capabilities"] =
        json!({"bounding": admin, "effective": admin, "permitted": admin});
    let bind = json!({"destination": "/vol", "type": "bind", "source": volume,
                      "options": ["rbind", propagation]});
    spec["mounts"].as_array_mut().unwrap().push(bind);
    (volume, spec)
}

#[test]
fn a_tmpfs_has_the_mode_of_what_it_covers() {
    stage(|stage| {
        let covered = stage.root().join("covered");
        std::fs::create_dir(&covered).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o2750);
        std::fs::set_permissions(&covered, private).unwrap();
        let mut spec = stage.spec(["stat", "-c", "%a", "/covered", "/new", "/covered/given"]);
        let tmpfs = |at: &str, options: &[&str]| json!({"destination": at, "type": "tmpfs", "source": "tmpfs", "options": options});
        spec["mounts"].as_array_mut().unwrap().extend([
            tmpfs("/covered", &["ro"]),
            tmpfs("/new", &[]),
            tmpfs("/covered/given", &["mode=700"]),
        ]);
        let outcome = stage.run(&spec);
        assert_eq!(outcome.out, "2750\n1777\n700\n", "{outcome:?}");
    });
}

#[test]
fn mounts_in_a_shared_volume_reach_the_host() {
    stage(|stage| {
        let (volume, mut spec) = volume(stage, "rshared", "mount -t tmpfs made /vol/in");
        spec["linux"]["rootfsPropagation"] = json!("rshared");
        let outcome = stage.run(&spec);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let below = mount::mounts_below(&volume).unwrap();
        assert_eq!(below, [volume.join("in"), volume]);
        // Nothing but that: the container's own mounts stay its own.
        let root = mount::mounts_below(&stage.root()).unwrap();
        assert_eq!(root, Vec::<PathBuf>::new());
    });
}

#[test]
fn only_a_shared_root_lets_mounts_in_a_volume_reach_the_host() {
    for propagation in ["rprivate", "rslave", "rshared"] {
        stage(|stage| {
            let (volume, spec) = volume(stage, propagation, "mount -t tmpfs made /vol/in");
            let outcome = stage.run(&spec);
            assert_eq!(outcome.code, 0, "{outcome:?}");
            assert_eq!(mount::mounts_below(&volume).unwrap(), [volume]);
        });
    }
}

#[test]
fn mounts_of_the_host_reach_a_slave_volume_and_no_private_one_and_no_guest() {
    let cases = [
        ("rslave", false, "late\n"),
        ("rw", false, "late\n"),
        ("rprivate", false, ""),
        ("rw", true, ""),
    ];
    for (propagation, guest, seen) in cases {
        stage(|stage| {
            let (volume, spec) = volume(stage, propagation, "ls /vol/in");
            let (newborn, pipes) = if guest {
                stage.create_guest(&spec)
            } else {
                stage.create(&stage.plan(&spec)).unwrap()
            };
            let inside = volume.join("in");
            let none = None::<&str>;
            nix::mount::mount(Some("late"), &inside, Some("tmpfs"), MsFlags::empty(), none)
                .unwrap();
            fs::write(inside.join("late"), "").unwrap();
            newborn.gate.open().unwrap();
            let out = pipes.outcome(&newborn.pidfd).out;
            assert_eq!(out, seen, "{propagation}, guest: {guest}");
        });
    }
}

#[test]
fn recursively_read_only_is_read_only_below_too() {
    stage(|stage| {
        for (option, refused) in [("ro", false), ("rro", true)] {
            let (volume, mut spec) = volume(stage, "rprivate", "touch /vol/x; touch /vol/in/x");
            let none = None::<&str>;
            let inside = volume.join("in");
            nix::mount::mount(Some("in"), &inside, Some("tmpfs"), MsFlags::empty(), none).unwrap();
            let mounts = spec["mounts"].as_array_mut().unwrap();
            let options = mounts.last_mut().unwrap()["options"]
                .as_array_mut()
                .unwrap();
            options.push(json!(option));
            let err = stage.run(&spec).err;
            assert!(err.contains("/vol/x: Read-only"), "{option}: {err}");
            assert_eq!(
                err.contains("/vol/in/x: Read-only"),
                refused,
                "{option}: {err}"
            );
        }
    });
}

#[test]
fn a_child_is_born_in_its_cgroups() {
    stage(|stage| {
        let name = format!("duet-born-{}", std::process::id());
        let Some(text) = in_cgroups(stage, &name, "cat /proc/self/cgroup") else {
            return;
        };
        assert!(text.contains(&format!("freezer:/{name}\n")), "{text}");
        let unified = mount::table()
            .unwrap()
            .iter()
            .any(|entry| entry.fstype == "cgroup2");
        assert_eq!(text.contains(&format!("0::/{name}\n")), unified, "{text}");
    });
}

#[test]
fn a_read_only_cgroup_mount_can_be_written_nowhere() {
    // CVE-2022-0492 and CVE-2023-25809: a hierarchy that can be written has a release_agent, which
    // the host runs, and limits that the container may lift. With neither the folder nor what is
    // below it read-only this failed.
    stage(|stage| {
        let name = format!("duet-closed-{}", std::process::id());
        let script = "cd /sys/fs/cgroup; echo > file; echo 1 > freezer/notify_on_release; echo 0 > freezer/tasks; true";
        let Some(text) = in_cgroups(stage, &name, script) else {
            return;
        };
        for file in ["file", "freezer/notify_on_release", "freezer/tasks"] {
            let refusal = format!("can't create {file}: Read-only file system");
            assert!(text.contains(&refusal), "{text}");
        }
    });
}

/// What a script says in cgroups of its own, with a read-only `cgroup` mount; nothing without v1.
fn in_cgroups(stage: &Stage, name: &str, script: &str) -> Option<String> {
    let table = mount::table().unwrap();
    let mounted = |fstype: &str, name: &str| {
        let mut found = table.iter().filter(|entry| entry.fstype == fstype);
        found
            .find(|entry| entry.point.ends_with(name))
            .map(|entry| entry.point.clone())
    };
    let Some(freezer) = mounted("cgroup", "freezer") else {
        eprintln!("skipped: no cgroup v1");
        return None;
    };
    let unified = table.iter().find(|entry| entry.fstype == "cgroup2");
    let own = Cgroup::new(freezer.join(name));
    let born = unified.map(|entry| Cgroup::new(entry.point.join(name)));

    let mut spec = stage.spec(["sh", "-c", script]);
    let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                       "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]});
    spec["mounts"].as_array_mut().unwrap().push(mount);
    let container = stage.container(&spec);
    let facts = Facts {
        cgroup: CgroupFacts {
            v2: false,
            hierarchies: vec![Hierarchy {
                name: "freezer".to_owned(),
                mountpoint: freezer,
                path: own.0.clone(),
            }],
            awaited: true,
        },
        ..duet_launch::facts(ask(&container, &container.process))
            .unwrap()
            .0
    };
    let plan = duet_plan::container(&container, &facts, Program::Native).unwrap();
    let dir = born.as_ref().map(|cgroup| File::open(&cgroup.0).unwrap());
    let tree = duet_launch::root_tree(&stage.root()).unwrap();
    let (mut out, stdout) = std::io::pipe().unwrap();
    let supplies = Supplies {
        root: Some(tree.as_fd()),
        cgroup: dir.as_ref().map(AsFd::as_fd),
        stdout: Some(stdout.as_fd()),
        stderr: Some(stdout.as_fd()),
        ..Supplies::default()
    };
    let newborn = duet_launch::spawn(&plan, supplies).unwrap();
    drop(stdout);
    newborn.gate.open().unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut out, &mut text).unwrap();
    assert_eq!(process::wait(&newborn.pidfd).unwrap().code, 0, "{text}");
    Some(text)
}

/// A cgroup of the test's own, removed at its end.
struct Cgroup(PathBuf);

// === impl Cgroup ===

impl Cgroup {
    fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Who has been waited for may be in it for a moment.
        let end = Instant::now() + Duration::from_secs(60);
        while let Err(error) = fs::remove_dir(&self.0) {
            assert!(Instant::now() < end, "{error}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_network_namespace_of_its_own_has_its_loopback_up() {
    stage(|stage| {
        // IFF_UP and IFF_LOOPBACK.
        let flags = ["cat", "/sys/class/net/lo/flags"];
        let mut spec = stage.spec(flags);
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "network"}));
        assert_eq!(stage.run(&spec).out, "0x9\n");
        assert_eq!(stage.run(&user_namespaces::spec(stage, flags)).out, "0x9\n");
    });
}

#[test]
fn what_was_looked_at_is_mounted_whatever_is_at_its_path_by_then() {
    stage(|stage| {
        let (volume, aside) = (stage.bundle.join("volume"), stage.bundle.join("aside"));
        let fill = |text: &str| {
            fs::create_dir(&volume).unwrap();
            fs::write(volume.join("file"), text).unwrap();
        };
        fill("as it was looked at\n");
        let mut spec = stage.spec(["cat", "/vol/file"]);
        let mount = json!({"destination": "/vol", "type": "bind", "source": volume,
                           "options": ["rbind", "ro"]});
        spec["mounts"].as_array_mut().unwrap().push(mount);
        let container = stage.container(&spec);
        let looked = duet_launch::facts(ask(&container, &container.process));
        let (facts, sources) = looked.unwrap();
        let plan = duet_plan::container(&container, &facts, Program::Native).unwrap();
        fs::rename(&volume, aside).unwrap();
        fill("put there since\n");
        let tree = duet_launch::root_tree(&stage.root()).unwrap();
        let supplies = Supplies {
            root: Some(tree.as_fd()),
            sources: Some(&sources),
            ..Supplies::default()
        };
        let (newborn, pipes) = create(&plan, supplies).unwrap();
        newborn.gate.open().unwrap();
        assert_eq!(pipes.outcome(&newborn.pidfd).out, "as it was looked at\n");
    });
}
