//! What is known of a guest: its compilation when it is born, and its numbers when it has ended.

use std::sync::PoisonError;

use duet_wasm::{Compiled, Source, Tally, Told};

use super::Linux;
use crate::words::Exit;

/// What is kept for a guest's end.
pub(super) struct Account {
    key: String,
    cached: bool,
    compile_ms: u64,
    pub(super) tally: Tally,
}

// === impl Account ===

impl Account {
    /// Opens one for a guest that runs `compiled`.
    pub(super) fn open(compiled: &Compiled, tally: Tally) -> Self {
        let (cached, time) = match compiled.source {
            Source::Cached => (true, None),
            Source::Awaited(time) | Source::Fresh(time) => (false, Some(time)),
        };
        let compile_ms = time.map_or(0, |time| {
            u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
        });
        Self {
            key: compiled.key.to_string(),
            cached,
            compile_ms,
            tally,
        }
    }
}

impl Linux {
    /// Keeps the account of the guest whose process this is.
    pub(super) fn keep(&self, pid: i32, account: Account) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.insert(pid, account);
    }

    /// Writes what is known of the guest whose process this was into the log: one line, whatever it did.
    pub(super) fn settle(&self, exec: Option<&str>, pid: i32, exit: Exit) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(account) = accounts.remove(&pid) else {
            return;
        };
        drop(accounts);
        let Told {
            memory,
            requests,
            traps,
            trap,
        } = account.tally.told().unwrap_or_default();
        tracing::info!(
            container = %self.id,
            exec,
            pid,
            code = exit.code,
            key = account.key,
            cached = account.cached,
            compile_ms = account.compile_ms,
            memory_kib = memory >> 10,
            requests,
            traps,
            trap,
            "guest ended"
        );
    }
}
