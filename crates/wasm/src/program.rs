//! A program of this build, which stays what it is while a pod lives.
//!
//! An upgrade puts other programs in their places under running pods. A pod that opened its compiler only
//! then would fill the cache, under the name of the old compiler's code, with the new one's; and a runner of
//! another build would not understand its handoff.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

/// A program that is held open, for all who have a copy of this.
#[derive(Debug, Clone)]
pub struct Program(Arc<Held>);

#[derive(Debug)]
struct Held {
    path: PathBuf,
    file: OnceLock<File>,
}

// === impl Program ===

impl Program {
    /// The program that is at `path` now. If there is none, the first that is found there.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let program = Self(Arc::new(Held {
            path: path.into(),
            file: OnceLock::new(),
        }));
        // Whoever needs it is told why it cannot be had.
        drop(program.file());
        program
    }

    /// Where it was found, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The program itself, open for reading.
    ///
    /// # Errors
    ///
    /// When it is not there.
    pub fn file(&self) -> io::Result<&File> {
        if let Some(file) = self.0.file.get() {
            return Ok(file);
        }
        let file = File::open(&self.0.path)?;
        Ok(self.0.file.get_or_init(|| file))
    }

    /// To run it, whatever lies at its path.
    pub(crate) fn command(&self) -> io::Result<Command> {
        let file = self.file()?;
        // An interpreter opens its script once more, when that is open here alone. Whoever may not look into other
        // processes (`CAP_SYS_PTRACE`) has no need to, for a program.
        let mut head = [0; 2];
        let is_script = file.read_at(&mut head, 0)? == head.len() && head == *b"#!";
        let whose = if is_script {
            std::process::id().to_string()
        } else {
            "self".to_owned()
        };
        let mut command = Command::new(format!("/proc/{whose}/fd/{}", file.as_raw_fd()));
        command.arg0(self.0.path.file_name().unwrap_or(OsStr::new("program")));
        Ok(command)
    }
}
