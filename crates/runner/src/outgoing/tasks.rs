//! What hyper runs beside a connection of HTTP/2: its bytes, and the body of its request. All of it ends with the connection's
//! driver, and the driver not before it.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use hyper::rt::Executor;
use tokio::task::JoinSet;

/// The tasks of one connection, which hyper adds to.
#[derive(Debug, Clone, Default)]
pub(super) struct Tasks(Arc<Mutex<JoinSet<()>>>);

/// Who is dropped and takes them along. Not [`Tasks`], of which they themselves hold some.
#[derive(Debug)]
pub(super) struct Keeper(Tasks);

// === impl Tasks ===

impl Tasks {
    fn set(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn keeper(&self) -> Keeper {
        Keeper(self.clone())
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.set().spawn(task);
    }
}

// === impl Keeper ===

impl Keeper {
    /// Waits until all of them are done.
    pub(super) async fn finished(&self) {
        poll_fn(|context| {
            loop {
                match self.0.set().poll_join_next(context) {
                    Poll::Ready(Some(_)) => {}
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.set().abort_all();
    }
}
