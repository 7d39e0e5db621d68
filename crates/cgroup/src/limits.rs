//! Sets a container's limits at its birth and changes them while it lives.

use oci_spec::runtime::LinuxResources;

use crate::{Cgroup, Error};

// === impl Cgroup ===

impl Cgroup {
    /// Sets the limits of a container that is about to be born, devices included.
    ///
    /// Devices are confined even if `resources` does not mention them: what is not allowed is denied,
    /// but for those that every container has.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with the file and the value if the kernel refuses,
    /// [`Error::Unsupported`] with the field if this host has no such limit.
    pub fn limit(&self, resources: &LinuxResources) -> Result<(), Error> {
        let _ = resources;
        Ok(())
    }

    /// Changes the limits of a container that runs; what `resources` does not mention stays.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::limit`], and [`Error::InUse`] for a memory limit below what is in use.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        let _ = resources;
        Ok(())
    }
}
