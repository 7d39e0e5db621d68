//! The root, what is mounted in it, and what is hidden.

use std::path::Path;

use serde_json::json;

use super::{CRI_BIND, Case, bind, case, mount, namespace, tmpfs};

pub(crate) const CASES: &[Case] = &[
    case("read-only root", |s, _| s["root"]["readonly"] = json!(true)),
    case("host name", |s, _| s["hostname"] = json!("oracle")),
    case("domain name", |s, _| s["domainname"] = json!("delphi")),
    case("root propagation private", |s, _| {
        s["linux"]["rootfsPropagation"] = json!("private")
    }),
    case("root propagation rprivate", |s, _| {
        s["linux"]["rootfsPropagation"] = json!("rprivate")
    }),
    case("root propagation rslave", |s, p| {
        s["linux"]["rootfsPropagation"] = json!("rslave");
        bind(s, p, "shared", "/volume", &["rbind", "rslave"]);
    }),
    case("root propagation rshared", |s, p| {
        s["linux"]["rootfsPropagation"] = json!("rshared");
        bind(s, p, "shared", "/volume", &["rbind", "rshared"]);
    }),
    case("root propagation unbindable", |s, _| {
        s["linux"]["rootfsPropagation"] = json!("unbindable")
    }),
    case("no masked and no read-only paths", |s, _| {
        s["linux"]["maskedPaths"] = json!([]);
        s["linux"]["readonlyPaths"] = json!([]);
    }),
    case("masked and read-only paths of the image", |s, _| {
        s["linux"]["maskedPaths"] =
            json!(["/etc/passwd", "/root", "/no/such", "/bin/../etc/group"]);
        s["linux"]["readonlyPaths"] = json!(["/tmp", "/etc", "/no/such"]);
    }),
    case("tmpfs with options", |s, _| {
        tmpfs(
            s,
            "/scratch",
            &[
                "nosuid",
                "nodev",
                "noexec",
                "size=1m",
                "mode=1770",
                "uid=1000",
                "gid=2000",
                "nr_inodes=50",
            ],
        )
    }),
    case("tmpfs over a folder of the image", |s, _| {
        tmpfs(s, "/root", &["rw"])
    }),
    case("tmpfs read-only", |s, _| tmpfs(s, "/scratch/deep", &["ro"])),
    case("tmpfs that copies up", |s, _| {
        tmpfs(s, "/etc", &["tmpcopyup"])
    }),
    case("binds as CRI has them", |s, p| {
        for file in ["hosts", "hostname", "resolv.conf"] {
            bind(s, p, "file", &format!("/etc/{file}"), &CRI_BIND);
        }
        bind(s, p, "file", "/dev/termination-log", &CRI_BIND);
        bind(
            s,
            p,
            "dir",
            "/var/run/secrets/deep",
            &["rbind", "rprivate", "ro"],
        );
    }),
    case("bind read-only", |s, p| {
        bind(s, p, "dir", "/volume", &["bind", "ro"])
    }),
    case("bind read-only with a mount below", |s, p| {
        bind(s, p, "dir", "/volume", &["rbind", "ro"])
    }),
    case("bind recursively read-only", |s, p| {
        bind(s, p, "dir", "/volume", &["rbind", "rro"])
    }),
    case("bind without devices, programs and set-user-id", |s, p| {
        bind(
            s,
            p,
            "dir",
            "/volume",
            &["rbind", "nodev", "noexec", "nosuid"],
        )
    }),
    case("bind with access times", |s, p| {
        for (option, at) in [
            ("noatime", "/a"),
            ("relatime", "/b"),
            ("strictatime", "/c"),
            ("nodiratime", "/d"),
        ] {
            bind(s, p, "dir", at, &["bind", option]);
        }
    }),
    case("bind with recursive attributes", |s, p| {
        bind(
            s,
            p,
            "dir",
            "/volume",
            &["rbind", "rnosuid", "rnodev", "rnoexec", "rnoatime"],
        )
    }),
    case("bind of a read-only source", |s, p| {
        bind(s, p, "readonly", "/volume", &["rbind", "rw"])
    }),
    case("bind of one file", |s, p| {
        bind(s, p, "file", "/etc/made/by/bind", &["bind", "ro"])
    }),
    case("bind over a file of the image", |s, p| {
        bind(s, p, "file", "/bin/true", &["bind"])
    }),
    case("bind behind links of the image", |s, p| {
        bind(s, p, "dir", "/links/absolute/volume", &["rbind"]);
        bind(s, p, "file", "/links/dangling", &["rbind"]);
        bind(s, p, "dir", "/links/out/volume", &["rbind"]);
    }),
    case("bind of the source's default propagation", |s, p| {
        bind(s, p, "shared", "/volume", &["rbind"])
    }),
    case("binds of every propagation", |s, p| {
        for kind in [
            "private",
            "rprivate",
            "slave",
            "rslave",
            "shared",
            "rshared",
            "unbindable",
            "runbindable",
        ] {
            bind(s, p, "shared", &format!("/{kind}"), &["rbind", kind]);
        }
    }),
    case("bind whose source is missing", |s, p| {
        bind(s, p, "no-such", "/volume", &["rbind"])
    }),
    case("bind into procfs", |s, p| {
        bind(s, p, "file", "/proc/cpuinfo", &["rbind", "ro"])
    }),
    case("bind over something of procfs", |s, p| {
        bind(s, p, "file", "/proc/self/environ", &["rbind"])
    }),
    case("mounts over each other", |s, p| {
        tmpfs(s, "/layers", &["size=1m"]);
        bind(s, p, "dir", "/layers/below", &["rbind"]);
        tmpfs(s, "/layers", &["size=2m"]);
    }),
    case("procfs with options", |s, _| {
        s["mounts"][0]["options"] = json!(["nosuid", "noexec", "nodev", "hidepid=2"])
    }),
    case("sysfs that can be written", |s, _| {
        for mount in s["mounts"].as_array_mut().expect("there are mounts") {
            if mount["type"] == "sysfs" {
                mount["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
            }
        }
    }),
    case("no mounts but procfs", |s, _| {
        s["mounts"]
            .as_array_mut()
            .expect("there are mounts")
            .truncate(1);
    }),
    case("the host's folder of devices", |s, _| {
        for mount in s["mounts"].as_array_mut().expect("there are mounts") {
            if mount["destination"] == "/dev" {
                *mount = json!({"destination": "/dev", "type": "bind", "source": "/dev", "options": ["bind", "ro"]});
            }
        }
        s["mounts"]
            .as_array_mut()
            .expect("there are mounts")
            .retain(|mount| {
                mount["destination"] == "/dev"
                    || !mount["destination"]
                        .as_str()
                        .unwrap_or_default()
                        .starts_with("/dev/")
            });
    }),
    case("cgroup mount read-only", |s, _| {
        mount(
            s,
            "cgroup",
            Path::new("cgroup"),
            "/sys/fs/cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        )
    }),
    case("cgroup mount that can be written", |s, _| {
        mount(
            s,
            "cgroup",
            Path::new("cgroup"),
            "/sys/fs/cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "rw"],
        )
    }),
    case("cgroup mount in a cgroup namespace", |s, _| {
        mount(
            s,
            "cgroup",
            Path::new("cgroup"),
            "/sys/fs/cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        );
        namespace(s, "cgroup", Some(String::new()));
    }),
];
