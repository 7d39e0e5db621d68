//! Lists of small numbers as Linux writes them: `0-3,7`.
//!
//! # References
//!
//! "List format" of [cpuset(7)](https://man7.org/linux/man-pages/man7/cpuset.7.html).

/// The numbers of a list as the bits of words, bit n for number n; always an even number of words, for
/// the kernel counts in longs. Nothing for what is no such list, or has a number above `last`.
pub(crate) fn bits(list: &str, last: u32) -> Option<Vec<u32>> {
    let mut words = Vec::new();
    for range in list.split(',') {
        let (first, end) = range.split_once('-').unwrap_or((range, range));
        let (first, end) = (first.trim().parse::<u32>(), end.trim().parse::<u32>());
        let (Ok(first), Ok(end)) = (first, end) else {
            return None;
        };
        if first > end || end > last {
            return None;
        }
        for number in first..=end {
            let word = usize::try_from(number / u32::BITS).unwrap_or(usize::MAX);
            let even = (word / 2 + 1) * 2;
            if words.len() < even {
                words.resize(even, 0);
            }
            if let Some(word) = words.get_mut(word) {
                *word |= 1 << (number % u32::BITS);
            }
        }
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::bits;

    #[test]
    fn a_list_has_numbers_and_ranges() {
        assert_eq!(bits("0", 8191), Some(vec![1, 0]));
        assert_eq!(bits("0-2, 33,64", 8191), Some(vec![7, 2, 1, 0]));
        assert_eq!(bits("7", 7), Some(vec![1 << 7, 0]));
        for bad in ["", "a", "2-1", "0,", "8", "0-8", "-1", "1-2-3"] {
            assert_eq!(bits(bad, 7), None, "{bad}");
        }
    }
}
