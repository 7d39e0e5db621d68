//! What the child is given, and how it is looked up without a way to panic.

use core::ffi::{CStr, c_int};

use duet_step::{Insn, Program, Slot, Step, Text, Texts};

use crate::fault::Fault;
use crate::syscalls;

/// A lowered plan: the steps, and everything they refer to.
#[derive(Debug, Clone, Copy)]
pub struct Code<'a> {
    /// What to do, in order.
    pub steps: &'a [Step],
    /// The buffer that every [`Text`] points into.
    pub text: &'a [u8],
    /// The table that every [`Texts`] points into.
    pub texts: &'a [Text],
    /// The buffer that every [`Program`] points into.
    pub programs: &'a [Insn],
    /// The table of [`Step::Groups`] and [`Step::Affinity`].
    pub groups: &'a [u32],
    /// The descriptor of each [`Slot`], numbers above [`Code::FIRST_OWN`].
    pub slots: &'a [c_int],
    /// The program's arguments: pointers to NUL-terminated strings, then null.
    pub argv: &'a [*const u8],
    /// The program's environment, likewise.
    pub envp: &'a [*const u8],
    /// The child's end of the channel, a number above [`Code::FIRST_OWN`].
    pub channel: c_int,
    /// The channel and the slots once each, ascending: everything else above 2 is closed.
    pub keep: &'a [c_int],
    /// The signals that the parent ignores, bit n - 1 for signal n: they become default.
    pub ignored: u64,
}

impl<'a> Code<'a> {
    /// Numbers below this one belong to the program; nothing of the child's stays there.
    pub const FIRST_OWN: c_int = 17;

    pub(crate) fn text(&self, text: Text) -> Result<&'a CStr, Fault> {
        let from = usize::try_from(text.0)
            .ok()
            .and_then(|at| self.text.get(at..));
        from.and_then(|bytes| CStr::from_bytes_until_nul(bytes).ok())
            .ok_or(Fault::check(libc::EINVAL))
    }

    pub(crate) fn texts(&self, texts: Texts) -> Result<&'a [Text], Fault> {
        range(self.texts, texts.first, texts.len)
    }

    pub(crate) fn program(&self, program: Program) -> Result<&'a [Insn], Fault> {
        range(self.programs, program.first, program.len.into())
    }

    pub(crate) fn groups(&self, first: u32, len: u32) -> Result<&'a [u32], Fault> {
        range(self.groups, first, len)
    }

    pub(crate) fn slot(&self, slot: Slot) -> Result<c_int, Fault> {
        let number = self.slots.get(usize::from(slot.0));
        number.copied().ok_or(Fault::check(libc::EBADF))
    }

    /// Runs the program at a path; returns only the reason why not.
    pub(crate) fn exec_path(&self, path: &CStr) -> Result<(), Fault> {
        // SAFETY: `run` was promised that both arrays end with null and hold pointers to
        // NUL-terminated strings.
        unsafe { syscalls::execve(path, self.argv.as_ptr(), self.envp.as_ptr()) }
    }

    /// Runs the program behind a descriptor; returns only the reason why not.
    pub(crate) fn exec_file(&self, file: c_int) -> Result<(), Fault> {
        // SAFETY: as in `exec_path`.
        unsafe { syscalls::fexecve(file, self.argv.as_ptr(), self.envp.as_ptr()) }
    }
}

fn range<T>(all: &[T], first: u32, len: u32) -> Result<&[T], Fault> {
    let first = usize::try_from(first).ok();
    let len = usize::try_from(len).ok();
    first
        .zip(len)
        .and_then(|(first, len)| all.get(first..first.checked_add(len)?))
        .ok_or(Fault::check(libc::EINVAL))
}
