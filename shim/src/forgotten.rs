//! The end of a shim that containerd has forgotten.
//!
//! A containerd that was killed while it started a pod may not know the pod when it comes back: it
//! removes the bundle, asks nothing of the shim, and runs no `delete` (2.x, for a sandbox whose
//! container it has not stored yet). The shim finds out by itself: nobody is connected, and its
//! bundle is gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use duet_pod::Pod;
use tokio::time;

use crate::connections::Connections;
use crate::end::{End, Last};
use crate::sandbox::Sandboxes;

/// How soon to look again while nobody is connected: 100 ms. A containerd that comes back has cleaned up when
/// the bundle is gone, and nothing of the pod may be left a second later: most of that is for its end.
const AGAIN: Duration = Duration::from_millis(100);

/// Asks for the end of the pod `id` whenever it has been forgotten; nothing is looked at and nobody
/// woken while containerd is connected. Ends when there is nothing left to ask for.
pub(crate) async fn watch(
    pod: Pod,
    id: String,
    bundle: PathBuf,
    connections: Connections,
    end: Arc<End>,
) {
    loop {
        while !is_forgotten(&bundle, &connections).await {}
        let last = Last::of(&end, &pod);
        // Those that `delete` has cleaned were containerd's to end, and are over.
        pod.let_go_of_cleaned().await;
        // Containers would have to be ended with it; that is for containerd to say, not for a folder.
        if pod.ids().iter().all(|member| *member == id) {
            Sandboxes::give_up(&pod, &last, &id).await;
            return;
        }
        last.ask();
        // It cleans them one after the other, and the end of each may have to wait for who reads its output.
        time::sleep(AGAIN).await;
    }
}

/// Waits until nobody is connected, and somebody is again or the bundle is gone; says which.
async fn is_forgotten(bundle: &Path, connections: &Connections) -> bool {
    connections.closed().await;
    loop {
        if matches!(bundle.try_exists(), Ok(false)) {
            return true;
        }
        if time::timeout(AGAIN, connections.opened()).await.is_ok() {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::net::UnixListener;

    use futures::StreamExt as _;
    use tokio::net::UnixStream;

    #[tokio::test(start_paused = true)]
    async fn a_bundle_that_goes_while_nobody_is_connected_is_noticed() {
        let bundle = tempfile::tempdir().unwrap();
        let connections = Connections::none();
        let (forgotten, ()) = tokio::join!(is_forgotten(bundle.path(), &connections), async {
            time::sleep(10 * AGAIN).await;
            std::fs::remove_dir(bundle.path()).unwrap();
        });
        assert!(forgotten);
    }

    #[tokio::test]
    async fn a_pod_whose_containerd_comes_back_is_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let connections = Connections::none();
        let mut accepted = connections
            .accept(UnixListener::bind(&socket).unwrap())
            .unwrap();
        let (forgotten, _open) = tokio::join!(is_forgotten(dir.path(), &connections), async {
            let caller = UnixStream::connect(&socket).await.unwrap();
            (caller, accepted.next().await)
        });
        assert!(!forgotten);
    }
}
