//! Sets a container's limits at its birth and changes them while it lives: what v1 and v2 share.

use std::os::fd::OwnedFd;
use std::path::Path;

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::pid::PidController;
use nix::errno::Errno;
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxPids, LinuxRdma, LinuxResources,
    LinuxThrottleDevice,
};

use crate::control::{set, write};
use crate::devices::Policy;
use crate::{Cgroup, Error, Mode, limits_v1, limits_v2};

/// Whether a container is being born or lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// Nothing is in use yet.
    Birth,
    /// A new limit may be below what is in use.
    Update,
}

// === impl Cgroup ===

impl Cgroup {
    /// Sets the limits of a container that is about to be born, devices included.
    ///
    /// Devices are confined even if `resources` does not mention them: what is not allowed is denied,
    /// but for those that every container has. Numbers are in the units of the OCI specification
    /// (bytes, microseconds, CPU shares); 0 stands for "not set" where runc takes it so.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with the file and the value if the kernel refuses,
    /// [`Error::Unsupported`] with the field if this host has no such limit.
    ///
    /// # References
    ///
    /// [OCI runtime specification, "Control groups"](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#control-groups).
    pub fn limit(&self, resources: &LinuxResources) -> Result<(), Error> {
        let rules = resources.devices().as_deref().unwrap_or_default();
        self.confine_devices(&Policy::new(rules)?)?;
        self.set_limits(resources, Occasion::Birth)
    }

    /// Changes the limits of a container that lives; what `resources` does not mention stays.
    ///
    /// Devices stay too, mentioned or not, as with runc: containerd sends the whole list of the
    /// container's birth along with each change of a limit.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::limit`], and [`Error::InUse`] for a memory limit below what is in use.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        self.set_limits(resources, Occasion::Update)
    }

    /// The directory in which its memory is limited and counted, for whoever is in it to read: the way to it is
    /// open only to us.
    ///
    /// `/dev/null` if this host counts no memory. It is the root of a read-only mount of its own: `..` leads nowhere,
    /// and whoever opens a file in it gets no writable one, whoever they are. The mount at its path is
    /// writable, and of the same user as who holds the descriptor there may be others who may look at that one's
    /// descriptors.
    ///
    /// # Errors
    ///
    /// [`Error::Call`] if it cannot be opened.
    pub fn memory(&self) -> Result<OwnedFd, Error> {
        let path = self.controller("memory").unwrap_or(Path::new("/dev/null"));
        duet_linux::mount::clone_read_only(path).map_err(|error| Error::Call {
            action: "open",
            source: Errno::from_raw(error.raw_os_error().unwrap_or_default()),
            path: path.to_owned(),
        })
    }

    fn set_limits(&self, resources: &LinuxResources, occasion: Occasion) -> Result<(), Error> {
        match self.mode() {
            Mode::V1 | Mode::Hybrid => limits_v1::set_all(self, resources, occasion),
            Mode::V2 => limits_v2::set_all(self.dir(), resources, occasion),
        }
    }

    /// The directory in the hierarchy of `controller`, which `field` cannot do without.
    pub(crate) fn need(
        &self,
        controller: &str,
        field: &str,
        value: impl ToString,
    ) -> Result<&Path, Error> {
        self.controller(controller).ok_or_else(|| {
            let field = format!("linux.resources.{field}");
            Error::unsupported(field, value, "its cgroup v1 controller is not mounted")
        })
    }
}

/// Refuses `linux.resources.<field>`.
pub(crate) fn refuse(field: &str, value: impl ToString, why: &'static str) -> Error {
    Error::unsupported(format!("linux.resources.{field}"), value, why)
}

/// A number that is asked for: 0 is the same as nothing.
pub(crate) fn asked<T: Default + PartialEq>(number: Option<T>) -> Option<T> {
    number.filter(|number| *number != T::default())
}

/// A list of processors or memory nodes that is asked for.
pub(crate) fn listed(list: Option<&String>) -> Option<&str> {
    list.map(String::as_str).filter(|list| !list.is_empty())
}

/// Restricts processors and memory nodes.
pub(crate) fn cpuset(dir: &Path, cpu: &LinuxCpu, v2: bool) -> Result<(), Error> {
    let controller = CpuSetController::new(dir.to_owned(), dir.to_owned(), v2);
    if let Some(cpus) = listed(cpu.cpus().as_ref()) {
        set(dir, "cpuset.cpus", cpus, || controller.set_cpus(cpus))?;
    }
    if let Some(mems) = listed(cpu.mems().as_ref()) {
        set(dir, "cpuset.mems", mems, || controller.set_mems(mems))?;
    }
    Ok(())
}

/// Limits the number of tasks; negative means without limit.
pub(crate) fn pids(dir: &Path, pids: &LinuxPids, v2: bool) -> Result<(), Error> {
    let Some(limit) = asked(Some(pids.limit())) else {
        return Ok(());
    };
    let value = if limit < 0 {
        MaxValue::Max
    } else {
        MaxValue::Value(limit)
    };
    let controller = PidController::new(dir.to_owned(), dir.to_owned(), v2);
    set(dir, "pids.max", value, || controller.set_pid_max(value))
}

/// Limits huge pages of each size: `suffix` is what the version calls the file.
///
/// kubelet sends 0 for every size that it knows of, whether the kernel does or not: a 0 needs no
/// file. Reservations are limited to the same, where the kernel counts them (5.7), because a
/// container could otherwise reserve what it may not touch.
pub(crate) fn hugepages(
    dir: Option<&Path>,
    limits: &[LinuxHugepageLimit],
    suffix: &str,
) -> Result<(), Error> {
    for (index, limit) in limits.iter().enumerate() {
        let size = limit.page_size();
        let field = format!("hugepageLimits[{index}]");
        let Ok(bytes) = u64::try_from(limit.limit()) else {
            return Err(refuse(
                &format!("{field}.limit"),
                limit.limit(),
                "it is negative",
            ));
        };
        if size.is_empty() || size.contains(['/', '.']) {
            return Err(refuse(
                &format!("{field}.pageSize"),
                size,
                "it is not a size",
            ));
        }
        let file = format!("hugetlb.{size}.{suffix}");
        let Some(dir) = dir.filter(|dir| dir.join(&file).exists()) else {
            if bytes == 0 {
                continue;
            }
            let why = "this host does not count huge pages of that size";
            return Err(refuse(&format!("{field}.pageSize"), size, why));
        };
        // cgroups-rs lists the host's page sizes for each controller it makes: not for one file.
        write(dir, &file, &bytes.to_string())?;
        match write(
            dir,
            &format!("hugetlb.{size}.rsvd.{suffix}"),
            &bytes.to_string(),
        ) {
            Ok(())
            | Err(Error::Refused {
                source: Errno::ENOENT,
                ..
            }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Limits RDMA handles and objects: the file is the same in both versions.
pub(crate) fn rdma<'a>(
    dir: &Path,
    limits: impl IntoIterator<Item = (&'a String, &'a LinuxRdma)>,
) -> Result<(), Error> {
    let mut limits: Vec<_> = limits.into_iter().collect();
    limits.sort_by_key(|(device, _)| *device);
    for (device, limit) in limits {
        let mut line = device.clone();
        if let Some(handles) = limit.hca_handles() {
            line += &format!(" hca_handle={handles}");
        }
        if let Some(objects) = limit.hca_objects() {
            line += &format!(" hca_object={objects}");
        }
        write(dir, "rdma.max", &line)?;
    }
    Ok(())
}

/// Writes quota and period through `bandwidth`, and the burst before them if it may, else after.
///
/// A burst may not exceed the quota: it has to come first if both shrink, and last if both grow.
pub(crate) fn around_burst(
    dir: &Path,
    file: &str,
    burst: Option<u64>,
    bandwidth: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    let Some(burst) = burst.map(|burst| burst.to_string()) else {
        return bandwidth();
    };
    let early = match write(dir, file, &burst) {
        Err(Error::Refused {
            source: Errno::EINVAL,
            ..
        }) => false,
        other => other.map(|()| true)?,
    };
    bandwidth()?;
    if early {
        Ok(())
    } else {
        write(dir, file, &burst)
    }
}

/// The four lists of throttled devices, each with its field, v1 file and v2 key.
pub(crate) fn throttles(
    block: &LinuxBlockIo,
) -> impl Iterator<Item = (&LinuxThrottleDevice, &'static str, &'static str)> {
    [
        (
            block.throttle_read_bps_device(),
            "blkio.throttle.read_bps_device",
            "rbps",
        ),
        (
            block.throttle_write_bps_device(),
            "blkio.throttle.write_bps_device",
            "wbps",
        ),
        (
            block.throttle_read_iops_device(),
            "blkio.throttle.read_iops_device",
            "riops",
        ),
        (
            block.throttle_write_iops_device(),
            "blkio.throttle.write_iops_device",
            "wiops",
        ),
    ]
    .into_iter()
    .flat_map(|(list, file, key)| list.iter().flatten().map(move |one| (one, file, key)))
}
