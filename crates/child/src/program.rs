//! The working directory and the program, as the container's user sees them.

use core::ffi::CStr;

use duet_step::{Op, Texts};

use crate::fault::Fault;
use crate::run::Child;
use crate::syscalls::{self, NO_MAGICLINKS, PlainCall, plain};

/// `PROC_SUPER_MAGIC`.
const PROCFS: i64 = 0x9fa0;

/// Goes to a directory of the container and makes sure that it is one.
///
/// A cwd like `/proc/self/fd/7` is refused while it is walked, and one that is not below the
/// root afterwards (CVE-2024-21626).
pub(crate) fn enter(path: &CStr) -> Result<(), Fault> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    match syscalls::openat2(libc::AT_FDCWD, path, flags, NO_MAGICLINKS) {
        Ok(dir) => {
            let number = dir.number().cast_unsigned();
            plain(Op::Chdir, PlainCall::Fchdir, [number, 0, 0])?;
        }
        Err(fault) if filtered(fault) => syscalls::chdir(path)?,
        Err(fault) => {
            return Err(Fault {
                op: Op::Chdir,
                ..fault
            });
        }
    }
    let mut cwd = [0; 4096];
    match syscalls::cwd_begins_with(&mut cwd)? {
        Some(b'/') => Ok(()),
        // The kernel says "(unreachable)".
        _ => Err(Fault::check(libc::EXDEV)),
    }
}

impl Child<'_> {
    /// Finds the first candidate that can be executed.
    ///
    /// That one exists and may not be executed says more than that another does not exist.
    pub(crate) fn find_program(&mut self, candidates: Texts) -> Result<(), Fault> {
        let mut worst = Fault {
            op: Op::Execve,
            errno: libc::ENOENT,
        };
        let mut candidates = self.code.texts(candidates)?;
        while let Some((candidate, others)) = candidates.split_first() {
            let path = self.code.text(*candidate)?;
            match executable(path) {
                Ok(()) => {
                    self.found = Some(path);
                    return Ok(());
                }
                // The filter forbids to look; exec will tell, of each of them.
                Err(fault) if filtered(fault) => {
                    self.unseen = candidates;
                    return Ok(());
                }
                Err(fault) if absent(fault) || worst.errno == libc::EACCES => {}
                Err(fault) => worst.errno = fault.errno,
            }
            candidates = others;
        }
        Err(worst)
    }

    /// Runs the program that was found, or the first that can be run where none could be looked
    /// for; returns only the reason why not.
    pub(crate) fn run_program(&self) -> Result<(), Fault> {
        if let Some(path) = self.found {
            return self.code.exec_path(path);
        }
        // Of the search: there may be no such file, where one that was found lacks its interpreter.
        let mut worst = Fault {
            op: Op::Access,
            errno: libc::ENOENT,
        };
        for candidate in self.unseen {
            match self.code.exec_path(self.code.text(*candidate)?) {
                Err(fault) if absent(fault) => {}
                Err(fault) if fault.errno == libc::EACCES => worst.errno = fault.errno,
                other => return other,
            }
        }
        Err(worst)
    }
}

/// Whether the user may execute the regular file at `path`.
fn executable(path: &CStr) -> Result<(), Fault> {
    let denied = Fault {
        op: Op::Access,
        errno: libc::EACCES,
    };
    // `/proc/self/exe` is this program, a file of the host's: no way there (CVE-2019-5736).
    let file = syscalls::openat2(libc::AT_FDCWD, path, libc::O_PATH, NO_MAGICLINKS)?;
    let (mode, _) = syscalls::fstat(file.number())?;
    if mode & libc::S_IFMT != libc::S_IFREG || syscalls::fstatfs(file.number())? == PROCFS {
        return Err(denied);
    }
    syscalls::executable(file.number())
}

fn absent(fault: Fault) -> bool {
    matches!(fault.errno, libc::ENOENT | libc::ENOTDIR)
}

/// What a seccomp profile that does not know the call makes of it.
fn filtered(fault: Fault) -> bool {
    matches!(fault.errno, libc::ENOSYS | libc::EPERM)
}
