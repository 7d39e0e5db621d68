//! Why a process was not born.

use std::path::PathBuf;
use std::time::Duration;

use duet_linux::process::Exit;

/// Why a process was not born. Whatever it is, no process is left.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step of the plan failed.
    #[error("{text}")]
    Step {
        /// What the plan says of it: the thing, the errno, the call, the step's number.
        text: String,
    },
    /// Something that the plan names could not be opened.
    #[error("{what} {}: {why}", path.display())]
    Open {
        /// What the path is for.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// The kernel's answer, in words and by name.
        why: String,
    },
    /// The plan needs a descriptor that its caller did not give.
    #[error("the plan needs {0}, which was not supplied")]
    Missing(String),
    /// The plan contradicts itself.
    #[error("the plan is broken: {0}")]
    Plan(&'static str),
    /// A call of the parent half failed.
    #[error("{call}: {errno}")]
    Call {
        /// Which one.
        call: &'static str,
        /// The kernel's answer by name.
        errno: String,
        /// The same as a number, 0 when it was none of the kernel's.
        number: i32,
    },
    /// The child ended without a word: killed, most likely for its memory.
    #[error("the process ended before its program ran, with code {}", .0.code)]
    Died(Exit),
    /// The child did not say which descriptor is the listener of its seccomp filter.
    #[error(
        "the process ended before it handed over its seccomp listener: it was killed, or the profile does not allow write and read"
    )]
    Unheard,
    /// The child said nothing for too long, and was killed.
    #[error("the process did not get ready in {} s; its step is unknown", .0.as_secs())]
    Silent(Duration),
}

// === impl Error ===

impl Error {
    /// The failure of a call, for `map_err`.
    pub(crate) fn call(call: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::Call {
            call,
            errno: duet_linux::kernel::errno_name(&error),
            number: error.raw_os_error().unwrap_or(0),
        }
    }

    /// The failure to open a path, for `map_err`.
    pub(crate) fn open(
        what: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Open {
            what,
            path,
            why: duet_linux::kernel::errno_words(&error),
        }
    }
}
