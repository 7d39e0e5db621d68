//! Options as data; mounts for root, in this process's own mount namespace.

use super::*;

fn options(list: &[&str]) -> Vec<String> {
    list.iter().map(|option| (*option).to_owned()).collect()
}

/// Whether the test can mount; without root it says so and is skipped.
fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root to mount");
        assert!(
            std::env::var_os("DUET_TEST_REQUIRE").is_none(),
            "DUET_TEST_REQUIRE is set: nothing may be skipped"
        );
    }
    root
}

#[test]
fn options_are_sorted_by_who_reads_them() {
    let parsed = Options::parse(&options(&[
        "ro",
        "nosuid",
        "lowerdir=/a:/b",
        "index=off",
        "X-containerd.mkdir.path=/x",
        "rslave",
    ]))
    .unwrap();
    assert_eq!(parsed.flags, MountFlags::RDONLY | MountFlags::NOSUID);
    assert_eq!(parsed.data, ["lowerdir=/a:/b", "index=off"]);
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    assert_eq!(parsed.propagation, Some(slave));
}

#[test]
fn what_is_not_offered_is_refused_by_name() {
    let error = Options::parse(&options(&["move"])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "rootfs mount option \"move\" is not supported"
    );
    let fuse = RootfsMount {
        fstype: "fuse3.fuse-overlayfs".to_owned(),
        source: "overlay".to_owned(),
        target: String::new(),
        options: Vec::new(),
    };
    let dir = tempfile::tempdir().unwrap();
    let error = Rootfs::mount(&dir.path().join("rootfs"), &[fuse]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "rootfs mount type \"fuse3.fuse-overlayfs\" is not supported"
    );
    let error = Options::parse(&options(&["rbind", "noexec"])).unwrap_err();
    assert!(error.to_string().contains("rbind,noexec"), "{error}");
}

#[test]
fn long_lists_of_layers_become_relative() {
    let data = options(&[
        "upperdir=/s/9/fs",
        "lowerdir=/s/snapshots/12/fs:/s/snapshots/1/fs",
    ]);
    let (directory, data) = compact(&data).unwrap();
    assert_eq!(directory, Path::new("/s/snapshots/"));
    assert_eq!(data, "upperdir=/s/9/fs,lowerdir=12/fs:1/fs");
    // `é` and `è` have their first byte in common.
    let (directory, data) = compact(&options(&["lowerdir=/s/é/fs:/s/è/fs"])).unwrap();
    assert_eq!(directory, Path::new("/s/"));
    assert_eq!(data, "lowerdir=é/fs:è/fs");
    assert_eq!(compact(&options(&["lowerdir=/a:/b"])), None);
    assert_eq!(compact(&options(&["lowerdir=/s/a\\:b/fs:/s/c/fs"])), None);
}

#[test]
fn mounts_are_made_in_order_and_go_away_with_their_owner() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("rootfs");
    let tmpfs = |target: &str| RootfsMount {
        fstype: "tmpfs".to_owned(),
        source: "duet-test".to_owned(),
        target: target.to_owned(),
        options: options(&["size=64k", "mode=755"]),
    };
    let mut first = Rootfs::mount(&at, &[tmpfs("")]).unwrap();
    fs::create_dir(at.join("inside")).unwrap();
    std::os::unix::fs::symlink("/inside", at.join("link")).unwrap();
    drop(Rootfs {
        at: at.clone(),
        layers: 0,
    });
    assert!(
        at.join("inside").exists(),
        "nothing was mounted, so nothing goes"
    );
    let bind = RootfsMount {
        fstype: "bind".to_owned(),
        source: at.to_str().unwrap().to_owned(),
        target: String::new(),
        options: options(&["rbind", "ro"]),
    };
    let other = dir.path().join("other");
    let second = Rootfs::mount(&other, &[bind, tmpfs("/link")]).unwrap();
    assert!(other.join("inside").exists());
    assert!(fs::write(other.join("new"), "").is_err(), "read only");
    fs::write(other.join("inside/new"), "").expect("a file system of its own, inside");
    drop(second);
    assert!(!other.join("inside").exists());
    first.unmount().unwrap();
    first.unmount().unwrap();
    assert!(!at.join("inside").exists());
}

#[test]
fn many_layers_are_mounted() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = dir
        .path()
        .join("a-directory-with-a-rather-long-name-for-layers-of-images");
    let layers: Vec<String> = (0..100)
        .map(|number| {
            let layer = store.join(format!("{number}/fs"));
            fs::create_dir_all(&layer).unwrap();
            fs::write(layer.join(format!("file-{number}")), "").unwrap();
            layer.to_str().unwrap().to_owned()
        })
        .collect();
    let mount = RootfsMount {
        fstype: "overlay".to_owned(),
        source: "overlay".to_owned(),
        target: String::new(),
        options: vec![format!("lowerdir={}", layers.join(":"))],
    };
    let before = std::env::current_dir().unwrap();
    let at = dir.path().join("rootfs");
    let rootfs = Rootfs::mount(&at, &[mount]).unwrap();
    assert!(at.join("file-0").exists() && at.join("file-99").exists());
    assert_eq!(
        std::env::current_dir().unwrap(),
        before,
        "only the thread moved"
    );
    drop(rootfs);
    assert!(!at.join("file-0").exists());
}

#[test]
fn a_source_that_is_missing_is_named_and_nothing_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mount = RootfsMount {
        fstype: "bind".to_owned(),
        source: "/nonexistent".to_owned(),
        target: String::new(),
        options: options(&["rbind"]),
    };
    let at = dir.path().join("rootfs");
    let error = Rootfs::mount(&at, &[mount]).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("mount bind /nonexistent on {}", at.display())
    );
}

#[test]
fn ids_of_a_user_namespace_are_read_as_containerd_writes_them() {
    let parsed = Options::parse(&options(&[
        "uidmap=0:65536:10,10:7:1",
        "gidmap=0:1:2",
        "ro",
    ]));
    let ids = parsed.unwrap().ids.unwrap();
    assert_eq!(ids.host_uid(10), Some(7));
    assert_eq!(ids.host_gid(1), Some(2));
    let error = |list: &[&str]| Options::parse(&options(list)).unwrap_err().to_string();
    assert!(error(&["uidmap=0:1", "gidmap=0:1:2"]).contains("uidmap=0:1"));
    assert!(error(&["uidmap=0:1:2"]).contains("both uidmap and gidmap"));
}

#[test]
fn layers_and_directories_show_other_owners_to_a_user_namespace() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for made in ["one", "two", "upper", "work"] {
        fs::create_dir(dir.path().join(made)).unwrap();
    }
    fs::write(dir.path().join("one/file"), "x").unwrap();
    fs::write(dir.path().join("two/other"), "x").unwrap();
    std::os::unix::fs::chown(dir.path().join("two/other"), Some(5), Some(6)).unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let ids = ["uidmap=0:1000:100", "gidmap=0:2000:100"];
    let mut overlay = vec![
        format!("lowerdir={}:{}", path("one"), path("two")),
        format!("upperdir={}", path("upper")),
        format!("workdir={}", path("work")),
    ];
    overlay.extend(ids.map(str::to_owned));
    let at = dir.path().join("rootfs");
    let mount = RootfsMount {
        fstype: "overlay".to_owned(),
        source: "overlay".to_owned(),
        target: String::new(),
        options: overlay,
    };
    let owner = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        let found = fs::metadata(at.join(name)).unwrap();
        (found.uid(), found.gid())
    };
    let rootfs = Rootfs::mount(&at, &[mount]).unwrap();
    assert_eq!(owner("file"), (1000, 2000));
    assert_eq!(owner("other"), (1005, 2006));
    let left = duet_linux::mount::mounts_below(dir.path()).unwrap();
    assert_eq!(left, [at.canonicalize().unwrap()]);
    drop(rootfs);
    assert!(!at.join("file").exists());

    let bind = RootfsMount {
        fstype: "bind".to_owned(),
        source: path("two"),
        target: String::new(),
        options: options(&["rbind", "ro", ids[0], ids[1]]),
    };
    let rootfs = Rootfs::mount(&at, &[bind]).unwrap();
    assert_eq!(owner("other"), (1005, 2006));
    assert!(fs::write(at.join("new"), "").is_err(), "read only");
    drop(rootfs);
}

#[test]
fn a_file_that_is_a_file_system_is_mounted_as_one() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("inside")).unwrap();
    fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    let mut make = std::process::Command::new("mkfs.ext4");
    let made = make.args(["-q", "-d"]).args([&tree, &image]).status();
    assert!(made.expect("Debian's e2fsprogs").success());
    let attached = || {
        let devices = fs::read_dir("/sys/block").unwrap().flatten();
        let files = devices
            .filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
        let ours = image.to_str().unwrap();
        files.filter(|file| file.trim_end() == ours).count()
    };
    let at = dir.path().join("rootfs");
    let mount = |list: &[&str]| {
        let mount = RootfsMount {
            fstype: "ext4".to_owned(),
            source: image.to_str().unwrap().to_owned(),
            target: String::new(),
            options: options(list),
        };
        Rootfs::mount(&at, &[mount])
    };
    let ids = ["loop", "uidmap=0:1000:100", "gidmap=0:1000:100"];
    for (list, writable) in [
        (&["loop"][..], true),
        (&["loop", "direct-io", "ro"], false),
        // Root of the host is nobody there.
        (&[ids.as_slice(), &["nodev"]].concat(), false),
    ] {
        let rootfs = mount(list).unwrap();
        assert!(at.join("inside").is_dir(), "{list:?}");
        let new = at.join(format!("new-{}", list.len()));
        assert_eq!(fs::write(new, "").is_ok(), writable, "{list:?}");
        assert_eq!(attached(), 1, "{list:?}");
        drop(rootfs);
        // The kernel ends a mount when its last user has gone, a moment later.
        while attached() > 0 {
            std::thread::yield_now();
        }
    }
    // A hole is no file system.
    fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let error = mount(&["loop"]).unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("Invalid argument"), "{why}");
    // What another test's thread forks has a copy of its descriptor until it executes something.
    while attached() > 0 {
        std::thread::yield_now();
    }
    fs::remove_file(&image).unwrap();
    let error = mount(&["loop"]).unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(why, "loop device: No such file or directory (os error 2)");
}
