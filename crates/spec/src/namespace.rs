//! `linux.namespaces`: which namespaces are new, joined, or the host's.

use crate::{Error, document::Document};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};
use std::path::PathBuf;

/// One namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Namespace {
    /// The one the shim runs in.
    #[default]
    Host,
    /// A new one.
    New,
    /// The one at this absolute path.
    Path(PathBuf),
}

/// The namespaces of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Namespaces {
    /// Mounts.
    pub mount: Namespace,
    /// Process ids.
    pub pid: Namespace,
    /// Network.
    pub network: Namespace,
    /// System V IPC and POSIX message queues.
    pub ipc: Namespace,
    /// Host and domain name.
    pub uts: Namespace,
    /// Root of the visible cgroup tree.
    pub cgroup: Namespace,
    /// User and group ids.
    pub user: Namespace,
    /// Clocks.
    pub time: Namespace,
}

// === impl Namespaces ===

impl Namespaces {
    pub(crate) fn read(document: Document<'_>, list: &[LinuxNamespace]) -> Result<Self, Error> {
        let mut namespaces = Self::default();
        for (index, entry) in list.iter().enumerate() {
            let field = format!("linux.namespaces[{index}]");
            let name = entry.typ().to_string();
            let place = match entry.typ() {
                LinuxNamespaceType::Mount => &mut namespaces.mount,
                LinuxNamespaceType::Pid => &mut namespaces.pid,
                LinuxNamespaceType::Network => &mut namespaces.network,
                LinuxNamespaceType::Ipc => &mut namespaces.ipc,
                LinuxNamespaceType::Uts => &mut namespaces.uts,
                LinuxNamespaceType::Cgroup => &mut namespaces.cgroup,
                LinuxNamespaceType::User => &mut namespaces.user,
                LinuxNamespaceType::Time => &mut namespaces.time,
            };
            if *place != Namespace::Host {
                return Err(document.value(&format!("{field}.type"), &name, "is listed twice"));
            }
            *place = match entry.path() {
                None => Namespace::New,
                Some(path) if path.as_os_str().is_empty() => Namespace::New,
                Some(path) if path.is_absolute() => Namespace::Path(path.clone()),
                Some(path) => {
                    let path = path.display().to_string();
                    return Err(document.value(&format!("{field}.path"), &path, "is not absolute"));
                }
            };
        }
        Ok(namespaces)
    }
}
