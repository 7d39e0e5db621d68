//! The hash of a module's content, of which its key is made.
//!
//! The first start in a pod waits for it, whether the module was compiled before or not. BLAKE3 takes half the time
//! of sha256 where a processor has instructions for the latter, less where it has none, and pieces can be
//! hashed beside each other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// What is hashed by itself: 1 MiB.
const PIECE: u64 = 1 << 20;

/// What is read at once: 128 KiB, which stays in a processor's own cache until it is hashed.
const READ: usize = 128 << 10;

/// The most threads that hash one module: those who start other containers need processors too.
const MOST: usize = 4;

/// For how many pieces one thread is enough: making another takes as long as hashing one.
const ENOUGH: u64 = 4;

/// The hash of all of `module`, which has `size` bytes; what was read is written into `copy`.
///
/// # Errors
///
/// When the file is longer or shorter than that, or it cannot be read or written.
pub(super) fn hash(module: &File, size: u64, copy: Option<&File>) -> io::Result<[u8; 32]> {
    let pieces = size.div_ceil(PIECE);
    let work = Work {
        module,
        copy,
        size,
        next: AtomicU64::new(0),
    };
    let threads = if pieces <= ENOUGH {
        1
    } else {
        thread::available_parallelism().map_or(1, |number| number.get().min(MOST))
    };
    let mut hashes = thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().spawn_scoped(scope, || work.share());
        // Where no thread may be made the others have more to do.
        let others: Vec<_> = (1..threads).map(spawn).map_while(Result::ok).collect();
        let mut hashes = work.share()?;
        for other in others {
            let theirs = other.join();
            hashes.extend(theirs.map_err(|_panic| io::Error::other("its thread panicked"))??);
        }
        Ok::<_, io::Error>(hashes)
    })?;
    if module.read_at(&mut [0], size)? != 0 {
        return Err(changes());
    }
    hashes.sort_unstable_by_key(|(piece, _)| *piece);
    let mut whole = blake3::Hasher::new();
    whole.update(&size.to_le_bytes());
    for (_, hash) in hashes {
        whole.update(hash.as_bytes());
    }
    Ok(whole.finalize().into())
}

/// A module whose pieces are hashed by whoever has time.
struct Work<'m> {
    module: &'m File,
    copy: Option<&'m File>,
    size: u64,
    /// The first piece that nobody has taken.
    next: AtomicU64,
}

// === impl Work ===

impl Work<'_> {
    /// Hashes pieces until none is left.
    fn share(&self) -> io::Result<Vec<(u64, blake3::Hash)>> {
        let mut buffer = vec![0; READ];
        let mut hashes = Vec::new();
        loop {
            let piece = self.next.fetch_add(1, Ordering::Relaxed);
            let begin = piece.saturating_mul(PIECE);
            if begin >= self.size {
                return Ok(hashes);
            }
            let end = self.size.min(begin + PIECE);
            hashes.push((piece, self.piece(begin, end, &mut buffer)?));
        }
    }

    fn piece(&self, mut at: u64, end: u64, buffer: &mut [u8]) -> io::Result<blake3::Hash> {
        let mut hash = blake3::Hasher::new();
        while at < end {
            let room = usize::try_from(end - at).map_or(READ, |left| left.min(READ));
            let read = self.module.read_at(&mut buffer[..room], at)?;
            if read == 0 {
                return Err(changes());
            }
            let bytes = &buffer[..read];
            hash.update(bytes);
            if let Some(copy) = self.copy {
                copy.write_all_at(bytes, at)?;
            }
            at += read as u64;
        }
        Ok(hash.finalize())
    }
}

fn changes() -> io::Error {
    io::Error::other("the file grows or shrinks while it is read")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many bytes as `length`, no two pieces alike.
    fn file(length: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        for at in (0..length).step_by(4096) {
            let size = usize::try_from((length - at).min(4096)).unwrap();
            let bytes = at.to_le_bytes().repeat(512);
            file.write_all_at(&bytes[..size], at).unwrap();
        }
        file
    }

    #[test]
    fn a_module_hashes_alike_however_many_threads_there_are_and_is_copied_whole() {
        // A piece, its neighbours, and enough of them for every thread.
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 9 * PIECE + 7] {
            let module = file(length);
            let copy = tempfile::tempfile().unwrap();
            let first = hash(&module, length, Some(&copy)).unwrap();
            assert_eq!(copy.metadata().unwrap().len(), length);
            let alone = Work {
                module: &copy,
                copy: None,
                size: length,
                next: AtomicU64::new(0),
            };
            let mut whole = blake3::Hasher::new();
            whole.update(&length.to_le_bytes());
            for (_, piece) in alone.share().unwrap() {
                whole.update(piece.as_bytes());
            }
            assert_eq!(first, <[u8; 32]>::from(whole.finalize()), "{length}");
        }
    }

    #[test]
    fn every_byte_counts_and_so_does_the_length() {
        let length = 5 * PIECE + 3;
        let module = file(length);
        let before = hash(&module, length, None).unwrap();
        for at in [0, PIECE - 1, PIECE, 3 * PIECE + 9, length - 1] {
            let mut byte = [0];
            module.read_exact_at(&mut byte, at).unwrap();
            module.write_all_at(&[!byte[0]], at).unwrap();
            assert_ne!(hash(&module, length, None).unwrap(), before, "at {at}");
            module.write_all_at(&byte, at).unwrap();
        }
        assert_eq!(hash(&module, length, None).unwrap(), before);
        module.set_len(length + 1).unwrap();
        assert_ne!(hash(&module, length + 1, None).unwrap(), before);
    }

    #[test]
    fn a_file_that_is_not_as_long_as_it_was_is_no_module() {
        for length in [PIECE - 1, PIECE + 1] {
            let error = hash(&file(length), PIECE, None).unwrap_err();
            assert!(error.to_string().contains("grows or shrinks"), "{error}");
        }
    }
}
