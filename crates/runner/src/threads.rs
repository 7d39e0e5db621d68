//! Threads: how many there are for a guest at most, and what becomes of one that can have none.
//!
//! A component runs on the threads that were there before it. What it reads without waiting for it, from files or
//! from standard input, and names that it looks up take others, for as long as that takes. Where the container may
//! have none (its cgroup's `pids`, `RLIMIT_NPROC`), wasmtime and tokio panic: they take it for granted.

use std::panic::{set_hook, take_hook};
use std::thread;

use signal_hook::low_level;

use crate::end::End;

/// How many threads may be busy for the guest beside those that run it: 64. Others wait, as for any limit. Each
/// costs the container some 20 KiB.
pub(crate) const MOST: usize = 64;

/// From now on a panic for want of a thread is an end with a reason.
pub(crate) fn may_be_scarce(name: &str) {
    let (name, usual) = (name.to_owned(), take_hook());
    set_hook(Box::new(move |panic| {
        let words = panic.payload_as_str().unwrap_or_default();
        // tokio's, and the standard library's.
        if !words.contains("spawn worker thread") && !words.contains("failed to spawn thread") {
            return usual(panic);
        }
        let end = End::Unfit(format!(
            "the guest reads a file or a stream or looks a name up, and the container may have no thread for it: \
             its limit of processes is reached ({words})"
        ));
        end.report(&name);
        // A panic would abort, as if we were at fault.
        low_level::exit(i32::from(End::UNFIT));
    }));
}

/// Whether one more can be had now.
pub(crate) fn can_be_had() -> bool {
    let one = thread::Builder::new().spawn(|| {});
    one.is_ok_and(|one| one.join().is_ok())
}
