//! Images and specs that try to reach the host, each after a hole that some runtime had.
//!
//! Each test says which defence was taken out once to see it fail, and what was seen then.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::process::Command;

use duet_launch::{Newborn, Supplies};
use duet_linux::process;
use duet_plan::Kinds;
use duet_spec::Process;
use nix::mount::{MsFlags, mount};
use serde_json::json;

use crate::stage::{self, ask, read_console, stage};

#[test]
fn a_dev_that_is_a_link_to_the_host_leads_into_the_image() {
    // CVE-2026-41579: device nodes made at `rootfs + /dev`. Without RESOLVE_IN_ROOT the birth went
    // on in the host's folder, and failed at the mask that its /dev/null, a file, could not be.
    stage(|stage| {
        own_dev();
        for (number, up) in ["", "/../../../../.."].into_iter().enumerate() {
            let victim = stage.bundle.join(format!("victim{number}"));
            fs::create_dir(&victim).unwrap();
            fs::write(victim.join("null"), "mine").unwrap();
            let dev = stage.root().join("dev");
            symlink(format!("{up}{}", victim.display()), &dev).unwrap();
            assert_eq!(stage.script("stat -c %t:%T /dev/null"), "1:3\n");
            assert_eq!(fs::read(victim.join("null")).unwrap(), b"mine");
            assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
            fs::remove_file(dev).unwrap();
        }
        assert_eq!(fs::read_dir("/dev").unwrap().count(), 1);
    });
}

#[test]
fn a_dev_that_is_a_link_to_itself_is_refused() {
    stage(|stage| {
        symlink("/../../dev", stage.root().join("dev")).unwrap();
        let error = stage.live(&stage.plan(&stage.spec(["true"]))).unwrap_err();
        assert!(error.to_string().contains("ELOOP"), "{error}");
    });
}

#[test]
fn a_dev_that_is_a_link_into_the_image_is_followed_there() {
    stage(|stage| {
        fs::create_dir(stage.root().join("devices")).unwrap();
        symlink("/devices", stage.root().join("dev")).unwrap();
        assert_eq!(stage.script("stat -c %t:%T /devices/null"), "1:3\n");
    });
}

#[test]
fn a_destination_behind_a_dangling_link_is_made_in_the_image() {
    stage(|stage| {
        let etc = stage.root().join("etc");
        symlink("../../../../run/resolve/stub.conf", etc.join("resolv.conf")).unwrap();
        symlink("/nowhere/yet", etc.join("hosts")).unwrap();
        assert_eq!(
            stage.script("cat /etc/resolv.conf /run/resolve/stub.conf /nowhere/yet"),
            "resolv.conf\nresolv.conf\nhosts\n"
        );
        assert!(!std::path::Path::new("/nowhere").exists());
    });
}

#[test]
fn a_destination_that_is_a_loop_is_refused() {
    stage(|stage| {
        symlink("hosts", stage.root().join("etc/hosts")).unwrap();
        let error = stage.live(&stage.plan(&stage.spec(["true"]))).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("/etc/hosts: too many symbolic links encountered (ELOOP"),
            "{error}"
        );
    });
}

#[test]
fn a_false_null_hides_nothing_and_is_refused() {
    // CVE-2025-31133: /dev/null of the image is a link to what is to be written. Without the check
    // that it is 1:3, the link itself was bound over the masked paths, and the birth went on.
    stage(|stage| {
        let mut spec = stage.spec(["true"]);
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        let fake = stage.bundle.join("dev");
        fs::create_dir(&fake).unwrap();
        symlink("/proc/sysrq-trigger", fake.join("null")).unwrap();
        mounts.push(
            json!({"destination": "/dev", "type": "bind", "source": fake, "options": ["rbind"]}),
        );
        let error = stage.live(&stage.plan(&spec)).unwrap_err();
        assert!(error.to_string().contains("ENODEV, check,"), "{error}");
    });
}

#[test]
fn a_working_directory_through_proc_is_refused() {
    // CVE-2024-21626: cwd /proc/self/fd/7 is a directory of the host. With links that procfs makes up
    // followed, in `resolve` and in `enter`, number 3 was taken; with one of the walks as it is, none.
    stage(|stage| {
        for number in 3..40 {
            let mut spec = stage.spec(["true"]);
            spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
            assert!(stage.live(&stage.plan(&spec)).is_err(), "{number}");
        }
    });
}

#[test]
fn a_working_directory_of_an_exec_through_proc_is_refused() {
    // CVE-2024-21626 once more: what is open in the parent is open in the exec until its program runs.
    // With links that procfs makes up followed in `enter`, and where they lead not looked at, 17 was taken.
    stage(|stage| {
        let spec = stage.spec(["sleep", "100"]);
        let container = stage.container(&spec);
        let (Newborn { pidfd, gate, .. }, _) = stage.create(&stage.plan(&spec)).unwrap();
        gate.open().unwrap();
        let birth = |cwd: String| {
            let asked = json!({
                "args": ["true"], "cwd": cwd, "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]
            });
            let asked = Process::parse(asked.to_string().as_bytes()).unwrap();
            let facts = duet_launch::exec_facts(ask(&container, &asked)).unwrap();
            let plan = duet_plan::exec(&asked, &container, &facts, Kinds::NATIVE).unwrap();
            let supplies = Supplies {
                init: Some(pidfd.as_fd()),
                ..Supplies::default()
            };
            stage::create(&plan, supplies)
        };
        for number in 3..40 {
            assert!(
                birth(format!("/proc/self/fd/{number}")).is_err(),
                "{number}"
            );
        }
        let (further, _pipes) = birth("/tmp".to_owned()).unwrap();
        stage::reaped(further);
        process::send_signal(&pidfd, 9).unwrap();
        process::wait(pidfd).unwrap();
    });
}

#[test]
fn the_program_cannot_be_the_parent_itself() {
    // CVE-2019-5736. With links that procfs makes up followed and procfs not asked about, it was
    // executed.
    stage(|stage| {
        symlink("/proc/self/exe", stage.root().join("bin/me")).unwrap();
        for name in ["/proc/self/exe", "/bin/me", "me"] {
            let error = stage.live(&stage.plan(&stage.spec([name]))).unwrap_err();
            assert!(error.to_string().contains("ELOOP"), "{error}");
        }
    });
}

#[test]
fn a_process_at_the_gate_cannot_be_looked_into() {
    stage(|stage| {
        let mut spec = stage.spec(["sleep", "100"]);
        spec["process"]["user"] = json!({"uid": 33, "gid": 33});
        let (newborn, _pipes) = stage.create(&stage.plan(&spec)).unwrap();
        // Files of a process that is not dumpable are root's, not its user's.
        let environ = format!("/proc/{}/environ", newborn.pid);
        assert_eq!(fs::metadata(&environ).unwrap().uid(), 0);
        newborn.gate.open().unwrap();
        assert_eq!(fs::metadata(&environ).unwrap().uid(), 33);
        process::send_signal(&newborn.pidfd, 9).unwrap();
        process::wait(&newborn.pidfd).unwrap();
    });
}

#[test]
fn what_the_image_has_at_proc_is_not_written_to() {
    // CVE-2025-52881: sysctls and attributes of the process went to files of the image's choice.
    // Through /proc instead of a procfs of our own, 4321 and 777 were in the image's files.
    stage(|stage| {
        for file in [
            "sys/kernel/msgmax",
            "self/oom_score_adj",
            "thread-self/oom_score_adj",
        ] {
            let file = stage.root().join("proc").join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "image\n").unwrap();
        }
        let mut spec = stage.spec([
            "sh",
            "-c",
            "for at in /really/proc /proc; do cat $at/sys/kernel/msgmax $at/self/oom_score_adj; done",
        ]);
        spec["mounts"][0]["destination"] = json!("/really/proc");
        spec["linux"]["sysctl"] = json!({"kernel.msgmax": "4321"});
        spec["process"]["oomScoreAdj"] = json!(777);
        let outcome = stage.run(&spec);
        assert_eq!(outcome.out, "4321\n777\nimage\nimage\n", "{outcome:?}");
    });
}

#[test]
fn a_proc_that_is_a_link_is_protected_where_it_leads() {
    stage(|stage| {
        fs::create_dir(stage.root().join("fake")).unwrap();
        symlink("/../fake", stage.root().join("proc")).unwrap();
        let mut spec = stage.spec([
            "sh",
            "-c",
            "echo 1 > /fake/sys/kernel/msgmax; cat /fake/timer_list | wc -c",
        ]);
        spec["linux"]["sysctl"] = json!({"kernel.msgmax": "4321"});
        let outcome = stage.run(&spec);
        assert!(outcome.err.contains("msgmax: Read-only"), "{outcome:?}");
        assert_eq!(outcome.out, "0\n", "{outcome:?}");
    });
}

#[test]
fn a_proc_behind_what_a_later_mount_covers_is_protected() {
    // The way to /proc leads through /dev of the image, which a tmpfs covers next. With the paths
    // walked from the root, all of them were missing, and procfs was writable at /fake.
    stage(|stage| {
        for made in ["dev/there", "fake"] {
            fs::create_dir_all(stage.root().join(made)).unwrap();
        }
        symlink("dev/there/../../fake", stage.root().join("proc")).unwrap();
        let script = "echo 1 > /fake/sys/kernel/msgmax; cat /fake/timer_list | wc -c";
        let mut spec = stage.spec(["sh", "-c", script]);
        let whole = json!(["/proc"]);
        for paths in [spec["linux"]["readonlyPaths"].clone(), whole] {
            spec["linux"]["readonlyPaths"] = paths;
            let outcome = stage.run(&spec);
            assert!(outcome.err.contains("msgmax: Read-only"), "{outcome:?}");
            assert_eq!(outcome.out, "0\n", "{outcome:?}");
        }
    });
}

#[test]
fn what_a_spec_mounts_over_proc_is_what_is_protected() {
    stage(|stage| {
        let script = "echo 1 > /proc/sys/kernel/msgmax; cat /proc/timer_list | wc -c";
        let mut spec = stage.spec(["sh", "-c", script]);
        let hosts = json!({"destination": "/proc", "type": "bind", "source": "/proc",
            "options": ["rbind"]});
        spec["mounts"].as_array_mut().unwrap().push(hosts);
        let outcome = stage.run(&spec);
        assert!(outcome.err.contains("msgmax: Read-only"), "{outcome:?}");
        assert_eq!(outcome.out, "0\n", "{outcome:?}");
    });
}

#[test]
fn a_console_that_is_a_link_is_not_bound_where_it_leads() {
    // CVE-2025-52565: what is bound over /dev/console went over a file of the image's choice. With
    // the link followed, the victim was a character special file.
    stage(|stage| {
        let dev = stage.bundle.join("dev");
        fs::create_dir(&dev).unwrap();
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
        let null = nix::sys::stat::makedev(1, 3);
        nix::sys::stat::mknod(
            &dev.join("null"),
            nix::sys::stat::SFlag::S_IFCHR,
            mode,
            null,
        )
        .unwrap();
        symlink("/etc/victim", dev.join("console")).unwrap();
        fs::write(stage.root().join("etc/victim"), "").unwrap();
        let mut spec = stage.spec(["sh", "-c", "stat -c %F /etc/victim"]);
        spec["process"]["terminal"] = json!(true);
        spec["mounts"][1] =
            json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["rbind"]});
        // The console lies on the link itself.
        let (newborn, _pipes) = stage.create(&stage.plan(&spec)).unwrap();
        newborn.gate.open().unwrap();
        let said = read_console(newborn.console.unwrap());
        assert_eq!(said, "regular empty file\r\n");
        assert_eq!(process::wait(newborn.pidfd).unwrap().code, 0);
    });
}

#[test]
fn a_console_comes_from_no_false_devpts() {
    // CVE-2025-52565 again: /dev/pts/0 of the image was taken for the terminal that was just made.
    // Without the question whether it is a devpts, the image's ptmx was opened (and, a link, refused).
    stage(|stage| {
        let pts = stage.bundle.join("pts");
        fs::create_dir(&pts).unwrap();
        symlink("/dev/null", pts.join("ptmx")).unwrap();
        fs::write(pts.join("0"), "").unwrap();
        let mut spec = stage.spec(["true"]);
        spec["process"]["terminal"] = json!(true);
        spec["mounts"][2] =
            json!({"destination": "/dev/pts", "type": "bind", "source": pts, "options": ["rbind"]});
        let error = stage.live(&stage.plan(&spec)).unwrap_err();
        assert!(error.to_string().contains("ENODEV, check,"), "{error}");
    });
}

#[test]
fn capabilities_that_the_shim_could_hand_on_are_not_inherited() {
    // CVE-2022-29162: a file with inheritable capabilities gave them to any user. With the permitted
    // set as the inheritable one, CapInh was not 0.
    let output = Command::new("setpriv")
        .args([
            "--inh-caps=+chown,+net_raw",
            "--ambient-caps=+chown,+net_raw",
        ])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "attacks::one_with_heritage",
        ])
        .output()
        .expect("setpriv of util-linux starts");
    assert!(output.status.success(), "{output:?}");
}

#[test]
#[ignore = "capabilities_that_the_shim_could_hand_on_are_not_inherited runs it with some to hand on"]
fn one_with_heritage() {
    let own = fs::read_to_string("/proc/thread-self/status").unwrap();
    assert!(!own.contains("CapInh:\t0000000000000000"), "{own}");
    stage(|stage| {
        let sets = stage.script("grep -E 'Cap(Inh|Amb)' /proc/self/status");
        assert_eq!(
            sets,
            "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n"
        );
    });
}

#[test]
fn mounts_of_the_container_do_not_reach_the_host() {
    stage(|stage| {
        let before = duet_linux::mount::table().unwrap();
        assert_eq!(stage.run(&stage.spec(["true"])).code, 0);
        assert_eq!(duet_linux::mount::table().unwrap(), before);
    });
}

/// A `/dev` that may be damaged.
fn own_dev() {
    let none = None::<&str>;
    mount(Some("dev"), "/dev", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    fs::write("/dev/null", "").unwrap();
    fs::remove_file("/dev/null").unwrap();
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
    let null = nix::sys::stat::makedev(1, 3);
    nix::sys::stat::mknod("/dev/null", nix::sys::stat::SFlag::S_IFCHR, mode, null).unwrap();
    assert!(
        fs::metadata("/dev/null")
            .unwrap()
            .file_type()
            .is_char_device()
    );
}
