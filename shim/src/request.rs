//! One request: done to its end or as long as its caller waits, and told in one line of log.

use std::future::Future;
use std::time::Instant;

use tracing::{debug, error, info};

use crate::status::{Outcome, Refusal};

/// One request, for its line in the log.
#[derive(Debug)]
pub(crate) struct Request {
    method: &'static str,
    kind: Kind,
    id: String,
    exec: String,
    since: Instant,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It changes something: an operator may want to know.
    Change,
    /// It only asks.
    Question,
}

// === impl Request ===

impl Request {
    fn new(method: &'static str, kind: Kind, id: &str, exec: &str) -> Self {
        let since = Instant::now();
        Self {
            method,
            kind,
            id: id.to_owned(),
            exec: exec.to_owned(),
            since,
        }
    }

    /// A request that changes something.
    pub(crate) fn change(method: &'static str, id: &str, exec: &str) -> Self {
        Self::new(method, Kind::Change, id, exec)
    }

    /// A request that only asks.
    pub(crate) fn question(method: &'static str, id: &str, exec: &str) -> Self {
        Self::new(method, Kind::Question, id, exec)
    }

    /// Does the work to its end, even if the caller's deadline passes or its connection
    /// breaks meanwhile: ttrpc drops the handler then, and half a Create would be left.
    pub(crate) async fn finish<T: Send + 'static>(
        self,
        work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    ) -> ttrpc::Result<T> {
        let work = tokio::spawn(self.log(work));
        work.await
            .unwrap_or(Err(Refusal::Dropped))
            .map_err(|refusal| refusal.answer())
    }

    /// Does the work as long as the caller waits for it.
    pub(crate) async fn answer<T>(
        self,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> ttrpc::Result<T> {
        self.log(work).await.map_err(|refusal| refusal.answer())
    }

    async fn log<T>(self, work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        let result = work.await;
        let (code, text) = match &result {
            Ok(_) => (Outcome::DONE, None),
            Err(refusal) => (refusal.outcome(), Some(refusal.text())),
        };
        let Self {
            method,
            kind,
            id,
            exec,
            since,
        } = self;
        // To the microsecond; the rest of the digits is noise.
        let ms = (since.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        if code.is_failure() {
            error!(method, id, exec, %code, ms, text, "request");
        } else if kind == Kind::Change {
            info!(method, id, exec, %code, ms, text, "request");
        } else {
            debug!(method, id, exec, %code, ms, text, "request");
        }
        result
    }
}
