//! Why there is no plan.

use std::path::PathBuf;

/// Why a container as asked for cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The container would share the host's mounts, or another container's.
    #[error("linux.namespaces: a container needs a new mount namespace of its own")]
    MountNamespace,
    /// A bind mount's source does not exist.
    #[error("mounts[{index}].source: {}: no such file or directory", source_path.display())]
    SourceMissing {
        /// Which entry of `mounts`.
        index: usize,
        /// The path.
        source_path: PathBuf,
    },
    /// A mount over a part of procfs that other parts of the system trust.
    #[error("mounts[{index}].destination: {destination}: only procfs itself may be mounted there")]
    InsideProc {
        /// Which entry of `mounts`.
        index: usize,
        /// The path.
        destination: String,
    },
    /// A kernel parameter that belongs to the host.
    #[error("linux.sysctl.{key}: {why}")]
    Sysctl {
        /// The path below `/proc/sys`.
        key: String,
        /// Which namespace is missing.
        why: &'static str,
    },
    /// A name for a host that is not the container's.
    #[error("{field}: {name}: the container has no UTS namespace of its own")]
    Name {
        /// `hostname` or `domainname`.
        field: &'static str,
        /// The name.
        name: String,
    },
    /// Something that a wasm container must not have, or that nobody can be given here.
    #[error("{field}: {value}: {why}")]
    Refused {
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// The reason.
        why: String,
    },
    /// The seccomp profile cannot be compiled.
    #[error(transparent)]
    Seccomp(#[from] duet_seccomp::Error),
    /// More than a plan can hold.
    #[error("config.json asks for more than {limit} {what}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u32,
    },
}
