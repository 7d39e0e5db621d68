//! Runs hooks: programs that `config.json` wants at points of a container's life.
//!
//! | Moment | When | Where | As |
//! | --- | --- | --- | --- |
//! | prestart, createRuntime | at the pause before the pivot | the shim's namespaces | the shim |
//! | createContainer | then | the container's and its cgroup; the root is still the host's | the shim; in a user namespace, its root |
//! | startContainer | Start, before the gate opens | the container | the container's process |
//! | poststart | Start, when the program runs | the shim's | the shim |
//! | poststop | Delete, when nothing is left | the shim's | the shim |
//!
//! The first five fail what is being done, and poststart ends the program that began; failures of poststop
//! are logged. So says the specification since 1.3, and so does runc.
//!
//! A hook without `env` has, as under runc, the environment of whoever runs it: the shim's, or in the
//! container's namespaces before the pivot, where runc has cleared its own, none; startContainer has
//! the container's. The specification does not say.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, PipeReader, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use duet_launch::Supplies;
use duet_linux::memfd;
use duet_plan::Helper as HelperPlan;
use duet_spec::{Container, Hook, Moment};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use serde_json::{Value, json};

use crate::children::Children;
use crate::error::{Error, HookError};
use crate::helper::{Helper, Served};
use crate::ledger::Ledger;
use crate::words::Exit;

/// How long a hook may take that does not say: 100 s, of the two minutes that kubelet gives.
const LIMIT: Duration = Duration::from_secs(100);

/// The longest that one may ask for: a day, so that a deadline can be reckoned with.
pub(crate) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How much of what a hook wrote is told when it fails: its last 1024 bytes.
const TAIL: usize = 1024;

/// What a hook is told of its container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State<'a> {
    pub(crate) id: &'a str,
    pub(crate) spec: &'a Container,
    /// Its first process, as the hook would name it; none when it is gone.
    pub(crate) pid: Option<i32>,
}

// === impl State ===

impl State<'_> {
    /// `State` of the OCI runtime specification.
    pub(crate) fn json(&self, status: &str) -> Value {
        let mut state = json!({
            "ociVersion": self.spec.oci_version,
            "id": self.id,
            "status": status,
            "bundle": self.spec.bundle,
            "annotations": self.spec.annotations,
        });
        if let Some(pid) = self.pid {
            state["pid"] = pid.into();
        }
        state
    }

    /// Runs the hooks of one moment, in order, until one fails. `start` makes a process of one
    /// that has this input and output.
    pub(crate) fn run(
        &self,
        moment: Moment,
        start: impl Fn(&Hook, BorrowedFd<'_>, BorrowedFd<'_>) -> Result<Helper, Error>,
    ) -> Result<(), Error> {
        self.each(moment, LONGEST, start).collect()
    }

    /// Runs the hooks of a moment whose failures change nothing, each within `limit`.
    pub(crate) fn run_or_warn(
        &self,
        moment: Moment,
        limit: Duration,
        start: impl Fn(&Hook, BorrowedFd<'_>, BorrowedFd<'_>) -> Result<Helper, Error>,
    ) {
        for failed in self.each(moment, limit, start).filter_map(Result::err) {
            let why = std::error::Error::source(&failed).map(ToString::to_string);
            tracing::warn!(container = %self.id, hook = %failed, why, "hook failed");
        }
    }

    fn each(
        &self,
        moment: Moment,
        limit: Duration,
        start: impl Fn(&Hook, BorrowedFd<'_>, BorrowedFd<'_>) -> Result<Helper, Error>,
    ) -> impl Iterator<Item = Result<(), Error>> {
        let state = self.json(match moment {
            Moment::Prestart | Moment::CreateRuntime | Moment::CreateContainer => "creating",
            Moment::StartContainer => "created",
            Moment::Poststart => "running",
            Moment::Poststop => "stopped",
        });
        let state = state.to_string();
        let hooks = self.spec.hooks.at(moment).iter().enumerate();
        hooks.map(move |(index, hook)| {
            let limit = hook.timeout.unwrap_or(LIMIT).min(limit);
            one(&state, hook, limit, &start).map_err(|source| Error::Hook {
                moment: moment.name(),
                index,
                path: hook.path.clone(),
                source: Box::new(source),
            })
        })
    }
}

/// Runs a hook in the shim's own namespaces, its working directory the bundle, as under runc.
pub(crate) fn beside(
    served: Served<'_>,
    bundle: &Path,
) -> impl Fn(&Hook, BorrowedFd<'_>, BorrowedFd<'_>) -> Result<Helper, Error> {
    let cwd = bundle.display().to_string();
    move |hook, stdin, output| {
        let inherited = match hook.env {
            Some(_) => Vec::new(),
            None => own_environment(),
        };
        let plan = described(hook, &inherited, &cwd).plan()?;
        let supplies = Supplies {
            passed: &[stdin, output, output],
            ..Supplies::default()
        };
        Helper::start(served, &plan, supplies)
    }
}

/// The shim's environment; variables that are no UTF-8 are none that a hook could ask for in JSON.
fn own_environment() -> Vec<String> {
    let variable = |(name, value): (OsString, OsString)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        Some(format!("{name}={value}"))
    };
    env::vars_os().filter_map(variable).collect()
}

/// A hook that is a program of the host's; what it inherits is for one without an environment.
pub(crate) fn described<'a>(
    hook: &'a Hook,
    inherited: &'a [String],
    cwd: &'a str,
) -> HelperPlan<'a> {
    HelperPlan {
        path: &hook.path,
        args: &hook.args,
        env: hook.env.as_deref().unwrap_or(inherited),
        cwd,
        descriptors: &[0, 1, 2],
    }
}

/// Runs the poststop hooks of a container whose shim was killed, within `limit` each.
///
/// # Errors
///
/// [`Error::Spec`] if its bundle can no longer be read; then nobody knows its hooks.
pub fn poststop(id: &str, bundle: &Path, limit: Duration) -> Result<(), Error> {
    let spec = Container::load(bundle)?;
    let (children, ledger) = (Arc::<Children>::default(), nobody());
    let served = Served {
        name: id,
        namespace: "",
        children: &children,
        ledger: &ledger,
    };
    let state = State {
        id,
        spec: &spec,
        pid: None,
    };
    state.run_or_warn(Moment::Poststop, limit, beside(served, bundle));
    Ok(())
}

/// A ledger for helpers that end before whoever started them.
fn nobody() -> Arc<dyn Ledger> {
    #[derive(Debug)]
    struct Nobody;

    impl Ledger for Nobody {
        fn begin(&self, _: i32) -> io::Result<()> {
            Ok(())
        }

        fn enter(&self, _: i32) -> io::Result<()> {
            Ok(())
        }

        fn strike(&self, _: i32) {}

        fn close(&self) {}
    }
    Arc::new(Nobody)
}

/// The number of a process in its own PID namespace, which is the last of those it has.
pub(crate) fn number_inside(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}

fn one(
    state: &str,
    hook: &Hook,
    limit: Duration,
    start: impl Fn(&Hook, BorrowedFd<'_>, BorrowedFd<'_>) -> Result<Helper, Error>,
) -> Result<(), HookError> {
    let failed = |step| move |source| HookError::Call { step, source };
    let stdin = memfd::sealed("state", state.as_bytes()).map_err(failed("write its state"))?;
    let (output, written) = pipe().map_err(failed("make a pipe"))?;
    let mut helper = start(hook, stdin.as_fd(), written.as_fd())?;
    drop(written);
    let mut tail = VecDeque::with_capacity(TAIL);
    let deadline = Instant::now() + limit;
    let exit = follow(&mut helper, output, deadline, &mut tail).map_err(failed("wait for it"))?;
    let output = String::from_utf8_lossy(tail.make_contiguous())
        .trim()
        .to_owned();
    match exit {
        Some(Exit { code: 0, .. }) => Ok(()),
        Some(Exit { code, .. }) => Err(HookError::Ended { code, output }),
        None => Err(HookError::Late { limit, output }),
    }
}

/// Reads what a hook writes until it has ended. What it leaves behind may keep the pipe; nobody
/// waits for that.
fn follow(
    helper: &mut Helper,
    output: PipeReader,
    deadline: Instant,
    tail: &mut VecDeque<u8>,
) -> io::Result<Option<Exit>> {
    rustix::fs::fcntl_setfl(&output, OFlags::NONBLOCK)?;
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds = vec![PollFd::new(helper.process(), PollFlags::IN)];
        if open {
            fds.push(PollFd::new(&output, PollFlags::IN));
        }
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(None),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // Asked first: what it wrote before its end is then there to be read.
        let ended = helper.ended();
        open = open && drain(&output, tail)?;
        if ended.is_some() {
            return Ok(ended);
        }
        // Who writes without end is never waited for above.
        if Instant::now() >= deadline {
            return Ok(None);
        }
    }
}

/// Reads what is there; whether there may be more.
fn drain(output: &PipeReader, tail: &mut VecDeque<u8>) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    // A pipe's capacity at a time: one who writes without end is looked at in between.
    for _ in 0..16 {
        match rustix::io::read(output, &mut buffer[..]) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                tail.extend(buffer.iter().take(count));
                tail.drain(..tail.len().saturating_sub(TAIL));
            }
            Err(rustix::io::Errno::AGAIN) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_kibibyte() {
        let (reader, mut writer) = pipe().unwrap();
        rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK).unwrap();
        io::Write::write_all(&mut writer, &[b'a'; 5000]).unwrap();
        io::Write::write_all(&mut writer, b"last").unwrap();
        let mut tail = VecDeque::new();
        assert!(drain(&reader, &mut tail).unwrap());
        assert_eq!(tail.len(), TAIL);
        assert!(tail.make_contiguous().ends_with(b"aalast"));
        drop(writer);
        assert!(!drain(&reader, &mut tail).unwrap());
    }

    #[test]
    fn a_process_outside_of_any_pid_namespace_has_one_number() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(number_inside(own), Some(own));
    }
}
