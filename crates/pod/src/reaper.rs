//! Reaps processes that were left to the shim, and nobody else's.

use std::sync::Arc;
use std::time::Duration;

use duet_container::{Children, Round};
use tokio::signal::unix::{SignalKind, signal};

use crate::error::Error;

/// How soon to look again when something was being born: 20 ms. Strangers are in no hurry.
const AGAIN: Duration = Duration::from_millis(20);

/// Listens for ended children; the future reaps strangers for as long as it runs.
///
/// # Errors
///
/// [`Error::Host`] if the signal cannot be listened for.
pub(crate) fn run(
    children: Arc<Children>,
) -> Result<impl Future<Output = ()> + Send + 'static, Error> {
    let mut ended = signal(SignalKind::child()).map_err(|source| Error::Host {
        step: "listen for SIGCHLD",
        source,
    })?;
    Ok(async move {
        while ended.recv().await.is_some() {
            while children.reap() == Round::Busy {
                tokio::time::sleep(AGAIN).await;
            }
        }
    })
}
