//! Which devices a container may use: the rules of the specification, reduced to one list.
//!
//! The specification's rules are a sequence in which the last that matches wins. Neither kernel works
//! like that: v1 keeps a default and a list of exceptions to it, and v2 runs a program. Both get the
//! same [`Policy`] here, so that a container may do the same on either.

use std::fmt;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::control::{write, write_each};
use crate::{Cgroup, Error, Mode};

/// Block or character device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceType {
    /// Block.
    Block,
    /// Character.
    Char,
}

/// What may be done with a device; the bits are those of `BPF_DEVCG_ACC_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access(u8);

/// Devices and what is allowed, or denied, of them. `None` stands for every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Block or character device.
    pub kind: DeviceType,
    /// The major number.
    pub major: Option<u32>,
    /// The minor number.
    pub minor: Option<u32>,
    /// What the rule is about.
    pub access: Access,
}

/// A default, and the exceptions to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whether a device that no exception names is allowed.
    pub allow: bool,
    /// What is denied, if the default is to allow; else what is allowed. An access is an exception if
    /// a single rule covers all of it.
    pub exceptions: Vec<Rule>,
}

/// What every container may use, whatever its specification says: the list of runc, which
/// containerd's CRI relies on when it sends a lone "deny all".
///
/// `/dev/console` (5:1) is not among them: a container's console is a pseudoterminal, and 5:1 would
/// be the host's. `/dev/net/tun` (10:200) is, because programs have come to rely on it.
const ALWAYS: [Rule; 11] = [
    Rule {
        kind: DeviceType::Char,
        major: None,
        minor: None,
        access: Access::MKNOD,
    },
    Rule {
        kind: DeviceType::Block,
        major: None,
        minor: None,
        access: Access::MKNOD,
    },
    char_device(1, Some(3)),    // null
    char_device(1, Some(5)),    // zero
    char_device(1, Some(7)),    // full
    char_device(1, Some(8)),    // random
    char_device(1, Some(9)),    // urandom
    char_device(5, Some(0)),    // tty
    char_device(5, Some(2)),    // ptmx
    char_device(10, Some(200)), // net/tun
    char_device(136, None),     // pts/*
];

const fn char_device(major: u32, minor: Option<u32>) -> Rule {
    Rule {
        kind: DeviceType::Char,
        major: Some(major),
        minor,
        access: Access::ALL,
    }
}

// === impl Access ===

impl Access {
    /// To make a node.
    pub const MKNOD: Self = Self(1);
    /// To open for reading.
    pub const READ: Self = Self(2);
    /// To open for writing.
    pub const WRITE: Self = Self(4);
    /// Everything.
    pub const ALL: Self = Self(7);

    /// The bits of `BPF_DEVCG_ACC_*`.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn overlaps(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn parse(text: &str) -> Option<Self> {
        text.chars()
            .try_fold(Self(0), |access, letter| match letter {
                'r' => Some(access.and(Self::READ)),
                'w' => Some(access.and(Self::WRITE)),
                'm' => Some(access.and(Self::MKNOD)),
                _ => None,
            })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(Self::READ, "r"), (Self::WRITE, "w"), (Self::MKNOD, "m")] {
            if self.overlaps(bit) {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

// === impl Rule ===

impl Rule {
    fn same_devices(&self, other: &Self) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }

    /// Whether every device of `other` is one of this rule's.
    fn covers(&self, other: &Self) -> bool {
        let number = |own: Option<u32>, its: Option<u32>| own.is_none() || own == its;
        self.kind == other.kind
            && number(self.major, other.major)
            && number(self.minor, other.minor)
    }

    /// Whether some device is in both.
    fn meets(&self, other: &Self) -> bool {
        let number =
            |own: Option<u32>, its: Option<u32>| own.is_none() || its.is_none() || own == its;
        self.kind == other.kind
            && number(self.major, other.major)
            && number(self.minor, other.minor)
            && self.access.overlaps(other.access)
    }
}

/// As v1's `devices.allow` reads it: `c 1:* rw`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DeviceType::Block => "b",
            DeviceType::Char => "c",
        };
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |n| n.to_string());
        write!(
            f,
            "{kind} {}:{} {}",
            number(self.major),
            number(self.minor),
            self.access
        )
    }
}

// === impl Policy ===

impl Policy {
    /// Reduces `linux.resources.devices`, with what every container may use added.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] naming the rule, if it is malformed or makes a hole in a wider rule
    /// that neither kernel can express.
    pub fn new(rules: &[LinuxDeviceCgroup]) -> Result<Self, Error> {
        let mut policy = Self {
            allow: false,
            exceptions: Vec::new(),
        };
        for (index, rule) in rules.iter().enumerate() {
            policy.add_spec(rule).map_err(|why| {
                Error::unsupported(format!("linux.resources.devices[{index}]"), show(rule), why)
            })?;
        }
        for rule in ALWAYS {
            // Where everything is allowed but a wider range, that range stays denied.
            if !policy.allow || !policy.needs_hole(&rule) {
                policy.add(true, rule);
            }
        }
        Ok(policy)
    }

    fn add_spec(&mut self, rule: &LinuxDeviceCgroup) -> Result<(), &'static str> {
        let number = |number: Option<i64>| match number {
            None | Some(-1) => Ok(None),
            Some(number) => u32::try_from(number)
                .map(Some)
                .map_err(|_| "no such device number"),
        };
        let (major, minor) = (number(rule.major())?, number(rule.minor())?);
        let access = match rule.access().as_deref() {
            None | Some("") => None,
            Some(text) => Some(Access::parse(text).ok_or("the access is not of r, w and m")?),
        };
        let kinds: &[DeviceType] = match rule.typ() {
            None | Some(LinuxDeviceType::A) => {
                if major.is_some() || minor.is_some() {
                    return Err("a rule for every type cannot name one device");
                }
                if access.is_none_or(|access| access == Access::ALL) {
                    *self = Self {
                        allow: rule.allow(),
                        exceptions: Vec::new(),
                    };
                    return Ok(());
                }
                &[DeviceType::Block, DeviceType::Char]
            }
            Some(LinuxDeviceType::B) => &[DeviceType::Block],
            Some(LinuxDeviceType::C) => &[DeviceType::Char],
            Some(LinuxDeviceType::U | LinuxDeviceType::P) => {
                return Err("only block and character devices have rules");
            }
        };
        let access = access.ok_or("the access is missing")?;
        for kind in kinds {
            let one = Rule {
                kind: *kind,
                major,
                minor,
                access,
            };
            if rule.allow() == self.allow && self.needs_hole(&one) {
                return Err(
                    "it makes a hole in a wider rule before it, which no kernel can express",
                );
            }
            self.add(rule.allow(), one);
        }
        Ok(())
    }

    /// Whether taking `rule` out of the exceptions would split one of them.
    fn needs_hole(&self, rule: &Rule) -> bool {
        self.exceptions
            .iter()
            .any(|one| one.meets(rule) && !rule.covers(one))
    }

    fn add(&mut self, allow: bool, rule: Rule) {
        if allow == self.allow {
            for one in self.exceptions.iter_mut().filter(|one| rule.covers(one)) {
                one.access = one.access.without(rule.access);
            }
            self.exceptions.retain(|one| one.access != Access(0));
        } else if let Some(one) = self
            .exceptions
            .iter_mut()
            .find(|one| one.same_devices(&rule))
        {
            one.access = one.access.and(rule.access);
        } else {
            self.exceptions.push(rule);
        }
    }
}

fn show(rule: &LinuxDeviceCgroup) -> String {
    let verb = if rule.allow() { "allow" } else { "deny" };
    let kind = rule.typ().unwrap_or(LinuxDeviceType::A);
    let number = |number: Option<i64>| number.map_or("*".to_owned(), |n| n.to_string());
    let access = rule.access().as_deref().unwrap_or_default();
    format!(
        "{verb} {} {}:{} {access}",
        kind.as_str(),
        number(rule.major()),
        number(rule.minor())
    )
}

// === impl Cgroup ===

impl Cgroup {
    /// Confines an empty cgroup to the devices of `policy`.
    pub(crate) fn confine_devices(&self, policy: &Policy) -> Result<(), Error> {
        match self.mode() {
            Mode::V1 | Mode::Hybrid => self.confine_v1(policy),
            Mode::V2 => crate::devices_bpf::confine(self.dir(), policy),
        }
    }

    fn confine_v1(&self, policy: &Policy) -> Result<(), Error> {
        let Some(dir) = self.controller("devices") else {
            return Err(Error::unsupported(
                "linux.resources.devices",
                self.path().display(),
                "the devices controller is not mounted: nothing would confine the container",
            ));
        };
        let (first, then) = if policy.allow {
            ("devices.allow", "devices.deny")
        } else {
            ("devices.deny", "devices.allow")
        };
        // Nobody lives here yet who could see the moment in between.
        write(dir, first, "a")?;
        write_each(dir, then, policy.exceptions.iter().map(ToString::to_string))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_str(json).unwrap()
    }

    fn shown(json: &str) -> (bool, Vec<String>) {
        let policy = Policy::new(&rules(json)).unwrap();
        (
            policy.allow,
            policy.exceptions.iter().map(ToString::to_string).collect(),
        )
    }

    #[test]
    fn a_lone_deny_all_leaves_what_every_container_has() {
        let (allow, exceptions) = shown(r#"[{"allow": false, "access": "rwm"}]"#);
        assert!(!allow);
        assert_eq!(exceptions.len(), ALWAYS.len());
        assert_eq!(exceptions[..3], ["c *:* m", "b *:* m", "c 1:3 rwm"]);
        assert_eq!(exceptions[10], "c 136:* rwm");
        assert_eq!(shown("[]"), (false, exceptions));
    }

    #[test]
    fn a_privileged_container_has_everything() {
        let json = r#"[{"allow": false, "access": "rwm"}, {"allow": true, "access": "rwm"}]"#;
        assert_eq!(shown(json), (true, vec![]));
    }

    #[test]
    fn rules_about_the_same_device_are_joined_and_the_last_wins() {
        let json = r#"[
            {"allow": true, "type": "b", "major": 8, "minor": 0, "access": "r"},
            {"allow": true, "type": "b", "major": 8, "minor": 0, "access": "wm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
            {"allow": false, "type": "b", "major": 8, "access": "w"}]"#;
        let (_, exceptions) = shown(json);
        assert_eq!(exceptions[..2], ["b 8:0 rm", "c 10:229 rw"]);
    }

    #[test]
    fn a_deny_list_keeps_its_ranges_closed() {
        let json = r#"[
            {"allow": true, "access": "rwm"},
            {"allow": false, "type": "c", "major": 1, "access": "rw"},
            {"allow": false, "type": "c", "major": 5, "minor": 0, "access": "rw"}]"#;
        // 5:0 is every container's; in 1:* nobody can make the hole for null.
        assert_eq!(shown(json), (true, vec!["c 1:* rw".to_owned()]));
    }

    #[test]
    fn what_cannot_be_expressed_is_refused_by_name() {
        let cases = [
            (
                r#"[{"allow": true, "type": "c", "major": 1, "access": "rw"},
                    {"allow": false, "type": "c", "major": 1, "minor": 3, "access": "w"}]"#,
                "linux.resources.devices[1] = deny c 1:3 w: it makes a hole in a wider rule before it, which no kernel can express",
            ),
            (
                r#"[{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rx"}]"#,
                "linux.resources.devices[0] = allow c 1:3 rx: the access is not of r, w and m",
            ),
            (
                r#"[{"allow": true, "type": "a", "major": 1, "access": "r"}]"#,
                "linux.resources.devices[0] = allow a 1:* r: a rule for every type cannot name one device",
            ),
            (
                r#"[{"allow": true, "type": "p", "major": 1, "access": "r"}]"#,
                "linux.resources.devices[0] = allow p 1:* r: only block and character devices have rules",
            ),
        ];
        for (json, text) in cases {
            assert_eq!(Policy::new(&rules(json)).unwrap_err().to_string(), text);
        }
    }
}
