//! Pods with `hostUsers: false`, and containers that `ctr` gives ids of their own.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use duet_tests::Node;
use duet_tests::cri::Wish;

const FOREVER: &str = "echo ready; exec sleep 1000";
/// The host's number of the pod's root.
const ROOT: u32 = 300_000;

#[test]
fn a_pod_of_its_own_users_is_a_pod_like_any_other() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let cri = node.cri();
    let pod = cri.pod_of_its_own_users("users", ROOT);
    let pod = pod.expect("pods may have users of their own");
    let volume = node.scratch().join("volume");
    fs::create_dir(&volume).expect("our own folder");
    // containerd 1.6 does not know the field, and makes a pod of the host's users.
    let knows = !node.daemon().version().starts_with("1.6");
    let root = if knows { ROOT } else { 0 };
    chown(&volume, Some(root), Some(root)).expect("root may");
    let native =
        "echo from native > /data/native; cat /proc/self/uid_map; echo ready; exec sleep 1000";
    let native = pod.start(&Wish::native("native", native).volume(&volume, "/data"));
    native.says("ready");
    let made = fs::metadata(volume.join("native")).expect("it was made");
    assert_eq!((made.uid(), made.gid()), (root, root));
    let map = native.log().into_iter().next().expect("a line").1;
    let map: Vec<u32> = map
        .split_whitespace()
        .map(|id| id.parse().expect("an id"))
        .collect();
    assert_eq!(map[..2], [0, root]);

    // Another member, a wasm one, an exec, and the pod's network.
    let other = pod.start(&Wish::native("other", FOREVER));
    other.says("ready");
    let seen = |member: &duet_tests::cri::Member<'_>| {
        member.exec(&["/bin/readlink", "/proc/self/ns/user"]).1
    };
    assert_eq!(seen(&native), seen(&other));
    let script = [
        "/bin/sh",
        "-c",
        "id -u; ls -ld /proc/1 | cut -d' ' -f1; echo x > /dev/null && echo fine",
    ];
    assert_eq!(native.exec(&script).1, "0\ndr-xr-xr-x\nfine\n");
    if node.daemon().version().starts_with("2.") {
        // The pod's files are its root's, and its members share its memory and its network.
        let script = "stat -c '%u %g %n' /etc/hosts /etc/hostname /etc/resolv.conf; \
            stat -c '%a' /dev/shm; echo x > /dev/shm/x";
        assert_eq!(
            native.exec(&["/bin/sh", "-c", script]),
            (
                0,
                "0 0 /etc/hosts\n0 0 /etc/hostname\n0 0 /etc/resolv.conf\n1777\n".to_owned(),
                String::new()
            )
        );
        assert_eq!(other.exec(&["/bin/cat", "/dev/shm/x"]).1, "x\n");
        let port = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
        assert_eq!(native.exec(&["/bin/cat", port]).1, "0\n");
        let admin = ["/bin/sh", "-c", "ls /sys/class/net"];
        assert!(
            native.exec(&admin).1.contains("eth0"),
            "its network's sysfs"
        );
    }
    let reader =
        pod.start(&Wish::wasm("reader", &["cat", "/data/native"]).volume(&volume, "/data"));
    reader.says("from native");
    assert_eq!(reader.wait(), (0, "Completed".to_owned()));
    assert_ne!(pod.ip(), "");
    let ended = other.exec_streaming(&["/bin/sh", "-c", "tty; read x; echo $x"], "typed\n", true);
    // What is typed is echoed when it comes, perhaps in the middle of what is printed.
    let said = &ended.stdout;
    assert!(
        said.contains("/dev/pts/0")
            && said.ends_with("typed\r\n")
            && said.matches("typed").count() == 2,
        "{ended:?}"
    );
    pod.remove();
}

#[test]
fn ctr_gives_a_container_ids_of_its_own() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let ids = format!("0:{ROOT}:65536");
    let script =
        "cat /proc/self/uid_map; id -u; echo x > /dev/null; touch /made && stat -c %u /made";
    let outcome = node
        .container("ids")
        .with(&["--uidmap", &ids, "--gidmap", &ids])
        .args(&["/bin/sh", "-c", script])
        .run();
    let said = outcome.ok().stdout;
    let words: Vec<_> = said.split_whitespace().collect();
    assert_eq!(words, ["0", "300000", "65536", "0", "0"], "{said}");

    // Not even with the right to mount does its root take away what was mounted for it (decision 40).
    let script = "mount -t tmpfs x /tmp && umount /tmp && echo mounts; umount /proc/sys && echo bare; \
        mount -o remount,bind,rw /sys && echo writable; umount /sys; ls /sys | head -n 1";
    let outcome = node
        .container("powerful")
        .with(&["--uidmap", &ids, "--gidmap", &ids])
        .with(&["--cap-add", "CAP_SYS_ADMIN"])
        .args(&["/bin/sh", "-c", script])
        .run();
    let said = outcome.ok().stdout;
    assert_eq!(said, "mounts\nblock\n", "{said}");
}
