//! Threads: how many there are for a guest at most, and what becomes of one that can have none.
//!
//! A component runs on the threads that were there before it. What it reads without waiting for it, from files or
//! from standard input, and names that it looks up take others, for as long as that takes. Where the container may
//! have none (its cgroup's `pids`, `RLIMIT_NPROC`), wasmtime and tokio panic: they take it for granted.

use std::panic::{set_hook, take_hook};
use std::sync::Mutex;
use std::thread;

use rustix::process::{Pid, test_kill_process};
use rustix::thread::gettid;
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
            "cannot start a thread ({words}): raise the container's pids limit or RLIMIT_NPROC"
        ));
        end.report(&name);
        // A panic would abort, as if we were at fault.
        low_level::exit(i32::from(End::UNFIT));
    }));
}

/// How many more can be had now, all at once; no more than `most` are asked for.
pub(crate) fn to_be_had(most: usize) -> usize {
    let gate = Mutex::new(());
    let closed = gate.lock();
    let threads: Vec<Pid> = thread::scope(|all| {
        let stand = || {
            let id = gettid();
            // None goes before the last was asked for.
            drop(gate.lock());
            id
        };
        let stood: Vec<_> = (0..most)
            .map_while(|_| thread::Builder::new().spawn_scoped(all, stand).ok())
            .collect();
        drop(closed);
        stood
            .into_iter()
            .filter_map(|thread| thread.join().ok())
            .collect()
    });
    // One that was joined counts as one that is there until the kernel has taken its id back.
    for &id in &threads {
        // Not for ever: another may have the same id at once.
        for _ in 0..1_000 {
            if test_kill_process(id).is_err() {
                break;
            }
            thread::yield_now();
        }
    }
    threads.len()
}
