//! Facts about this machine, and what a pod leaves on it outside containerd's care.

use crate::error::Error;
use rustix::mount::UnmountFlags;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the last process of a removed container may keep its cgroup busy: 2 s.
const CGROUP_BUSY: Duration = Duration::from_secs(2);

/// One line of `/proc/self/mountinfo`.
#[derive(Debug)]
struct Mounted {
    target: PathBuf,
    kind: String,
}

/// A new random identifier.
pub(crate) fn uuid() -> Result<String, Error> {
    let path = Path::new("/proc/sys/kernel/random/uuid");
    let text = fs::read_to_string(path).map_err(Error::at("could not read", path))?;
    Ok(text.trim().to_owned())
}

/// The machine's memory, in bytes.
pub(crate) fn memory_bytes() -> i64 {
    let info = rustix::system::sysinfo();
    let bytes = u128::from(info.totalram) * u128::from(info.mem_unit);
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The machine's name.
pub(crate) fn node_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

/// The address from which this machine talks to others; loopback if it has none.
pub(crate) fn host_ip() -> IpAddr {
    // Connecting a UDP socket sends nothing: it only asks the routing table.
    let probe = || -> io::Result<IpAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        Ok(socket.local_addr()?.ip())
    };
    probe().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Unmounts everything at and below `directory`, last mounted first.
pub(crate) fn unmount_below(directory: &Path) -> Result<(), Error> {
    let mounts = mounts()?;
    for mount in mounts.iter().rev() {
        if mount.target.starts_with(directory) {
            rustix::mount::unmount(&mount.target, UnmountFlags::DETACH)
                .map_err(|errno| Error::io("could not unmount", &mount.target, errno.into()))?;
        }
    }
    Ok(())
}

/// Removes the cgroup `parent` (`/duet/UID`) that containerd made for a pod in every hierarchy,
/// and then those above it that are empty.
pub(crate) fn remove_cgroup(parent: &Path) -> Result<(), Error> {
    let relative = parent.strip_prefix("/").unwrap_or(parent);
    for mount in mounts()? {
        if !mount.kind.starts_with("cgroup") {
            continue;
        }
        let path = mount.target.join(relative);
        remove_tree(&path).map_err(Error::at("could not remove the cgroup", &path))?;
        let mut above = relative.parent();
        while let Some(part) = above.filter(|part| !part.as_os_str().is_empty()) {
            // Another pod may be in it: then it is not empty, and stays.
            if fs::remove_dir(mount.target.join(part)).is_err() {
                break;
            }
            above = part.parent();
        }
    }
    Ok(())
}

/// Removes a cgroup with those below it; a cgroup's files go with it.
fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    let deadline = Instant::now() + CGROUP_BUSY;
    loop {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                if Instant::now() >= deadline {
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

fn mounts() -> Result<Vec<Mounted>, Error> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(path).map_err(Error::at("could not read", path))?;
    Ok(text.lines().filter_map(mounted).collect())
}

/// Reads one line: target is the fifth word, the type the first after ` - `.
fn mounted(line: &str) -> Option<Mounted> {
    let (before, after) = line.split_once(" - ")?;
    Some(Mounted {
        target: unescaped(before.split(' ').nth(4)?),
        kind: after.split(' ').next()?.to_owned(),
    })
}

/// mountinfo writes blanks and backslashes as three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::mounted;
    use std::path::Path;

    #[test]
    fn mountinfo_is_read() {
        let line = "36 35 98:0 /a /mnt/with\\040blank rw,noatime master:1 - tmpfs none rw";
        let mount = mounted(line).unwrap();
        assert_eq!(mount.target, Path::new("/mnt/with blank"));
        assert_eq!(mount.kind, "tmpfs");
        assert!(mounted("nonsense").is_none());
    }
}
