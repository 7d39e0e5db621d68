//! `hostUsers: false`: a pod whose users are not the node's.
//!
//! containerd makes the pod's network inside a user namespace with the pod's ids, and keeps of the
//! two only the network (`setupNetnsWithinUserns` in its `internal/cri/server`). The holder joins
//! the namespace that the network belongs to: in another one, with the same ids even, nobody
//! could administer the network or mount sysfs.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use duet_linux::{kernel, namespace, owner};
use duet_spec::{IdMappings, IdRange};
use serde_json::{Value, json};

use super::NOBODY;
use crate::error::Error;

/// The users of a pod that are not the node's.
#[derive(Debug, Clone)]
pub(super) struct Users {
    ids: IdMappings,
    /// The host's numbers of the pod's root: user and group.
    root: (u32, u32),
    /// The namespace that the pod's network belongs to; without a network of its own, none yet.
    namespace: Option<Arc<OwnedFd>>,
}

// === impl Users ===

impl Users {
    /// Those with these ids, in the user namespace of this network, if there is one.
    pub(super) fn new(ids: IdMappings, network: Option<&Path>) -> Result<Self, Error> {
        let root = match (ids.host_uid(0), ids.host_gid(0)) {
            (Some(user), Some(group)) => (user, group),
            (None, _) => return Err(rootless("userns_options.uids", &ids.uids)),
            (_, None) => return Err(rootless("userns_options.gids", &ids.gids)),
        };
        let namespace = network.map(of_network).transpose()?.map(Arc::new);
        Ok(Self {
            ids,
            root,
            namespace,
        })
    }

    /// The entry among a spec's namespaces.
    pub(super) fn namespace(&self) -> Value {
        match &self.namespace {
            None => json!({ "type": "user" }),
            // Whoever opens it is this process, and this value lives longer than the birth.
            Some(namespace) => {
                json!({ "type": "user", "path": descriptor(namespace) })
            }
        }
    }

    /// A spec of the holder's as others may read it: they have not our descriptors.
    pub(super) fn told(&self, config: String, holder: i32) -> String {
        match &self.namespace {
            None => config,
            Some(namespace) => config.replace(
                &format!("\"{}\"", descriptor(namespace)),
                &format!("\"/proc/{holder}/ns/user\""),
            ),
        }
    }

    /// `uidMappings` and `gidMappings` of a spec.
    pub(super) fn mappings(&self) -> [Value; 2] {
        [&self.ids.uids, &self.ids.gids].map(|ranges| {
            let range = |range: &IdRange| {
                let (container, host, size) = (range.container, range.host, range.size);
                json!({ "containerID": container, "hostID": host, "size": size })
            };
            ranges.iter().map(range).collect()
        })
    }

    /// Who the holder is: nobody, or the last user and group below if there are fewer.
    pub(super) fn nobody(&self) -> (u32, u32) {
        (last(&self.ids.uids), last(&self.ids.gids))
    }

    /// Options of a tmpfs whose root directory is the pod's root's.
    pub(super) fn options(&self) -> [String; 2] {
        let (user, group) = self.root;
        [format!("uid={user}"), format!("gid={group}")]
    }

    /// Gives a file to the pod's root. An id-mapped mount of it would need Linux 6.3, and
    /// containerd has none for `/dev/shm` either.
    pub(super) fn give(&self, file: &Path) -> io::Result<()> {
        let (user, group) = self.root;
        chown(file, Some(user), Some(group))
    }
}

/// The path of a descriptor of this process.
fn descriptor(open: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", open.as_raw_fd())
}

/// The user namespace that a network namespace belongs to.
fn of_network(path: &Path) -> Result<OwnedFd, Error> {
    let refuse = |why: String| Error::Wish {
        field: "netns_path",
        value: path.display().to_string(),
        why,
    };
    let owner = namespace::open(path).and_then(owner::owner);
    let owner = owner.map_err(|error| refuse(kernel::errno_words(&error)))?;
    let number = |path: PathBuf| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    let owners = number(descriptor(&owner).into());
    let (owners, nodes) = owners
        .and_then(|owners| Ok((owners, number("/proc/self/ns/user".into())?)))
        .map_err(|error| refuse(kernel::errno_words(&error)))?;
    if owners == nodes {
        let why = "belongs to the node's users, and the pod is to have its own";
        return Err(refuse(why.to_owned()));
    }
    Ok(owner)
}

/// The highest id up to that of nobody.
fn last(ranges: &[IdRange]) -> u32 {
    let lasts = ranges.iter().filter_map(|range| {
        let last = range.container.checked_add(range.size)?.checked_sub(1)?;
        (range.container <= NOBODY).then(|| last.min(NOBODY))
    });
    lasts.max().unwrap_or_default()
}

fn rootless(field: &'static str, ranges: &[IdRange]) -> Error {
    let range = |range: &IdRange| format!("{}:{}:{}", range.container, range.host, range.size);
    Error::Wish {
        field,
        value: ranges.iter().map(range).collect::<Vec<_>>().join(","),
        why: "0 is not mapped: the pod would have no root".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(container: u32, size: u32) -> IdMappings {
        let host = 300_000;
        let range = IdRange {
            container,
            host,
            size,
        };
        IdMappings {
            uids: vec![range],
            gids: vec![range],
        }
    }

    #[test]
    fn the_holder_is_nobody_or_the_last_of_fewer() {
        for (size, nobody) in [(1, 0), (10, 9), (65_536, 65_535), (100_000, 65_535)] {
            let users = Users::new(ids(0, size), None).unwrap();
            assert_eq!(users.nobody(), (nobody, nobody), "{size}");
        }
    }

    #[test]
    fn users_without_a_root_and_networks_of_the_node_are_named() {
        let rootless = Users::new(ids(1, 10), None).unwrap_err();
        assert_eq!(
            rootless.to_string(),
            "userns_options.uids \"1:300000:10\": 0 is not mapped: the pod would have no root"
        );
        for (network, text) in [
            ("/proc/self/ns/net", "belongs to the node's users"),
            ("/dev/null", "not a typewriter (ENOTTY)"),
            ("/run/netns/none", "no such file or directory (ENOENT)"),
        ] {
            let error = Users::new(ids(0, 10), Some(Path::new(network))).unwrap_err();
            let text = format!("netns_path {network:?}: {text}");
            assert!(error.to_string().starts_with(&text), "{error}");
        }
    }
}
