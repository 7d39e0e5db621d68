//! When to stop serving.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use duet_pod::Pod;
use tokio::sync::{Notify, watch};

use crate::connections::Connections;

/// The wish that the shim ends, and who waits for that.
#[derive(Debug, Default)]
pub(crate) struct End {
    asked: AtomicBool,
    /// The pod is over, and what came now would be lost with the shim.
    over: AtomicBool,
    /// The last caller must have left before the shim does.
    lingers: AtomicBool,
    /// A Delete may have been the last that the end waited for, and its caller has asked nothing since.
    deleted: watch::Sender<bool>,
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
        // Who asks next for the end has the answer to what was deleted, and waits for the connection to close.
        self.deleted.send_replace(false);
    }

    /// To be called before a Delete is answered: if the end was asked for before, the answer may be the last.
    pub(crate) fn has_deleted(&self) {
        let asked = self.asked.load(Ordering::Relaxed);
        self.deleted.send_replace(asked);
    }

    /// To be called whenever something of the pod has gone.
    pub(crate) fn if_over(&self, pod: &Pod) {
        if self.asked.load(Ordering::Relaxed) && pod.is_empty() {
            self.due.notify_one();
        }
    }

    /// Waits for callers who must have left before the shim ends, if there are any.
    pub(crate) async fn callers_leave(&self, connections: &Connections) {
        if self.lingers.load(Ordering::Relaxed) {
            return connections.closed().await;
        }
        let mut deleted = self.deleted.subscribe();
        tokio::select! {
            () = connections.closed() => {}
            // Fails only without a sender, and that is here.
            _ = deleted.wait_for(|deleted| !deleted) => {}
        }
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
                self.over.store(true, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Whether it is too late for something new.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}
