//! The shared libraries that a program needs, as the dynamic linker finds them.

use crate::error::Error;
use crate::program;
use std::path::{Path, PathBuf};

/// The libraries of `file`, the dynamic linker among them; none if it is static or no ELF file.
///
/// `ldd` knows the linker's search rules; it is part of every glibc system.
pub(crate) fn needed(file: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut start = [0; 4];
    let mut open = std::fs::File::open(file).map_err(Error::at("could not read", file))?;
    if std::io::Read::read(&mut open, &mut start).map_err(Error::at("could not read", file))? < 4
        || &start != b"\x7fELF"
    {
        return Ok(Vec::new());
    }
    match program::output("ldd", [file]) {
        Ok(text) => parse(&text).map_err(|library| {
            Error::Missing(format!(
                "{} needs {library}, which is not on this machine",
                file.display()
            ))
        }),
        // ldd fails for a static program; there is no other way to tell by its status.
        Err(Error::Program { output, .. }) if output.contains("not a dynamic executable") => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
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
    use super::parse;
    use std::path::Path;

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
