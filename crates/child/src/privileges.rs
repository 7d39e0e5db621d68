//! User, groups and capabilities.

use duet_step::{Capabilities, Op};

use crate::fault::Fault;
use crate::run::Child;
use crate::syscalls::{self, PlainCall, plain};

impl Child<'_> {
    /// Becomes another user, keeping the permitted capabilities until the next step sets them.
    pub(crate) fn user(&self, uid: u32, gid: u32) -> Result<(), Fault> {
        plain(Op::Setresgid, PlainCall::Setresgid, [gid; 3])?;
        syscalls::prctl(libc::PR_SET_KEEPCAPS, 1, 0)?;
        plain(Op::Setresuid, PlainCall::Setresuid, [uid; 3])?;
        syscalls::prctl(libc::PR_SET_KEEPCAPS, 0, 0)?;
        // The change of user has made the kernel's default of this; that may be 2.
        syscalls::prctl(libc::PR_SET_DUMPABLE, 0, 0).map(|_| ())
    }

    /// Becomes root where it has every capability already: in the user namespace it has joined.
    pub(crate) fn mapped_root(&self) -> Result<(), Fault> {
        // The groups of the host's root, which the namespace shows as nobody's.
        syscalls::setgroups(&[])?;
        self.user(0, 0)
    }

    /// Drops everything from the bounding set that is not in `mask`.
    pub(crate) fn bounding(&self, mask: u64) -> Result<(), Fault> {
        for number in 0..u64::BITS {
            if mask & 1_u64.wrapping_shl(number) != 0 {
                continue;
            }
            match syscalls::prctl(libc::PR_CAPBSET_DROP, number, 0) {
                Ok(_) => {}
                // The first number that this kernel has no capability for.
                Err(fault) if fault.errno == libc::EINVAL => break,
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// Sets the sets of the process; ambient ones last, for they must be permitted and inheritable.
    pub(crate) fn capabilities(&self, sets: &Capabilities) -> Result<(), Fault> {
        syscalls::capset(sets.effective, sets.permitted, sets.inheritable)?;
        let ambient = |action: i32, number: u32| {
            syscalls::prctl(libc::PR_CAP_AMBIENT, action.cast_unsigned(), number)
        };
        ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0)?;
        for number in 0..u64::BITS {
            if sets.ambient & 1_u64.wrapping_shl(number) != 0 {
                ambient(libc::PR_CAP_AMBIENT_RAISE, number)?;
            }
        }
        Ok(())
    }
}
