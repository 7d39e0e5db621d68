//! Images and specs that try to reach the host, each after a hole that some runtime had.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

use duet_linux::process;
use nix::mount::{MsFlags, mount};
use serde_json::json;

use crate::stage::stage;

#[test]
fn a_dev_that_is_a_link_to_the_host_leads_into_the_image() {
    // CVE-2026-41579: device nodes made at `rootfs + /dev`.
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
        assert!(error.to_string().contains("/etc/hosts: ELOOP"), "{error}");
    });
}

#[test]
fn a_false_null_hides_nothing_and_is_refused() {
    // CVE-2025-31133: /dev/null of the image is a link to what is to be written.
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
        assert!(
            error.to_string().contains("(check,") || error.to_string().contains("(openat2,"),
            "{error}"
        );
    });
}

#[test]
fn a_working_directory_through_proc_is_refused() {
    // CVE-2024-21626: cwd /proc/self/fd/7 is a directory of the host.
    stage(|stage| {
        for number in 3..40 {
            let mut spec = stage.spec(["true"]);
            spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
            assert!(stage.live(&stage.plan(&spec)).is_err(), "{number}");
        }
    });
}

#[test]
fn the_program_cannot_be_the_parent_itself() {
    // CVE-2019-5736.
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
