//! Who answers the system calls that a seccomp profile leaves to somebody else.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::error::Error;
use crate::hooks::State;

/// How long an agent may take to accept its listener: 10 s.
const LIMIT: Duration = Duration::from_secs(10);

/// An agent, and what it is told with the listener.
#[derive(Debug)]
pub(crate) struct Agent {
    path: PathBuf,
    told: String,
}

// === impl Agent ===

impl Agent {
    /// The agent that a container's profile names, if it names one, with the
    /// `ContainerProcessState` of the OCI runtime specification for its process `pid`.
    pub(crate) fn of(state: State<'_>, status: &str, pid: i32) -> Option<Self> {
        let profile = state.spec.seccomp.as_ref()?;
        let path = profile.listener_path().clone()?;
        let mut told = json!({
            "ociVersion": state.spec.oci_version,
            "fds": ["seccompFd"],
            "pid": pid,
            "state": state.json(status),
        });
        if let Some(metadata) = profile.listener_metadata() {
            told["metadata"] = metadata.as_str().into();
        }
        Some(Agent {
            path,
            told: told.to_string(),
        })
    }

    /// Hands it the listener.
    pub(crate) fn take(&self, listener: &OwnedFd) -> Result<(), Error> {
        duet_linux::channel::deliver(&self.path, self.told.as_bytes(), listener, LIMIT).map_err(
            |source| Error::Agent {
                path: self.path.clone(),
                source,
            },
        )
    }
}
