//! Ctrl-C, TERM and a terminal that hangs up: the first asks the pod to stop, the second kills it.

use crate::error::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The signal that asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Hangup,
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
    /// The exit status of a program that this signal ended: 129, 130 or 143.
    pub(crate) fn status(self) -> u8 {
        match self {
            Self::Hangup => 129,
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

// === impl Signals ===

impl Signals {
    /// Takes over INT, TERM and, unless `nohup` has it ignored, HUP until the program ends.
    pub(super) fn listen() -> Result<Self, Error> {
        let failed = |source| Error::System {
            action: "could not listen for signals",
            source,
        };
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut hangup = if is_ignored(SignalKind::hangup()) {
            None
        } else {
            Some(signal(SignalKind::hangup()).map_err(failed)?)
        };
        let (tell, told) = watch::channel(Told::default());
        let mut listener = JoinSet::new();
        listener.spawn(async move {
            loop {
                let hung_up = async {
                    match &mut hangup {
                        Some(hangup) => hangup.recv().await,
                        None => std::future::pending().await,
                    }
                };
                let asked = tokio::select! {
                    Some(()) = interrupt.recv() => Asked::Interrupt,
                    Some(()) = terminate.recv() => Asked::Terminate,
                    Some(()) = hung_up => Asked::Hangup,
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

    /// Returns once somebody has asked, with the signal; at once if it was before.
    pub(super) async fn asked(&mut self) -> Asked {
        loop {
            if let Some(asked) = self.signal() {
                return asked;
            }
            self.next().await;
        }
    }

    /// Returns at the next signal.
    pub(super) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Whether this process was started with the signal ignored.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    mask(&status).is_some_and(|mask| mask >> (kind.as_raw_value() - 1) & 1 == 1)
}

/// The ignored signals of a `/proc/PID/status`; bit n is signal n + 1.
fn mask(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn ignored_signals_are_read() {
        let status = "Name:\tduet\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\n";
        assert_eq!(mask(status), Some(0x1001));
        assert_eq!(mask("Name:\tduet\n"), None);
    }
}
