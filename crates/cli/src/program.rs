//! The programs that Duet calls by name: `containerd`, `ctr`, `iptables`, `ldd`, `systemctl`.

use crate::error::Error;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where administrators' programs lie, which the `PATH` of Debian's plain `su` leaves out: iptables, runc.
const FURTHER: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

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
    let result = Command::new(find(program).unwrap_or_else(|| program.into()))
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

/// Where a program lies in [`path`]; one with a `/` in its name is where that says.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&path())
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// `PATH`, and behind it where programs of administrators lie.
pub(crate) fn path() -> OsString {
    extended(&std::env::var_os("PATH").unwrap_or_default())
}

fn extended(path: &OsStr) -> OsString {
    let mut directories: Vec<PathBuf> = std::env::split_paths(path).collect();
    for further in FURTHER.map(PathBuf::from) {
        if !directories.contains(&further) {
            directories.push(further);
        }
    }
    // What was split joins again.
    std::env::join_paths(directories).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::extended;

    #[test]
    fn administrators_programs_are_looked_for_last_and_once() {
        for (path, expected) in [
            ("/bin", "/bin:/usr/local/sbin:/usr/sbin:/sbin"),
            ("/usr/sbin:/bin", "/usr/sbin:/bin:/usr/local/sbin:/sbin"),
        ] {
            assert_eq!(extended(path.as_ref()), expected);
        }
    }
}
