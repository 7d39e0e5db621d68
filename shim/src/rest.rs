//! Rest: when nothing happens in the pod, the shim gives back the memory that it has used to make it.
//!
//! Most of what a shim takes is its own program, page by page as it was run, and most of that is about
//! births. An idle pod needs little of it: what its shim is asked then (statistics, states) comes
//! back from the page cache, a few dozen page faults in all.

use std::time::Duration;

use duet_linux::{heap, text};
use duet_pod::Told;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time;
use tracing::debug;

/// How long nothing must have happened in the pod: 15 s. A kubelet probes every 10 s unless told
/// otherwise, and a pod that runs a program that often is not idle.
const QUIET: Duration = Duration::from_secs(15);

/// Waits for the next fact about the pod, and rests once if it does not come soon. At rest there
/// is no timer: an idle shim is not woken by itself.
pub(crate) async fn until_next(facts: &mut UnboundedReceiver<Told>) -> Option<Told> {
    match time::timeout(QUIET, facts.recv()).await {
        Ok(fact) => fact,
        Err(_) => {
            rest();
            facts.recv().await
        }
    }
}

fn rest() {
    heap::trim();
    // Locked in memory by an administrator, perhaps: then it stays as it is.
    if let Err(error) = text::unmap_own() {
        debug!(%error, "the program's pages stay mapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use duet_pod::Fact;
    use std::time::SystemTime;
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    fn fact() -> Told {
        Told {
            at: SystemTime::UNIX_EPOCH,
            fact: Fact::Paused {
                id: "web".to_owned(),
            },
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fact_is_handed_on_before_and_after_a_rest() {
        let (state, mut facts) = mpsc::unbounded_channel();
        state.send(fact()).unwrap();
        assert_eq!(until_next(&mut facts).await, Some(fact()));

        let begun = Instant::now();
        let (next, ()) = tokio::join!(until_next(&mut facts), async {
            time::sleep(10 * QUIET).await;
            state.send(fact()).unwrap();
        });
        assert_eq!(next, Some(fact()));
        assert_eq!(begun.elapsed(), 10 * QUIET);
        drop(state);
        assert_eq!(until_next(&mut facts).await, None);
    }
}
