//! Why a command could not do what was asked, and who is told.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::json;

use crate::arguments::{Global, LogFormat};

/// Why a command could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// An argument makes no sense.
    #[error("{field} {value:?}: {why}")]
    Argument {
        /// Which.
        field: &'static str,
        /// What it said.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The name is that of no container.
    #[error("container {id:?} does not exist")]
    Unknown {
        /// The name.
        id: String,
    },
    /// The name is taken.
    #[error("container {id:?} already exists")]
    Exists {
        /// The name.
        id: String,
    },
    /// A file could not be read, written or removed.
    #[error("{step} {}", path.display())]
    File {
        /// What was tried.
        step: &'static str,
        /// On which file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// A file is not the JSON that it should be.
    #[error("parse {}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Nobody keeps the container any more.
    #[error("container {id:?}: its keeper does not answer; `delete --force` removes what is left")]
    Keeper {
        /// The container.
        id: String,
        /// The errno.
        source: io::Error,
    },
    /// The keeper refused, or failed.
    #[error("{0}")]
    Refused(String),
    /// The pod's own words.
    #[error(transparent)]
    Pod(#[from] duet_pod::Error),
    /// A call of the machinery itself failed.
    #[error("{step}")]
    Host {
        /// Which.
        step: &'static str,
        /// The errno.
        source: io::Error,
    },
}

// === impl Error ===

impl Error {
    /// The failure of a step about a file, for `map_err`.
    pub(crate) fn file(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Error::File { step, path, source }
    }

    /// The failure of a step of the machinery, for `map_err`.
    pub(crate) fn host(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Error::Host { step, source }
    }

    /// The error and what caused it, on one line.
    pub(crate) fn chain(&self) -> String {
        chain(self)
    }

    /// Tells whoever called, and the log.
    pub(crate) fn tell(&self, global: &Global) {
        let text = self.chain();
        // Nobody is left to tell if standard error is gone too.
        drop(writeln!(io::stderr(), "duet-oci: {text}"));
        let Some(log) = &global.log else { return };
        let line = match global.log_format {
            LogFormat::Text => format!("level=error msg={text:?}"),
            // The fields that containerd's go-runc looks for.
            LogFormat::Json => json!({"level": "error", "msg": text, "time": now()}).to_string(),
        };
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).open(log);
        if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
            drop(writeln!(
                io::stderr(),
                "duet-oci: log {}: {error}",
                log.display()
            ));
        }
    }
}

/// An error and what caused it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// Seconds since 1970: what reads the log has a clock of its own for the rest.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
