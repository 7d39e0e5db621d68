//! What few machines have and the emulated one of `tests/vm` has: memory on two NUMA nodes, the second without a
//! processor, so that nothing comes from there unasked; and a network device that the kernel has not made.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use duet_tests::cri::Wish;
use duet_tests::machine::{self, Skip};
use duet_tests::shim::{Bundle, Shim};
use duet_tests::{Node, command, guests, image, wait};
use k8s_cri::v1::LinuxContainerResources;
use serde_json::{Value, json};

/// The one container of a shim, in the network of this test where it asks for none.
struct Life {
    shim: Shim,
    pid: u32,
    id: &'static str,
}

/// The `config.json` of a container that runs this.
fn config(node: &Node, id: &str, args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "process": {"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": ["CAP_NET_RAW"], "permitted": ["CAP_NET_RAW"], "effective": ["CAP_NET_RAW"]}},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": format!("{}:oci:{id}", node.cgroup_parent()),
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "network"}],
        },
    })
}

/// A folder with a shell and a guest for it.
fn bundle(node: &Node, id: &str, config: &Value) -> Bundle {
    let dir = node.scratch().join(id);
    let bundle = Bundle::new(&dir, Some(&config.to_string())).expect("our own folder");
    let bin = dir.join("rootfs/bin");
    for dir in [&bin, &dir.join("rootfs/proc")] {
        fs::create_dir_all(dir).expect("our own folder");
    }
    fs::copy(image::busybox(), bin.join("busybox")).expect("Debian's busybox-static");
    for name in ["sh", "cat", "head", "mv", "ping", "sleep", "tr"] {
        symlink("busybox", bin.join(name)).expect("our own folder");
    }
    fs::write(dir.join("rootfs/probe.wasm"), guests::PROBE.bytes).expect("our own folder");
    bundle
}

/// Creates it, and has it stand at its gate.
fn create(node: &Node, id: &'static str, config: &Value) -> Result<Life, String> {
    let bundle = bundle(node, id, config);
    let program = machine::binary("containerd-shim-duet-v1");
    let shim = Shim::start(node.daemon(), &program, node.namespace(), id, &bundle);
    let shim = shim.unwrap_or_else(|error| panic!("{error}"));
    match shim.create(id, &bundle.dir) {
        Ok(pid) => Ok(Life { shim, pid, id }),
        Err(error) => {
            let _deleted = shim.shutdown().ok();
            Err(error)
        }
    }
}

// === impl Life ===

impl Life {
    /// Ends the container; its shim is left.
    fn end(&self) {
        self.shim.kill(self.id).expect("it runs");
        assert_eq!(self.shim.wait(self.id), Ok(137));
        self.shim.delete(self.id).expect("it has ended");
    }

    fn shut_down(self) {
        let _deleted = self.shim.shutdown().ok();
    }
}

/// A shell with four megabytes of its own that says where they are, in the file `$0`.
const FILLS: &str = "x=$(head -c 4000000 /dev/zero | tr '\\0' x); \
    cat /proc/$$/numa_maps > $0.new; mv $0.new $0";

/// At least so many pages are those four megabytes.
const MANY: u64 = 900;
/// And so many a runner has with a guest that has done nothing.
const FEW: u64 = 16;

/// Where the memory of a process is: the policies of its mappings, and of no file's how many pages each node has.
#[derive(Debug, PartialEq, Eq)]
struct Memory {
    policies: BTreeSet<String>,
    pages: BTreeMap<u32, u64>,
}

// === impl Memory ===

impl Memory {
    fn of(pid: impl std::fmt::Display) -> Self {
        Self::read(Path::new(&format!("/proc/{pid}/numa_maps")))
    }

    /// As the kernel tells it: `7ffd4000 bind:1 stack anon=3 dirty=3 N1=3 kernelpagesize_kB=4`.
    fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        Self::parse(&text)
    }

    fn parse(maps: &str) -> Self {
        let policies = maps.lines().filter_map(|line| line.split(' ').nth(1));
        let policies = policies.map(str::to_owned).collect();
        let mut pages = BTreeMap::new();
        let own = maps.lines().filter(|line| !line.contains(" file="));
        for word in own.flat_map(|line| line.split(' ').skip(2)) {
            let node = word.strip_prefix('N').and_then(|word| word.split_once('='));
            if let Some((node, count)) = node {
                let count: u64 = count.parse().expect("a number of pages");
                *pages.entry(node.parse().expect("a node")).or_default() += count;
            }
        }
        Self { policies, pages }
    }

    /// That all mappings have this policy, and that it has memory on these nodes and on no other.
    fn is(&self, policy: &str, nodes: &[u32]) -> bool {
        self.policies.iter().eq([policy]) && self.pages.keys().eq(nodes)
    }

    fn total(&self) -> u64 {
        self.pages.values().sum()
    }
}

/// A machine with a second node.
fn enter_with_nodes() -> Option<Node> {
    let node = Node::enter_with_systemd()?;
    if Path::new("/sys/devices/system/node/node1").exists() {
        return Some(node);
    }
    let why = "this machine has one NUMA node".to_owned();
    machine::skip(&Skip { what: "numa", why });
    None
}

#[test]
fn a_memory_policy_takes_memory_from_the_nodes_that_the_spec_names() {
    let Some(node) = enter_with_nodes() else {
        return;
    };
    let shell = |name: &str, then: &str| {
        let script = format!("{FILLS}; {then}");
        ["/bin/sh", "-c", &script, name].map(str::to_owned).to_vec()
    };
    let said = |id: &str, name: &str| {
        let file = node.scratch().join(id).join(format!("rootfs/{name}"));
        wait::until("where its memory is", || file.exists().then_some(()));
        Memory::read(&file)
    };
    let mut config = config(&node, "one", &[]);
    config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "1"});
    config["process"]["args"] = json!(shell("exec", "true"));
    let process = config["process"].to_string();
    config["process"]["args"] = json!(shell("init", "exec sleep 1000"));
    let one = create(&node, "one", &config).expect("there is a node 1");
    one.shim.begin(one.id).expect("it stands at its gate");
    assert_eq!(one.shim.exec(one.id, "more", &process), Ok(0));
    for name in ["init", "exec"] {
        let memory = said(one.id, name);
        assert!(
            memory.is("bind:1", &[1]) && memory.total() > MANY,
            "{name}: {memory:?}"
        );
    }
    one.end();
    one.shut_down();

    config["linux"]["cgroupsPath"] = json!(format!("{}:oci:both", node.cgroup_parent()));
    config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_INTERLEAVE", "nodes": "0-1"});
    let both = create(&node, "both", &config).expect("there are nodes 0 and 1");
    both.shim.begin(both.id).expect("it stands at its gate");
    let memory = said(both.id, "init");
    // Page by page, and what are huge pages at once.
    assert!(
        memory.is("interleave:0-1", &[0, 1])
            && memory.pages.values().all(|pages| *pages > MANY / 6),
        "{memory:?}"
    );
    both.end();
    both.shut_down();

    // One that there is not; one that there is, but not for this container.
    for (nodes, mems, id) in [("2", "", "none"), ("0", "1", "other")] {
        config["linux"]["cgroupsPath"] = json!(format!("{}:oci:{id}", node.cgroup_parent()));
        config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": nodes});
        config["linux"]["resources"] = json!({"cpu": {"mems": mems}});
        let error = create(&node, id, &config).map(|_| ());
        let error = error.expect_err("no memory could come from there");
        let expected = format!("linux.memoryPolicy: MPOL_BIND [{nodes}]: invalid argument (EINVAL");
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn a_memory_policy_is_that_of_a_guests_memory() {
    let Some(node) = enter_with_nodes() else {
        return;
    };
    let mut config = config(&node, "guest", &["/probe.wasm", "idle"]);
    config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "1"});
    let guest = create(&node, "guest", &config).expect("there is a node 1");
    guest.shim.begin(guest.id).expect("it stands at its gate");
    waits(guest.pid);
    let memory = Memory::of(guest.pid);
    assert!(
        memory.is("bind:1", &[1]) && memory.total() > FEW,
        "{memory:?}"
    );
    guest.end();
    guest.shut_down();
}

/// Waits until a guest does, in its poll.
fn waits(pid: u32) {
    wait::until("the guest to wait", || {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        let call = fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
        // poll and ppoll, of x86-64 and of arm64.
        let polls = ["7 ", "271 ", "73 "]
            .iter()
            .any(|call_of| call.starts_with(call_of));
        (polls && name.contains("duet-runner")).then_some(())
    });
}

#[test]
fn memory_nodes_of_a_cgroup_are_where_the_memory_of_its_processes_is() {
    let Some(node) = enter_with_nodes() else {
        return;
    };
    let cri = node.cri();
    let pod = cri.pod("nodes");
    let script = format!("{FILLS}; echo ready; sleep 1000; true");
    let wish = Wish::native("native", "").memory_nodes("1");
    let native = pod.start(&wish.command(&["/bin/sh", "-c", &script, "/init"]));
    let guest = pod.start(&Wish::wasm("wasm", &["idle"]).memory_nodes("1"));
    guest.says("idle");
    native.says("ready");
    let script = format!("{FILLS}; cat $0");
    let (code, maps, errors) = native.exec(&["/bin/sh", "-c", &script, "/exec"]);
    assert_eq!(code, 0, "{errors}");
    for (memory, least) in [
        (Memory::of(native.pid()), MANY),
        (Memory::parse(&maps), MANY),
        (Memory::of(guest.pid()), FEW),
    ] {
        assert!(
            memory.is("default", &[1]) && memory.total() > least,
            "{memory:?}"
        );
    }
    // A node that there is not is refused, and changes nothing.
    let nodes = |nodes: &str| LinuxContainerResources {
        cpuset_mems: nodes.to_owned(),
        ..Default::default()
    };
    let error = native.update(nodes("2")).expect_err("there are two");
    assert!(error.message().contains("cpuset.mems"), "{error}");
    let nowhere = pod.create(&Wish::native("nowhere", "true").memory_nodes("2"));
    let nowhere = nowhere.expect("CRI does not look");
    let error = nowhere.start().expect_err("there are two");
    assert!(error.message().contains("cpuset.mems"), "{error}");
    assert!(Memory::of(native.pid()).is("default", &[1]));
    // What is there moves along, where the kernel has cgroup v2.
    native.update(nodes("0")).expect("there is a node 0");
    wait::until("its memory to move", || {
        Memory::of(native.pid()).is("default", &[0]).then_some(())
    });
    pod.remove();
}

/// A network device that the kernel has not made: it goes nowhere by itself and is never removed.
struct Card {
    name: String,
}

/// What the machine at its other end, which is qemu, is called there, and an address beside it.
const GATEWAY: &str = "10.0.2.2";
const ADDRESS: &str = "10.0.2.15";
/// A name that it has beside its own.
const BESIDE: &str = "duettestcard";

// === impl Card ===

impl Card {
    /// The first one of the initial network namespace, which is to be ours.
    fn find() -> Option<Self> {
        let all = fs::read_dir("/sys/class/net")
            .expect("sysfs is mounted")
            .flatten();
        // One that is up is the machine's own way out.
        let up = |card: &Path| {
            let flags = fs::read_to_string(card.join("flags")).unwrap_or_default();
            u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16)
                .is_ok_and(|flags| flags & 1 == 1)
        };
        let mut real = all.filter(|entry| {
            let card = entry.path();
            card.join("device").exists() && !up(&card)
        });
        let Some(found) = real.next() else {
            let why =
                "this machine has no network device that is down and not a virtual one".to_owned();
            machine::skip(&Skip {
                what: "network",
                why,
            });
            return None;
        };
        let name = found.file_name().into_string().expect("a name in ASCII");
        let card = Self { name };
        card.prepare();
        ip(&[
            "link", "property", "add", "dev", &card.name, "altname", BESIDE,
        ]);
        Some(card)
    }

    /// Gives it its address, under its own name.
    fn prepare(&self) {
        ip(&[
            "address",
            "replace",
            &format!("{ADDRESS}/24"),
            "dev",
            &self.name,
        ]);
        ip(&["link", "set", &self.name, "up"]);
    }

    /// Waits until the initial network namespace has it, under this name and as the kernel brings it there.
    fn is_back_as(&self, name: &str) {
        let dir = Path::new("/sys/class/net").join(name);
        wait::until("the device", || dir.exists().then_some(()));
        let device = shown(BESIDE);
        assert_eq!(device["ifname"], name, "{device}");
        assert!(!is_up(&device), "{device}");
        assert_eq!(device["addr_info"], json!([]), "{device}");
        if name != self.name {
            ip(&["link", "set", name, "name", &self.name]);
        }
        self.prepare();
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        // Whatever it is called by now, if it is here.
        for words in [
            &["link", "set", BESIDE, "down"][..],
            &["link", "set", BESIDE, "name", &self.name],
            &["address", "flush", "dev", &self.name],
            &[
                "link", "property", "del", "dev", &self.name, "altname", BESIDE,
            ],
        ] {
            let _told = command::run(Command::new("ip").args(words));
        }
    }
}

fn ip(words: &[&str]) -> String {
    command::run(Command::new("ip").args(words)).ok().stdout
}

/// What `ip` says of a device of the initial network namespace.
fn shown(name: &str) -> Value {
    device(&ip(&["-json", "address", "show", "dev", name]))
}

fn device(text: &str) -> Value {
    let mut all: Value = serde_json::from_str(text).expect("ip writes JSON");
    all[0].take()
}

/// Its lasting address, and whether it is up.
fn is_whole(device: &Value) -> bool {
    let addresses = device["addr_info"].as_array().expect("a list");
    addresses.iter().any(|address| address["local"] == ADDRESS) && is_up(device)
}

fn is_up(device: &Value) -> bool {
    let flags = device["flags"].as_array().expect("a list");
    flags.contains(&json!("UP"))
}

#[test]
fn a_physical_network_device_is_the_initial_networks_again_when_its_containers_ends() {
    let Some(node) = Node::enter_with_systemd() else {
        return;
    };
    let Some(card) = Card::find() else { return };
    let number = shown(&card.name)["ifindex"].take();
    // Of a container that is not created the host has it again as it was.
    let mut config = config(&node, "no", &["/bin/nothing-here"]);
    config["linux"]["netDevices"] = json!({&card.name: {"name": "net0"}});
    let error = create(&node, "no", &config).map(|_| ());
    let error = error.expect_err("there is no such program");
    assert!(error.contains("/bin/nothing-here"), "{error}");
    let device_again = shown(&card.name);
    assert!(is_whole(&device_again), "{device_again}");
    assert_eq!(device_again["ifindex"], number);

    // Of one that has lived, under the name that it had there: nobody takes it out of its network but the kernel.
    let ping = format!("ping -c 1 -w 20 {GATEWAY} > /said; exec sleep 1000");
    config["process"]["args"] = json!(["/bin/sh", "-c", ping]);
    config["linux"]["cgroupsPath"] = json!(format!("{}:oci:card", node.cgroup_parent()));
    let native = create(&node, "card", &config).expect("it is there");
    assert!(!Path::new("/sys/class/net").join(&card.name).exists());
    let inside = inside(native.pid, "net0");
    assert!(is_whole(&inside), "{inside}");
    native.shim.begin(native.id).expect("it stands at its gate");
    let said = node.scratch().join("card/rootfs/said");
    wait::until("an answer from the other end", || {
        let said = fs::read_to_string(&said).ok()?;
        said.contains("1 packets received").then_some(())
    });
    native.end();
    // Its shim is still there.
    card.is_back_as("net0");
    native.shut_down();

    // A guest has it just so; asked for by a name beside its own it is called by that, there and afterwards.
    config["process"]["args"] = json!(["/probe.wasm", "idle"]);
    config["linux"]["cgroupsPath"] = json!(format!("{}:oci:guest", node.cgroup_parent()));
    config["linux"]["netDevices"] = json!({BESIDE: {}});
    let guest = create(&node, "guest", &config).expect("it is there");
    let inside = self::inside(guest.pid, BESIDE);
    assert!(
        is_whole(&inside) && inside["ifname"] == card.name,
        "{inside}"
    );
    guest.shim.begin(guest.id).expect("it stands at its gate");
    waits(guest.pid);
    guest.end();
    card.is_back_as(&card.name);
    guest.shut_down();
}

/// What `ip` says of a device in the network of a process.
fn inside(pid: u32, name: &str) -> Value {
    let mut inside = Command::new("nsenter");
    inside.args(["-t", &pid.to_string(), "-n"]);
    // By its path: the nsenter of busybox would have its own.
    inside.arg(machine::program("ip").expect("iproute2"));
    inside.args(["-json", "address", "show", "dev", name]);
    device(&command::run(&mut inside).ok().stdout)
}
