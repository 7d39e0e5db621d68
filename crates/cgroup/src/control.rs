//! Reads and writes control files, so that every refusal names the file and the value.

use std::error::Error as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use cgroups_rs::fs::error::{Error as ControllerError, ErrorKind};
use nix::errno::Errno;

use crate::Error;
use crate::error::errno;

/// How much of a control file is asked for at a time, in bytes: the kernel makes at most a page of
/// most of them, so that one call has all of it and a second one the end.
const PAGE: usize = 4096;

/// The text of `dir/name`.
pub(crate) fn read(dir: &Path, name: &str) -> Result<String, Error> {
    let path = dir.join(name);
    read_all(&path).map_err(|error| Error::on("read", &path, &error))
}

/// As `std::fs::read_to_string`, which asks first for a size that no control file has.
fn read_all(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut text, mut page) = (Vec::new(), [0; PAGE]);
    loop {
        match file.read(&mut page) {
            Ok(0) => break,
            Ok(len) => text.extend(page.iter().take(len)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    String::from_utf8(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The text of `dir/name`, or `None` where this kernel or this cgroup has no such file.
///
/// `EOPNOTSUPP` is what the pressure files answer when the kernel keeps no pressure.
pub(crate) fn read_optional(dir: &Path, name: &str) -> Result<Option<String>, Error> {
    match read(dir, name) {
        Ok(text) => Ok(Some(text)),
        Err(
            Error::Gone { .. }
            | Error::Call {
                source: Errno::EOPNOTSUPP,
                ..
            },
        ) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes `value` to `dir/name` in one call, as the kernel wants it.
pub(crate) fn write(dir: &Path, name: &str, value: &str) -> Result<(), Error> {
    write_each(dir, name, [value])
}

/// Writes each of `values` to `dir/name`, in one call each; the file is opened once, and not at all
/// without a value.
pub(crate) fn write_each<T: AsRef<str>>(
    dir: &Path,
    name: &str,
    values: impl IntoIterator<Item = T>,
) -> Result<(), Error> {
    let mut file: Option<File> = None;
    for value in values {
        let value = value.as_ref();
        let written = match &mut file {
            Some(file) => file.write_all(value.as_bytes()),
            None => OpenOptions::new()
                .write(true)
                .open(dir.join(name))
                .and_then(|opened| file.insert(opened).write_all(value.as_bytes())),
        };
        written.map_err(|error| refused(name, value, errno(&error)))?;
    }
    Ok(())
}

/// The error for a value that the kernel refused.
pub(crate) fn refused(name: &str, value: &str, source: Errno) -> Error {
    Error::Refused {
        file: name.to_owned(),
        value: value.to_owned(),
        source,
    }
}

/// Runs a setter of a `cgroups-rs` controller of the cgroup `dir` that writes `value` to `name`.
///
/// That crate opens with `O_CREAT`, which turns a file this kernel lacks into "permission denied":
/// here it becomes `ENOENT` again.
pub(crate) fn set(
    dir: &Path,
    name: &str,
    value: impl ToString,
    setter: impl FnOnce() -> Result<(), ControllerError>,
) -> Result<(), Error> {
    let Err(error) = setter() else { return Ok(()) };
    let mut source = cause(&error);
    if matches!(source, Errno::EACCES | Errno::EPERM) && !dir.join(name).exists() {
        source = Errno::ENOENT;
    }
    Err(refused(name, &value.to_string(), source))
}

/// The kernel's error number inside an error of `cgroups-rs`.
fn cause(error: &ControllerError) -> Errno {
    let io = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    match (io, error.kind()) {
        (Some(io), _) => errno(io),
        (None, ErrorKind::CgroupVersion) => Errno::EOPNOTSUPP,
        // Without a cause the crate itself did not like the value.
        (None, _) => Errno::EINVAL,
    }
}
