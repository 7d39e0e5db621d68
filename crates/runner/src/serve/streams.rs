//! The streams of HTTP/2, each of which is a task of its own.
//!
//! A client says how much of an answer it takes, for each stream. Of one that takes none, hyper waits with the answer for
//! ever, long after the guest is done with it and without asking its body again: nobody but whoever has the task can end
//! it. When it is dropped, its stream is reset, and the others of the connection are not concerned.

use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::timeout;

/// Runs them.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    /// How long one may take.
    pub(super) most: Option<Duration>,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        match self.most {
            Some(most) => drop(tokio::spawn(timeout(most, stream))),
            None => drop(tokio::spawn(stream)),
        }
    }
}
