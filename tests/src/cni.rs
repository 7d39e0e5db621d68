//! A pod network of our own: one bridge, one range of addresses, leases in our folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command;

/// Where CNI plugins are installed: Debian's folder, then upstream's.
const PLUGIN_DIRS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// The bridge, and the folders that describe it.
#[derive(Debug, Clone)]
pub struct Network {
    /// The bridge's name; at most 15 bytes, as the kernel wants it.
    pub bridge: String,
    /// The folder of the CNI configuration.
    pub conf_dir: PathBuf,
    /// The folder of the address leases.
    pub lease_dir: PathBuf,
}

impl Network {
    /// Makes the bridge and writes the configuration below `dir`.
    ///
    /// The bridge is made here and not by the plugin, so that the plugin need not be a
    /// gateway: a gateway turns on forwarding for the whole machine.
    pub fn new(dir: &Path) -> Self {
        let pid = std::process::id();
        let network = Self {
            bridge: format!("duett{pid}"),
            conf_dir: dir.join("cni"),
            lease_dir: dir.join("leases"),
        };
        // 10.200.0.0/13 in pieces of 256 addresses; a pid picks the piece.
        let (second, third) = (200 + pid / 256 % 8, pid % 256);
        let subnet = format!("10.{second}.{third}.0/24");
        let address = format!("10.{second}.{third}.1/24");
        fs::create_dir_all(&network.conf_dir).expect("our own folder");
        let conf = serde_json::json!({
            "cniVersion": "0.3.1",
            "name": network.bridge,
            "plugins": [{
                "type": "bridge",
                "bridge": network.bridge,
                "isGateway": false,
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": network.lease_dir,
                    "ranges": [[{ "subnet": subnet }]],
                },
            }],
        });
        let file = network.conf_dir.join("10-duet-tests.conflist");
        fs::write(file, conf.to_string()).expect("our own folder");
        for args in [
            vec!["link", "add", &network.bridge, "type", "bridge"],
            vec!["address", "add", &address, "dev", &network.bridge],
            vec!["link", "set", &network.bridge, "up"],
        ] {
            let _done = command::run(Command::new("ip").args(args)).ok();
        }
        network
    }

    /// The folder with the installed plugins.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    pub fn plugin_dir() -> &'static str {
        PLUGIN_DIRS
            .into_iter()
            .find(|dir| Path::new(dir).join("bridge").exists())
            .expect("no CNI plugins: apt-get install containernetworking-plugins")
    }

    /// What pods have left: ports of the bridge, and leases.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let ports = format!("/sys/class/net/{}/brif", self.bridge);
        let leases = self.lease_dir.join(&self.bridge);
        let mut left: Vec<_> = names(Path::new(&ports))
            .map(|name| format!("interface {name}"))
            .collect();
        // A lease is a file named like its address; the others are the plugin's notes.
        let is_lease = |name: &String| name.starts_with("10.");
        left.extend(
            names(&leases)
                .filter(is_lease)
                .map(|name| format!("CNI lease {name}")),
        );
        left
    }
}

fn names(dir: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}
