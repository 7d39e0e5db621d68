//! Says once for each kill that the kernel killed for want of memory.

use std::sync::Arc;

use duet_cgroup::OomWatch;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::body::Body;
use crate::polled::polled;

/// The count of kills, and a way to hear that it may have changed.
#[derive(Debug)]
pub(crate) struct Ooms {
    watch: Option<AsyncFd<OomWatch>>,
    told: u64,
}

// === impl Ooms ===

impl Ooms {
    /// Watches the container's cgroup, as far as the host offers that.
    pub(crate) fn watch(body: &Arc<dyn Body>) -> Self {
        let Some(watch) = body.oom() else {
            return Ooms {
                watch: None,
                told: 0,
            };
        };
        let told = watch.kills();
        match polled(watch, Interest::READABLE) {
            Ok(watch) => Ooms {
                watch: Some(watch),
                told,
            },
            Err(error) => {
                // They are still told before an exit, which is when they matter most.
                tracing::warn!(%error, "kills for want of memory are not heard of at once");
                Ooms { watch: None, told }
            }
        }
    }

    /// Returns when the count may have changed; never, if that cannot be heard of.
    pub(crate) async fn stirred(&mut self) {
        let Some(watch) = &self.watch else {
            return std::future::pending().await;
        };
        match watch.readable().await {
            Ok(mut ready) => {
                watch.get_ref().drain();
                ready.clear_ready();
            }
            Err(error) => {
                tracing::warn!(%error, "kills for want of memory are not heard of any more");
                self.watch = None;
            }
        }
    }

    /// How many kills nobody was told of yet; they count as told from here on.
    pub(crate) fn untold(&mut self) -> u64 {
        let Some(watch) = &self.watch else { return 0 };
        let kills = watch.get_ref().kills();
        let untold = kills.saturating_sub(self.told);
        self.told = self.told.max(kills);
        untold
    }
}
