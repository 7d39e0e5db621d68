//! What went wrong, small enough to be sent: a call and an errno.

use duet_step::Op;

/// A failed call of a step.
#[derive(Clone, Copy)]
pub(crate) struct Fault {
    /// Which call, or which check of our own.
    pub(crate) op: Op,
    /// Why.
    pub(crate) errno: i32,
}

impl Fault {
    /// A check of our own that did not hold.
    pub(crate) fn check(errno: i32) -> Self {
        Self {
            op: Op::Check,
            errno,
        }
    }
}

/// The kernel's answer as a value, or as the fault of `op`.
pub(crate) fn answer(op: Op, value: isize) -> Result<usize, Fault> {
    usize::try_from(value).map_err(|_| Fault {
        op,
        // The kernel's errnos are -4095..=-1.
        errno: i32::try_from(value.wrapping_neg()).unwrap_or(libc::EIO),
    })
}

/// Lets a fault of this errno pass as nothing.
pub(crate) fn unless<T>(errno: i32, result: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(fault) if fault.errno == errno => Ok(None),
        Err(fault) => Err(fault),
    }
}
