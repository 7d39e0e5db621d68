//! One run of the compiler.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Error;

/// How much of what the compiler says is repeated: 4 KiB.
const SENTENCE: usize = 4096;

/// Compiles `module` into `code`. The compiler is gone when this returns.
pub(super) fn run(
    compiler: &Path,
    mut module: File,
    code: File,
    name: &str,
    deadline: Instant,
) -> Result<(), Error> {
    let failed = |source| Error::Compiler {
        path: compiler.to_owned(),
        source,
    };
    let began = Instant::now();
    module.rewind().map_err(failed)?;
    let mut child = Command::new(compiler)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(module))
        .stdout(Stdio::from(code))
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let stderr = child.stderr.take();
    let waited = match stderr {
        Some(stderr) => listen(&child, stderr, deadline),
        None => Err(io::Error::other("no pipe")),
    };
    if waited.as_ref().map_or(true, Option::is_none) {
        // It may have ended just now, which is as good.
        child.kill().map_err(failed)?;
    }
    let status = child.wait().map_err(failed)?;
    match waited.map_err(failed)? {
        Some(text) => judge(status, &text, name),
        None => Err(Error::Late {
            name: name.to_owned(),
            waited: began.elapsed(),
            what: "the compiler is still at it",
        }),
    }
}

/// Collects what the compiler says until it ends; `None` if the deadline comes first.
fn listen(child: &Child, mut stderr: ChildStderr, deadline: Instant) -> io::Result<Option<String>> {
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let mut text = Vec::new();
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds = [
            PollFd::new(&ended, PollFlags::IN),
            PollFd::new(&stderr, PollFlags::IN),
        ];
        let watched = if open { 2 } else { 1 };
        match poll(fds.get_mut(..watched).unwrap_or_default(), Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let [process, pipe] = fds.map(|fd| !fd.revents().is_empty());
        if pipe {
            let mut buffer = [0; 1024];
            let read = stderr.read(&mut buffer)?;
            open = read > 0;
            text.extend(
                buffer
                    .iter()
                    .take(read.min(SENTENCE - text.len().min(SENTENCE))),
            );
        } else if process {
            return Ok(Some(String::from_utf8_lossy(&text).trim().to_owned()));
        }
    }
}

/// What the compiler's end means.
fn judge(status: ExitStatus, text: &str, name: &str) -> Result<(), Error> {
    let name = name.to_owned();
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(1), _) if !text.is_empty() => Err(Error::Refused {
            name,
            why: text.to_owned(),
        }),
        (Some(code), _) => Err(Error::Broken {
            name,
            how: format!("ended with {code}: {}", first(text)),
        }),
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            let hint = match signal {
                9 | 24 => " (out of time or memory)",
                25 => " (too much code)",
                _ => "",
            };
            let how = format!("was ended by signal {signal}{hint}: {}", first(text));
            Err(Error::Broken { name, how })
        }
    }
}

fn first(text: &str) -> &str {
    text.lines()
        .next()
        .filter(|line| !line.is_empty())
        .unwrap_or("it said nothing")
}
