//! Why a cgroup could not do what was asked.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

/// Why a cgroup could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host has no cgroup file system mounted where this process can see it.
    #[error("no cgroup hierarchy is mounted")]
    NoHierarchy,
    /// A path that cannot name a cgroup: not absolute, with `..`, or the root itself.
    #[error("linux.cgroupsPath {}: {why}", .path.display())]
    Path {
        /// The path as given.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Something the specification asks for and this host or Duet does not offer.
    #[error("{field} = {value}: {why}")]
    Unsupported {
        /// The field of the OCI specification, with its path.
        field: String,
        /// Its value.
        value: String,
        /// Why it cannot be honoured.
        why: &'static str,
    },
    /// The cgroup is there already and holds processes of someone else.
    #[error("cgroup {} already holds {count} processes", .path.display())]
    Occupied {
        /// The directory that holds them.
        path: PathBuf,
        /// How many there are.
        count: usize,
    },
    /// The cgroup is not there (any more).
    #[error("cgroup {} does not exist", .path.display())]
    Gone {
        /// The directory that was looked for.
        path: PathBuf,
    },
    /// A directory or file of a cgroup could not be made, opened, read or removed.
    #[error("{action} {}", .path.display())]
    Call {
        /// What was tried, as a verb.
        action: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// The kernel refused a value.
    #[error("{file} = {value}")]
    Refused {
        /// The control file, without its directory.
        file: String,
        /// What was written.
        value: String,
        /// What the kernel said.
        source: Errno,
    },
    /// A limit below what is in use now.
    #[error("{file} = {value}: {in_use} bytes are in use, and a lower limit cannot be set")]
    InUse {
        /// The control file, without its directory.
        file: &'static str,
        /// The limit asked for.
        value: i64,
        /// What is in use, in the limit's unit.
        in_use: u64,
    },
    /// A control file whose text is not what the kernel documents.
    #[error("{} holds {text:?}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The text that was not understood.
        text: String,
    },
    /// The kernel did not get there in time.
    #[error("cgroup {}: not {state} after {after:?}", .path.display())]
    Timeout {
        /// The cgroup.
        path: PathBuf,
        /// The state that was waited for.
        state: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The device program of v2 could not be loaded or attached.
    #[error("linux.resources.devices: {step} the device program")]
    Devices {
        /// What was tried, as a verb.
        step: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// systemd could not be asked.
    #[error("{step} systemd at {}", .path.display())]
    Bus {
        /// What was tried, as a verb.
        step: &'static str,
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// systemd refused.
    #[error("systemd refuses {call} {unit}: {text} ({name})")]
    Systemd {
        /// The method of its manager.
        call: &'static str,
        /// The unit that it was about.
        unit: Box<str>,
        /// The error's name on D-Bus.
        name: Box<str>,
        /// What it said.
        text: Box<str>,
    },
    /// systemd tried, and it came to nothing.
    #[error("systemd's job of {call} {unit} ended as {result:?}")]
    Job {
        /// The method of its manager.
        call: &'static str,
        /// The unit that it was about.
        unit: Box<str>,
        /// How it ended: `failed`, `timeout`, `canceled` and so on.
        result: Box<str>,
    },
    /// The descriptor for OOM events could not be had.
    #[error("watch for OOM")]
    Watch {
        /// What the kernel said.
        source: Errno,
    },
}

// === impl Error ===

impl Error {
    /// Wraps a failed call on `path`; a path that is not there becomes [`Error::Gone`].
    pub(crate) fn on(action: &'static str, path: &Path, error: &io::Error) -> Self {
        let source = errno(error);
        // ENODEV is what a file that was opened before its cgroup's removal answers.
        if matches!(source, Errno::ENOENT | Errno::ENODEV) {
            Self::Gone {
                path: path.to_owned(),
            }
        } else {
            Self::Call {
                action,
                path: path.to_owned(),
                source,
            }
        }
    }

    /// Says that `field` cannot be honoured here.
    pub(crate) fn unsupported(
        field: impl Into<String>,
        value: impl ToString,
        why: &'static str,
    ) -> Self {
        Self::Unsupported {
            field: field.into(),
            value: value.to_string(),
            why,
        }
    }

    /// Whether the cgroup was already gone, which most callers count as done.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }
}

/// The error number in an I/O error; `EIO` if it did not come from the kernel.
pub(crate) fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
