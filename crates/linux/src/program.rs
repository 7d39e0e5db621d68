//! This process's own program, started again from where nobody can write to it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;

use crate::mount;

/// This process's own program, on a detached read-only copy of its mount.
///
/// A container can execute the program that gave birth to it: a script whose interpreter is
/// `/proc/self/exe` is enough, or a library path that leads there. It can then open that file
/// for writing, as root of the host (CVE-2019-5736), unless the file was executed from a mount
/// that is read-only and that nobody can reach to change. So whoever gives birth must itself
/// have been started by [`Guarded::command`].
///
/// Such a process has its program's name as ever, in `comm` and as the last part of
/// `/proc/<pid>/exe`, but [`std::env::current_exe`] has lost the directory. Its `argv[0]` is
/// the absolute path instead.
#[derive(Debug)]
pub struct Guarded {
    tree: OwnedFd,
    name: OsString,
    path: PathBuf,
}

// === impl Guarded ===

impl Guarded {
    /// The program of the calling process.
    ///
    /// # Errors
    ///
    /// The kernel's: `ENOENT` when the program was deleted or replaced while it runs, `EPERM`
    /// without `CAP_SYS_ADMIN`, `EINVAL` when its mount may not be copied.
    pub fn own() -> io::Result<Self> {
        Self::of(std::env::current_exe()?)
    }

    /// The program at an absolute path.
    ///
    /// # Errors
    ///
    /// As [`Guarded::own`], and `InvalidInput` for a path that does not end in a name.
    pub fn of(path: PathBuf) -> io::Result<Self> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // Of the directory: executed as `/proc/self/fd/7` itself the program would be called 7.
        // With what is mounted below, for the program may be such a mount.
        let tree = mount::clone_tree(directory, true)?;
        mount::make_read_only(&tree)?;
        let name = name.to_owned();
        Ok(Self { tree, name, path })
    }

    /// A command that starts it. The value must live until then; what is started holds no
    /// descriptor of the copy, which goes with its last process.
    #[must_use]
    pub fn command(&self) -> Command {
        use std::os::unix::process::CommandExt;

        let directory = PathBuf::from(format!("/proc/self/fd/{}", self.tree.as_raw_fd()));
        let mut command = Command::new(directory.join(&self.name));
        command.arg0(&self.path);
        command
    }
}
