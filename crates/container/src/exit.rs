//! Sees a process end, through its pidfd: nobody else is waited for, and no number is reused
//! behind our back.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::children::Child;
use crate::drain::Drain;
use crate::error::Error;
use crate::polled::polled;
use crate::words::Exit;

/// A process whose end is waited for.
#[derive(Debug)]
pub(crate) struct Watch {
    pidfd: AsyncFd<Arc<Child>>,
    drain: Drain,
}

// === impl Watch ===

impl Watch {
    /// Registers the process with the reactor.
    pub(crate) fn new(pidfd: Arc<Child>, drain: Drain) -> Result<Self, Error> {
        let pidfd = polled(pidfd, Interest::READABLE).map_err(|source| Error::Host {
            step: "watch a process",
            source,
        })?;
        Ok(Watch { pidfd, drain })
    }

    /// Waits for the end, reaps the process, and waits until its output is passed on.
    pub(crate) async fn ended(self) -> Exit {
        let Watch { pidfd, drain } = self;
        let exit = loop {
            let mut ready = match pidfd.readable().await {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!(%error, "end of a process cannot be seen");
                    break Exit::unseen();
                }
            };
            match reap(pidfd.get_ref()) {
                Some(exit) => break exit,
                None => ready.clear_ready(),
            }
        };
        drain.done().await;
        exit
    }
}

/// Reaps the process if it has ended.
pub(crate) fn reap(pidfd: impl AsFd) -> Option<Exit> {
    loop {
        match duet_linux::process::try_wait(&pidfd) {
            Ok(exit) => {
                return exit.map(|exit| Exit {
                    code: exit.code,
                    at: exit.at,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::error!(%error, "exit code of a process is lost");
                return Some(Exit::unseen());
            }
        }
    }
}
