//! When to stop serving.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use duet_pod::Pod;
use tokio::sync::Notify;

/// The wish that the shim ends, and who waits for that.
#[derive(Debug, Default)]
pub(crate) struct End {
    asked: AtomicBool,
    /// The last caller must have left before the shim does.
    lingers: AtomicBool,
    due: Notify,
}

/// A request that may be the pod's last: when the last clone of this goes, it is looked whether
/// the pod is over.
///
/// One goes with the work and one with the call, so that the answer is on its way before the
/// shim ends, and the shim ends too when nobody waits for the answer any more.
#[derive(Debug)]
pub(crate) struct Last {
    end: Arc<End>,
    pod: Pod,
}

// === impl Last ===

impl Last {
    /// For a request about `pod`.
    pub(crate) fn of(end: &Arc<End>, pod: &Pod) -> Arc<Self> {
        Arc::new(Self {
            end: Arc::clone(end),
            pod: pod.clone(),
        })
    }

    /// Asks for the end, but not before the caller has left.
    pub(crate) fn ask(&self) {
        self.end.lingers.store(true, Ordering::Relaxed);
        self.end.ask();
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        self.end.if_over(&self.pod);
    }
}

// === impl End ===

impl End {
    /// containerd may ask for the end while tasks are left, and not ask again (2.0 to 2.3
    /// ask once, for the sandbox): the wish is kept until the last task is gone.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// To be called whenever something of the pod has gone.
    pub(crate) fn if_over(&self, pod: &Pod) {
        if self.asked.load(Ordering::Relaxed) && pod.is_empty() {
            self.due.notify_one();
        }
    }

    /// Whether callers must have left before the shim ends.
    pub(crate) fn lingers(&self) -> bool {
        self.lingers.load(Ordering::Relaxed)
    }

    /// Waits until containerd has asked for the end and nobody lives in the pod any more.
    pub(crate) async fn over(&self, pod: &Pod) {
        loop {
            tokio::select! {
                () = self.due.notified() => {}
                () = pod.has_let_go() => {}
            }
            // A Create may have come since: its task would be lost with us.
            if self.asked.load(Ordering::Relaxed) && pod.is_empty() {
                return;
            }
        }
    }
}
