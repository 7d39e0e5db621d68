//! Why the pod could not do what was asked.

use std::io;
use std::path::PathBuf;

/// Why the pod could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No container of that name lives here.
    #[error("no container {id}")]
    Unknown {
        /// The name asked for.
        id: String,
    },
    /// The name is taken.
    #[error("container {id} already exists")]
    Exists {
        /// The name asked for.
        id: String,
    },
    /// No directory or cgroup could have that name.
    #[error("container id {id:?} is not 1 to 76 letters, digits, '-', '_' or '.'")]
    BadId {
        /// The name asked for.
        id: String,
    },
    /// The container itself could not.
    #[error("container {id}")]
    Container {
        /// Which.
        id: String,
        /// Why.
        source: duet_container::Error,
    },
    /// A pod that the Sandbox service is asked for cannot be.
    #[error("{field} {value:?}: {why}")]
    Wish {
        /// The field of the request.
        field: &'static str,
        /// What it says.
        value: String,
        /// Why not.
        why: String,
    },
    /// What a container shares with its pod does not get the label of its mounts.
    #[error("container {id}: linux.mountLabel {label:?}: label {}", .path.display())]
    Label {
        /// The container.
        id: String,
        /// The label.
        label: String,
        /// What was to have it.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The pod's own namespaces or files could not be made.
    #[error("pod {id}: {step}")]
    Sandbox {
        /// The pod.
        id: String,
        /// Which step.
        step: &'static str,
        /// The errno.
        source: io::Error,
    },
    /// The record of who lives here could not be read or written.
    #[error("{step} {path}")]
    Record {
        /// `write`, `read` or `parse`.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// A call of the machinery itself (a thread, a signal handler) failed.
    #[error("{step}")]
    Host {
        /// Which.
        step: &'static str,
        /// The errno.
        source: io::Error,
    },
}
