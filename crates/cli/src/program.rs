//! The programs that Duet calls by name: `containerd`, `ctr`, `iptables`, `ldd`, `systemctl`.

use crate::error::Error;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Runs a program to its end and returns its standard output.
///
/// It has a process group of its own: Ctrl-C is for Duet to handle.
pub(crate) fn output(
    program: &str,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<String, Error> {
    let failed = |output: String| Error::Program {
        program: program.to_owned(),
        output,
    };
    let result = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .process_group(0)
        .output()
        .map_err(|error| failed(format!("could not be started: {error}")))?;
    if result.status.success() {
        return Ok(String::from_utf8_lossy(&result.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&result.stderr);
    let text = match text.trim() {
        "" => result.status.to_string(),
        text => text.to_owned(),
    };
    Err(failed(text))
}

/// [`output`], off the runtime's thread.
pub(crate) async fn run(program: &'static str, arguments: Vec<String>) -> Result<String, Error> {
    let work = tokio::task::spawn_blocking(move || output(program, arguments));
    work.await.map_err(|error| Error::Program {
        program: program.to_owned(),
        output: error.to_string(),
    })?
}

/// Where a program lies in `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}
