//! Network devices of the host's that a container gets: `linux.netDevices`.
//!
//! They go to the container's network namespace as soon as there is one, before any hook, with the
//! addresses that are theirs for good; there they are up. What happens to them in it is nobody's business
//! here, at its end neither: with a network namespace the kernel ends virtual devices and gives physical
//! ones to the initial namespace. If there will be no container they come back.
//!
//! # References
//!
//! "Network Devices" of the runtime specification's `config-linux.md`; runc's `libcontainer/network_linux.go`.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use duet_linux::namespace;
use duet_linux::rtnetlink::{Address, Link, Rtnetlink};
use duet_spec::NetDevice;

use crate::error::Error;

/// Devices that a container has got. Whoever drops it lets it keep them.
#[derive(Debug)]
pub(crate) struct HandedOver {
    /// The host's network namespace.
    own: File,
    here: Rtnetlink,
    there: Rtnetlink,
    devices: Vec<Device>,
}

#[derive(Debug)]
struct Device {
    name: String,
    /// What it was here.
    link: Link,
    addresses: Vec<Address>,
    /// Its number there.
    number: u32,
}

/// Hands these devices over to the network namespace of a process. On an error the host has them all.
pub(crate) fn hand_over(devices: &[NetDevice], pid: i32) -> Result<HandedOver, Error> {
    let host = |step| move |source| Error::Host { step, source };
    let path = format!("/proc/{pid}/ns/net");
    let namespace = namespace::open(Path::new(&path));
    let namespace = File::from(namespace.map_err(host("open the container's network"))?);
    let own = namespace::of_thread("net").map_err(host("open the host's network"))?;
    let own = File::from(own);
    let number = |file: &File| file.metadata().map(|file| (file.dev(), file.ino()));
    let numbers = number(&namespace).and_then(|theirs| Ok((theirs, number(&own)?)));
    let (theirs, ours) = numbers.map_err(host("look at the networks"))?;
    if theirs == ours {
        let names: Vec<_> = devices.iter().map(|device| &*device.device).collect();
        return Err(Error::Invalid {
            field: "linux.netDevices",
            value: names.join(" "),
            why: "the container's network is the host's",
        });
    }
    let here = Rtnetlink::open().map_err(host("ask the host's network"))?;
    let there = Rtnetlink::open_in(&namespace).map_err(host("ask the container's network"))?;
    let mut handed = HandedOver {
        own,
        here,
        there,
        devices: Vec::new(),
    };
    for device in devices {
        if let Err(error) = handed.take(device, &namespace) {
            handed.give_back();
            return Err(error);
        }
    }
    Ok(handed)
}

// === impl HandedOver ===

impl HandedOver {
    fn take(&mut self, asked: &NetDevice, namespace: &File) -> Result<(), Error> {
        let call = |step| {
            move |source| Error::NetDevice {
                device: asked.device.clone(),
                name: asked.name.clone(),
                step,
                source,
            }
        };
        let link = self.here.link(&asked.device).map_err(call("find it"))?;
        // Before it moves, which it loses them by; one of IPv6 it would lose by going down.
        let addresses = self.here.lasting_addresses(link.index);
        let addresses = addresses.map_err(call("list its addresses"))?;
        let taken = self.there.indices().map_err(call("list the container's"))?;
        let number = free(link.index, &taken);
        // Not set down before, as by runc: the kernel does that, and not to a device that cannot move.
        let moved = self
            .here
            .hand_over(link.index, namespace, &asked.name, Some(number));
        // Of a name that is taken the kernel learns when the device is there.
        if moved.is_ok() || self.there.indices().is_ok_and(|now| now.contains(&number)) {
            self.devices.push(Device {
                name: asked.device.clone(),
                link,
                addresses: addresses.clone(),
                number,
            });
        }
        moved.map_err(call("hand it over to the container's network"))?;
        for address in &addresses {
            let added = self.there.add_address(number, address);
            added.map_err(call("give it its address again"))?;
        }
        self.there.set_up(number).map_err(call("bring it up"))
    }

    /// Takes the devices back, as they were but for routes and what the kernel gives an address of its own.
    pub(crate) fn give_back(&mut self) {
        while let Some(device) = self.devices.pop() {
            if let Err(error) = self.back(&device) {
                let name = &device.name;
                tracing::warn!(device = %name, %error, "not as it was before it was given to a container");
            }
        }
    }

    fn back(&self, device: &Device) -> io::Result<()> {
        let name = &device.name;
        self.there.hand_over(device.number, &self.own, name, None)?;
        let index = self.here.link(name)?.index;
        for address in &device.addresses {
            self.here.add_address(index, address)?;
        }
        if device.link.up {
            self.here.set_up(index)?;
        }
        Ok(())
    }
}

/// The number itself, or one that nobody has.
fn free(number: u32, taken: &[u32]) -> u32 {
    if taken.contains(&number) {
        taken
            .iter()
            .max()
            .map_or(number, |last| last.saturating_add(1))
    } else {
        number
    }
}

#[cfg(test)]
mod tests {
    use super::free;

    #[test]
    fn a_number_is_kept_if_it_is_free() {
        assert_eq!(free(3, &[1, 2]), 3);
        assert_eq!(free(2, &[1, 2, 9]), 10);
    }
}
