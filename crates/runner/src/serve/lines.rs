//! Lines of what handlers print, each with the number of its request. Without wasmtime, so that it is tested by itself
//! (`crates/wasm/tests/units`).

use std::mem;

/// How long a line may become before it is cut: 16 KiB, as container runtimes cut theirs.
const LINE: usize = 16 << 10;

/// What was not written yet: the beginning of a line.
#[derive(Debug)]
pub(super) struct Pending {
    request: u64,
    line: Vec<u8>,
}

// === impl Pending ===

impl Pending {
    /// Nothing yet, of this request.
    pub(super) fn new(request: u64) -> Self {
        Self {
            request,
            line: Vec::new(),
        }
    }

    /// What is printed from now on belongs to this request.
    pub(super) fn begin(&mut self, request: u64) {
        self.request = request;
    }

    /// The lines that `bytes` completes; the rest is kept.
    pub(super) fn lines(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut whole = Vec::new();
        for mut part in bytes.split_inclusive(|byte| *byte == b'\n') {
            // Its end needs no room.
            while self.line.len() + part.strip_suffix(b"\n").unwrap_or(part).len() > LINE {
                let (fits, rest) = part.split_at(LINE - self.line.len());
                self.line.extend_from_slice(fits);
                self.complete(&mut whole);
                part = rest;
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.complete(&mut whole);
            }
        }
        whole
    }

    /// A line that nobody has ended, if there is one.
    pub(super) fn end(&mut self) -> Vec<u8> {
        let mut whole = Vec::new();
        if !self.line.is_empty() {
            self.complete(&mut whole);
        }
        whole
    }

    fn complete(&mut self, whole: &mut Vec<u8>) {
        let line = mem::take(&mut self.line);
        whole.extend_from_slice(format!("[{}] ", self.request).as_bytes());
        whole.extend_from_slice(&line);
        if !line.ends_with(b"\n") {
            whole.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_where_it_is_said_however_it_comes() {
        let long = [
            vec![b'x'; LINE],
            b"y\n".to_vec(),
            b"z".repeat(LINE),
            b"\n".to_vec(),
        ]
        .concat();
        let expected = [
            b"[7] ".to_vec(),
            vec![b'x'; LINE],
            b"\n[7] y\n[7] ".to_vec(),
            b"z".repeat(LINE),
            b"\n".to_vec(),
        ]
        .concat();
        for size in [1, 4096, LINE, LINE + 1, 3 * LINE] {
            let mut pending = Pending::new(7);
            let whole: Vec<_> = long
                .chunks(size)
                .flat_map(|chunk| pending.lines(chunk))
                .collect();
            assert!(whole == expected, "pieces of {size}");
        }
    }
}
