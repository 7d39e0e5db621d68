//! Why a role of this program failed: what containerd prints when `start` does.

use std::error::Error as _;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// Why a role failed. Requests to a running shim fail in [`crate::status`] instead.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The command line is not one containerd writes.
    #[error("command line: {0}")]
    Flags(String),
    /// It was run by hand, without a word.
    #[error(
        "no action is given: containerd starts this program, once for each pod; -h prints help"
    )]
    ByHand,
    /// A flag that every role needs is absent or empty.
    #[error("command line: {0} is missing")]
    Missing(&'static str),
    /// There is no such role.
    #[error("command line: action {0:?} is neither start nor delete")]
    Action(String),
    /// The message on standard input cannot be read.
    #[error("standard input")]
    Input {
        /// What the kernel said.
        source: io::Error,
    },
    /// The message on standard input is longer than any containerd writes.
    #[error("standard input: more than {limit_bytes} bytes")]
    InputLength {
        /// The longest message accepted.
        limit_bytes: u64,
    },
    /// The message on standard input is of no kind that containerd writes.
    #[error(
        "standard input: {len_bytes} bytes that are neither BootstrapParams nor runtime options"
    )]
    InputGarbage {
        /// How long it was.
        len_bytes: usize,
    },
    /// The message on standard input is about another shim.
    #[error(
        "standard input: BootstrapParams for {namespace}/{id} do not match \
         -namespace {expected_namespace} -id {expected_id}"
    )]
    InputForAnother {
        /// The namespace in the message.
        namespace: String,
        /// The id in the message.
        id: String,
        /// The namespace on the command line.
        expected_namespace: String,
        /// The id on the command line.
        expected_id: String,
    },
    /// containerd understands no version that Duet speaks.
    #[error("MAX_SHIM_VERSION {0:?}: Duet speaks versions 2 and 3")]
    MaxVersion(String),
    /// The runtime options cannot be understood.
    #[error("runtime options")]
    Options {
        /// Which key or field, and why.
        source: crate::options::Error,
    },
    /// containerd did not say where it takes events.
    #[error("{0}: containerd's ttrpc address is missing")]
    NoEvents(&'static str),
    /// The kernel is too old for the mount and process calls that Duet makes.
    #[error(transparent)]
    Kernel(#[from] duet_linux::kernel::TooOld),
    /// A file could not be read, written or removed.
    #[error("{verb} {path}")]
    File {
        /// What was tried.
        verb: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// `config.json` is not JSON, or its annotations are not text.
    #[error("{path}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The socket's path does not fit into a socket address.
    #[error("socket {path}: longer than {limit_bytes} bytes")]
    SocketLength {
        /// The path.
        path: PathBuf,
        /// The longest path the kernel takes.
        limit_bytes: usize,
    },
    /// The server could not be started.
    #[error("starting the server {program}")]
    Server {
        /// This program's own path.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// containerd wants the pod to have cores to itself (`sched_core`).
    #[error("SCHED_CORE {value:?}: making a core scheduling domain")]
    SchedCore {
        /// As it is in the environment.
        value: OsString,
        /// What the kernel said.
        source: io::Error,
    },
    /// The cgroup for the shim could not be made.
    #[error("ShimCgroup {path:?}")]
    ShimCgroup {
        /// As the options name it.
        path: String,
        /// Which step failed.
        source: duet_cgroup::Error,
    },
    /// A step of the server's own preparation failed.
    #[error("serve: {step}")]
    Serve {
        /// Which step.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The ttrpc server did not start.
    #[error("serve: ttrpc")]
    Ttrpc {
        /// What the library said.
        source: ttrpc::Error,
    },
    /// The server could not set up its pod.
    #[error("serve: pod of {id}")]
    Pod {
        /// The container it was started for.
        id: String,
        /// Which step failed.
        source: Box<duet_pod::Error>,
    },
    /// The pod's leftovers could not be removed.
    #[error("delete {id}")]
    Delete {
        /// Whose.
        id: String,
        /// What could not be removed.
        source: Box<duet_pod::Error>,
    },
    /// A reply could not be put into its wire form.
    #[error("encoding the reply")]
    Encode {
        /// What the library said.
        source: protobuf::Error,
    },
    /// A reply could not be put into JSON.
    #[error("encoding the reply")]
    Json {
        /// What the library said.
        source: serde_json::Error,
    },
    /// The reply could not be delivered.
    #[error("standard output")]
    Reply {
        /// What the kernel said.
        source: io::Error,
    },
}

// === impl Error ===

impl Error {
    /// The error and all its sources in one line, joined once, here.
    pub(crate) fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            line.push_str(": ");
            line.push_str(&error.to_string());
            source = error.source();
        }
        line.replace('\n', " ")
    }
}
