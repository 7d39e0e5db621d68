//! `ioctl_ns(2)`: whose a namespace is.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// The user namespace that a namespace of another kind belongs to.
///
/// # Errors
///
/// The kernel's: `ENOTTY` for what is no namespace, `EPERM` when the owner is not below the
/// caller's own user namespace.
pub fn owner(namespace: impl AsFd) -> io::Result<OwnedFd> {
    let namespace = namespace.as_fd();
    // SAFETY: the descriptor is open for as long as the borrow lasts, and NS_GET_USERNS takes no
    // argument, so that the kernel reads and writes nothing of ours.
    let owner = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_USERNS) };
    if owner < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just opened for this call, and that nothing else
    // in this process knows.
    Ok(unsafe { OwnedFd::from_raw_fd(owner) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_network_of_the_nodes_is_of_the_nodes_users() {
        let network = File::open("/proc/self/ns/net").unwrap();
        let owner = File::from(owner(&network).unwrap());
        let own = std::fs::metadata("/proc/self/ns/user").unwrap();
        let owner = owner.metadata().unwrap();
        assert_eq!((owner.dev(), owner.ino()), (own.dev(), own.ino()));
    }

    #[test]
    fn what_is_no_namespace_has_no_owner() {
        let null = File::open("/dev/null").unwrap();
        let error = owner(&null).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }
}
