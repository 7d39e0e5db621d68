//! Ctrl-C and TERM: the first asks the pod to stop, the second kills it.

use crate::error::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The signal that asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Interrupt,
    Terminate,
}

/// The task that listens; it ends with this value.
#[derive(Debug)]
pub(super) struct Signals {
    told: watch::Receiver<Told>,
    _listener: JoinSet<()>,
}

/// How often somebody asked, and how the first did.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    first: Option<Asked>,
    times: u32,
}

/// What a part of the run knows of the signals.
#[derive(Debug, Clone)]
pub(super) struct Stops(watch::Receiver<Told>);

// === impl Asked ===

impl Asked {
    /// The exit status of a program that this signal ended: 130 or 143.
    pub(crate) fn status(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

// === impl Signals ===

impl Signals {
    /// Takes over INT and TERM until the program ends.
    pub(super) fn listen() -> Result<Self, Error> {
        let failed = |source| Error::System {
            action: "could not listen for signals",
            source,
        };
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let (tell, told) = watch::channel(Told::default());
        let mut listener = JoinSet::new();
        listener.spawn(async move {
            loop {
                let asked = tokio::select! {
                    Some(()) = interrupt.recv() => Asked::Interrupt,
                    Some(()) = terminate.recv() => Asked::Terminate,
                    else => return,
                };
                tell.send_modify(|told| {
                    told.first = told.first.or(Some(asked));
                    told.times = told.times.saturating_add(1);
                });
            }
        });
        Ok(Self {
            told,
            _listener: listener,
        })
    }

    pub(super) fn stops(&self) -> Stops {
        Stops(self.told.clone())
    }
}

// === impl Stops ===

impl Stops {
    /// The signal that asked the pod to stop, if one came.
    pub(super) fn signal(&self) -> Option<Asked> {
        self.0.borrow().first
    }

    /// Whether somebody asked twice.
    pub(super) fn impatient(&self) -> bool {
        self.0.borrow().times > 1
    }

    /// Returns at the next signal.
    pub(super) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
