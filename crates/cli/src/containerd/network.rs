//! The pod network of Duet's own containerd: a CNI bridge with a subnet nobody uses.
//!
//! The bridge is made here, before CNI would make it: the kernel gives a name to one taker
//! only, and the number in the name is also the subnet's, so two containerds that start at
//! the same time take two subnets.

mod link;

use crate::cri::sandbox;
use crate::error::Error;
use crate::manifest::Refused;
use crate::program;
use crate::screen::step;
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::json;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Where distributions and Kubernetes put the CNI programs.
const PLUGINS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// The bridges that are tried, in order: `duet0` with 10.88.0.0/16, `duet1` with 10.89.0.0/16 …
const NUMBERS: std::ops::Range<u8> = 0..40;

/// The second byte of the first bridge's subnet.
const FIRST_SUBNET: u8 = 88;

/// The chains of the `portmap` plugin in iptables' table `nat`, and where it hangs them in.
/// It never removes them.
const PORT_CHAINS: [(&str, &[&str]); 3] = [
    ("CNI-HOSTPORT-DNAT", &["PREROUTING", "OUTPUT"]),
    ("CNI-HOSTPORT-SETMARK", &[]),
    ("CNI-HOSTPORT-MASQ", &["POSTROUTING"]),
];

/// What makes the rules of the network: the CNI programs call it.
const IPTABLES: &str = "iptables";

/// Refuses ports of the host's where nobody could map them.
pub(crate) fn check_ports(spec: &PodSpec) -> Result<(), Refused> {
    match (sandbox::host_port(spec), program::find(IPTABLES)) {
        (Some((path, port)), None) => {
            let why = format!("{port} needs iptables (apt install iptables)");
            Err(Refused::field(path, why))
        }
        (Some(_), Some(_)) | (None, _) => Ok(()),
    }
}

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
/// The addresses given out are kept in `leases`, which outlives `state` if Duet is killed.
pub(super) fn write(state: &Path, leases: &Path) -> Result<PathBuf, Error> {
    let routes_path = Path::new("/proc/net/route");
    let routes =
        fs::read_to_string(routes_path).map_err(Error::at("could not read", routes_path))?;
    let (bridge, second) = take_bridge(&routes)?;
    let record = bridge_record(state);
    fs::write(&record, &bridge).map_err(Error::at("could not write", &record))?;

    // Without iptables there is no way out of the machine, and no host ports; the pod runs.
    let iptables = program::find(IPTABLES).is_some();
    if !iptables {
        step(
            "network",
            "without iptables pods reach this machine and each other, and nothing beyond \
             (apt install iptables)",
        );
    }
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

/// Makes the first bridge whose name and subnet are free; returns its name and second byte.
fn take_bridge(routes: &str) -> Result<(String, u8), Error> {
    let failed = |name: &str, errno: rustix::io::Errno| {
        Error::io("could not make the bridge", &interface(name), errno.into())
    };
    for number in NUMBERS {
        let (name, second) = (format!("duet{number}"), FIRST_SUBNET + number);
        if !is_free(second, routes) {
            continue;
        }
        match link::add_bridge(&name) {
            Ok(()) => return Ok((name, second)),
            Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(failed(&name, errno)),
        }
    }
    Err(Error::Missing(
        "no subnet of 10.88.0.0/16 to 10.127.0.0/16 is free for pods".to_owned(),
    ))
}

/// Whether no route overlaps 10.`second`.0.0/16.
fn is_free(second: u8, routes: &str) -> bool {
    let network = u32::from(Ipv4Addr::new(10, second, 0, 0));
    let overlaps = |(destination, mask): (u32, u32)| {
        let common = mask & 0xffff_0000;
        // The default route overlaps everything and means nothing.
        mask != 0 && destination & common == network & common
    };
    !routes.lines().skip(1).filter_map(route).any(overlaps)
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
            link::delete(index).map_err(|errno| {
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
    let nat = |arguments: &[&str]| program::output(IPTABLES, [&["-t", "nat"], arguments].concat());
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

#[cfg(test)]
mod tests {
    use super::{is_free, words};

    fn free(routes: &str) -> Option<u8> {
        (88..=127).find(|second| is_free(*second, routes))
    }

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
