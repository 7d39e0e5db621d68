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
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use duet_linux::namespace;
use duet_linux::rtnetlink::{Address, Link, Rtnetlink};
use duet_spec::NetDevice;
use rustix::io::Errno;

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

/// A device of the host's that is to go.
struct Found<'a> {
    asked: &'a NetDevice,
    link: Link,
    /// The name it is to have there.
    name: String,
}

#[derive(Debug)]
struct Device {
    /// What it was here.
    link: Link,
    addresses: Vec<Address>,
    /// Its number there.
    number: u32,
}

/// How often a number is looked for that somebody else has taken by the time it is asked for.
const TRIES: usize = 8;

const HAND_OVER: &str = "hand it over to the container's network";

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
    for found in handed.look(devices)? {
        if let Err(error) = handed.take(found, &namespace) {
            handed.give_back();
            return Err(error);
        }
    }
    Ok(handed)
}

// === impl HandedOver ===

impl HandedOver {
    /// Looks for all of them, before one of them moves: by that the host's loses what nobody gives back.
    fn look<'a>(&self, devices: &'a [NetDevice]) -> Result<Vec<Found<'a>>, Error> {
        let mut all: Vec<Found<'a>> = Vec::new();
        for asked in devices {
            let link = self.here.link(&asked.device);
            let link = link.map_err(failed(asked, asked.called(), "find it"))?;
            if all.iter().any(|other| other.link.index == link.index) {
                return Err(Error::Invalid {
                    field: "linux.netDevices",
                    value: asked.device.clone(),
                    why: "another entry names the same device",
                });
            }
            let name = asked.name.clone().unwrap_or_else(|| link.name.clone());
            let taken = self.there.link(&name).is_ok()
                || (!name.contains('%') && all.iter().any(|other| other.name == name));
            if taken {
                let error = Errno::EXIST.into();
                return Err(failed(asked, &name, HAND_OVER)(error));
            }
            all.push(Found { asked, link, name });
        }
        for found in &all {
            // Of names beside their own, which they take along, none can be the own one of any.
            let beside = self.here.link(&found.name).is_ok_and(|its| {
                its.name != found.name && all.iter().any(|other| other.link.index == its.index)
            });
            if beside {
                let error = Errno::EXIST.into();
                return Err(failed(found.asked, &found.name, HAND_OVER)(error));
            }
        }
        Ok(all)
    }

    fn take(&mut self, found: Found<'_>, namespace: &File) -> Result<(), Error> {
        let Found { asked, link, name } = found;
        let call = |step| failed(asked, &name, step);
        // Before it moves, which it loses them by; one of IPv6 it would lose by going down.
        let addresses = self.here.lasting_addresses(link.index);
        let addresses = addresses.map_err(call("list its addresses"))?;
        // Not set down before, as by runc: the kernel does that, and not to a device that cannot move.
        let (number, moved) = put(
            (&self.here, link.index),
            (&self.there, namespace),
            &name,
            link.index,
        );
        if let Some(number) = number {
            self.devices.push(Device {
                link,
                addresses: addresses.clone(),
                number,
            });
        }
        let number = moved.map_err(call(HAND_OVER))?;
        for address in &addresses {
            let added = self.there.add_address(number, address);
            added.map_err(call("give it its address again"))?;
        }
        self.there.set_up(number).map_err(call("bring it up"))
    }

    /// Takes the devices back, as they were but for what decision 14 names.
    pub(crate) fn give_back(&mut self) {
        while let Some(device) = self.devices.pop() {
            if let Err(error) = self.back(&device) {
                let name = &device.link.name;
                tracing::warn!(device = %name, %error, "not as it was before it was given to a container");
            }
        }
    }

    /// What cannot be had again is no reason to do without the rest: the error is the first one.
    fn back(&self, device: &Device) -> io::Result<()> {
        let Device {
            link,
            addresses,
            number,
        } = device;
        let home = |name| {
            let (from, to) = ((&self.there, *number), (&self.here, &self.own));
            put(from, to, name, link.index)
        };
        let (index, moved) = match home(&link.name) {
            // The name that it has there is taken here, too.
            (None, Err(error)) if error.kind() == ErrorKind::AlreadyExists => {
                (home("dev%d").0, Err(error))
            }
            put => put,
        };
        let mut done = moved.map(drop);
        let Some(index) = index else { return done };
        if let Some(master) = link.master {
            done = done.and(self.here.set_master(index, master));
        }
        for address in addresses {
            done = done.and(self.here.add_address(index, address));
        }
        if link.up {
            done = done.and(self.here.set_up(index));
        }
        done
    }
}

/// An error of what was asked, where a device is to have this name.
fn failed(asked: &NetDevice, name: &str, step: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::NetDevice {
        device: asked.device.clone(),
        name: name.to_owned(),
        step,
        source,
    }
}

/// Where a device is after it was put into another network: its number there, or none.
type Arrived = Option<u32>;

/// Puts a device into another network, under this name and with this number if it is free. It may have
/// arrived on an error, too: of a name that is not to be had the kernel learns afterwards.
fn put(
    (from, index): (&Rtnetlink, u32),
    (to, namespace): (&Rtnetlink, &File),
    name: &str,
    wanted: u32,
) -> (Arrived, io::Result<u32>) {
    let mut tries = 1;
    loop {
        let number = match to.indices() {
            Ok(taken) => free(wanted, &taken),
            Err(error) => return (None, Err(error)),
        };
        match put_as((from, index), (to, namespace), name, number) {
            // Somebody else has taken it meanwhile.
            (None, Err(error)) if error.kind() == ErrorKind::ResourceBusy && tries < TRIES => {
                tries += 1
            }
            put => return put,
        }
    }
}

fn put_as(
    (from, index): (&Rtnetlink, u32),
    (to, namespace): (&Rtnetlink, &File),
    name: &str,
    number: u32,
) -> (Arrived, io::Result<u32>) {
    match from.hand_over(index, namespace, name, Some(number)) {
        Ok(()) => (Some(number), Ok(number)),
        Err(error) => {
            // Whatever has the number there is another device as long as this one is where it was.
            let left = from.indices().is_ok_and(|all| !all.contains(&index));
            let there = left && to.indices().is_ok_and(|all| all.contains(&number));
            (there.then_some(number), Err(error))
        }
    }
}

/// The number itself, or the next one that nobody has. The kernel counts with an `int`.
fn free(number: u32, taken: &[u32]) -> u32 {
    let mut numbers = number..=i32::MAX.cast_unsigned();
    numbers.find(|next| !taken.contains(next)).unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use duet_linux::namespace::Kind;

    #[test]
    fn a_number_is_kept_if_it_is_free() {
        assert_eq!(free(3, &[1, 2]), 3);
        assert_eq!(free(2, &[1, 2, 9]), 3);
    }

    #[test]
    fn what_has_the_number_there_is_another_device() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            assert!(
                std::env::var_os("DUET_TEST_REQUIRE").is_none(),
                "DUET_TEST_REQUIRE is set: nothing may be skipped"
            );
            return;
        }
        let fresh = || File::from(namespace::fresh(&[Kind::Net]).unwrap().remove(0));
        let (ours, theirs) = (fresh(), fresh());
        let here = Rtnetlink::open_in(&ours).unwrap();
        let there = Rtnetlink::open_in(&theirs).unwrap();
        let lo = here.link("lo").unwrap().index;
        assert_eq!(there.link("lo").unwrap().index, lo);
        // The loopback interface cannot move, and theirs is none that has come from here.
        let (arrived, put) = put_as((&here, lo), (&there, &theirs), "lo1", lo);
        put.unwrap_err();
        assert_eq!(arrived, None);
    }
}
