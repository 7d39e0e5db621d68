//! Errors out: the only file that knows ttrpc's status codes.
//!
//! containerd acts on the code alone. `NOT_FOUND` makes it believe that the thing is gone
//! and clean up, so it is said only where that is true; `UNIMPLEMENTED` from Create or
//! Connect makes it try an older protocol, so it is said of Checkpoint only. Every variant
//! has its line: a new error does not compile until someone has chosen its code.

use std::error::Error as _;
use std::io;

use duet_pod::{ContainerError, Denied, Error as PodError, HookError, LoggerError, WasmError};
use ttrpc::{Code, Error as TtrpcError};

use crate::options;

/// Why a request is not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The pod says no. Boxed, because it is far larger than an answer.
    #[error(transparent)]
    Pod(Box<PodError>),
    /// The request's runtime options cannot be understood.
    #[error("options")]
    Options(#[from] options::Error),
    /// CRI's message about a pod does not parse.
    #[error("PodSandboxConfig")]
    PodSandboxConfig(#[source] prost::DecodeError),
    /// A field that the call needs is absent.
    #[error("{field} is missing")]
    Missing {
        /// Its name in the request.
        field: &'static str,
    },
    /// A field holds a message of another type.
    #[error("{field} is of type {found:?}, not {expected}")]
    Type {
        /// Its name in the request.
        field: &'static str,
        /// The type it has.
        found: String,
        /// The end of the types it may have.
        expected: &'static str,
    },
    /// A field asks for something that Duet does not do.
    #[error("{field} {value:?}: {why}")]
    NotOffered {
        /// Its name in the request.
        field: &'static str,
        /// What it says.
        value: String,
        /// A sentence for the person who asked.
        why: &'static str,
    },
    /// The call as a whole is not offered.
    #[error("{0}")]
    Unimplemented(&'static str),
    /// The last container is gone, and the shim goes.
    #[error("the shim ends: its pod is over")]
    Over,
    /// The task that served the request ended without an answer: a bug of ours.
    #[error("the request was dropped")]
    Dropped,
}

/// The name of a code in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome(Code);

/// Whether containerd itself refused an event: sending it again would change nothing.
pub(crate) fn is_answer(error: &TtrpcError) -> bool {
    let TtrpcError::RpcStatus(status) = error else {
        return false;
    };
    [
        Code::INVALID_ARGUMENT,
        Code::NOT_FOUND,
        Code::FAILED_PRECONDITION,
        Code::PERMISSION_DENIED,
        Code::UNIMPLEMENTED,
    ]
    .contains(&status.code())
}

// === impl Refusal ===

impl From<PodError> for Refusal {
    fn from(error: PodError) -> Self {
        Self::Pod(Box::new(error))
    }
}

impl Refusal {
    /// The answer that goes over the wire: the code, and the whole chain in one line.
    pub(crate) fn answer(&self) -> TtrpcError {
        TtrpcError::RpcStatus(ttrpc::get_status(self.code(), self.text()))
    }

    /// The code, for the log.
    pub(crate) fn outcome(&self) -> Outcome {
        Outcome(self.code())
    }

    /// What went wrong and why, joined once, here.
    pub(crate) fn text(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }

    fn code(&self) -> Code {
        match self {
            Self::Pod(error) => pod(error),
            Self::Options(_)
            | Self::PodSandboxConfig(_)
            | Self::Missing { .. }
            | Self::Type { .. }
            | Self::NotOffered { .. } => Code::INVALID_ARGUMENT,
            Self::Unimplemented(_) => Code::UNIMPLEMENTED,
            Self::Over => Code::UNAVAILABLE,
            Self::Dropped => Code::INTERNAL,
        }
    }
}

fn pod(error: &PodError) -> Code {
    match error {
        PodError::Unknown { .. } => Code::NOT_FOUND,
        PodError::Exists { .. } => Code::ALREADY_EXISTS,
        PodError::BadId { .. } | PodError::Wish { .. } => Code::INVALID_ARGUMENT,
        PodError::Container { source, .. } => container(source),
        PodError::Sandbox { source, .. }
        | PodError::Label { source, .. }
        | PodError::Record { source, .. }
        | PodError::Host { source, .. } => errno(source),
    }
}

fn container(error: &ContainerError) -> Code {
    match error {
        ContainerError::UnknownExec { .. } | ContainerError::Gone => Code::NOT_FOUND,
        ContainerError::ExecExists { .. } => Code::ALREADY_EXISTS,
        ContainerError::Denied(why) => denied(why),
        ContainerError::Unsupported { .. } | ContainerError::Invalid { .. } => {
            Code::INVALID_ARGUMENT
        }
        ContainerError::NoTerminal => Code::FAILED_PRECONDITION,
        ContainerError::Stdio { source, .. }
        | ContainerError::Terminal { source, .. }
        | ContainerError::Rootfs { source, .. }
        | ContainerError::Signal { source, .. }
        | ContainerError::Agent { source, .. }
        | ContainerError::NetDevice { source, .. }
        | ContainerError::Resctrl { source, .. }
        | ContainerError::Host { source, .. } => errno(source),
        ContainerError::Spec(error) => spec(error),
        ContainerError::Plan(error) => plan(error),
        ContainerError::Cgroup { source, .. } => cgroup(source),
        ContainerError::Starved { .. } => Code::RESOURCE_EXHAUSTED,
        ContainerError::Launch(error) => launch(error),
        ContainerError::Wasm(error) => wasm(error),
        ContainerError::Logger { source, .. } => logger(source),
        ContainerError::Hook { source, .. } => hook(source),
    }
}

fn hook(error: &HookError) -> Code {
    match error {
        HookError::Start(error) => container(error),
        HookError::Call { source, .. } => errno(source),
        HookError::Ended { .. } => Code::FAILED_PRECONDITION,
        HookError::Late { .. } => Code::DEADLINE_EXCEEDED,
    }
}

fn logger(error: &LoggerError) -> Code {
    match error {
        LoggerError::Start(error) => container(error),
        LoggerError::Pipe { source, .. } => errno(source),
        LoggerError::Ended(_) | LoggerError::Mute => Code::FAILED_PRECONDITION,
        LoggerError::Silent(_) => Code::DEADLINE_EXCEEDED,
    }
}

fn denied(why: &Denied) -> Code {
    match why {
        // Callers of Kill and Delete take it for "gone", which is what they want to hear.
        Denied::AlreadyStopped => Code::NOT_FOUND,
        Denied::NotStarted | Denied::WrongState { .. } => Code::FAILED_PRECONDITION,
    }
}

fn spec(error: &duet_spec::Error) -> Code {
    use duet_spec::Error;
    match error {
        // A bundle without a config.json is the caller's mistake; a disk that fails is not.
        Error::Read { source, .. } if source.kind() != io::ErrorKind::NotFound => errno(source),
        Error::Read { .. }
        | Error::Syntax { .. }
        | Error::Type { .. }
        | Error::Missing { .. }
        | Error::NotOffered { .. }
        | Error::Value { .. } => Code::INVALID_ARGUMENT,
    }
}

fn plan(error: &duet_plan::Error) -> Code {
    use duet_plan::Error;
    match error {
        Error::MountNamespace
        | Error::SourceMissing { .. }
        | Error::InsideProc { .. }
        | Error::Sysctl { .. }
        | Error::Name { .. }
        | Error::Refused { .. }
        | Error::Seccomp(_)
        | Error::TooMuch { .. } => Code::INVALID_ARGUMENT,
    }
}

fn cgroup(error: &duet_cgroup::Error) -> Code {
    use duet_cgroup::Error;
    match error {
        Error::Path { .. } | Error::Unsupported { .. } => Code::INVALID_ARGUMENT,
        Error::NoHierarchy | Error::Occupied { .. } | Error::InUse { .. } => {
            Code::FAILED_PRECONDITION
        }
        Error::Timeout { .. } => Code::DEADLINE_EXCEEDED,
        // The cgroup's absence is not the task's: NOT_FOUND would be a lie.
        Error::Gone { .. } | Error::Format { .. } => Code::INTERNAL,
        // The kernel read a value of ours and said no: the value is the caller's.
        Error::Refused { source, .. } => {
            scarcity(&io::Error::from(*source)).unwrap_or(Code::INVALID_ARGUMENT)
        }
        Error::Call { source, .. }
        | Error::Devices { source, .. }
        | Error::Watch { source }
        | Error::Bus { source, .. } => errno(&io::Error::from(*source)),
        Error::Systemd { .. } | Error::Job { .. } => Code::FAILED_PRECONDITION,
    }
}

fn launch(error: &duet_launch::Error) -> Code {
    use duet_launch::Error;
    match error {
        Error::Call { number, .. } => errno(&io::Error::from_raw_os_error(*number)),
        Error::Silent(_) => Code::DEADLINE_EXCEEDED,
        Error::Step { .. }
        | Error::Open { .. }
        | Error::Missing(_)
        | Error::Plan(_)
        | Error::Unheard
        | Error::Died(_) => Code::INTERNAL,
    }
}

fn wasm(error: &WasmError) -> Code {
    match error {
        WasmError::NotWasm { .. } | WasmError::BadMagic { .. } | WasmError::Absent { .. } => {
            Code::INVALID_ARGUMENT
        }
        WasmError::Layer { .. } => Code::FAILED_PRECONDITION,
        WasmError::Cache(error) => cache(error),
        WasmError::File { source, .. } => errno(source),
    }
}

fn cache(error: &duet_wasm::Error) -> Code {
    use duet_wasm::Error;
    match error {
        Error::TooLarge { .. } | Error::Refused { .. } => Code::INVALID_ARGUMENT,
        Error::Exposed { .. } | Error::Noexec { .. } => Code::FAILED_PRECONDITION,
        Error::Late { .. } => Code::DEADLINE_EXCEEDED,
        Error::Broken { .. } | Error::Unloadable { .. } => Code::INTERNAL,
        Error::Postponed { failure, .. } => cache(failure),
        Error::Directory { source, .. }
        | Error::Compiler { source, .. }
        | Error::Workshop { source, .. }
        | Error::Module { source, .. }
        | Error::Entry { source, .. } => errno(source),
    }
}

/// What the kernel's answer means to a caller.
fn errno(error: &io::Error) -> Code {
    scarcity(error).unwrap_or(Code::INTERNAL)
}

/// The code for something that has run out: a caller could try again later.
fn scarcity(error: &io::Error) -> Option<Code> {
    use nix::libc::{EAGAIN, EMFILE, ENFILE, ENOMEM, ENOSPC};
    matches!(
        error.raw_os_error(),
        Some(ENOMEM | EMFILE | ENFILE | EAGAIN | ENOSPC)
    )
    .then_some(Code::RESOURCE_EXHAUSTED)
}

// === impl Outcome ===

impl Outcome {
    /// The request was done.
    pub(crate) const DONE: Self = Self(Code::OK);

    /// Whether an operator should hear of it: what was asked for did not happen, and not
    /// because it is the case already.
    pub(crate) fn is_failure(self) -> bool {
        ![Code::OK, Code::NOT_FOUND].contains(&self.0)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::HashSet;
    use std::mem::discriminant;
    use std::path::PathBuf;
    use std::time::Duration;

    use duet_container::lifecycle::{State, Verb};
    use nix::errno::Errno;
    use nix::libc::{EIO, EMFILE};

    /// One row per variant: the error, and the code containerd gets.
    macro_rules! table {
        ($name:ident, $variants:literal, $code:path, $($error:expr => $expected:ident),* $(,)?) => {
            #[test]
            fn $name() {
                let rows = [$(($error, Code::$expected)),*];
                let variants: HashSet<_> = rows.iter().map(|(error, _)| discriminant(error)).collect();
                assert_eq!(variants.len(), $variants, "a variant has no row");
                for (error, expected) in rows {
                    assert_eq!($code(&error), expected, "{error}");
                }
            }
        };
    }

    fn text() -> String {
        "x".to_owned()
    }

    fn path() -> PathBuf {
        PathBuf::from("/x")
    }

    fn broken() -> io::Error {
        io::Error::from_raw_os_error(EIO)
    }

    fn scarce() -> io::Error {
        io::Error::from_raw_os_error(EMFILE)
    }

    fn json() -> serde_json::Error {
        serde_json::from_str::<()>("{").unwrap_err()
    }

    table!(refusals, 8, Refusal::code,
        Refusal::from(PodError::Unknown { id: text() }) => NOT_FOUND,
        Refusal::Options(options::Error::Unsupported { key: "x" }) => INVALID_ARGUMENT,
        Refusal::Missing { field: "x" } => INVALID_ARGUMENT,
        Refusal::Type { field: "x", found: text(), expected: "y" } => INVALID_ARGUMENT,
        Refusal::NotOffered { field: "x", value: text(), why: "y" } => INVALID_ARGUMENT,
        Refusal::Unimplemented("x") => UNIMPLEMENTED,
        Refusal::Over => UNAVAILABLE,
        Refusal::Dropped => INTERNAL,
    );

    table!(pods, 8, pod,
        PodError::Unknown { id: text() } => NOT_FOUND,
        PodError::Exists { id: text() } => ALREADY_EXISTS,
        PodError::BadId { id: text() } => INVALID_ARGUMENT,
        PodError::Container { id: text(), source: ContainerError::Gone } => NOT_FOUND,
        PodError::Sandbox { id: text(), step: "x", source: broken() } => INTERNAL,
        PodError::Label { id: text(), label: text(), path: path(), source: broken() } => INTERNAL,
        PodError::Record { step: "x", path: path(), source: broken() } => INTERNAL,
        PodError::Host { step: "x", source: scarce() } => RESOURCE_EXHAUSTED,
    );

    table!(containers, 23, container,
        ContainerError::Resctrl { step: "x", path: path(), asked: text(), status: text(), source: scarce() } => RESOURCE_EXHAUSTED,
        ContainerError::NetDevice { device: String::new(), name: String::new(), step: "find it", source: broken() } => INTERNAL,
        ContainerError::Agent { path: path(), source: broken() } => INTERNAL,
        ContainerError::Hook {
            moment: "poststart", index: 0, path: text(), source: Box::new(HookError::Ended { code: 1, output: text() }),
        } => FAILED_PRECONDITION,
        ContainerError::Logger { stream: "stdout", uri: text(), source: Box::new(LoggerError::Mute) }
            => FAILED_PRECONDITION,
        ContainerError::UnknownExec { exec: text() } => NOT_FOUND,
        ContainerError::ExecExists { exec: text() } => ALREADY_EXISTS,
        ContainerError::Denied(Denied::AlreadyStopped) => NOT_FOUND,
        ContainerError::Denied(Denied::NotStarted) => FAILED_PRECONDITION,
        ContainerError::Denied(Denied::WrongState { verb: Verb::Start, state: State::Running })
            => FAILED_PRECONDITION,
        ContainerError::Gone => NOT_FOUND,
        ContainerError::Unsupported { field: "x", value: text() } => INVALID_ARGUMENT,
        ContainerError::Invalid { field: "x", value: text(), why: "y" } => INVALID_ARGUMENT,
        ContainerError::Stdio { step: "x", stream: "y", path: text(), source: broken() }
            => INTERNAL,
        ContainerError::NoTerminal => FAILED_PRECONDITION,
        ContainerError::Terminal { step: "x", source: broken() } => INTERNAL,
        ContainerError::Rootfs { step: text(), target: path(), source: broken() } => INTERNAL,
        ContainerError::Signal { signal: 9, pid: 1, source: broken() } => INTERNAL,
        ContainerError::Host { step: "x", source: scarce() } => RESOURCE_EXHAUSTED,
        ContainerError::Spec(duet_spec::Error::Missing { document: text(), field: text() })
            => INVALID_ARGUMENT,
        ContainerError::Plan(duet_plan::Error::MountNamespace) => INVALID_ARGUMENT,
        ContainerError::Cgroup { step: "x", source: duet_cgroup::Error::NoHierarchy }
            => FAILED_PRECONDITION,
        ContainerError::Starved { limit: None, source: duet_launch::Error::Missing(text()) } => RESOURCE_EXHAUSTED,
        ContainerError::Launch(duet_launch::Error::Missing(text())) => INTERNAL,
        ContainerError::Wasm(WasmError::NotWasm { annotation: "x", file: text() })
            => INVALID_ARGUMENT,
    );

    table!(specs, 6, spec,
        duet_spec::Error::Read { file: path(), source: broken() } => INTERNAL,
        duet_spec::Error::Read { file: path(), source: io::ErrorKind::NotFound.into() }
            => INVALID_ARGUMENT,
        duet_spec::Error::Syntax { document: text(), source: json() } => INVALID_ARGUMENT,
        duet_spec::Error::Type { document: text(), field: text(), source: json() }
            => INVALID_ARGUMENT,
        duet_spec::Error::Missing { document: text(), field: text() } => INVALID_ARGUMENT,
        duet_spec::Error::NotOffered { document: text(), field: text(), value: text() }
            => INVALID_ARGUMENT,
        duet_spec::Error::Value { document: text(), field: text(), value: text(), why: "y" }
            => INVALID_ARGUMENT,
    );

    table!(cgroups, 15, cgroup,
        duet_cgroup::Error::NoHierarchy => FAILED_PRECONDITION,
        duet_cgroup::Error::Path { path: path(), why: "y" } => INVALID_ARGUMENT,
        duet_cgroup::Error::Unsupported { field: text(), value: text(), why: "y" }
            => INVALID_ARGUMENT,
        duet_cgroup::Error::Occupied { path: path(), count: 1 } => FAILED_PRECONDITION,
        duet_cgroup::Error::Gone { path: path() } => INTERNAL,
        duet_cgroup::Error::Call { action: "x", path: path(), source: Errno::EMFILE }
            => RESOURCE_EXHAUSTED,
        duet_cgroup::Error::Refused { file: text(), value: text(), source: Errno::EINVAL }
            => INVALID_ARGUMENT,
        duet_cgroup::Error::Refused { file: text(), value: text(), source: Errno::ENOMEM }
            => RESOURCE_EXHAUSTED,
        duet_cgroup::Error::InUse { file: "x", value: 1, in_use: 2 } => FAILED_PRECONDITION,
        duet_cgroup::Error::Format { path: path(), text: text() } => INTERNAL,
        duet_cgroup::Error::Timeout { path: path(), state: "x", after: Duration::ZERO }
            => DEADLINE_EXCEEDED,
        duet_cgroup::Error::Devices { step: "x", source: Errno::EPERM } => INTERNAL,
        duet_cgroup::Error::Watch { source: Errno::ENOSPC } => RESOURCE_EXHAUSTED,
        duet_cgroup::Error::Bus { step: "x", path: path(), source: Errno::ENOENT } => INTERNAL,
        duet_cgroup::Error::Systemd { call: "x", unit: "a".into(), name: "b".into(), text: "c".into() }
            => FAILED_PRECONDITION,
        duet_cgroup::Error::Job { call: "x", unit: "a".into(), result: "b".into() }
            => FAILED_PRECONDITION,
    );

    table!(launches, 7, launch,
        duet_launch::Error::Unheard => INTERNAL,
        duet_launch::Error::Step { text: text() } => INTERNAL,
        duet_launch::Error::Open { what: "x", path: path(), why: text() } => INTERNAL,
        duet_launch::Error::Missing(text()) => INTERNAL,
        duet_launch::Error::Plan("x") => INTERNAL,
        duet_launch::Error::Call { call: "clone3", errno: text(), number: nix::libc::EAGAIN }
            => RESOURCE_EXHAUSTED,
        duet_launch::Error::Silent(Duration::ZERO) => DEADLINE_EXCEEDED,
    );

    table!(loggers, 5, logger,
        LoggerError::Start(ContainerError::Gone) => NOT_FOUND,
        LoggerError::Pipe { step: "x", source: scarce() } => RESOURCE_EXHAUSTED,
        LoggerError::Ended(1) => FAILED_PRECONDITION,
        LoggerError::Mute => FAILED_PRECONDITION,
        LoggerError::Silent(Duration::ZERO) => DEADLINE_EXCEEDED,
    );

    table!(hooks, 4, hook,
        HookError::Start(ContainerError::Gone) => NOT_FOUND,
        HookError::Call { step: "x", source: scarce() } => RESOURCE_EXHAUSTED,
        HookError::Ended { code: 1, output: text() } => FAILED_PRECONDITION,
        HookError::Late { limit: Duration::ZERO, output: text() } => DEADLINE_EXCEEDED,
    );

    fn postponed(failure: duet_wasm::Error) -> duet_wasm::Error {
        duet_wasm::Error::Postponed {
            failure: Box::new(failure),
            again: duet_wasm::Moment::of(std::time::UNIX_EPOCH),
        }
    }

    table!(caches, 13, cache,
        duet_wasm::Error::Directory { path: path(), source: scarce() } => RESOURCE_EXHAUSTED,
        duet_wasm::Error::Exposed { path: path(), owner: 1, mode: 0o777 } => FAILED_PRECONDITION,
        duet_wasm::Error::Noexec { path: path() } => FAILED_PRECONDITION,
        duet_wasm::Error::Compiler { path: path(), source: broken() } => INTERNAL,
        duet_wasm::Error::Workshop { name: text(), source: broken() } => INTERNAL,
        duet_wasm::Error::Module { name: text(), source: broken() } => INTERNAL,
        duet_wasm::Error::TooLarge { name: text(), size: 2, limit: 1 } => INVALID_ARGUMENT,
        duet_wasm::Error::Refused { name: text(), why: text() } => INVALID_ARGUMENT,
        duet_wasm::Error::Broken { name: text(), how: text() } => INTERNAL,
        duet_wasm::Error::Unloadable { name: text(), how: text() } => INTERNAL,
        duet_wasm::Error::Late { name: text(), waited: Duration::ZERO, what: "x" }
            => DEADLINE_EXCEEDED,
        postponed(duet_wasm::Error::Broken { name: text(), how: text() }) => INTERNAL,
        postponed(duet_wasm::Error::Late { name: text(), waited: Duration::ZERO, what: "x" })
            => DEADLINE_EXCEEDED,
        duet_wasm::Error::Entry { path: path(), source: broken() } => INTERNAL,
    );

    #[test]
    fn the_answer_joins_the_chain_once() {
        let source = ContainerError::UnknownExec {
            exec: "e".to_owned(),
        };
        let refusal = Refusal::from(PodError::Container {
            id: "web".to_owned(),
            source,
        });
        let TtrpcError::RpcStatus(status) = refusal.answer() else {
            panic!("not a status")
        };
        assert_eq!(status.code(), Code::NOT_FOUND);
        assert_eq!(status.message(), "container web: no exec e");
    }
}
