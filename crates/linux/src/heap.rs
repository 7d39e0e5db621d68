//! `mallopt(3)` and `malloc_trim(3)`: memory used in few places, and given back when it is freed.

/// How much free memory the end of the heap may keep until [`trim`]: 1 MiB, more than a birth takes.
const KEPT: i32 = 1 << 20;

/// Makes the allocator touch few pages: one heap for all threads, whose free chunks are joined at
/// once and kept for what comes next.
///
/// For a process that is copied often: each copy makes every page of the heap cost a fault when
/// it is next written to. To be called before there are threads.
///
/// # References
///
/// [mallopt(3)](https://man7.org/linux/man-pages/man3/mallopt.3.html).
pub fn gather() {
    for (what, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MXFAST, 0),
        (libc::M_TRIM_THRESHOLD, KEPT),
    ] {
        // SAFETY: these three only choose how later calls of the allocator work; what is allocated
        // already stays valid. A value that is refused changes nothing.
        let _taken = unsafe { libc::mallopt(what, value) };
    }
}

/// Gives the pages of the heap on which nothing is left back to the kernel.
///
/// The allocator keeps them for what comes next; a program that has nothing to do for long makes
/// the node pay for its busiest moment. Takes the allocator's locks: some tens of microseconds
/// for a heap of a megabyte.
///
/// # References
///
/// [malloc_trim(3)](https://man7.org/linux/man-pages/man3/malloc_trim.3.html).
pub fn trim() {
    // SAFETY: called while the allocator works, on any thread; it touches only what nothing
    // of ours has a pointer to. Whether there was anything to give does not matter.
    let _gave = unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_is_freed_afterwards() {
        let before: Vec<String> = (0..1_000).map(|number| format!("line {number}")).collect();
        gather();
        let after = before.clone();
        drop(before);
        assert_eq!(after.last().map(String::as_str), Some("line 999"));
    }

    #[test]
    fn what_is_used_stays() {
        let kept: Vec<String> = (0..10_000).map(|number| format!("line {number}")).collect();
        drop(vec![1_u8; 1 << 20]);
        trim();
        assert!(
            kept.iter()
                .enumerate()
                .all(|(number, line)| *line == format!("line {number}"))
        );
    }
}
