//! The pod network of Duet's own containerd: a CNI bridge with a subnet nobody uses.

use crate::error::Error;
use crate::program;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde_json::json;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Where distributions and Kubernetes put the CNI programs.
const PLUGINS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// The second bytes of 10.x.0.0/16 that are tried, in order.
const SECOND_BYTES: std::ops::RangeInclusive<u8> = 88..=127;

/// The chains of the `portmap` plugin in iptables' table `nat`, and where it hangs them in.
/// It never removes them.
const PORT_CHAINS: [(&str, &[&str]); 3] = [
    ("CNI-HOSTPORT-DNAT", &["PREROUTING", "OUTPUT"]),
    ("CNI-HOSTPORT-SETMARK", &[]),
    ("CNI-HOSTPORT-MASQ", &["POSTROUTING"]),
];

/// The directory of the CNI programs.
pub(super) fn plugins() -> Result<PathBuf, Error> {
    PLUGINS
        .iter()
        .map(PathBuf::from)
        .find(|directory| directory.join("bridge").is_file())
        .ok_or_else(|| {
            Error::Missing(format!(
                "the CNI program `bridge` is in none of {}; install it \
                 (apt install containernetworking-plugins)",
                PLUGINS.join(", ")
            ))
        })
}

/// Writes the network's configuration below `state` and returns its directory.
///
/// Leases are kept below `root`, which outlives `state`: a lease goes with its pod.
pub(super) fn write(state: &Path, root: &Path) -> Result<PathBuf, Error> {
    let routes_path = Path::new("/proc/net/route");
    let routes =
        fs::read_to_string(routes_path).map_err(Error::at("could not read", routes_path))?;
    let second = free(&routes).ok_or_else(|| {
        Error::Missing("no subnet of 10.88.0.0 to 10.127.0.0 is free for pods".to_owned())
    })?;
    let bridge = (0..100)
        .map(|number| format!("duet{number}"))
        .find(|name| !interface(name).exists())
        .ok_or_else(|| Error::Missing("no name is free for a bridge".to_owned()))?;
    let record = bridge_record(state);
    fs::write(&record, &bridge).map_err(Error::at("could not write", &record))?;

    // Without iptables there is no way out of the machine, and no host ports; the pod runs.
    let iptables = program::find("iptables").is_some();
    let leases = root.join("leases");
    let mut chain = vec![json!({
        "type": "bridge",
        "bridge": bridge,
        "isGateway": true,
        "ipMasq": iptables,
        "hairpinMode": true,
        "ipam": {
            "type": "host-local",
            "dataDir": leases,
            "ranges": [[{ "subnet": format!("10.{second}.0.0/16") }]],
            "routes": [{ "dst": "0.0.0.0/0" }],
        },
    })];
    if iptables {
        chain.push(json!({ "type": "portmap", "capabilities": { "portMappings": true } }));
    }
    let list = json!({ "cniVersion": "0.4.0", "name": bridge, "plugins": chain });
    let directory = state.join("cni");
    fs::create_dir_all(&directory).map_err(Error::at("could not create", &directory))?;
    let file = directory.join("10-duet.conflist");
    fs::write(&file, list.to_string()).map_err(Error::at("could not write", &file))?;
    Ok(directory)
}

/// The first second byte whose /16 overlaps no route.
fn free(routes: &str) -> Option<u8> {
    let taken: Vec<(u32, u32)> = routes.lines().skip(1).filter_map(route).collect();
    SECOND_BYTES.into_iter().find(|second| {
        let network = u32::from(Ipv4Addr::new(10, *second, 0, 0));
        let overlaps = |(destination, mask): &(u32, u32)| {
            let common = mask & 0xffff_0000;
            // The default route overlaps everything and means nothing.
            *mask != 0 && destination & common == network & common
        };
        !taken.iter().any(overlaps)
    })
}

/// Destination and mask of a line of `/proc/net/route`, which has them in the machine's order.
fn route(line: &str) -> Option<(u32, u32)> {
    let mut words = line.split_whitespace();
    let number = |word: &str| u32::from_str_radix(word, 16).ok().map(u32::from_be);
    Some((number(words.nth(1)?)?, number(words.nth(5)?)?))
}

fn interface(name: &str) -> PathBuf {
    Path::new("/sys/class/net").join(name)
}

fn bridge_record(state: &Path) -> PathBuf {
    state.join("bridge")
}

/// Removes the bridge that `state` names, and the chains of host ports; CNI leaves both.
pub(super) fn remove_stale(state: &Path) -> Result<(), Error> {
    let record = bridge_record(state);
    let Ok(bridge) = fs::read_to_string(&record) else {
        return Ok(());
    };
    if interface(&bridge).join("bridge").is_dir() {
        let index = interface(&bridge).join("ifindex");
        let text = fs::read_to_string(&index).map_err(Error::at("could not read", &index))?;
        if let Ok(index) = text.trim().parse() {
            delete_link(index).map_err(|errno| {
                Error::io("could not remove", &interface(&bridge), errno.into())
            })?;
        }
    }
    remove_port_chains();
    fs::remove_file(&record).map_err(Error::at("could not remove", &record))
}

/// Removes the chains of host ports, unless a rule in them shows that somebody uses them.
///
/// Best effort: they are shared with every CNI user of the machine, and harmless.
fn remove_port_chains() {
    let nat =
        |arguments: &[&str]| program::output("iptables", [&["-t", "nat"], arguments].concat());
    let [(ports, _), ..] = PORT_CHAINS;
    let in_use = match nat(&["-S", ports]) {
        Ok(rules) => rules.lines().any(|rule| rule.starts_with("-A")),
        Err(_) => return,
    };
    if in_use {
        return;
    }
    for (chain, parents) in PORT_CHAINS {
        for parent in parents {
            let rules = nat(&["-S", parent]).unwrap_or_default();
            for rule in rules
                .lines()
                .filter(|rule| rule.ends_with(&format!("-j {chain}")))
            {
                let rule = rule.replacen("-A", "-D", 1);
                let words = words(&rule);
                drop(nat(&words.iter().map(String::as_str).collect::<Vec<_>>()));
            }
        }
        drop(nat(&["-F", chain]));
        drop(nat(&["-X", chain]));
    }
}

/// The words of a rule as iptables prints it; a comment stands in double quotes.
fn words(rule: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in rule.split('"').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// Deletes a network interface by its index: `RTM_DELLINK` over netlink, which needs no
/// program on the machine.
///
/// # References
///
/// [rtnetlink(7)](https://man7.org/linux/man-pages/man7/rtnetlink.7.html)
fn delete_link(index: i32) -> rustix::io::Result<()> {
    const RTM_DELLINK: u16 = 17;
    const NLM_F_REQUEST_ACK: u16 = 1 | 4;
    const LENGTH: u32 = 32;
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // Protocol 0 of this family is NETLINK_ROUTE.
        None,
    )?;
    let mut message = Vec::with_capacity(32);
    // struct nlmsghdr: length, type, flags, sequence, port.
    message.extend(LENGTH.to_ne_bytes());
    message.extend(RTM_DELLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]);
    // struct ifinfomsg: family and padding, type, index, flags, change.
    message.extend([0; 4]);
    message.extend(index.to_ne_bytes());
    message.extend([0; 8]);
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0_u8; 256];
    let (_, length) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    // struct nlmsgerr after the header: 0, or a negative errno.
    let code = answer
        .get(16..20)
        .filter(|_| length >= 20)
        .and_then(|code| code.try_into().ok())
        .map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(rustix::io::Errno::from_raw_os_error(-code)),
        None => Err(rustix::io::Errno::IO),
    }
}

#[cfg(test)]
mod tests {
    use super::{free, words};

    const HEAD: &str = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";

    #[test]
    fn a_subnet_that_a_route_covers_is_not_taken() {
        let none = format!("{HEAD}eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n");
        assert_eq!(free(&none), Some(88));
        // 10.88.0.0/16, as podman's bridge has it.
        let podman = format!("{none}cni0 0000580A 00000000 0001 0 0 0 0000FFFF 0 0 0\n");
        assert_eq!(free(&podman), Some(89));
        // 10.89.1.0/24 lies inside the second candidate.
        let inside = format!("{podman}x 0001590A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n");
        assert_eq!(free(&inside), Some(90));
        // 10.0.0.0/8 covers all.
        let all = format!("{none}vpn 0000000A 00000000 0001 0 0 0 000000FF 0 0 0\n");
        assert_eq!(free(&all), None);
    }

    #[test]
    fn a_rule_is_split_as_iptables_quotes_it() {
        assert_eq!(
            words(r#"-D OUTPUT -m comment --comment "CNI ports" -j X"#),
            [
                "-D",
                "OUTPUT",
                "-m",
                "comment",
                "--comment",
                "CNI ports",
                "-j",
                "X"
            ]
        );
    }
}
