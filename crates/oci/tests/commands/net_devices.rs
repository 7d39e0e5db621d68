//! Network devices of the host's that a container gets. The host is a network namespace made for the test.

use std::fs;
use std::process::Command;

use duet_linux::namespace::{self, Kind};
use serde_json::{Value, json};

use crate::rig::{Rig, with, within};

/// Runs a test in a network of its own, with a veth pair in it whose first end has addresses and is up.
fn apart(test: impl FnOnce(&mut Rig) + Send) {
    with(|rig| {
        if !rig.is_duet() {
            // runc honours the field since 1.4.
            return;
        }
        let namespaces = rig.config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "network"}));
        namespace::aside(|| {
            let network = namespace::fresh(&[Kind::Net])?;
            namespace::enter(&network[0], Kind::Net.flag())?;
            ip("link add veth0 type veth peer name veth1");
            ip("address add 10.9.8.7/24 dev veth0");
            ip("address add 10.9.8.8/24 dev veth0");
            ip("address add 10.1.1.1 peer 10.2.2.2/32 dev veth0");
            ip("address add 192.0.2.7/24 dev veth0 valid_lft 1000 preferred_lft 1000");
            ip("address add 169.254.7.7/16 scope link dev veth0");
            ip("link set veth0 mtu 1789 up");
            ip("-6 address add fd00::7/64 dev veth0 nodad");
            test(rig);
            Ok(())
        })
        .unwrap();
    });
}

/// The addresses of a device that are given back and go along.
const LASTING: [&str; 4] = ["10.1.1.1", "10.9.8.7", "10.9.8.8", "fd00::7"];

fn ip(args: &str) -> String {
    let mut ip = Command::new("ip");
    asked(ip.args(args.split(' ')))
}

fn asked(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What `ip` says of a device, in the network namespace of a process or in the test's.
fn device(name: &str, pid: Option<&Value>) -> Value {
    let show = ["ip", "-json", "address", "show", "dev", name];
    let text = match pid {
        None => asked(Command::new(show[0]).args(&show[1..])),
        Some(pid) => {
            let pid = pid.to_string();
            let mut inside = Command::new("nsenter");
            asked(inside.args(["-t", &pid, "-n"]).args(show))
        }
    };
    let mut devices: Value = serde_json::from_str(&text).unwrap();
    devices[0].take()
}

/// Those of its addresses that are known beyond its link and not for a time only.
fn addresses(device: &Value) -> Vec<String> {
    let all = device["addr_info"].as_array().unwrap().iter();
    let global = all.filter(|address| address["scope"] == "global" && address["dynamic"] != true);
    let mut global: Vec<_> = global
        .map(|address| address["local"].as_str().unwrap().to_owned())
        .collect();
    global.sort();
    global
}

/// Checks that the first end is where it was, as it was.
fn is_back() {
    is_as_it_was("veth0");
}

/// Checks that the first end has not even been away, by which it loses what is not for good.
fn has_stayed() {
    is_back();
    let device = device("veth0", None);
    assert!(device.to_string().contains("192.0.2.7"), "{device}");
}

fn is_as_it_was(name: &str) {
    let device = device(name, None);
    assert_eq!(addresses(&device), LASTING, "{device}");
    assert_eq!(device["mtu"], 1789, "{device}");
    let flags = device["flags"].as_array().unwrap();
    assert!(flags.contains(&json!("UP")), "{device}");
}

#[test]
fn a_network_device_goes_to_the_container_with_its_addresses() {
    apart(|rig| {
        rig.config["linux"]["netDevices"] = json!({"veth0": {"name": "net0"}});
        // A parameter of the device is one of the container's.
        rig.config["linux"]["sysctl"] = json!({"net.ipv4.conf.net0.forwarding": "1"});
        // Its hooks see it there.
        let seen = rig.script(
            "hook",
            "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); nsenter -t $pid -n ip link show net0 > $DIR/seen",
        );
        rig.config["hooks"] = json!({"createRuntime": [{"path": seen}]});
        rig.ok(&["create", "web"]);
        let pid = rig.state("web")["pid"].take();
        let inside = device("net0", Some(&pid));
        assert_eq!(addresses(&inside), LASTING, "{inside}");
        assert!(!inside.to_string().contains("192.0.2.7"), "{inside}");
        assert_eq!(inside["mtu"], 1789, "{inside}");
        let flags = inside["flags"].as_array().unwrap();
        assert!(flags.contains(&json!("UP")), "{inside}");
        let peer = inside["addr_info"].as_array().unwrap().iter();
        let peers: Vec<_> = peer.filter_map(|info| info["address"].as_str()).collect();
        assert_eq!(peers, ["10.2.2.2"], "{inside}");
        let hook = fs::read_to_string(rig.path().join("seen")).unwrap();
        assert!(hook.contains("net0"), "{hook}");
        let forwarding = format!("/proc/{pid}/root/proc/sys/net/ipv4/conf/net0/forwarding");
        let mut read = Command::new("nsenter");
        let value = asked(read.args(["-t", &pid.to_string(), "-n", "cat", &forwarding]));
        assert_eq!(value, "1\n");
        assert!(!ip("-brief link").contains("veth0"));
        // A virtual one goes with its namespace, and so does its other end.
        rig.ok(&["start", "web"]);
        rig.ok(&["delete", "--force", "web"]);
        within(|| !ip("-brief link").contains("veth1"));
    });
}

#[test]
fn a_network_device_stays_in_a_network_that_outlives_its_container() {
    apart(|rig| {
        let pod = namespace::fresh(&[Kind::Net]).unwrap().remove(0);
        // Its path for whoever else opens it: the keeper is no child of this thread's.
        let own = std::process::id();
        let number = std::os::fd::AsRawFd::as_raw_fd(&pod);
        let path = format!("/proc/{own}/fd/{number}");
        let namespaces = rig.config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.last_mut().unwrap()["path"] = json!(path);
        rig.config["linux"]["netDevices"] = json!({"veth0": {"name": "net0"}});
        let there = || {
            let network = format!("--net={path}");
            let show = ["ip", "-json", "address", "show", "dev", "net0"];
            let output = Command::new("nsenter").arg(network).args(show).output();
            output.unwrap()
        };
        // A container that is not created leaves nothing there.
        let args = rig.config["process"]["args"].take();
        rig.args(&["/no/such/program"]);
        rig.refused(&["create", "web"]);
        is_back();
        assert!(!there().status.success());

        rig.config["process"]["args"] = args;
        rig.ok(&["create", "web"]);
        rig.ok(&["start", "web"]);
        rig.ok(&["delete", "--force", "web"]);
        // As the specification has it: its network is not the container's to clear.
        let output = there();
        assert!(output.status.success(), "{output:?}");
        let mut devices: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(addresses(&devices[0].take()), LASTING);
        let why = rig.refused(&["create", "web"]);
        let expected = "linux.netDevices.veth0: find it, as net0: No such device";
        assert!(why.contains(expected), "{why}");
    });
}

#[test]
fn a_network_device_goes_to_a_container_with_users_of_its_own() {
    apart(|rig| {
        asked(
            Command::new("chown")
                .args(["-R", "200000:200000"])
                .arg(rig.bundle()),
        );
        let ids = json!([{"containerID": 0, "hostID": 200_000, "size": 65_536}]);
        rig.config["linux"]["uidMappings"] = ids.clone();
        rig.config["linux"]["gidMappings"] = ids;
        let namespaces = rig.config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user"}));
        rig.config["linux"]["netDevices"] = json!({"veth0": {"name": "net%d"}});
        rig.ok(&["create", "web"]);
        let inside = device("net0", Some(&rig.state("web")["pid"]));
        assert_eq!(addresses(&inside), LASTING, "{inside}");
        rig.ok(&["delete", "--force", "web"]);
    });
}

#[test]
fn a_network_device_that_cannot_be_handed_over_is_named_and_stays() {
    apart(|rig| {
        rig.config["linux"]["netDevices"] = json!({"veth0": {}, "veth9": {"name": "net9"}});
        let why = rig.refused(&["create", "web"]);
        let expected = "linux.netDevices.veth9: find it, as net9: No such device";
        assert!(why.contains(expected), "{why}");
        has_stayed();
        // No loopback interface moves, and its own is there already.
        rig.config["linux"]["netDevices"] = json!({"lo": {"name": "lo1"}, "veth0": {}});
        let why = rig.refused(&["create", "web"]);
        let expected = "linux.netDevices.lo: hand it over to the container's network, as lo1: ";
        assert!(why.contains(expected), "{why}");
        has_stayed();
        // The kernel would see that its name is taken when it is there.
        rig.config["linux"]["netDevices"] = json!({"veth0": {"name": "lo"}});
        let why = rig.refused(&["create", "web"]);
        let expected =
            "linux.netDevices.veth0: hand it over to the container's network, as lo: File exists";
        assert!(why.contains(expected), "{why}");
        has_stayed();
        // And so with what it makes no name of.
        rig.config["linux"]["netDevices"] = json!({"veth0": {"name": "net%s"}});
        let why = rig.refused(&["create", "web"]);
        let expected = "linux.netDevices.veth0.name: net%s: may have one % alone, before a d";
        assert!(why.contains(expected), "{why}");
        has_stayed();
        // What fails later takes it back as well.
        rig.config["linux"]["netDevices"] = json!({"veth0": {"name": "net%d"}});
        rig.args(&["/no/such/program"]);
        let why = rig.refused(&["create", "web"]);
        assert!(why.contains("/no/such/program"), "{why}");
        is_back();
    });
}

#[test]
fn a_network_device_is_found_by_a_name_beside_its_own() {
    apart(|rig| {
        ip("link property add dev veth0 altname alt0");
        // It comes back under its own.
        let args = rig.config["process"]["args"].take();
        rig.args(&["/no/such/program"]);
        for entry in [json!({}), json!({"name": "eth5"})] {
            rig.config["linux"]["netDevices"] = json!({"alt0": entry});
            let why = rig.refused(&["create", "web"]);
            assert!(why.contains("/no/such/program"), "{why}");
            is_back();
        }
        rig.config["process"]["args"] = args;
        // It has that one, and takes it along.
        ip("address add 192.0.2.7/24 dev veth0 valid_lft 1000 preferred_lft 1000");
        rig.config["linux"]["netDevices"] = json!({"alt0": {"name": "alt0"}});
        let why = rig.refused(&["create", "web"]);
        let expected =
            "linux.netDevices.alt0: hand it over to the container's network, as alt0: File exists";
        assert!(why.contains(expected), "{why}");
        has_stayed();
        // Nor can another device that goes along have it.
        ip("link add veth7 type veth peer name veth8");
        rig.config["linux"]["netDevices"] = json!({"veth0": {}, "veth7": {"name": "alt0"}});
        let why = rig.refused(&["create", "web"]);
        let expected =
            "linux.netDevices.veth7: hand it over to the container's network, as alt0: File exists";
        assert!(why.contains(expected), "{why}");
        has_stayed();
        rig.config["linux"]["netDevices"] = json!({"alt0": {}, "veth0": {"name": "net0"}});
        let why = rig.refused(&["create", "web"]);
        let expected = "linux.netDevices \"veth0\": another entry names the same device";
        assert!(why.contains(expected), "{why}");
        has_stayed();

        rig.config["linux"]["netDevices"] = json!({"alt0": {}});
        rig.ok(&["create", "web"]);
        let pid = rig.state("web")["pid"].take();
        for name in ["veth0", "alt0"] {
            let inside = device(name, Some(&pid));
            assert_eq!(inside["ifname"], "veth0", "{inside}");
            assert_eq!(addresses(&inside), LASTING, "{inside}");
        }
        rig.ok(&["delete", "--force", "web"]);
    });
}

#[test]
fn a_network_device_comes_back_to_its_bridge() {
    apart(|rig| {
        ip("link add br0 type bridge");
        ip("link set veth0 master br0");
        let number = device("veth0", None)["ifindex"].take();
        rig.config["linux"]["netDevices"] = json!({"veth0": {}});
        let args = rig.config["process"]["args"].take();
        rig.args(&["/no/such/program"]);
        rig.refused(&["create", "web"]);
        is_back();
        let device = device("veth0", None);
        assert_eq!(device["master"], "br0", "{device}");
        assert_eq!(device["ifindex"], number, "{device}");
        rig.config["process"]["args"] = args;
        rig.ok(&["create", "web"]);
        rig.ok(&["delete", "--force", "web"]);
    });
}

#[test]
fn a_network_device_whose_name_is_taken_meanwhile_is_back_otherwise_as_it_was() {
    apart(|rig| {
        rig.config["linux"]["netDevices"] = json!({"veth0": {"name": "net0"}});
        let taker = rig.script(
            "hook",
            "ip link add veth0 type veth peer name veth5; exit 1",
        );
        rig.config["hooks"] = json!({"createRuntime": [{"path": taker}]});
        rig.refused(&["create", "web"]);
        is_as_it_was("net0");
    });
}

#[test]
fn a_network_device_comes_back_if_all_its_names_are_taken_meanwhile() {
    apart(|rig| {
        rig.config["linux"]["netDevices"] = json!({"veth0": {"name": "net0"}});
        let taker = rig.script("hook", "ip link add veth0 type veth peer name net0; exit 1");
        rig.config["hooks"] = json!({"createRuntime": [{"path": taker}]});
        rig.refused(&["create", "web"]);
        // The kernel may count twice.
        let is_there = |name: &&str| {
            let shown = Command::new("ip").args(["link", "show", name]).output();
            shown.unwrap().status.success()
        };
        let back = ["dev0", "dev1"].into_iter().find(is_there);
        is_as_it_was(back.expect("it is back"));
    });
}

#[test]
fn a_network_device_needs_a_network_of_the_containers_own() {
    apart(|rig| {
        rig.config["linux"]["netDevices"] = json!({"veth0": {}});
        let namespaces = rig.config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.pop();
        let why = rig.refused(&["create", "web"]);
        let expected =
            "linux.netDevices.veth0: veth0: the container has no network namespace of its own";
        assert!(why.contains(expected), "{why}");
        // By its path it is the host's too.
        let pin = rig.path().join("network");
        fs::write(&pin, "").unwrap();
        asked(
            Command::new("mount")
                .args(["--bind", "/proc/self/ns/net"])
                .arg(&pin),
        );
        let namespaces = rig.config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "network", "path": pin}));
        let why = rig.refused(&["create", "web"]);
        asked(Command::new("umount").arg(&pin));
        let expected = "linux.netDevices \"veth0\": the container's network is the host's";
        assert!(why.contains(expected), "{why}");
        is_back();
    });
}
