//! The compiled-code cache of a node: each module is compiled once, and only what our own compiler
//! wrote is ever run.
//!
//! ```text
//! /var/lib/duet/cache/          0700, ours
//!   <key>/code                  0444 in 0755: machine code and a trailer (entry.rs)
//!   <key>/blocks                0444: what loading it fills, for all to share (blocks.rs)
//!   <key>.lock                  who compiles; and when the entry was last seen to be whole
//!   <key>.new/                  being written by the holder of the lock
//! ```
//!
//! The key is the sha256 of the module together with the compiler's build id and this CPU's
//! features (`identity.rs`). An entry is written whole, synced, and renamed into place. On the way
//! out it is checked (`entry.rs`); one that is truncated, changed or not ours is thrown away and
//! compiled again, never run.

mod compile;
mod entry;
mod identity;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use duet_linux::mount;
use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, flock, mkdirat, openat, renameat, unlinkat,
};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::handoff::{freeze, memory_file};
use crate::{BLOCKS, CODE, Format, HEAD, detect};

/// The cache of compiled code on this node.
#[derive(Debug)]
pub struct Cache {
    directory: OwnedFd,
    path: PathBuf,
    compiler: PathBuf,
    runner: Option<PathBuf>,
    identity: identity::Identity,
}

/// The name of an entry: which module, compiled by what, for which CPU.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

/// A module that is ready to be mapped.
#[derive(Debug)]
pub struct Compiled {
    /// The entry's directory, opened as a path only.
    directory: OwnedFd,
    /// Names the entry in logs.
    pub key: Key,
    /// Where it came from.
    pub source: Source,
    /// Why what loading it fills is not shared, if it was compiled now and is not: each container
    /// of it will take more memory.
    pub unshared: Option<Error>,
}

/// Where compiled code came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It was there.
    Cached,
    /// Somebody else was compiling it; we waited this long.
    Awaited(Duration),
    /// We compiled it, which took this long.
    Fresh(Duration),
}

/// Why there is no compiled code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache's directory cannot be made, opened or read.
    #[error("wasm cache {path}")]
    Directory {
        /// The cache's directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The cache's directory is open to others: what is in it could be anybody's.
    #[error("wasm cache {path}: owner {owner}, mode {mode:o}, expected our own and 700")]
    Exposed {
        /// The cache's directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// Code cannot be run from the cache's file system.
    #[error("wasm cache {path}: its file system is mounted noexec")]
    Noexec {
        /// The cache's directory.
        path: PathBuf,
    },
    /// The compiler is missing or cannot be started.
    #[error("wasm compiler {path}")]
    Compiler {
        /// The compiler's binary.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The module cannot be read.
    #[error("{name}")]
    Module {
        /// The module.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The module is larger than Duet compiles.
    #[error("{name}: {size} bytes of WebAssembly, and at most {limit} are compiled")]
    TooLarge {
        /// The module.
        name: String,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The compiler refused the module; the text says why.
    #[error("{name}: {why}")]
    Refused {
        /// The module.
        name: String,
        /// The compiler's sentence.
        why: String,
    },
    /// The compiler itself failed or ran into one of its limits.
    #[error("{name}: the compiler {how}")]
    Broken {
        /// The module.
        name: String,
        /// How it ended.
        how: String,
    },
    /// The runner could not load what was compiled.
    #[error("{name}: the runner {how}")]
    Unloadable {
        /// The module.
        name: String,
        /// How it ended.
        how: String,
    },
    /// The deadline passed.
    #[error("{name}: not compiled after {waited:.1?}, {what}")]
    Late {
        /// The module.
        name: String,
        /// How long it was given.
        waited: Duration,
        /// What was going on.
        what: &'static str,
    },
    /// An entry cannot be read or written.
    #[error("wasm cache entry {path}")]
    Entry {
        /// The entry.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

// === impl Cache ===

impl Cache {
    /// Where the cache of a node is kept unless the runtime's options say otherwise.
    ///
    /// On disk and not in `/run`: a module is compiled once, not once per boot.
    pub const DIRECTORY: &str = "/var/lib/duet/cache";

    /// The largest module that is compiled: 256 MiB.
    pub const LIMIT: u64 = 256 << 20;

    /// Opens the cache in `directory`, making it if it is missing; `compiler` fills it.
    ///
    /// # Errors
    ///
    /// [`Error::Exposed`] if others may write there, [`Error::Noexec`] if nothing can be run from
    /// there, [`Error::Compiler`] if the compiler is not there.
    pub fn open(directory: &Path, compiler: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Directory {
            path: directory.to_owned(),
            source,
        };
        make_private(directory).map_err(failed)?;
        let opened = rustix::fs::open(
            directory,
            OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| failed(e.into()))?;
        let stat = rustix::fs::fstat(&opened).map_err(|e| failed(e.into()))?;
        let mode = stat.st_mode & 0o7777;
        if stat.st_uid != rustix::process::geteuid().as_raw() || mode & 0o077 != 0 {
            return Err(Error::Exposed {
                path: directory.to_owned(),
                owner: stat.st_uid,
                mode,
            });
        }
        let volume = rustix::fs::fstatvfs(&opened).map_err(|e| failed(e.into()))?;
        if volume.f_flag.bits() & NOEXEC != 0 {
            return Err(Error::Noexec {
                path: directory.to_owned(),
            });
        }
        let identity = identity::Identity::of(compiler).map_err(|source| Error::Compiler {
            path: compiler.to_owned(),
            source,
        })?;
        Ok(Self {
            directory: opened,
            path: directory.to_owned(),
            compiler: compiler.to_owned(),
            runner: None,
            identity,
        })
    }

    /// Has `runner` say what loading a new entry fills, so that its containers share it.
    #[must_use]
    pub fn with_runner(mut self, runner: &Path) -> Self {
        self.runner = Some(runner.to_owned());
        self
    }

    /// Returns `module` compiled, from the cache or by compiling it now.
    ///
    /// Blocks: for as long as hashing takes if the entry is there (about 1 ms per MB), otherwise
    /// for the compiler, or for somebody else's, but not beyond `deadline`. The position of `module` does
    /// not matter and is left alone. `name` is the module as its user knows it.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] and [`Error::TooLarge`] are the module's fault, [`Error::Late`] names
    /// what took so long; everything else is the node's.
    pub fn compiled(
        &self,
        module: &File,
        name: &str,
        deadline: Instant,
    ) -> Result<Compiled, Error> {
        let unread = |source| Error::Module {
            name: name.to_owned(),
            source,
        };
        let size = module.metadata().map_err(unread)?.len();
        if size > Self::LIMIT {
            return Err(Error::TooLarge {
                name: name.to_owned(),
                size,
                limit: Self::LIMIT,
            });
        }
        let key = self.key(module, None).map_err(unread)?;
        if let Some(directory) = self.entry(key)? {
            return Ok(Compiled {
                directory,
                key,
                source: Source::Cached,
                unshared: None,
            });
        }

        // What is compiled under a key must be what the key was made of, even if somebody writes to
        // the module meanwhile: from here on we use a copy that nobody can change.
        let copy = memory_file("duet-module").map_err(unread)?;
        let key = self.key(module, Some(&copy)).map_err(unread)?;
        freeze(&copy).map_err(unread)?;

        let began = Instant::now();
        let lock = self.lock(key, name, began, deadline)?;
        if let Some(directory) = self.entry(key)? {
            return Ok(Compiled {
                directory,
                key,
                source: Source::Awaited(began.elapsed()),
                unshared: None,
            });
        }
        let (directory, unshared) = self.build(key, copy, name, deadline, &lock)?;
        Ok(Compiled {
            directory,
            key,
            source: Source::Fresh(began.elapsed()),
            unshared,
        })
    }

    /// Reads the whole module and makes its key; writes what was read into `copy`.
    fn key(&self, module: &File, copy: Option<&File>) -> io::Result<Key> {
        let mut content = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        let mut at = 0;
        loop {
            let read = module.read_at(&mut buffer, at)?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            content.update(bytes);
            if let Some(copy) = copy {
                copy.write_all_at(bytes, at)?;
            }
            at += bytes.len() as u64;
            if at > Self::LIMIT {
                return Err(io::Error::other("the file grows while it is read"));
            }
        }
        Ok(Key(self.identity.with(&content.finalize())))
    }

    /// Opens the entry if there is one and it is whole; throws away one that is not.
    fn entry(&self, key: Key) -> Result<Option<OwnedFd>, Error> {
        let failed = |e: Errno| self.failed(&key.to_string(), e);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match openat(&self.directory, key.to_string(), flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let stamp = self.open_lock(key)?;
        match entry::check(&directory, key, &stamp) {
            Ok(()) => Ok(Some(directory)),
            // Whatever is wrong with it, and whether or not we can tell: it will be made anew.
            Err(_) => Ok(None),
        }
    }

    /// Waits for the right to compile `key`.
    fn lock(&self, key: Key, name: &str, began: Instant, deadline: Instant) -> Result<File, Error> {
        let lock = self.open_lock(key)?;
        let mut pause = Duration::from_millis(1);
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(lock),
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(e) => return Err(self.failed(&format!("{key}.lock"), e)),
            }
            // flock has no deadline of its own, and a holder that is killed leaves no trace to wait for.
            if Instant::now() >= deadline {
                return Err(Error::Late {
                    name: name.to_owned(),
                    waited: began.elapsed(),
                    what: "another container's start is still compiling it",
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    fn open_lock(&self, key: Key) -> Result<File, Error> {
        let name = format!("{key}.lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.directory, &name, flags, Mode::from_raw_mode(0o600)) {
            Ok(lock) => Ok(lock.into()),
            Err(e) => Err(self.failed(&name, e)),
        }
    }

    /// Compiles `copy` and puts the result in place. The caller holds the lock.
    fn build(
        &self,
        key: Key,
        copy: File,
        name: &str,
        deadline: Instant,
        lock: &File,
    ) -> Result<(OwnedFd, Option<Error>), Error> {
        let (fresh, place) = (format!("{key}.new"), key.to_string());
        let failed = |e: Errno| self.failed(&fresh, e);
        let broken = |source| Error::Entry {
            path: self.path.join(&fresh),
            source,
        };

        self.discard(&fresh)?;
        mkdirat(&self.directory, &fresh, Mode::from_raw_mode(0o700)).map_err(failed)?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(&self.directory, &fresh, flags, Mode::empty()).map_err(failed)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let code: File = openat(&directory, CODE, flags, Mode::from_raw_mode(0o600))
            .map_err(failed)?
            .into();

        let mut head = [0; HEAD];
        let format = match copy.read_exact_at(&mut head, 0) {
            Ok(()) => detect(&head),
            Err(_) => None,
        };
        let ended = code
            .try_clone()
            .map_err(broken)
            .and_then(|out| compile::run(&self.compiler, copy, out, name, deadline))
            .and_then(|()| entry::seal(&code, key).map_err(broken));
        if let Err(error) = ended {
            self.discard(&fresh)?;
            return Err(error);
        }
        // The runner has its container's user, who is not us.
        rustix::fs::fchmod(&code, Mode::from_raw_mode(0o444)).map_err(failed)?;
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o755)).map_err(failed)?;
        let unshared = match (&self.runner, format) {
            (Some(runner), Some(format)) => {
                self.add_blocks(runner, format, &directory, name, deadline)
            }
            (None, _) | (_, None) => Ok(()),
        };
        rustix::fs::fsync(&code).map_err(failed)?;
        rustix::fs::fsync(&directory).map_err(failed)?;
        // A directory can only replace an empty one: what was found unfit goes first.
        self.discard(&place)?;
        renameat(&self.directory, &fresh, &self.directory, &place).map_err(failed)?;
        rustix::fs::fsync(&self.directory).map_err(failed)?;
        entry::stamp(&code, lock).map_err(broken)?;
        Ok((directory, unshared.err()))
    }

    /// Adds the blocks to an entry that is being made; without them it is as good, but dearer.
    fn add_blocks(
        &self,
        runner: &Path,
        format: Format,
        directory: &OwnedFd,
        name: &str,
        deadline: Instant,
    ) -> Result<(), Error> {
        let failed = |e: Errno| self.failed(BLOCKS, e);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let blocks =
            openat(directory, BLOCKS, flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
        let out = rustix::io::fcntl_dupfd_cloexec(&blocks, 0).map_err(failed)?;
        let entry = rustix::io::fcntl_dupfd_cloexec(directory, 0).map_err(failed)?;
        if let Err(error) = compile::blocks(runner, format, entry, out, name, deadline) {
            unlinkat(directory, BLOCKS, AtFlags::empty()).map_err(failed)?;
            return Err(error);
        }
        rustix::fs::fchmod(&blocks, Mode::from_raw_mode(0o444)).map_err(failed)?;
        rustix::fs::fsync(&blocks).map_err(failed)
    }

    /// Removes an entry, or whatever has its name.
    fn discard(&self, name: &str) -> Result<(), Error> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let gone = |e: Errno| {
            if e == Errno::NOENT {
                Ok(())
            } else {
                Err(self.failed(name, e))
            }
        };
        match openat(&self.directory, name, flags, Mode::empty()) {
            Ok(directory) => {
                unlinkat(&directory, CODE, AtFlags::empty()).or_else(gone)?;
                unlinkat(&directory, BLOCKS, AtFlags::empty()).or_else(gone)?;
                unlinkat(&self.directory, name, AtFlags::REMOVEDIR).or_else(gone)
            }
            Err(Errno::NOTDIR | Errno::LOOP) => {
                unlinkat(&self.directory, name, AtFlags::empty()).or_else(gone)
            }
            Err(e) => gone(e),
        }
    }

    fn failed(&self, name: &str, e: Errno) -> Error {
        Error::Entry {
            path: self.path.join(name),
            source: e.into(),
        }
    }
}

// === impl Compiled ===

impl Compiled {
    /// The entry as a read-only mount of its own, attached nowhere: descriptor 3 of the runner.
    ///
    /// A plain descriptor of a directory would lead its holder to every file of the host through
    /// `..`; the root of a mount leads nowhere. And through a read-only mount not even a root neighbour
    /// who gets at the descriptor can write into the code of every container of the node.
    ///
    /// # Errors
    ///
    /// When the caller may not mount.
    ///
    /// # References
    ///
    /// [open_tree(2)](https://man7.org/linux/man-pages/man2/open_tree.2.html), Linux 5.2;
    /// [mount_setattr(2)](https://man7.org/linux/man-pages/man2/mount_setattr.2.html), Linux 5.12.
    pub fn tree(&self) -> io::Result<OwnedFd> {
        let tree = mount::clone_open(&self.directory, false)?;
        mount::make_read_only(&tree)?;
        Ok(tree)
    }
}

// === impl Key ===

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// `ST_NOEXEC` of statvfs(3), which rustix does not name.
const NOEXEC: u64 = 8;

/// Makes `directory` for us alone; its parents, if they are missing, for everybody to pass.
fn make_private(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if let Some(parent) = directory.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

#[cfg(test)]
mod tests;
