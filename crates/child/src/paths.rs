//! Walking and making paths below a descriptor, without ever leaving it.
//!
//! What exists is walked by the kernel (`RESOLVE_IN_ROOT`); what is missing is made one name at
//! a time relative to an open directory, never through a symbolic link that someone may swap.

use core::ffi::{CStr, c_int};

use duet_step::{Destination, Op, Reg, Text};

use crate::fault::{Fault, unless};
use crate::run::Child;
use crate::syscalls::{self, Fd, IN_ROOT};

/// The kernel's `PATH_MAX`: a path and its NUL.
const PATH_MAX: usize = 4096;
/// How many dangling links one path may lead through, the kernel's own number.
const LINKS_MAX: u32 = 40;

/// Who owns what is made.
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    /// Root, who needs no `chown` to own what it makes.
    pub(crate) const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// A path that can be cut at its slashes.
struct Path {
    bytes: [u8; PATH_MAX],
    len: usize,
}

/// How far one walk came.
enum Walked {
    /// To the end.
    There(Fd),
    /// To a dangling link, which the path now has replaced by its target.
    Detour,
}

/// Opens what exists at `path` below `root`, as a place only.
pub(crate) fn resolve(root: c_int, path: &CStr) -> Result<Fd, Fault> {
    syscalls::openat2(root, path, libc::O_PATH, IN_ROOT)
}

/// Opens what is at `path` below `root`, and makes it, parents included, when it is missing.
pub(crate) fn ensure(
    root: c_int,
    path: &CStr,
    kind: Destination,
    owner: Owner,
) -> Result<Fd, Fault> {
    if let Some(there) = unless(libc::ENOENT, resolve(root, path))? {
        return Ok(there);
    }
    let mut path = Path::new(path)?;
    for _ in 0..LINKS_MAX {
        if let Walked::There(there) = path.walk(root, kind, owner)? {
            return Ok(there);
        }
    }
    Err(Fault::check(libc::ELOOP))
}

/// Opens the directory that `path` below `base` is in, makes it when it is missing, and calls
/// `with` with it and the path's last name. `parents` own what is made.
pub(crate) fn within<T>(
    base: c_int,
    path: &CStr,
    parents: Owner,
    with: impl FnOnce(c_int, &CStr) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let bytes = path.to_bytes_with_nul();
    let Some(slash) = path.to_bytes().iter().rposition(|byte| *byte == b'/') else {
        return with(base, proper_name(path)?);
    };
    let name = bytes
        .get(slash.saturating_add(1)..)
        .and_then(|name| CStr::from_bytes_with_nul(name).ok())
        .ok_or(Fault::check(libc::EINVAL))?;
    let mut parent = Path::new(path)?;
    parent.cut(slash)?;
    let parent = match parent.text(0, slash)? {
        text if text.is_empty() => resolve(base, c"/")?,
        text => ensure(base, text, Destination::Directory, parents)?,
    };
    with(parent.number(), proper_name(name)?)
}

/// Refuses what is no name of a file: nothing, and the two names of directories.
fn proper_name(name: &CStr) -> Result<&CStr, Fault> {
    match name.to_bytes() {
        b"" | b"." | b".." => Err(Fault::check(libc::EINVAL)),
        _ => Ok(name),
    }
}

// === impl Path ===

impl Path {
    fn new(path: &CStr) -> Result<Self, Fault> {
        let mut new = Self {
            bytes: [0; PATH_MAX],
            len: 0,
        };
        new.push(path.to_bytes())?;
        Ok(new)
    }

    /// Appends bytes; the one after them stays NUL.
    fn push(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let end = self.len.saturating_add(bytes.len());
        if end >= PATH_MAX {
            return Err(Fault::check(libc::ENAMETOOLONG));
        }
        let room = self.bytes.get_mut(self.len..end);
        for (to, from) in room.unwrap_or_default().iter_mut().zip(bytes) {
            *to = *from;
        }
        self.len = end;
        Ok(())
    }

    /// Puts a byte where another was, and gives that one back.
    fn put(&mut self, at: usize, byte: u8) -> Result<u8, Fault> {
        let place = self.bytes.get_mut(at);
        place
            .map(|place| core::mem::replace(place, byte))
            .ok_or(Fault::check(libc::ENAMETOOLONG))
    }

    /// Ends the path at `at`.
    fn cut(&mut self, at: usize) -> Result<u8, Fault> {
        self.put(at, 0)
    }

    /// What is between two offsets, the latter being where a NUL is.
    fn text(&self, start: usize, end: usize) -> Result<&CStr, Fault> {
        self.bytes
            .get(start..=end)
            .and_then(|bytes| CStr::from_bytes_with_nul(bytes).ok())
            .ok_or(Fault::check(libc::EINVAL))
    }

    /// The first name at or after `from`: where it starts and where it ends.
    fn name_after(&self, from: usize) -> Option<(usize, usize)> {
        let rest = self.bytes.get(from..self.len)?;
        let start = from.checked_add(rest.iter().position(|byte| *byte != b'/')?)?;
        let name = self.bytes.get(start..self.len)?;
        let slash = name.iter().position(|byte| *byte == b'/');
        Some((start, start.checked_add(slash.unwrap_or(name.len()))?))
    }

    /// Walks from the root, makes what is missing, and stops at a dangling link.
    fn walk(&mut self, root: c_int, kind: Destination, owner: Owner) -> Result<Walked, Fault> {
        let mut here = resolve(root, c"/")?;
        let mut from = 0;
        while let Some((start, end)) = self.name_after(from) {
            let last = self.name_after(end).is_none();
            let after = self.cut(end)?;
            // From the root every time: a link in the image may lead anywhere below it.
            let next = unless(libc::ENOENT, resolve(root, self.text(0, end)?))?;
            here = if let Some(there) = next {
                there
            } else {
                let name = self.text(start, end)?;
                let kind = if last { kind } else { Destination::Directory };
                match unless(libc::EEXIST, make(here.number(), name, kind, owner))? {
                    Some(made) => made,
                    None => {
                        self.follow(&here, start, end, after)?;
                        return Ok(Walked::Detour);
                    }
                }
            };
            self.put(end, after)?;
            from = end;
        }
        Ok(Walked::There(here))
    }

    /// Replaces the name between `start` and `end`, a link in `dir`, by its target.
    fn follow(&mut self, dir: &Fd, start: usize, end: usize, after: u8) -> Result<(), Fault> {
        let mut target = [0; PATH_MAX];
        let read = syscalls::readlinkat(dir.number(), self.text(start, end)?, &mut target);
        // No link: someone has made the missing thing in the meantime. Then it is there.
        let Some(len) = unless(libc::EINVAL, read)? else {
            self.put(end, after)?;
            return Ok(());
        };
        self.put(end, after)?;
        let target = target.get(..len).unwrap_or_default();
        let mut path = Self {
            bytes: [0; PATH_MAX],
            len: 0,
        };
        if target.first() != Some(&b'/') {
            path.push(self.bytes.get(..start).unwrap_or_default())?;
        }
        path.push(target)?;
        path.push(self.bytes.get(end..self.len).unwrap_or_default())?;
        *self = path;
        Ok(())
    }
}

/// Makes one name in an open directory and opens it as a place.
fn make(dir: c_int, name: &CStr, kind: Destination, owner: Owner) -> Result<Fd, Fault> {
    match kind {
        Destination::Directory => syscalls::mkdirat(dir, name, 0o755)?,
        Destination::File => {
            let create = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
            syscalls::open_name(dir, name, create, 0o644)?;
        }
    }
    if (owner.uid, owner.gid) != (0, 0) {
        syscalls::fchownat(dir, name, owner.uid, owner.gid)?;
    }
    syscalls::open_name(dir, name, libc::O_PATH, 0)
}

// === impl Child ===

impl Child<'_> {
    /// Opens a directory of the container into a register.
    pub(crate) fn open(&mut self, path: Text, register: Reg) -> Result<(), Fault> {
        let path = self.code.text(path)?;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let opened = match self.register(Reg::Root) {
            Ok(root) => syscalls::openat2(root, path, flags, IN_ROOT)?,
            // An exec'd process has joined the container's mount namespace: its root is the
            // container's, and this step says so.
            Err(_) if register == Reg::Root && path == c"/" => {
                syscalls::openat2(libc::AT_FDCWD, path, flags, IN_ROOT)?
            }
            Err(fault) => return Err(fault),
        };
        self.keep(register, opened.number())
    }

    /// Makes a directory of the container, parents included, when it is missing.
    pub(crate) fn make_dir(&mut self, path: Text, uid: u32, gid: u32) -> Result<(), Fault> {
        let root = self.register(Reg::Root)?;
        let owner = Owner { uid, gid };
        let there = ensure(root, self.code.text(path)?, Destination::Directory, owner)?;
        let (mode, _) = syscalls::fstat(there.number())?;
        if mode & libc::S_IFMT == libc::S_IFDIR {
            Ok(())
        } else {
            Err(Fault {
                op: Op::Mkdirat,
                errno: libc::ENOTDIR,
            })
        }
    }
}
