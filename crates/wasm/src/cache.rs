//! The compiled-code cache of a node: each module is compiled once, and only what our own compiler
//! wrote is ever run.
//!
//! ```text
//! /var/lib/duet/cache/          0700, ours
//!   <key>/code                  0444 in 0755: machine code and a trailer (entry.rs)
//!   <key>/blocks                0444: what loading it fills, for all to share (blocks.rs)
//!   <key>.lock                  who compiles; when the entry was last used and seen to be whole
//!   <key>.new                   being written by the holder of the lock
//!   <key>.failed                why there is no code, and when it is tried again (failure.rs)
//! ```
//!
//! The key is made of a hash of the module (`content.rs`) together with the compiler's build id, this CPU's
//! features (`identity.rs`) and the preview that a component may ask for; a file that was hashed before is known again (`seen.rs`). An entry is written whole, synced, and renamed into place. On the way
//! out it is checked (`entry.rs`); one that is truncated, changed or not ours is thrown away and
//! compiled again, never run. What has not been used for longest goes when the cache outgrows its
//! size, but nothing that is in use (`store.rs`).

mod build;
mod compile;
mod content;
mod entry;
mod error;
mod failure;
mod identity;
mod seen;
mod store;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use duet_linux::mount;
use sha2::{Digest as _, Sha256};

use crate::handoff::{freeze, memory_file};
use crate::{Preview, Program, Workshop};
use build::Build;
pub use error::Error;
pub use failure::Moment;
use seen::Seen;
use store::Store;

/// The cache of compiled code on this node.
#[derive(Debug)]
pub struct Cache {
    store: Mutex<Arc<Store>>,
    compiler: Program,
    runner: Option<Program>,
    workshop: Option<Arc<dyn Workshop>>,
    size: u64,
    patience: Duration,
    identity: identity::Identity,
    seen: Seen,
}

/// The name of an entry: which module, compiled by what, for which CPU.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

/// A module that is ready to be mapped. As long as it lives, the entry is not removed from the cache.
#[derive(Debug)]
pub struct Compiled {
    /// The entry's directory, locked for use.
    directory: OwnedFd,
    /// Names the entry in logs.
    pub key: Key,
    /// Where it came from.
    pub source: Source,
    /// Why what loading it fills is not shared, if it was compiled now and is not: each container
    /// of it will take more memory.
    pub unshared: Option<Error>,
    /// Why the cache may be larger than it should be, if it could not be made smaller now.
    pub crowded: Option<Error>,
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

// === impl Cache ===

impl Cache {
    /// Where the cache of a node is kept. No option changes it.
    ///
    /// On disk and not in `/run`: a module is compiled once, not once per boot.
    pub const DIRECTORY: &str = "/var/lib/duet/cache";

    /// The largest module that is compiled: 256 MiB.
    pub const LIMIT: u64 = 256 << 20;

    /// How much space the entries of a node may take unless the runtime's options say otherwise: 1 GiB.
    ///
    /// The machine code of a large program, a Python with its library, is 30 MB.
    pub const SIZE: u64 = 1 << 30;

    /// How long one compilation may take, whoever still waits for it: 10 minutes.
    ///
    /// The compiler's limit on processor time, 4 minutes, comes first unless the node is busy.
    const PATIENCE: Duration = Duration::from_secs(600);

    /// Opens the cache in `directory`, making it if it is missing; `compiler` fills it.
    ///
    /// # Errors
    ///
    /// [`Error::Exposed`] if others may write there, [`Error::Noexec`] if nothing can be run from
    /// there, [`Error::Compiler`] if the compiler is not there.
    pub fn open(directory: &Path, compiler: &Program) -> Result<Self, Error> {
        let store = Store::open(directory)?;
        let identity = compiler.file().and_then(identity::Identity::of);
        let identity = identity.map_err(|source| Error::Compiler {
            path: compiler.path().to_owned(),
            source,
        })?;
        Ok(Self {
            store: Mutex::new(Arc::new(store)),
            compiler: compiler.clone(),
            runner: None,
            workshop: None,
            size: Self::SIZE,
            patience: Self::PATIENCE,
            identity,
            seen: Seen::default(),
        })
    }

    /// Has `runner` say what loading a new entry fills, so that its containers share it.
    #[must_use]
    pub fn with_runner(mut self, runner: &Program) -> Self {
        self.runner = Some(runner.clone());
        self
    }

    /// Has the compiler work there, and not where its caller is.
    #[must_use]
    pub fn with_workshop(mut self, workshop: Arc<dyn Workshop>) -> Self {
        self.workshop = Some(workshop);
        self
    }

    /// Lets all entries together take `bytes`, those in use apart. It is seen to when one is added.
    #[must_use]
    pub fn with_size(mut self, bytes: u64) -> Self {
        self.size = bytes;
        self
    }

    /// Returns `module` compiled, from the cache or by compiling it now.
    ///
    /// Blocks: for as long as hashing takes if the entry is there (about 2 MB in a millisecond, more where several
    /// threads hash; once for a file that stays as it is), otherwise for the compiler, or for somebody else's, but not beyond `deadline`. A compiler that is still at
    /// it then goes on in a thread of its own, and a later call finds what it made. The position of
    /// `module` does not matter and is left alone. `name` is the module as its user knows it, and `preview` what
    /// a component may ask for: its code is another one for each.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] and [`Error::TooLarge`] are the module's fault, [`Error::Late`] names
    /// what took so long; everything else is the node's. What does not change is told without being tried again,
    /// and what may change after some time, [`Error::Postponed`].
    pub fn compiled(
        &self,
        module: &File,
        name: &str,
        preview: Preview,
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
        let before = seen::Identity::of(module).map_err(unread)?;
        let key = match self.seen.key(&before) {
            Some(key) => key,
            None => {
                let key = self.key(module, size, None).map_err(unread)?;
                self.seen.keep(module, before, key, SystemTime::now());
                key
            }
        };
        let key = key.under(preview);
        let store = self.store()?;
        if let Some(directory) = store.find(key)? {
            return Ok(Compiled::found(directory, key, Source::Cached));
        }
        let has_not_failed = |key| {
            let now = SystemTime::now();
            let known = failure::remembered(&store, key, self.patience, name, now);
            known.map_or(Ok(()), Err)
        };
        has_not_failed(key)?;

        // What is compiled under a key must be what the key was made of, even if somebody writes to
        // the module meanwhile: from here on we use a copy that nobody can change.
        let copy = memory_file("duet-module").map_err(unread)?;
        let key = self.key(module, size, Some(&copy)).map_err(unread)?;
        let key = key.under(preview);
        freeze(&copy).map_err(unread)?;

        let began = Instant::now();
        let late = |what| Error::Late {
            name: name.to_owned(),
            waited: began.elapsed(),
            what,
        };
        let Some(lock) = store.lock(key, deadline)? else {
            return Err(late(
                "another container's start is still compiling it: try again later",
            ));
        };
        if let Some(directory) = store.find(key)? {
            let source = Source::Awaited(began.elapsed());
            return Ok(Compiled::found(directory, key, source));
        }
        // Whoever was waited for may have failed.
        has_not_failed(key)?;
        let build = Build {
            store: Arc::clone(&store),
            compiler: self.compiler.clone(),
            identity: self.identity.clone(),
            runner: self.runner.clone(),
            workshop: self.workshop.clone(),
            limit: self.size,
            patience: self.patience,
            key,
            preview,
            module: copy,
            name: name.to_owned(),
            lock: Arc::new(lock),
        };
        let built = match aside(build, deadline) {
            Ok(Some(built)) => built?,
            Ok(None) => {
                return Err(late(
                    "the compiler goes on while the pod is there: try again later",
                ));
            }
            Err(source) => {
                return Err(Error::Compiler {
                    path: self.compiler.path().to_owned(),
                    source,
                });
            }
        };
        Ok(Compiled {
            directory: built.directory,
            key,
            source: Source::Fresh(began.elapsed()),
            unshared: built.unshared,
            crowded: built.crowded,
        })
    }

    /// The directory, or another in its place if somebody has removed it under this pod.
    fn store(&self) -> Result<Arc<Store>, Error> {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if store.is_removed()? {
            *store = Arc::new(Store::open(&store.path)?);
        }
        Ok(Arc::clone(&store))
    }

    /// Reads the whole module and makes its key; writes what was read into `copy`.
    fn key(&self, module: &File, size: u64, copy: Option<&File>) -> io::Result<Key> {
        let content = content::hash(module, size, copy)?;
        Ok(Key(self.identity.with(&content)))
    }
}

/// Builds in a thread of its own, and waits for it until `deadline`: `None` if it takes longer.
fn aside(build: Build, deadline: Instant) -> io::Result<Option<Result<build::Built, Error>>> {
    let (sender, built) = mpsc::channel();
    std::thread::Builder::new()
        .name("compile".to_owned())
        // Nobody takes it if it comes too late; it is in the cache then.
        .spawn(move || drop(sender.send(build.run())))?;
    match built.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(built) => Ok(Some(built)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("its thread panicked")),
    }
}

// === impl Compiled ===

impl Compiled {
    fn found(directory: OwnedFd, key: Key, source: Source) -> Self {
        Self {
            directory,
            key,
            source,
            unshared: None,
            crowded: None,
        }
    }

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

impl Key {
    /// The name of the entry with the code for `preview`; without one it is that for preview 2.
    fn under(self, preview: Preview) -> Self {
        match preview {
            Preview::Two => self,
            Preview::Three => {
                let mut hash = Sha256::new();
                hash.update(self.0);
                hash.update(b"preview 3");
                Self(hash.finalize().into())
            }
        }
    }

    /// Reads a key from the beginning of a name; what follows it is the second.
    fn parse(name: &str) -> Option<(Self, &str)> {
        let (digits, rest) = name.split_at_checked(64)?;
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.as_bytes().chunks(2)) {
            // Only as we write them: `+f` is a number too.
            if !pair
                .iter()
                .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
            {
                return None;
            }
            *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some((Self(key), rest))
    }
}

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

#[cfg(test)]
mod tests;
