//! `malloc_trim(3)`: freed memory, given back.

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
