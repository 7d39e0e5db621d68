//! What a container has used, told also when its cgroup is gone before it is deleted: systemd removes
//! a scope's as soon as the last process has left it (decision 43).

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use duet_cgroup::{Mode, OomWatch, Stats};

use super::Linux;
use crate::error::Error;

/// What was read last, and who knows of kills to the end.
#[derive(Debug, Default)]
pub(super) struct Counters {
    last: Mutex<Option<Stats>>,
    ooms: OnceLock<Arc<OomWatch>>,
}

// === impl Counters ===

impl Counters {
    /// Keeps the watch, which knows of kills that no file tells of any more.
    pub(super) fn watch(&self, watch: OomWatch) -> Arc<OomWatch> {
        Arc::clone(self.ooms.get_or_init(|| Arc::new(watch)))
    }

    fn keep(&self, stats: Stats) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(stats);
    }

    /// What was read last, with every kill; nothing but those if nothing was read.
    fn kept(&self, mode: Mode) -> Stats {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stats = last.clone().unwrap_or_else(|| match mode {
            Mode::V1 | Mode::Hybrid => Stats::V1(Box::default()),
            Mode::V2 => Stats::V2(Box::default()),
        });
        if let Some(ooms) = self.ooms.get() {
            let counted = match &mut stats {
                Stats::V1(stats) => &mut stats.memory_oom_control.get_or_insert_default().oom_kill,
                Stats::V2(stats) => &mut stats.memory_events.get_or_insert_default().oom_kill,
            };
            *counted = ooms.kills().max(*counted);
        }
        stats
    }
}

// === impl Linux ===

impl Linux {
    /// What was used until now, or until its cgroup went.
    pub(super) fn used(&self) -> Result<Stats, Error> {
        let cgroup = &self.confined.cgroup;
        match cgroup.stats() {
            Ok(stats) => {
                self.counters.keep(stats.clone());
                Ok(stats)
            }
            Err(error) if error.is_gone() => Ok(self.counters.kept(cgroup.mode())),
            Err(error) => Err(Error::cgroup("read the statistics")(error)),
        }
    }

    /// Reads the counters while they can be read.
    pub(super) fn look(&self) {
        match self.confined.cgroup.stats() {
            Ok(stats) => self.counters.keep(stats),
            // What was read before is still the best there is.
            Err(error) => tracing::debug!(container = %self.id, %error, "counters not kept"),
        }
    }
}
