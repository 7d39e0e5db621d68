//! A process that keeps a place until the container's own is there.

use std::sync::Arc;

use duet_launch::{Gate, Newborn, Supplies, spawn};

use crate::children::{Child, Children};
use crate::error::Error;
use crate::exec::bury;

/// A process that waits, and executes nothing. Dropping it ends it.
///
/// It is at a gate that nobody opens: should the shim die, it ends by itself.
pub(crate) struct Placeholder {
    /// Its number.
    pub(crate) pid: i32,
    process: Child,
    _gate: Gate,
}

// === impl Placeholder ===

impl Placeholder {
    /// Bears it in the shim's own cgroup.
    pub(crate) fn stand(children: &Arc<Children>) -> Result<Self, Error> {
        let _labour = children.labour();
        let plan = duet_plan::placeholder()?;
        let Newborn {
            pid, pidfd, gate, ..
        } = spawn(&plan, Supplies::default())?;
        Ok(Placeholder {
            pid,
            process: children.own(pid, pidfd),
            _gate: gate,
        })
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        bury(&self.process);
    }
}
