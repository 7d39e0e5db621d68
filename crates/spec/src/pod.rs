//! What a pod gives its containers beyond their specs, where no CRI has made it.
//!
//! Under `sandboxer = "podsandbox"` containerd makes `/etc/hosts` and its kin for the pod and
//! mounts them into every container. For a pod of the shim's own it does not, and its specs have
//! none of them.

use crate::{Attributes, Container, Mount, MountKind, Propagation, PropagationKind, attr};
use std::path::PathBuf;

/// What `/dev/shm` is called in the specs that containerd writes: a fresh tmpfs, where a volume
/// of the user's would be a bind (`pkg/oci/mounts.go`).
const DEFAULT_SHM: &str = "shm";

/// Files of a pod, on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFiles {
    /// `/etc/hostname`.
    pub hostname: PathBuf,
    /// `/etc/hosts`.
    pub hosts: PathBuf,
    /// `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// `/dev/shm`.
    pub shm: PathBuf,
}

// === impl Container ===

impl Container {
    /// Mounts the pod's files where the spec has nothing of its own.
    ///
    /// As containerd's CRI does for pods around a pause container: files are read-only where the
    /// root is, and go on top of a volume for all of `/etc`.
    pub fn share(&mut self, pod: &PodFiles) {
        let readonly = if self.root.readonly { attr::RDONLY } else { 0 };
        for (destination, source) in [
            ("/etc/hostname", &pod.hostname),
            ("/etc/hosts", &pod.hosts),
            ("/etc/resolv.conf", &pod.resolv_conf),
        ] {
            if self.mount_at(destination).is_none() {
                let index = self.mounts.len();
                self.mounts.push(bind(index, destination, source, readonly));
            }
        }
        let shm = attr::NOSUID | attr::NODEV | attr::NOEXEC;
        match self.mount_at("/dev/shm") {
            None => {
                let index = self.mounts.len();
                self.mounts.push(bind(index, "/dev/shm", &pod.shm, shm));
            }
            // In its place: something of the user's may be mounted below.
            Some(at) if is_default_shm(&self.mounts[at]) => {
                let index = self.mounts[at].index;
                self.mounts[at] = bind(index, "/dev/shm", &pod.shm, shm);
            }
            Some(_) => {}
        }
    }

    fn mount_at(&self, destination: &str) -> Option<usize> {
        let at = |mount: &Mount| mount.destination == destination;
        self.mounts.iter().position(at)
    }
}

fn is_default_shm(mount: &Mount) -> bool {
    match &mount.kind {
        MountKind::Filesystem { fstype, source, .. } => fstype == "tmpfs" && source == DEFAULT_SHM,
        MountKind::Bind { .. } | MountKind::Cgroup { .. } => false,
    }
}

fn bind(index: usize, destination: &str, source: &std::path::Path, set: u64) -> Mount {
    Mount {
        index,
        destination: destination.to_owned(),
        kind: MountKind::Bind {
            source: source.to_owned(),
            recursive: true,
        },
        attributes: Attributes {
            set,
            ..Attributes::default()
        },
        propagation: Some(Propagation {
            kind: PropagationKind::Private,
            recursive: true,
        }),
        id_map: None,
        copy_up: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn container(readonly: bool, mounts: &str) -> Container {
        let json = format!(
            r#"{{"ociVersion":"1.1.0","root":{{"path":"rootfs","readonly":{readonly}}},
            "process":{{"args":["x"],"cwd":"/","user":{{"uid":0,"gid":0}}}},
            "mounts":[{mounts}],"linux":{{"namespaces":[{{"type":"mount"}}]}}}}"#
        );
        Container::parse(Path::new("/b"), json.as_bytes()).unwrap()
    }

    fn files() -> PodFiles {
        PodFiles {
            hostname: "/pod/hostname".into(),
            hosts: "/pod/hosts".into(),
            resolv_conf: "/pod/resolv.conf".into(),
            shm: "/pod/shm".into(),
        }
    }

    fn shared(readonly: bool, mounts: &str) -> Vec<(String, String, u64)> {
        let mut container = container(readonly, mounts);
        container.share(&files());
        let words = container.mounts.into_iter().map(|mount| {
            let source = match mount.kind {
                MountKind::Bind { source, .. } => source.display().to_string(),
                MountKind::Filesystem { fstype, .. } => fstype,
                MountKind::Cgroup { .. } => "cgroup".to_owned(),
            };
            (mount.destination, source, mount.attributes.set)
        });
        words.collect()
    }

    const SHM: u64 = attr::NOSUID | attr::NODEV | attr::NOEXEC;

    fn word(destination: &str, source: &str, set: u64) -> (String, String, u64) {
        (destination.to_owned(), source.to_owned(), set)
    }

    #[test]
    fn a_spec_without_them_gets_all_four() {
        assert_eq!(
            shared(true, ""),
            [
                word("/etc/hostname", "/pod/hostname", attr::RDONLY),
                word("/etc/hosts", "/pod/hosts", attr::RDONLY),
                word("/etc/resolv.conf", "/pod/resolv.conf", attr::RDONLY),
                word("/dev/shm", "/pod/shm", SHM),
            ]
        );
        assert_eq!(shared(false, "")[1], word("/etc/hosts", "/pod/hosts", 0));
    }

    #[test]
    fn what_the_spec_mounts_itself_stays() {
        let own = r#"{"destination":"/etc/hosts","type":"bind","source":"/v/hosts","options":["rbind"]},
            {"destination":"/dev/shm","type":"bind","source":"/v/shm","options":["rbind"]}"#;
        assert_eq!(
            shared(false, own),
            [
                word("/etc/hosts", "/v/hosts", 0),
                word("/dev/shm", "/v/shm", 0),
                word("/etc/hostname", "/pod/hostname", 0),
                word("/etc/resolv.conf", "/pod/resolv.conf", 0),
            ]
        );
    }

    #[test]
    fn the_private_shm_of_containerds_defaults_becomes_the_pods() {
        let default = r#"{"destination":"/dev/shm","type":"tmpfs","source":"shm",
            "options":["nosuid","noexec","nodev","mode=1777","size=65536k"]}"#;
        assert_eq!(shared(false, default)[0], word("/dev/shm", "/pod/shm", SHM));
        let other = default.replace(r#""source":"shm""#, r#""source":"mine""#);
        assert_eq!(shared(false, &other)[0].1, "tmpfs");
    }
}
