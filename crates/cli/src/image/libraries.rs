//! The shared libraries that a program needs, as the dynamic linker finds them.

use crate::error::Error;
use crate::program;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// How much of a program is read for its headers: 16 KiB; they stand at its beginning.
const HEADERS: u64 = 16 << 10;

/// The libraries of `file`, the dynamic linker among them; none if it is static or no ELF file.
///
/// `ldd` knows the linker's search rules; it is part of every glibc system.
pub(crate) fn needed(file: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut start = Vec::new();
    std::fs::File::open(file)
        .and_then(|open| open.take(HEADERS).read_to_end(&mut start))
        .map_err(Error::at("could not read", file))?;
    // ldd fails for a static program as it does for a broken one.
    if !is_dynamic(&start).unwrap_or(false) {
        return Ok(Vec::new());
    }
    parse(&program::output("ldd", [file])?).map_err(|library| {
        Error::Missing(format!(
            "{} needs {library}, which is not on this machine",
            file.display()
        ))
    })
}

/// Whether an ELF file of 64 bits has a dynamic section; `None` if it is no such file.
///
/// # References
///
/// [elf(5)](https://man7.org/linux/man-pages/man5/elf.5.html)
fn is_dynamic(start: &[u8]) -> Option<bool> {
    const PT_DYNAMIC: u32 = 2;
    if !start.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let short = |at: usize| {
        let bytes = start.get(at..at + 2)?.try_into().ok()?;
        Some(usize::from(u16::from_le_bytes(bytes)))
    };
    let first = u64::from_le_bytes(start.get(32..40)?.try_into().ok()?);
    let (first, size, count) = (usize::try_from(first).ok()?, short(54)?, short(56)?);
    let kinds = (0..count).filter_map(|index| {
        let at = first.checked_add(index.checked_mul(size)?)?;
        let bytes = start.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    });
    Some(kinds.into_iter().any(|kind| kind == PT_DYNAMIC))
}

/// Reads ldd's lines; `Err` is the name of a library that was not found.
fn parse(text: &str) -> Result<Vec<PathBuf>, String> {
    let mut libraries = Vec::new();
    for line in text.lines().map(str::trim) {
        let place = match line.split_once(" => ") {
            Some((name, "not found")) => return Err(name.to_owned()),
            Some((_, place)) => place,
            None => line,
        };
        // What has no path is mapped by the kernel, or is the word "statically linked".
        let path = place.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::{is_dynamic, parse};
    use std::path::Path;

    #[test]
    fn a_dynamic_program_is_told_from_a_static_one() {
        // This test itself is static, as everything Duet builds.
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(is_dynamic(&own), Some(false));
        assert_eq!(is_dynamic(&std::fs::read("/bin/sh").unwrap()), Some(true));
        assert_eq!(is_dynamic(b"#!/bin/sh"), None);
    }

    #[test]
    fn the_linkers_answer_is_read() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            parse(text).unwrap(),
            [
                Path::new("/lib/x86_64-linux-gnu/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert_eq!(parse("\tstatically linked\n").unwrap(), [] as [&Path; 0]);
        assert_eq!(parse("\tliba.so => not found\n").unwrap_err(), "liba.so");
    }
}
