//! One function for each system call the child makes.
//!
//! They are safe to use: every pointer is made here from a reference that outlives the call.
//! A descriptor is a plain number, for in this process nobody else owns any.

mod files;
mod messages;
mod mounts;
mod network;
mod privileges;
mod process;
mod trees;

use core::ffi::c_int;

use duet_step::Op;

use crate::fault::{Fault, answer};
use crate::raw::{Word, call};

pub(crate) use files::*;
pub(crate) use messages::*;
pub(crate) use mounts::*;
pub(crate) use network::*;
pub(crate) use privileges::*;
pub(crate) use process::*;
pub(crate) use trees::*;

/// A descriptor that is closed when its owner is done with it.
pub(crate) struct Fd(c_int);

impl Fd {
    /// The number, which stays ours.
    pub(crate) fn number(&self) -> c_int {
        self.0
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: one integer. Linux releases the number even when it reports an error.
        unsafe { call!(libc::SYS_close, self.0) };
    }
}

fn fd(op: Op, value: isize) -> Result<Fd, Fault> {
    c_int::try_from(answer(op, value)?)
        .map(Fd)
        .map_err(|_| Fault::check(libc::EBADF))
}

fn done(op: Op, value: isize) -> Result<(), Fault> {
    answer(op, value).map(|_| ())
}
