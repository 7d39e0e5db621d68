//! Why `duet` could not do what was asked.

use crate::manifest::Refused;
use std::io;
use std::path::{Path, PathBuf};

/// Every failure of the command line; the chain is printed once, in `main`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file, directory, socket or mount would not do what was asked of it.
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The manifest is refused.
    #[error("{}", file.display())]
    Manifest { file: PathBuf, source: Refused },
    /// An argument makes no sense.
    #[error("{0}")]
    Argument(String),
    /// The machine lacks something.
    #[error("{0}")]
    Missing(String),
    /// containerd's answer to a call.
    #[error("{what}: {}", status.message())]
    Cri {
        what: String,
        status: Box<tonic::Status>,
    },
    /// The socket does not answer.
    #[error("could not connect to containerd at {}", socket.display())]
    Connect {
        socket: PathBuf,
        source: tonic::transport::Error,
    },
    /// Something about one container.
    #[error("container {name}: {why}")]
    Container { name: String, why: String },
    /// Something about the pod.
    #[error("pod {name}: {why}")]
    Pod { name: String, why: String },
    /// A program that Duet calls did not succeed.
    #[error("{program}: {output}")]
    Program { program: String, output: String },
    /// The private containerd did not come up.
    #[error("containerd did not start: {why}")]
    Containerd { why: String },
    /// Standard output is gone.
    #[error("could not write to standard output")]
    Output { source: io::Error },
    /// A call of the kernel that concerns no path.
    #[error("{action}")]
    System {
        action: &'static str,
        source: io::Error,
    },
}

// === impl Error ===

impl Error {
    /// An [`Error::Io`]; `action` goes before the path: "could not read".
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// For `map_err`: an [`Error::Io`] that waits for its cause.
    pub(crate) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::io(action, path, source)
    }

    /// For `map_err`: containerd refused `what`.
    pub(crate) fn cri(what: impl Into<String>) -> impl FnOnce(tonic::Status) -> Self {
        move |status| Self::Cri {
            what: what.into(),
            status: Box::new(status),
        }
    }

    /// The whole chain in one line; a cause that only says again what stands there is left out,
    /// as the transport's causes do.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let why = error.to_string();
            if !text.ends_with(&why) {
                text.push_str(": ");
                text.push_str(&why);
            }
            cause = error.source();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Error;

    /// An error whose text is that of its cause, as `tonic`'s transport has them.
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Again(#[source] std::io::Error);

    #[test]
    fn a_cause_is_told_once() {
        let source = std::io::Error::other(Again(std::io::Error::other("no such file")));
        let error = Error::System {
            action: "could not connect",
            source,
        };
        assert_eq!(error.chain(), "could not connect: no such file");
    }
}
