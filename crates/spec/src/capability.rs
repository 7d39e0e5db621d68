//! Capability names and the bits they stand for.

/// The names in the order of `linux/capability.h`: entry n is capability n.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Five capability sets as bit masks; bit n is capability n of `linux/capability.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// What an exec can ever gain.
    pub bounding: u64,
    /// In force.
    pub effective: u64,
    /// Kept across exec of a file with inheritable capabilities.
    pub inheritable: u64,
    /// May be put in force.
    pub permitted: u64,
    /// Kept across exec of any file.
    pub ambient: u64,
}

// === impl Capabilities ===

impl Capabilities {
    /// The name of capability `number` as `CAP_...`, if it has one.
    #[must_use]
    pub fn name(number: u32) -> Option<String> {
        let name = NAMES.get(usize::try_from(number).ok()?)?;
        Some(format!("CAP_{name}"))
    }
}

/// The bit of a capability, `CAP_` or not, in any case.
///
/// `None` for a name that this table does not have: a privileged pod lists every
/// capability of a newer kernel, and runc warns and goes on.
pub(crate) fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES
        .iter()
        .position(|known| *known == bare)
        .map(|number| 1 << number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_numbers_of_the_kernel_header() {
        assert_eq!(bit("CAP_CHOWN"), Some(1));
        assert_eq!(bit("CAP_SYS_ADMIN"), Some(1 << 21));
        assert_eq!(bit("mknod"), Some(1 << 27));
        assert_eq!(bit("CAP_CHECKPOINT_RESTORE"), Some(1 << 40));
        assert_eq!(bit("CAP_FROM_THE_FUTURE"), None);
        assert_eq!(Capabilities::name(12).as_deref(), Some("CAP_NET_ADMIN"));
        assert_eq!(Capabilities::name(63), None);
    }
}
