//! Why something could not be done: one variant for each step that can fail.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::lifecycle::Denied;

/// Why a container could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No exec of that name.
    #[error("no exec {exec}")]
    UnknownExec {
        /// The name asked for.
        exec: String,
    },
    /// The exec's name is taken.
    #[error("exec {exec} already exists")]
    ExecExists {
        /// The name asked for.
        exec: String,
    },
    /// The lifecycle forbids it.
    #[error("{0}")]
    Denied(Denied),
    /// The container was deleted.
    #[error("container is gone")]
    Gone,
    /// A field has a value that Duet does not offer.
    #[error("{field} {value:?} is not supported")]
    Unsupported {
        /// The request's field.
        field: &'static str,
        /// What it said.
        value: String,
    },
    /// A field has a value that makes no sense.
    #[error("{field} {value:?}: {why}")]
    Invalid {
        /// The request's field.
        field: &'static str,
        /// What it said.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A FIFO, file or pipe of the stdio could not be prepared.
    #[error("{step} {stream} {path}")]
    Stdio {
        /// `open`, `fchown` and so on.
        step: &'static str,
        /// `stdin`, `stdout` or `stderr`.
        stream: &'static str,
        /// What it was about.
        path: String,
        /// The errno.
        source: io::Error,
    },
    /// The logger of an output could not be started.
    #[error("{stream} {uri:?}: the logger")]
    Logger {
        /// `stdout` or `stderr`.
        stream: &'static str,
        /// Its URI.
        uri: String,
        /// Why.
        source: Box<LoggerError>,
    },
    /// A hook failed.
    #[error("hooks.{moment}[{index}] {path:?}")]
    Hook {
        /// The list that it is in.
        moment: &'static str,
        /// Its place there.
        index: usize,
        /// Its program.
        path: String,
        /// How.
        source: Box<HookError>,
    },
    /// A network device could not be given to the container.
    #[error("linux.netDevices.{device}: {step}, as {name}")]
    NetDevice {
        /// Its name on the host.
        device: String,
        /// The name it was to have in the container.
        name: String,
        /// What failed.
        step: &'static str,
        /// The errno.
        source: io::Error,
    },
    /// A class of resctrl could not be made, entered or removed.
    #[error("linux.intelRdt {asked:?}: {step}, {}{status}", path.display())]
    Resctrl {
        /// Which of these.
        step: &'static str,
        /// The class.
        path: PathBuf,
        /// The schemata that were asked for.
        asked: String,
        /// What resctrl says beside the errno.
        status: String,
        /// The errno.
        source: io::Error,
    },
    /// The seccomp agent did not take its listener.
    #[error("linux.seccomp.listenerPath {}: hand over the listener", path.display())]
    Agent {
        /// Its socket.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The process has no terminal, and the request needs one.
    #[error("process has no terminal")]
    NoTerminal,
    /// The terminal refused.
    #[error("{step} of the terminal")]
    Terminal {
        /// What was asked of it.
        step: &'static str,
        /// The errno.
        source: io::Error,
    },
    /// The root filesystem could not be mounted.
    #[error("{step} {target}")]
    Rootfs {
        /// `mkdir`, or `mount overlay on` and so on.
        step: String,
        /// Where.
        target: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The signal could not be sent.
    #[error("signal {signal} to process {pid}")]
    Signal {
        /// Its number.
        signal: i32,
        /// To whom.
        pid: i32,
        /// The errno.
        source: io::Error,
    },
    /// A call of the machinery itself (a thread, an event queue) failed.
    #[error("{step}")]
    Host {
        /// Which.
        step: &'static str,
        /// The errno.
        source: io::Error,
    },
    /// `config.json`, an exec's process or a set of limits cannot be read, or asks for something
    /// that Duet does not offer.
    #[error(transparent)]
    Spec(#[from] duet_spec::Error),
    /// What is asked for contradicts itself, or the machine.
    #[error(transparent)]
    Plan(#[from] duet_plan::Error),
    /// A cgroup could not be made, limited, read, frozen or removed.
    #[error("{step}")]
    Cgroup {
        /// Which of these.
        step: &'static str,
        /// Why.
        source: duet_cgroup::Error,
    },
    /// The kernel killed a process for want of memory before it ran its program.
    #[error("{}", starved(*.limit))]
    Starved {
        /// What `linux.resources.memory.limit` says, if it may be that.
        limit: Option<i64>,
        /// How its birth ended.
        source: duet_launch::Error,
    },
    /// A process was not born, or could not run its program.
    #[error(transparent)]
    Launch(#[from] duet_launch::Error),
    /// The wasm half could not be prepared.
    #[error(transparent)]
    Wasm(#[from] WasmError),
}

/// Why a logger was not ready.
#[derive(Debug, thiserror::Error)]
pub enum LoggerError {
    /// It was not born, or its program could not be run.
    #[error(transparent)]
    Start(#[from] Error),
    /// A pipe of its could not be made or read.
    #[error("{step}")]
    Pipe {
        /// Which step.
        step: &'static str,
        /// The errno.
        source: io::Error,
    },
    /// It ended instead.
    #[error("ended with code {0} before it was ready")]
    Ended(u8),
    /// It closed descriptor 5 without a word.
    #[error("closed descriptor 5 without writing the byte that says it is ready")]
    Mute,
    /// It said nothing.
    #[error("was not ready in {} s", .0.as_secs())]
    Silent(Duration),
}

/// How a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It was not born, or its program could not be run.
    #[error(transparent)]
    Start(#[from] Error),
    /// A pipe or file of its could not be made or read.
    #[error("{step}")]
    Call {
        /// Which step.
        step: &'static str,
        /// The errno.
        source: io::Error,
    },
    /// It ended with another code than 0.
    #[error("ended with code {code}{}", quoted(output))]
    Ended {
        /// The code, or 128 and the signal that killed it.
        code: u8,
        /// The end of what it wrote.
        output: String,
    },
    /// It took too long, and was killed.
    #[error("did not end in {} s and was killed{}", limit.as_secs(), quoted(output))]
    Late {
        /// What it had.
        limit: Duration,
        /// The end of what it wrote.
        output: String,
    },
}

/// What a process was killed for, and what to do.
fn starved(limit: Option<i64>) -> String {
    match limit {
        Some(limit) => format!(
            "linux.resources.memory.limit {limit}: out of memory before the program ran; raise the limit"
        ),
        None => "out of memory before the program ran: at the limit of the pod, or of the node"
            .to_owned(),
    }
}

/// What a program wrote, where it wrote something.
fn quoted(output: &str) -> String {
    if output.is_empty() {
        return String::new();
    }
    format!("; it wrote: {output}")
}

/// Why a wasm program could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum WasmError {
    /// An annotation calls something wasm that is not.
    #[error("annotations.{annotation}: {file} is not a WebAssembly binary")]
    NotWasm {
        /// The annotation that says so.
        annotation: &'static str,
        /// The file as the container names it.
        file: String,
    },
    /// A file is called wasm and is neither that nor anything the kernel runs.
    #[error(
        "{file}: begins with {head}, which is neither a WebAssembly binary (00 61 73 6d) nor an \
         executable"
    )]
    BadMagic {
        /// The file as the container names it.
        file: String,
        /// Its first bytes in hexadecimal; `nothing` of an empty one.
        head: String,
    },
    /// What is called wasm is nowhere.
    #[error("{file}: no such file or directory, and no wasm layer was found in the image")]
    Absent {
        /// The file as the container names it.
        file: String,
    },
    /// The image's layer of WebAssembly cannot be had, or is none.
    #[error("the wasm layer of the image of container {container}: {why}")]
    Layer {
        /// The container.
        container: String,
        /// What `duet layer` said, or what is wrong with it.
        why: String,
    },
    /// It could not be compiled, or its compiled code could not be kept.
    #[error(transparent)]
    Cache(#[from] duet_wasm::Error),
    /// A file of the wasm half (the program, the runner, the handoff) cannot be used.
    #[error("{step} {path}")]
    File {
        /// What was done with it.
        step: &'static str,
        /// Which file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
}

// === impl Error ===

impl Error {
    /// The failure of a step about the cgroup, for `map_err`.
    pub(crate) fn cgroup(step: &'static str) -> impl FnOnce(duet_cgroup::Error) -> Self {
        move |source| Error::Cgroup { step, source }
    }
}

impl From<Denied> for Error {
    fn from(why: Denied) -> Self {
        Error::Denied(why)
    }
}
