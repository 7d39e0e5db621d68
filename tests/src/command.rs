//! Running a program: with a deadline, and with everything it said.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::wait::{self, patience};

/// What a program left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit code; 128 + n when signal n ended it.
    pub code: i32,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

/// A program that is still running, and what it has said so far.
#[derive(Debug)]
pub struct Running {
    child: Child,
    name: String,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    readers: Vec<thread::JoinHandle<()>>,
}

/// Runs `command` to its end.
///
/// # Panics
///
/// When it cannot be started or does not end within [`patience`].
pub fn run(command: &mut Command) -> Outcome {
    start(command.stdin(Stdio::null())).wait()
}

/// Runs `command` with `input` on its standard input.
///
/// # Panics
///
/// As [`run`].
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Outcome {
    let mut running = start(command.stdin(Stdio::piped()));
    let mut stdin = running.child.stdin.take().expect("stdin is a pipe");
    // A program may end without reading; what it then does is for the test to judge.
    let _written = stdin.write_all(input);
    drop(stdin);
    running.wait()
}

/// Starts `command`; its output is collected while it runs.
///
/// # Panics
///
/// When it cannot be started.
pub fn start(command: &mut Command) -> Running {
    let name = format!("{command:?}");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let stdout = Arc::new(Mutex::new(Vec::new()));
    let stderr = Arc::new(Mutex::new(Vec::new()));
    let readers = vec![
        collect(
            child.stdout.take().expect("stdout is a pipe"),
            Arc::clone(&stdout),
        ),
        collect(
            child.stderr.take().expect("stderr is a pipe"),
            Arc::clone(&stderr),
        ),
    ];
    Running {
        child,
        name,
        stdout,
        stderr,
        readers,
    }
}

// === impl Outcome ===

impl Outcome {
    /// The outcome itself if the program ended with 0.
    ///
    /// # Panics
    ///
    /// When it did not, with all that it said.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }
}

// === impl Running ===

impl Running {
    /// The process id of the program.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to its standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// What it has written to its standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// Whether it says anything on its standard output, or ends, within `limit`.
    pub(crate) fn said_within(&self, limit: Duration) -> bool {
        let silent = || {
            let ended = self.readers.iter().all(thread::JoinHandle::is_finished);
            (ended || !lock(&self.stdout).is_empty()).then_some(())
        };
        wait::within(limit, silent).is_some() && !lock(&self.stdout).is_empty()
    }

    /// Waits until `needle` stands in its standard output.
    ///
    /// # Panics
    ///
    /// When the program ends without having said it, or stays silent for too long.
    pub fn says(&mut self, needle: &str) {
        let said = wait::within(patience(), || {
            if self.stdout().contains(needle) {
                return Some(true);
            }
            let ended = self.child.try_wait().expect("our own child").is_some();
            (ended && self.readers.iter().all(thread::JoinHandle::is_finished))
                .then(|| self.stdout().contains(needle))
        });
        assert!(
            said == Some(true),
            "{} did not say {needle:?}\nstdout: {}\nstderr: {}",
            self.name,
            self.stdout(),
            self.stderr()
        );
    }

    /// Asks the program to end.
    pub fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).expect("a pid is small");
        let pid = nix::unistd::Pid::from_raw(pid);
        // It may have ended by itself in the meantime.
        let _sent = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    }

    /// Whether the program has ended.
    ///
    /// # Panics
    ///
    /// Never: a child of ours can be asked about.
    #[must_use]
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_some()
    }

    /// Waits until the program has ended and its output is complete.
    ///
    /// # Panics
    ///
    /// When it does not end within [`patience`].
    pub fn wait(self) -> Outcome {
        self.wait_within(patience())
    }

    /// Waits until the program has ended and its output is complete.
    ///
    /// # Panics
    ///
    /// When it does not end within `limit`.
    pub fn wait_within(mut self, limit: Duration) -> Outcome {
        let status = wait::within(limit, || self.child.try_wait().expect("our own child"));
        let Some(status) = status else {
            let (stdout, stderr) = (self.stdout(), self.stderr());
            panic!(
                "{} did not end in {limit:?}\nstdout: {stdout}\nstderr: {stderr}",
                self.name
            );
        };
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader does not panic");
        }
        Outcome {
            code: code(status),
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }
}

impl Drop for Running {
    /// A program does not outlive the test that started it.
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn collect(
    mut from: impl Read + Send + 'static,
    into: Arc<Mutex<Vec<u8>>>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            lock(&into).extend_from_slice(&buffer[..count]);
        }
    })
}

fn text(bytes: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&lock(bytes)).into_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
