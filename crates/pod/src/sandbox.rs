//! What a pod has in common when no CRI made it: network, IPC and host name, and a cgroup.
//!
//! containerd's CRI makes a pod's namespaces itself and names them in every config.json. Under
//! plain `ctr run` there is only an annotation, the same on each container. Then the shim makes
//! the namespaces before the first of them, loopback up, and what the containers ask for as new
//! is the pod's.

use std::path::{Path, PathBuf};

use duet_container::{Ground, Prepared};
use duet_linux::namespace::{Kind, fresh};
use duet_spec::annotations;

use crate::error::Error;

/// The namespaces that a pod shares.
const SHARED: [Kind; 3] = [Kind::Net, Kind::Ipc, Kind::Uts];

/// Puts a container into the pod that its annotations name, if it is the shim that has to make
/// that pod; returns the pod's cgroup. With systemd's cgroups there is none: the slice that every
/// container names is the pod's as far as the caller wants it to be.
///
/// # Errors
///
/// [`Error::BadId`] for a name that no cgroup could have, [`Error::Sandbox`] if the kernel
/// refuses a namespace.
pub(crate) fn join(ground: &Ground, prepared: &mut Prepared) -> Result<Option<PathBuf>, Error> {
    let given = &prepared.spec().annotations;
    let by_cri = [annotations::SANDBOX_ID, annotations::CONTAINER_TYPE];
    if by_cri.iter().any(|name| given.contains_key(*name)) {
        return Ok(None);
    }
    let Some(pod) = annotations::pod_key(given) else {
        return Ok(None);
    };
    check_id(pod)?;
    if !ground.holds() {
        let made = fresh(&SHARED).map_err(|source| Error::Sandbox {
            id: pod.to_owned(),
            step: "make its namespaces",
            source,
        })?;
        ground.hold(SHARED.into_iter().zip(made).collect());
    }
    if prepared.unit().is_some() {
        return Ok(None);
    }
    let (pod_cgroup, cgroup) = below(prepared.cgroup(), pod);
    prepared.set_cgroup(cgroup);
    Ok(Some(pod_cgroup))
}

/// The pod's cgroup beside where the container's would be, and the container's in it.
///
/// No container's name has an `@` ([`check_id`]), so that none of another pod, or of no pod, has the
/// pod's cgroup for its own and is killed with it.
fn below(cgroup: &Path, pod: &str) -> (PathBuf, PathBuf) {
    let parent = cgroup.parent().unwrap_or(Path::new("/"));
    let pod = parent.join(format!("pod@{pod}"));
    let member = pod.join(cgroup.file_name().unwrap_or_default());
    (pod, member)
}

/// containerd's own rule for names (`pkg/identifiers`): they become directories here too.
///
/// # Errors
///
/// [`Error::BadId`].
pub fn check_id(id: &str) -> Result<(), Error> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let begins = id
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    if begins && id.len() <= 76 && id.bytes().all(word) {
        return Ok(());
    }
    Err(Error::BadId { id: id.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_lie_below_their_pod() {
        let (pod, member) = below(Path::new("/default/web"), "shop");
        assert_eq!(pod, Path::new("/default/pod@shop"));
        assert_eq!(member, Path::new("/default/pod@shop/web"));
        let (_, member) = below(Path::new("/web"), "shop");
        assert_eq!(member, Path::new("/pod@shop/web"));
    }

    #[test]
    fn names_are_names_of_directories() {
        for good in ["a", "web-1", "A.b_c", &"x".repeat(76)] {
            check_id(good).unwrap();
        }
        for bad in ["", ".", "..", "-a", "a/b", "a b", "ä", &"x".repeat(77)] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }
}
