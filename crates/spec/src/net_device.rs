//! `linux.netDevices`: network devices of the host's that the container gets.

use crate::{Error, Namespace, document::Document};
use oci_spec::runtime::LinuxNetDevice;
use std::collections::{BTreeMap, HashMap};

/// A device of the shim's network namespace that goes to the container's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDevice {
    /// Its name here, or another one that it has beside that.
    pub device: String,
    /// Its name there, if it is to have another; in it `%d` is a number that the kernel finds.
    pub name: Option<String>,
}

/// One less than the kernel's `IFNAMSIZ`, for the NUL.
const LONGEST: usize = 15;

// === impl NetDevice ===

impl NetDevice {
    /// An entry that says nothing asks for its device, by its own name.
    pub(crate) fn read(
        document: Document<'_>,
        written: Option<&HashMap<String, LinuxNetDevice>>,
        network: &Namespace,
    ) -> Result<Vec<Self>, Error> {
        let entries: BTreeMap<_, _> = written.into_iter().flatten().collect();
        let mut devices: Vec<Self> = Vec::new();
        for (device, entry) in entries {
            let field = format!("linux.netDevices.{device}");
            let name = entry.name().clone().filter(|name| !name.is_empty());
            let called = name.as_ref().unwrap_or(device);
            for (field, name) in [(&field, device), (&format!("{field}.name"), called)] {
                if !may_be_called(name) {
                    return Err(document.value(field, name, "is not a name of a network device"));
                }
            }
            if *network == Namespace::Host {
                let why = "the container has no network namespace of its own";
                return Err(document.value(&field, called, why));
            }
            // The kernel would know of it when the device has moved, which costs the host its routes.
            if name.as_deref().is_some_and(|name| !may_be_asked(name)) {
                let field = format!("{field}.name");
                return Err(document.value(&field, called, "may have one % alone, before a d"));
            }
            let twice = devices.iter().any(|other| other.called() == called);
            if twice && !called.contains('%') {
                let field = format!("{field}.name");
                return Err(document.value(&field, called, "is another device's name too"));
            }
            devices.push(Self {
                device: device.clone(),
                name,
            });
        }
        Ok(devices)
    }

    /// Its name there, as far as the spec tells.
    pub fn called(&self) -> &str {
        self.name.as_ref().unwrap_or(&self.device)
    }
}

/// What the kernel lets a device be called (`dev_valid_name`).
fn may_be_called(name: &str) -> bool {
    (1..=LONGEST).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| matches!(c, '/' | ':' | '\x0b') || c.is_ascii_whitespace())
}

/// What the kernel makes a name of (`__dev_alloc_name`).
fn may_be_asked(name: &str) -> bool {
    let pattern = name.split_once('%');
    pattern.is_none_or(|(_, rest)| rest.starts_with('d') && !rest.contains('%'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(devices: Value, network: &Namespace) -> Result<Vec<NetDevice>, String> {
        let written = serde_json::from_value(devices).unwrap();
        let read = NetDevice::read(Document { name: "d" }, Some(&written), network);
        read.map_err(|error| error.to_string())
    }

    #[test]
    fn a_device_keeps_its_name_or_gets_one() {
        let devices = read(
            json!({ "a": {}, "b": { "name": null }, "c": { "name": "" }, "d": { "name": "net%d" }, "e": { "name": "net%d" } }),
            &Namespace::New,
        );
        let names: Vec<_> = devices
            .unwrap()
            .into_iter()
            .map(|device| (device.device, device.name))
            .collect();
        let expected = [
            ("a", None),
            ("b", None),
            ("c", None),
            ("d", Some("net%d")),
            ("e", Some("net%d")),
        ];
        let expected = expected.map(|(a, b)| (a.to_owned(), b.map(str::to_owned)));
        assert_eq!(names, expected);
        assert_eq!(read(json!({}), &Namespace::Host), Ok(Vec::new()));
    }

    #[test]
    fn a_device_that_cannot_be_is_named() {
        let path = Namespace::Path("/run/netns/x".into());
        for (devices, why) in [
            (
                json!({ "eth0/1": {} }),
                ".eth0/1: eth0/1: is not a name of a network device",
            ),
            (json!({ "": {} }), ".: : is not a name of a network device"),
            (
                json!({ "eth0": { "name": "sixteen-letters-" } }),
                ".eth0.name: sixteen-letters-: is not a name of a network device",
            ),
            (
                json!({ "eth0": { "name": "a b" } }),
                ".eth0.name: a b: is not a name of a network device",
            ),
            (
                json!({ "eth0": { "name": "net%s" } }),
                ".eth0.name: net%s: may have one % alone, before a d",
            ),
            (
                json!({ "eth0": { "name": "net%" } }),
                ".eth0.name: net%: may have one % alone, before a d",
            ),
            (
                json!({ "eth0": { "name": "%d%d" } }),
                ".eth0.name: %d%d: may have one % alone, before a d",
            ),
            (
                json!({ "a": { "name": "c" }, "b": { "name": "c" } }),
                ".b.name: c: is another device's name too",
            ),
        ] {
            let expected = format!("d: linux.netDevices{why}");
            assert_eq!(read(devices, &path), Err(expected));
        }
        assert_eq!(
            read(json!({ "eth0": { "name": "net0" } }), &Namespace::Host),
            Err(
                "d: linux.netDevices.eth0: net0: the container has no network namespace of its own"
                    .to_owned()
            )
        );
    }
}
