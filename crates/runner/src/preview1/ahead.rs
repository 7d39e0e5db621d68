//! Reading standard input ahead, for guests that ask for a byte at a time.

/// How much is read ahead at most: what a pipe has in one page.
const AHEAD: usize = 4096;

/// What was read and not asked for yet.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    bytes: Vec<u8>,
    at: usize,
}

// === impl Ahead ===

impl Ahead {
    /// How many bytes are there without asking the kernel.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Fills `into` as far as one read goes, which is `more`.
    pub(super) fn read<E>(
        &mut self,
        into: &mut [u8],
        more: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        if self.left() == 0 {
            if into.len() >= AHEAD {
                return more(into);
            }
            self.at = 0;
            self.bytes.resize(AHEAD, 0);
            let read = more(&mut self.bytes);
            self.bytes.truncate(*read.as_ref().unwrap_or(&0));
            read?;
        }
        let count = self.left().min(into.len());
        let bytes = self.bytes.get(self.at..self.at + count).unwrap_or_default();
        if let Some(into) = into.get_mut(..count) {
            into.copy_from_slice(bytes);
        }
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives_once_and_in_order() {
        let text: Vec<u8> = (0..20_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut rest = text.as_slice();
        let mut ahead = Ahead::default();
        let mut got = Vec::new();
        for size in [1, 7, 5000, 1, 4096, 100].into_iter().cycle() {
            let mut into = vec![0; size];
            let count = ahead
                .read(&mut into, |to| std::io::Read::read(&mut rest, to))
                .unwrap();
            if count == 0 {
                break;
            }
            got.extend_from_slice(&into[..count]);
        }
        assert_eq!((got, ahead.left()), (text, 0));
    }

    #[test]
    fn an_error_loses_nothing() {
        let mut ahead = Ahead::default();
        assert_eq!(ahead.read(&mut [0; 2], |_| Err(5)), Err(5));
        assert_eq!(ahead.left(), 0);
        let fill = |to: &mut [u8]| {
            to[..3].copy_from_slice(b"abc");
            Ok::<_, ()>(3)
        };
        let mut two = [0; 2];
        assert_eq!(ahead.read(&mut two, fill), Ok(2));
        assert_eq!((&two, ahead.left()), (b"ab", 1));
    }
}
