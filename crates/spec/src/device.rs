//! `linux.devices`: nodes to make in the container.

use crate::{Error, document::Document, mount::clean};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

/// What kind of node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
}

/// A device node of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its absolute path in the container, without `..`.
    pub path: String,
    /// What kind.
    pub kind: DeviceKind,
    /// Major number; 0 for a pipe.
    pub major: u32,
    /// Minor number; 0 for a pipe.
    pub minor: u32,
    /// Permission bits; 0666 unless asked otherwise.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

// === impl Device ===

impl Device {
    pub(crate) fn read(
        document: Document<'_>,
        index: usize,
        device: &LinuxDevice,
    ) -> Result<Self, Error> {
        let field = format!("linux.devices[{index}]");
        let path = device.path().to_str().unwrap_or_default();
        if !path.starts_with('/') {
            let path = device.path().display().to_string();
            return Err(document.value(&format!("{field}.path"), &path, "is not absolute"));
        }
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
            LinuxDeviceType::B => DeviceKind::Block,
            LinuxDeviceType::P => DeviceKind::Fifo,
            LinuxDeviceType::A => {
                return Err(document.value(
                    &format!("{field}.type"),
                    "a",
                    "is not a type of device node",
                ));
            }
        };
        let number = |name: &str, value: i64| {
            if kind == DeviceKind::Fifo {
                return Ok(0);
            }
            u32::try_from(value).map_err(|_| {
                document.value(
                    &format!("{field}.{name}"),
                    &value.to_string(),
                    "is not a device number",
                )
            })
        };
        Ok(Self {
            path: clean(path),
            kind,
            major: number("major", device.major())?,
            minor: number("minor", device.minor())?,
            // containerd copies the host's st_mode; only the permission bits are meant.
            mode: device.file_mode().unwrap_or(0o666) & 0o7777,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        })
    }
}
