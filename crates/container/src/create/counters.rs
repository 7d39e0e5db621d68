//! What a container has used, told also when its cgroup is gone before it is deleted: systemd removes
//! a scope's as soon as the last process has left it (decision 43).

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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

    /// Reads and keeps what was used. One reads at a time, so that what is kept is what was read last:
    /// Stats reads beside the actor, which reads when a process ends.
    fn read<E>(&self, read: impl FnOnce() -> Result<Stats, E>) -> Result<Stats, E> {
        let mut last = self.last();
        let stats = read()?;
        *last = Some(stats.clone());
        Ok(stats)
    }

    fn last(&self) -> MutexGuard<'_, Option<Stats>> {
        // A panic leaves nothing half done in there.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was read last, with every kill; nothing but those if nothing was read.
    fn kept(&self, mode: Mode) -> Stats {
        let mut stats = self.last().clone().unwrap_or_else(|| match mode {
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
        match self.counters.read(|| cgroup.stats()) {
            Ok(stats) => Ok(stats),
            Err(error) if error.is_gone() => Ok(self.counters.kept(cgroup.mode())),
            Err(error) => Err(Error::cgroup("read the statistics")(error)),
        }
    }

    /// Reads the counters while they can be read.
    pub(super) fn look(&self) {
        let read = self.counters.read(|| self.confined.cgroup.stats());
        if let Err(error) = read {
            // What was read before is still the best there is.
            tracing::debug!(container = %self.id, %error, "counters not kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn what_was_read_earlier_does_not_replace_what_was_read_later() {
        let counters = Counters::default();
        let clock = AtomicU64::new(1);
        let read = || {
            let mut stats = Stats::V2(Box::default());
            if let Stats::V2(stats) = &mut stats {
                stats.memory_events.get_or_insert_default().oom_kill =
                    clock.fetch_add(1, Ordering::SeqCst);
            }
            Ok::<_, Infallible>(stats)
        };
        thread::scope(|scope| {
            counters.read(|| {
                let earlier = read();
                let later = scope.spawn(|| counters.read(read));
                // It waits for this one, or it has overtaken it.
                while !later.is_finished() && counters.last.try_lock().is_ok() {
                    thread::yield_now();
                }
                earlier
            })
        })
        .unwrap();
        let Stats::V2(kept) = counters.kept(Mode::V2) else {
            panic!("of another version");
        };
        assert_eq!(kept.memory_events.unwrap().oom_kill, 2);
    }
}
