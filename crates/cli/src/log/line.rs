//! One line of a CRI log file: `2026-11-21T10:00:00.123456789Z stdout F text`.

/// A parsed line, borrowed from the file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// The stream the container wrote to.
    pub(crate) stream: Stream,
    /// Whether the container's own line ends here, or goes on in the next record.
    pub(crate) end: End,
    pub(crate) text: &'a [u8],
}

/// Where the container wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// `F` and `P` of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Full,
    Partial,
}

// === impl Line ===

impl<'a> Line<'a> {
    /// Reads one line without its newline; `None` if it has not the format.
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        let mut words = line.splitn(4, |byte| *byte == b' ');
        let time = words.next()?;
        if time.len() < "2026-11-21T10:00:00Z".len() || time.get(10) != Some(&b'T') {
            return None;
        }
        let stream = match words.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        // Tags are separated by colons; the first says whether the line is whole.
        let end = match words.next()?.split(|byte| *byte == b':').next()? {
            b"F" => End::Full,
            b"P" => End::Partial,
            _ => return None,
        };
        let text = words.next().unwrap_or_default();
        Some(Self { stream, end, text })
    }
}

#[cfg(test)]
mod tests {
    use super::{End, Line, Stream};

    #[test]
    fn lines_of_the_format_are_read() {
        for (line, stream, end, text) in [
            (
                "2026-11-21T10:00:00.1Z stdout F hello",
                Stream::Stdout,
                End::Full,
                "hello",
            ),
            (
                "2026-11-21T10:00:00.1+01:00 stderr P a  b ",
                Stream::Stderr,
                End::Partial,
                "a  b ",
            ),
            (
                "2026-11-21T10:00:00.1Z stdout F:x ",
                Stream::Stdout,
                End::Full,
                "",
            ),
            (
                "2026-11-21T10:00:00.1Z stdout F",
                Stream::Stdout,
                End::Full,
                "",
            ),
        ] {
            let text = text.as_bytes();
            assert_eq!(
                Line::parse(line.as_bytes()),
                Some(Line { stream, end, text }),
                "{line}"
            );
        }
    }

    #[test]
    fn other_lines_are_not() {
        for line in [
            "",
            "hello",
            "2026-11-21T10:00:00Z stdin F x",
            "2026-11-21T10:00:00Z stdout Q x",
        ] {
            assert_eq!(Line::parse(line.as_bytes()), None, "{line}");
        }
    }
}
