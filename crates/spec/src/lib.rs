//! What a bundle asks for, in types that cannot hold nonsense.
//!
//! [`Container::load`] reads `config.json`, refuses what Duet does not offer by its full
//! path, and turns the rest into words the plan can use without looking back. Reading
//! happens in three passes over one parsed document:
//!
//! 1. `fields`: every field that asks for something must be one that Duet offers, and no
//!    string may hold a NUL byte (nothing behind it would reach the kernel);
//! 2. `oci-spec` gives the fields their types, and a wrong type is reported with its path;
//! 3. the modules here check values and give them meaning.
//!
//! Nothing here asks the kernel anything except for the bytes of `config.json`.
#![forbid(unsafe_code)]

pub mod annotations;
mod capability;
mod cgroups_path;
mod container;
mod device;
mod document;
mod error;
mod fields;
mod hooks;
mod id_map;
mod intel_rdt;
mod list;
mod memory_policy;
mod mount;
mod namespace;
mod net_device;
mod personality;
mod pod;
mod process;
mod scheduler;
mod seccomp;
mod tasks;
mod time;

pub use capability::Capabilities;
pub use cgroups_path::CgroupsPath;
pub use container::{Container, Root};
pub use device::{Device, DeviceKind};
pub use document::resources;
pub use error::Error;
pub use hooks::{Hook, Hooks, Moment};
pub use id_map::{IdMappings, IdRange};
pub use intel_rdt::{IntelRdt, Schema};
pub use memory_policy::MemoryPolicy;
pub use mount::{Attributes, IdMap, Mount, MountKind, Propagation, PropagationKind, attr};
pub use namespace::{Namespace, Namespaces};
pub use net_device::NetDevice;
pub use oci_spec::runtime::{
    LinuxPids, LinuxResources, LinuxSeccomp, LinuxSeccompAction, LinuxSyscall,
};
pub use personality::Personality;
pub use pod::PodFiles;
pub use process::{ConsoleSize, IoPriority, Process, Rlimit, User};
pub use scheduler::{ExecAffinity, Processors, Scheduler};
pub use time::TimeOffsets;
