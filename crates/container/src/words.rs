//! The nouns that callers and events share: what is asked for, what is the case, what happened.

use std::path::PathBuf;
use std::time::SystemTime;

use tokio::sync::watch;

use crate::error::Error;
use crate::given::Given;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255 as the process chose, or 128 + n if signal n killed it.
    pub code: u8,
    /// When the shim saw it end, not when someone asked.
    pub at: SystemTime,
}

// === impl Exit ===

impl Exit {
    /// The end of a process that could not be run: what shells use for "out of range".
    pub(crate) fn unseen() -> Self {
        Exit {
            code: 255,
            at: SystemTime::now(),
        }
    }

    /// The end of a process that was never asked to run.
    pub(crate) fn never() -> Self {
        Exit {
            code: 0,
            at: SystemTime::now(),
        }
    }
}

/// Where a process's stdio goes, as containerd wrote it.
///
/// Each of the three is empty (`/dev/null`), the path of a FIFO, or a URI.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stdio {
    /// Input. Not a URI.
    pub stdin: String,
    /// Output.
    pub stdout: String,
    /// Errors; unused with a terminal, which has one output.
    pub stderr: String,
    /// Whether the process gets a terminal.
    pub terminal: bool,
    /// Descriptors instead of all three.
    pub given: Option<Given>,
}

// === impl Stdio ===

impl Stdio {
    /// Refuses a container whose two halves disagree about the terminal, as runc does.
    pub(crate) fn check(&self, process: &duet_spec::Process) -> Result<(), Error> {
        if self.terminal == process.terminal.is_some() {
            return Ok(());
        }
        Err(Error::Invalid {
            field: "terminal",
            value: self.terminal.to_string(),
            why: "differs from process.terminal in config.json; both must be the same",
        })
    }
}

/// One mount of the root filesystem, in containerd's words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RootfsMount {
    /// The kernel's name of the filesystem, or `bind`.
    pub fstype: String,
    /// Device or directory.
    pub source: String,
    /// A path below the rootfs; empty for the rootfs itself.
    pub target: String,
    /// Options as in fstab.
    pub options: Vec<String>,
}

/// Who owns the pipes that the shim makes for a container (`io_uid` and `io_gid` of
/// containerd's runtime options). Without it, the process's own user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoOwner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A request to create a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// The name containerd gave it.
    pub id: String,
    /// The directory with `config.json`.
    pub bundle: PathBuf,
    /// What to mount at `<bundle>/rootfs`, in order; empty if it is there already.
    pub rootfs: Vec<RootfsMount>,
    /// Init's stdio.
    pub stdio: Stdio,
    /// Who owns the pipes.
    pub io_owner: Option<IoOwner>,
    /// Whether its processes keep the shim's session keyring instead of one of the container's own
    /// (`no_new_keyring` of containerd's runtime options).
    pub no_new_keyring: bool,
    /// How many bytes the node's compiled wasm code may take; without it, what the cache says.
    pub cache_size: Option<u64>,
}

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It stands at the gate; for an exec, it was added and has no process yet.
    Created,
    /// It runs.
    Running,
    /// The freezer is closing.
    Pausing,
    /// Frozen.
    Paused,
    /// It ended, and everyone may know.
    Stopped,
}

/// What `state` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The container.
    pub id: String,
    /// The exec, if it is about one.
    pub exec: Option<String>,
    /// The container's bundle.
    pub bundle: PathBuf,
    /// The process; 0 for an exec that was not started.
    pub pid: i32,
    /// What it is doing.
    pub phase: Phase,
    /// Its stdio as it was asked for.
    pub stdio: Stdio,
    /// How it ended; exactly when the phase is [`Phase::Stopped`].
    pub exit: Option<Exit>,
}

/// What `delete` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleted {
    /// The process that was; 0 for an exec that was never started.
    pub pid: i32,
    /// How it ended.
    pub exit: Exit,
}

/// Somebody waits until a fact is passed on: until the last of these is dropped.
#[derive(Debug, Clone, Default)]
pub struct Awaited(
    #[expect(dead_code, reason = "that it is dropped says it all")] Option<watch::Sender<()>>,
);

// === impl Awaited ===

impl Awaited {
    pub(crate) fn new(waits: watch::Sender<()>) -> Self {
        Awaited(Some(waits))
    }
}

/// What happened is the same whoever waits for it.
impl PartialEq for Awaited {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Awaited {}

/// A fact, and when it became one: whoever hears of it may hear of it later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// When.
    pub at: SystemTime,
    /// What.
    pub fact: Fact,
}

/// Something that happened, in the order in which it happened.
///
/// For one container: `Created`, `Started`, `Exited` of execs, `Exited` of init, `Deleted`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The init process stands at the gate.
    Created {
        /// The container.
        id: String,
        /// Its bundle.
        bundle: PathBuf,
        /// What was mounted for it.
        rootfs: Vec<RootfsMount>,
        /// Init's stdio.
        stdio: Stdio,
        /// Init.
        pid: i32,
    },
    /// The init process runs its program.
    Started {
        /// The container.
        id: String,
        /// Init.
        pid: i32,
    },
    /// An exec is known, and has no process yet.
    ExecAdded {
        /// The container.
        id: String,
        /// The exec.
        exec: String,
    },
    /// An exec runs its program.
    ExecStarted {
        /// The container.
        id: String,
        /// The exec.
        exec: String,
        /// Its process.
        pid: i32,
    },
    /// A process ended and its output is written.
    Exited {
        /// The container.
        id: String,
        /// The exec, or the container's own id for init.
        process: String,
        /// The process that was.
        pid: i32,
        /// How it ended.
        exit: Exit,
    },
    /// Nothing of the container is left. Not sent for execs.
    Deleted {
        /// The container.
        id: String,
        /// Init.
        pid: i32,
        /// How init ended.
        exit: Exit,
    },
    /// Every process of the container is frozen.
    Paused {
        /// The container.
        id: String,
    },
    /// They run again.
    Resumed {
        /// The container.
        id: String,
    },
    /// The kernel killed for want of memory: a process of the container, or several at once.
    Oom {
        /// The container.
        id: String,
        /// To be kept until it is passed on.
        awaited: Awaited,
    },
}
