//! The blocks of an archive: POSIX's `ustar`, with GNU's long names and what of pax names files.
//!
//! By hand: the crate that does it would be half as large again as everything else here.

use std::io::{self, Read, Write};

/// Everything is in blocks of this many bytes.
const BLOCK: usize = 512;

/// The longest name that is read: the kernel's `PATH_MAX`, and room for pax's other words.
const LONG: u64 = 64 << 10;

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    /// Another name of a file of the archive.
    Link,
    Other,
}

/// An entry, before its bytes.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// How many bytes follow.
    pub(crate) size: u64,
    /// Seconds since 1970.
    pub(crate) modified: u64,
    /// Where a link leads.
    pub(crate) to: String,
}

impl Entry {
    /// Writes the block, or blocks where a name is long.
    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        for (name, letter) in [(&self.name, b'L'), (&self.to, b'K')] {
            if name.len() > 100 {
                let size = name.len() as u64 + 1;
                to.write_all(&block("././@LongLink", letter, 0, size, 0, ""))?;
                to.write_all(name.as_bytes())?;
                to.write_all(&[0])?;
                pad(to, size)?;
            }
        }
        let (letter, mode) = match self.kind {
            Kind::Directory => (b'5', 0o755),
            Kind::Symlink => (b'2', 0o777),
            Kind::Link => (b'1', 0o644),
            Kind::File | Kind::Other => (b'0', 0o644),
        };
        to.write_all(&block(&self.name, letter, mode, self.size, self.modified, &self.to))
    }

    /// Reads the next one; nothing at the end.
    pub(crate) fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let (mut name, mut to, mut size) = (None, None, None);
        loop {
            let mut block = [0; BLOCK];
            // Some leave out the empty blocks of the end.
            if from.read(&mut block[..1])? == 0 {
                return Ok(None);
            }
            from.read_exact(&mut block[1..])?;
            if block == [0; BLOCK] {
                return Ok(None);
            }
            if sum(&block) != number(&block[148..156]) {
                return Err(io::Error::other("this is no archive, or a broken one"));
            }
            let here = number(&block[124..136]);
            match block[156] {
                b'L' => name = Some(text(&long(from, here)?)),
                b'K' => to = Some(text(&long(from, here)?)),
                b'x' => {
                    for (key, value) in pax(&long(from, here)?) {
                        match key.as_str() {
                            "path" => name = Some(value),
                            "linkpath" => to = Some(value),
                            "size" => size = value.parse().ok(),
                            _ => {}
                        }
                    }
                }
                b'g' => drop(long(from, here)?),
                letter => {
                    let kind = match letter {
                        0 | b'0' | b'7' => Kind::File,
                        b'5' => Kind::Directory,
                        b'2' => Kind::Symlink,
                        b'1' => Kind::Link,
                        _ => Kind::Other,
                    };
                    let short = || match (text(&block[345..500]), text(&block[..100])) {
                        (prefix, name) if !prefix.is_empty() && block.get(257..262) == Some(b"ustar") && block[262] == 0 => {
                            format!("{prefix}/{name}")
                        }
                        (_, name) => name,
                    };
                    return Ok(Some(Entry {
                        name: name.unwrap_or_else(short),
                        kind,
                        size: size.unwrap_or(here),
                        modified: number(&block[136..148]),
                        to: to.unwrap_or_else(|| text(&block[157..257])),
                    }));
                }
            }
        }
    }
}

/// Fills the last block of `size` bytes.
pub(crate) fn pad(to: &mut impl Write, size: u64) -> io::Result<()> {
    to.write_all(&[0; BLOCK][..padding(size)])
}

/// Passes over what fills the last block of `size` bytes.
pub(crate) fn skip(from: &mut impl Read, size: u64) -> io::Result<()> {
    from.read_exact(&mut [0; BLOCK][..padding(size)])
}

/// The end of an archive.
pub(crate) fn end(to: &mut impl Write) -> io::Result<()> {
    to.write_all(&[0; 2 * BLOCK])
}

fn padding(size: u64) -> usize {
    let last = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    (BLOCK - last) % BLOCK
}

fn block(name: &str, letter: u8, mode: u64, size: u64, modified: u64, to: &str) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8], most: usize| {
        for (to, from) in block[at..at + most].iter_mut().zip(bytes) {
            *to = *from;
        }
    };
    put(0, name.as_bytes(), 100);
    put(100, format!("{mode:07o}").as_bytes(), 7);
    put(108, b"0000000", 7);
    put(116, b"0000000", 7);
    match format!("{size:011o}") {
        octal if octal.len() == 11 => put(124, octal.as_bytes(), 11),
        // 8 GiB and more, as GNU writes it.
        _ => put(124, &[&[0x80, 0, 0, 0], &size.to_be_bytes()[..]].concat(), 12),
    }
    put(136, format!("{modified:011o}").as_bytes(), 11);
    put(148, b"        ", 8);
    put(156, &[letter], 1);
    put(157, to.as_bytes(), 100);
    put(257, b"ustar  \0", 8);
    let sum = format!("{:06o}\0 ", sum(&block));
    block[148..156].copy_from_slice(sum.as_bytes());
    block
}

/// The sum of a block's bytes, its own digits counted as spaces.
fn sum(block: &[u8; BLOCK]) -> u64 {
    let bytes = block.iter().enumerate();
    let byte = |(at, byte): (usize, &u8)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) };
    bytes.map(byte).sum()
}

/// Octal digits, or GNU's binary form.
fn number(field: &[u8]) -> u64 {
    if field.first().is_some_and(|first| first & 0x80 != 0) {
        return field.iter().skip(1).fold(0, |number, byte| number << 8 | u64::from(*byte));
    }
    let digits = field.iter().filter(|byte| (b'0'..=b'7').contains(byte));
    digits.fold(0, |number, digit| number << 3 | u64::from(digit - b'0'))
}

/// What is before the first NUL.
fn text(field: &[u8]) -> String {
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// The bytes of an entry that is about the next one.
fn long(from: &mut impl Read, size: u64) -> io::Result<Vec<u8>> {
    if size > LONG {
        return Err(io::Error::other("a name is too long"));
    }
    let mut bytes = Vec::new();
    from.take(size).read_to_end(&mut bytes)?;
    skip(from, size)?;
    Ok(bytes)
}

/// `12 path=some\n`, once for each key; the number counts the whole record.
fn pax(records: &[u8]) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = String::from_utf8_lossy(records).into_owned();
    while let Some((length, _)) = rest.split_once(' ') {
        let Some(length) = length.parse().ok().filter(|length| *length <= rest.len() && *length > 0) else {
            break;
        };
        if !rest.is_char_boundary(length) {
            break;
        }
        let after = rest.split_off(length);
        let record = rest.trim_end_matches('\n');
        if let Some((key, value)) = record.split_once(' ').and_then(|(_, pair)| pair.split_once('=')) {
            pairs.push((key.to_owned(), value.to_owned()));
        }
        rest = after;
    }
    pairs
}
