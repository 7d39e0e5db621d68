//! Fields of newer releases of the specification, which Debian's runc does not know, through a whole shim.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use duet_tests::shim::{Bundle, Shim};
use duet_tests::{Node, command, image, machine, template, wait};
use serde_json::{Value, json};

/// A network namespace that plays the host's, so that no interface of this machine is touched.
struct Host(Child);

// === impl Host ===

impl Host {
    fn new() -> Self {
        let held = [
            "--pdeathsig",
            "KILL",
            "unshare",
            "--net",
            "sleep",
            "infinity",
        ];
        let mut holder = Command::new("setpriv");
        holder.args(held).stdin(Stdio::null()).stdout(Stdio::null());
        let host = Self(holder.spawn().expect("setpriv of util-linux starts"));
        let words = format!("/proc/{}/cmdline", host.0.id());
        wait::until("the network that plays the host's", || {
            fs::read(&words).ok()?.starts_with(b"sleep").then_some(())
        });
        host
    }

    /// What leads a command into it.
    fn way(&self) -> String {
        format!("--net=/proc/{}/ns/net", self.0.id())
    }

    fn ip(&self, args: &str) -> String {
        let mut within = Command::new("nsenter");
        within.arg(self.way()).arg(ip()).args(args.split(' '));
        command::run(&mut within).ok().stdout
    }
}

/// Its path: where nsenter is busybox's, that would have its own.
fn ip() -> PathBuf {
    machine::program("ip").expect("iproute2")
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may have ended with the test.
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A shim in that network, and the spec and image of a container of it.
struct Stage<'a> {
    node: &'a Node,
    host: Host,
    config: Value,
    dir: PathBuf,
}

// === impl Stage ===

impl<'a> Stage<'a> {
    /// With a veth pair, whose first end has an address and is to be the container's.
    fn new(node: &'a Node, image: &str) -> Self {
        let host = Host::new();
        host.ip("link add veth0 type veth peer name veth1");
        host.ip("address add 10.9.8.7/24 dev veth0");
        let dir = node.scratch().join("fields");
        let images = image::all();
        let image = images.iter().find(|known| known.name() == image);
        let unpacked = image.map(|image| image.unpack(&dir.join("rootfs")));
        unpacked.expect("there is one").expect("our own folder");
        let mut config = template::config(node);
        config["root"] = json!({"path": "rootfs"});
        config["process"]["terminal"] = json!(false);
        config["linux"]["cgroupsPath"] = json!(format!("/{}/fields", node.namespace()));
        config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0"});
        config["linux"]["netDevices"] = json!({"veth0": {"name": "net0"}});
        Self {
            node,
            host,
            config,
            dir,
        }
    }

    /// Creates the container, and looks at its network.
    fn create(&self) -> (Shim, u32) {
        let program = self.node.scratch().join("containerd-shim-duet-v1");
        let shim = machine::binary("containerd-shim-duet-v1");
        let (way, shim) = (self.host.way(), shim.display());
        let text = format!("#!/bin/sh\nexec nsenter {way} {shim} \"$@\"\n");
        fs::write(&program, text).expect("our own folder");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("our own file");
        let config = self.config.to_string();
        let bundle = Bundle::new(&self.dir, Some(&config)).expect("our own folder");
        let (daemon, namespace) = (self.node.daemon(), self.node.namespace());
        let shim = Shim::start(daemon, &program, namespace, "fields", &bundle);
        let shim = shim.unwrap_or_else(|error| panic!("{error}"));
        let pid = shim.create("fields", &self.dir);
        let pid = pid.expect("each of them is honoured");
        let mut inside = Command::new("nsenter");
        inside.args(["-t", &pid.to_string(), "-n"]).arg(ip());
        inside.args(["-brief", "address"]);
        let device = command::run(&mut inside).ok().stdout;
        assert!(device.contains("net0@"), "{device}");
        assert!(device.contains("10.9.8.7/24"), "{device}");
        assert!(!self.host.ip("-brief link").contains("veth0"));
        shim.begin("fields").expect("it stands at its gate");
        (shim, pid)
    }

    /// Ends the container, and sees its device go.
    fn end(self, shim: Shim) {
        shim.kill("fields").expect("it runs");
        shim.wait("fields").expect("it was killed");
        shim.delete("fields").expect("it has ended");
        shim.shutdown().ok();
        // With its container's network a virtual device goes, and so does its other end.
        wait::until("the end of the device", || {
            (!self.host.ip("-brief link").contains("veth1")).then_some(())
        });
    }
}

#[test]
fn machine_memory_and_network_devices_are_those_of_the_spec() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let mut stage = Stage::new(&node, image::BUSYBOX);
    let say = "{ uname -m; cut -d ' ' -f 2 /proc/$$/numa_maps | sort -u; } >> /said";
    stage.config["process"]["args"] = json!(["/bin/sh", "-c", say]);
    let process = stage.config["process"].to_string();
    let init = format!("{say}; exec sleep 1000");
    stage.config["process"]["args"] = json!(["/bin/sh", "-c", init]);
    stage.config["linux"]["personality"] = json!({"domain": "LINUX32"});
    let (shim, _) = stage.create();
    let small = if cfg!(target_arch = "x86_64") {
        "i686"
    } else {
        "armv8l"
    };
    let said = || fs::read_to_string(stage.dir.join("rootfs/said")).ok();
    let line = format!("{small}\nbind:0\n");
    wait::until("the container's words", || (said()? == line).then_some(()));
    assert_eq!(shim.exec("fields", "more", &process), Ok(0));
    assert_eq!(said(), Some(line.repeat(2)));
    stage.end(shim);
}

#[test]
fn memory_and_network_devices_of_a_guest_are_those_of_the_spec() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let mut stage = Stage::new(&node, image::GUESTS);
    stage.config["process"]["args"] = json!(["/probe.wasm", "idle"]);
    let (shim, pid) = stage.create();
    let command = format!("/proc/{pid}/comm");
    wait::until("the runner", || {
        let name = fs::read_to_string(&command).ok()?;
        name.contains("duet-runner").then_some(())
    });
    let maps = fs::read_to_string(format!("/proc/{pid}/numa_maps")).expect("it runs");
    let policies = maps.lines().filter_map(|line| line.split(' ').nth(1));
    let policies: BTreeSet<_> = policies.collect();
    assert_eq!(Vec::from_iter(policies), ["bind:0"], "{maps}");
    stage.end(shim);
}

#[test]
fn the_limits_of_a_guests_process_are_those_of_the_spec() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let dir = node.scratch().join("limited");
    let images = image::all();
    let image = images.iter().find(|known| known.name() == image::GUESTS);
    let unpacked = image.map(|image| image.unpack(&dir.join("rootfs")));
    unpacked.expect("there is one").expect("our own folder");
    let mut config = template::config(&node);
    config["root"] = json!({"path": "rootfs"});
    config["linux"]["cgroupsPath"] = json!(format!("/{}/limited", node.namespace()));
    config["process"]["terminal"] = json!(false);
    config["process"]["rlimits"] = json!([
        {"type": "RLIMIT_FSIZE", "soft": 4096, "hard": 8192},
        {"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64},
    ]);
    // A MiB, of which the limit lets a page through; as an error, and not as SIGXFSZ.
    config["process"]["args"] = json!(["/probe.wasm", "fill", "/data/file", "1"]);
    let process = config["process"].to_string();
    config["process"]["args"] = json!(["/probe.wasm", "idle"]);
    let bundle = Bundle::new(&dir, Some(&config.to_string())).expect("our own folder");
    let program = machine::binary("containerd-shim-duet-v1");
    let (daemon, namespace) = (node.daemon(), node.namespace());
    let shim = Shim::start(daemon, &program, namespace, "limited", &bundle);
    let shim = shim.unwrap_or_else(|error| panic!("{error}"));
    let pid = shim.create("limited", &dir).expect("both are honoured");
    shim.begin("limited").expect("it stands at its gate");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    for (name, soft, hard) in [
        ("Max file size", "4096", "8192"),
        ("Max open files", "64", "64"),
    ] {
        let row = limits.lines().find_map(|line| line.strip_prefix(name));
        let row: Vec<_> = row.expect("a row of each").split_whitespace().collect();
        assert_eq!(row[..2], [soft, hard], "{limits}");
    }
    assert_eq!(shim.exec("limited", "fills", &process), Ok(1));
    let written = fs::metadata(dir.join("rootfs/data/file")).expect("it was made");
    assert_eq!(written.len(), 4096);
    shim.kill("limited").expect("it runs");
    assert_eq!(shim.wait("limited"), Ok(137));
    shim.delete("limited").expect("it has ended");
    shim.shutdown().ok();
}
