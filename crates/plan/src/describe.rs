//! Words for a step that failed.

use crate::Plan;
use crate::labels::{SELINUX, SELINUX_KEY};
use duet_step::{Exec, Op, Step};
use nix::errno::Errno;

/// The operations in the order of their numbers.
const OPS: [(Op, &str); 39] = [
    (Op::Step, ""),
    (Op::Openat2, "openat2"),
    (Op::Fsopen, "fsopen"),
    (Op::Fsconfig, "fsconfig"),
    (Op::Fsmount, "fsmount"),
    (Op::OpenTree, "open_tree"),
    (Op::MountSetattr, "mount_setattr"),
    (Op::MoveMount, "move_mount"),
    (Op::Mkdirat, "mkdirat"),
    (Op::Mknodat, "mknodat"),
    (Op::Fchownat, "fchownat"),
    (Op::Fchmodat, "fchmodat"),
    (Op::Symlinkat, "symlinkat"),
    (Op::Unlinkat, "unlinkat"),
    (Op::Ioctl, "ioctl"),
    (Op::Sendmsg, "sendmsg"),
    (Op::Dup3, "dup3"),
    (Op::Write, "write"),
    (Op::Setns, "setns"),
    (Op::Unshare, "unshare"),
    (Op::PivotRoot, "pivot_root"),
    (Op::Umount2, "umount2"),
    (Op::Chdir, "chdir"),
    (Op::Prctl, "prctl"),
    (Op::Seccomp, "seccomp"),
    (Op::Setgroups, "setgroups"),
    (Op::Setresgid, "setresgid"),
    (Op::Setresuid, "setresuid"),
    (Op::Capset, "capset"),
    (Op::Access, "access"),
    (Op::Execve, "execve"),
    (Op::Read, "read"),
    (Op::Fstat, "fstat"),
    (Op::Clone3, "clone3"),
    (Op::Getdents64, "getdents64"),
    (Op::Readlinkat, "readlinkat"),
    (Op::Utimensat, "utimensat"),
    (Op::CopyFileRange, "sendfile"),
    (Op::Check, "check"),
];

// === impl Plan ===

impl Plan {
    /// A sentence about the failure of step number `step` (from 0) in operation `op` (an
    /// [`Op`] as a number):
    /// `mount /dev/mqueue: operation not permitted (EPERM, fsmount, step 14 of 61)`.
    ///
    /// A missing program reads as under runc, for people and programs look for those words:
    /// `exec: "nope": executable file not found in $PATH`.
    #[must_use]
    pub fn describe(&self, step: u32, op: u32, errno: i32) -> String {
        let place = format!("step {} of {}", u64::from(step) + 1, self.steps.len());
        let name = OPS
            .iter()
            .find(|(known, _)| *known as u32 == op)
            .map_or("?", |(_, name)| name);
        let place = if name.is_empty() {
            place
        } else {
            format!("{name}, {place}")
        };
        let error = Errno::from_raw(errno);
        let code = if error == Errno::UnknownErrno {
            format!("errno {errno}")
        } else {
            format!("{error:?}")
        };
        let why = error.desc().to_lowercase();
        let found = usize::try_from(step)
            .ok()
            .and_then(|step| self.steps.get(step));
        match found {
            None => format!("after the last step: {why} ({code}, {place})"),
            Some(Step::FindProgram(_) | Step::Exec(Exec::Path)) => {
                let name = self.texts(self.argv).into_iter().next().unwrap_or_default();
                // Of exec itself: the file was found, or another call would have failed.
                if error == Errno::ENOENT
                    && matches!(found, Some(Step::Exec(_)))
                    && op == Op::Execve as u32
                {
                    return format!(
                        "exec: {name:?}: {why}: the interpreter or loader that it names ({code}, {place})"
                    );
                }
                if name.contains('/') || error != Errno::ENOENT {
                    return format!("exec: {name:?}: {why} ({code}, {place})");
                }
                let path = self.search_path();
                format!(
                    "exec: {name:?}: executable file not found in $PATH ({code}, {place}, PATH={path})"
                )
            }
            Some(Step::Mount(mount)) if error == Errno::EBUSY && op == Op::Check as u32 => format!(
                "mounts.destination: {}: leads to the root of the container ({code}, {place})",
                self.text(mount.target)
            ),
            Some(step @ Step::OomScoreAdj(_)) if error == Errno::EACCES => format!(
                "{}: the shim lacks CAP_SYS_RESOURCE, which a score below its own needs ({code}, {place})",
                self.subject(step)
            ),
            // Of the write: a missing file is a missing module.
            Some(step @ Step::Label(..)) if error == Errno::ENOENT && op == Op::Write as u32 => {
                let profile = self.subject(step);
                format!("{profile}: no such profile is loaded ({code}, {place})")
            }
            Some(step @ Step::Label(attribute, _))
                if error == Errno::EINVAL
                    && op == Op::Write as u32
                    && [SELINUX, SELINUX_KEY].contains(&self.text(*attribute).as_str()) =>
            {
                let label = self.subject(step);
                format!("{label}: the loaded policy does not know this label ({code}, {place})")
            }
            Some(step) => format!("{}: {why} ({code}, {place})", self.subject(step)),
        }
    }

    fn search_path(&self) -> String {
        let env = self.texts(self.envp);
        let path = env.iter().find_map(|entry| entry.strip_prefix("PATH="));
        path.unwrap_or(crate::DEFAULT_PATH).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_the_name_at_its_number() {
        for (number, (op, _)) in OPS.iter().enumerate() {
            assert_eq!(*op as usize, number);
        }
        assert_eq!(OPS.len(), Op::Check as usize + 1);
    }
}
