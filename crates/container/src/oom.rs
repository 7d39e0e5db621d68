//! Says that the kernel killed for want of memory: once for each look at which the count has risen, as containerd's
//! own watcher of cgroup v2 does. A group that dies as one (`memory.oom.group`) counts each of its processes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use duet_cgroup::OomWatch;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch::{self, Receiver};
use tokio::time::timeout;

use crate::actor::Actor;
use crate::body::Body;
use crate::lifecycle::State;
use crate::polled::polled;
use crate::words::{Awaited, Fact};

/// How long an exit waits until the kill before it was passed on: 2 s. containerd takes a millisecond
/// over an event, more when it is busy; one that is away hears neither.
const PASSING_LIMIT: Duration = Duration::from_secs(2);

/// How long the kernel may take to tell of the removal of a cgroup: 20 to 50 ms on an idle machine.
const REMOVAL_LIMIT: Duration = Duration::from_secs(2);

/// The count of kills, and a way to hear that it may have changed.
#[derive(Debug)]
pub(crate) struct Ooms {
    watch: Option<Arc<OomWatch>>,
    heard: Option<AsyncFd<Arc<OomWatch>>>,
    told: u64,
    passing: Option<Passing>,
}

/// A kill that was told and is on its way to whoever listens.
#[derive(Debug, Clone)]
pub(crate) struct Passing(Receiver<()>);

// === impl Ooms ===

impl Ooms {
    /// Watches the container's cgroup, as far as the host offers that.
    pub(crate) fn watch(body: &Arc<dyn Body>) -> Self {
        let watch = body.oom();
        let heard = watch
            .clone()
            .map(|watch| polled(watch, Interest::READABLE))
            .transpose()
            .unwrap_or_else(|error| {
                // They are still told before an exit, which is when they matter most.
                tracing::warn!(%error, "no OOM watch; kills are reported at the exit only");
                None
            });
        Ooms {
            told: watch.as_ref().map_or(0, |watch| watch.kills()),
            watch,
            heard,
            passing: None,
        }
    }

    /// Returns when the count may have changed; never, if that cannot be heard of.
    pub(crate) async fn stirred(&mut self) {
        let Some(heard) = &self.heard else {
            return std::future::pending().await;
        };
        match heard.readable().await {
            Ok(mut ready) => {
                heard.get_ref().drain();
                ready.clear_ready();
            }
            Err(error) => {
                tracing::warn!(%error, "OOM watch stopped; kills are reported at the exit only");
                self.heard = None;
            }
        }
    }

    /// To be awaited between the end of the last process and its exit's becoming known: until then it may
    /// not be known why it ended. It takes time only on v1, where systemd has removed the cgroup already and
    /// somebody may have been killed (decision 39).
    pub(crate) fn settled(&self) -> impl Future<Output = ()> + Send + use<> {
        let watch = self.watch.clone().filter(|watch| watch.wants_removal());
        // Create does not wait for it.
        let announced = watch
            .clone()
            .map(|watch| tokio::task::spawn_blocking(move || watch.announce_removal()));
        async move {
            let (Some(watch), Some(announced)) = (watch, announced) else {
                return;
            };
            if watch.is_settled() {
                return;
            }
            match announced.await {
                Ok(Ok(())) => told_of_removal(&watch).await,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "cannot tell whether a process was killed by OOM");
                }
                Err(error) => tracing::error!(%error, "a thread of the container panicked"),
            }
        }
    }

    /// Whether there were kills that nobody was told of yet; they count as told from here on.
    fn has_risen(&mut self) -> bool {
        let Some(watch) = &self.watch else {
            return false;
        };
        let kills = watch.kills();
        let risen = kills > self.told;
        self.told = self.told.max(kills);
        risen
    }

    /// Has a kill on its way for as long as what is returned is there.
    pub(crate) fn pass(&mut self) -> Awaited {
        let (awaited, passing) = watch::channel(());
        self.passing = Some(Passing(passing));
        Awaited::new(awaited)
    }

    /// The last kill that was told, as long as it is on its way: facts are passed on in order.
    pub(crate) fn passing(&self) -> Option<Passing> {
        let passing = self.passing.as_ref()?;
        passing.0.has_changed().is_ok().then(|| passing.clone())
    }
}

/// Waits until the kernel has told of the removal of the cgroup.
async fn told_of_removal(watch: &OomWatch) {
    let Some(removal) = watch.removal() else {
        return;
    };
    let told = match polled(removal, Interest::READABLE) {
        Ok(removal) => timeout(REMOVAL_LIMIT, removal.readable())
            .await
            .map(drop)
            .map_err(io::Error::from),
        Err(error) => Err(error),
    };
    if let Err(error) = told {
        tracing::warn!(%error, "cannot tell whether a process was killed by OOM");
    }
}

// === impl Passing ===

impl Passing {
    /// Waits until it was passed on, or for as long as an exit may wait for that.
    pub(crate) async fn over(mut self) {
        // Nothing is ever sent: the other half goes with the fact.
        if timeout(PASSING_LIMIT, self.0.changed()).await.is_err() {
            tracing::warn!("an exit is reported before its OOM event was taken");
        }
    }
}

// === impl Actor ===

impl Actor {
    /// Tells of the kills that nobody was told of yet, and keeps the counters of that moment; not before it is told that
    /// the container has started.
    pub(crate) fn tell_ooms(&mut self) {
        if self.init.state == State::Starting {
            return;
        }
        if self.ooms.has_risen() {
            let awaited = self.ooms.pass();
            self.tell(Fact::Oom {
                id: self.id.clone(),
                awaited,
            });
            self.body.keep_counters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_kill_is_on_its_way_until_the_last_who_knows_of_it_is_done() {
        let mut ooms = Ooms {
            watch: None,
            heard: None,
            told: 0,
            passing: None,
        };
        assert!(ooms.passing().is_none(), "there was none");
        let fact = Fact::Oom {
            id: "web".to_owned(),
            awaited: ooms.pass(),
        };
        // The clock stands still but for who waits: it is the limit that ends this one.
        ooms.passing().expect("it is on its way").over().await;
        let other = fact.clone();
        drop(fact);
        let passing = ooms.passing().expect("somebody has it still");
        let before = tokio::time::Instant::now();
        let ((), ()) = tokio::join!(passing.over(), async { drop(other) });
        assert_eq!(
            before.elapsed(),
            Duration::ZERO,
            "nobody waits for the limit"
        );
        assert!(ooms.passing().is_none(), "it was passed on");
    }
}
