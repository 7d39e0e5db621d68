//! Limits of the process itself that a guest may not fit into: address space and data.
//!
//! Code is compiled for memories that have 4 GiB of address space to themselves, so that it need not look at each
//! address: whoever limits it below that (`ulimit -v`) can run no guest at all.

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// Each of them, by its name in a spec, and what it is about.
const LIMITS: [(Resource, &str, &str); 2] = [
    (
        Resource::As,
        "RLIMIT_AS",
        "each memory of a guest takes 4160 MiB of address space",
    ),
    (
        Resource::Data,
        "RLIMIT_DATA",
        "a guest's memories and stacks count, and what the runner needs for itself",
    ),
];

/// The limits that there are, in words; empty if there are none.
fn limits() -> Vec<String> {
    LIMITS
        .into_iter()
        .filter_map(|(resource, name, about)| {
            let bytes = getrlimit(resource).current?;
            Some(format!("{name} is {bytes} ({about})"))
        })
        .collect()
}

/// Whether there are any.
pub(crate) fn is_limited() -> bool {
    !limits().is_empty()
}

/// What it is that stood in the way, if it can be one of them.
pub(crate) fn in_the_way(error: &wasmtime::Error) -> Option<String> {
    if error.root_cause().downcast_ref() != Some(&Errno::NOMEM) {
        return None;
    }
    let limits = limits();
    (!limits.is_empty()).then(|| limits.join(", "))
}

/// The same, of a guest that cannot be at all.
pub(crate) fn wanting(error: &wasmtime::Error) -> Option<String> {
    in_the_way(error).map(|limits| format!("no room for the guest: {limits}"))
}
