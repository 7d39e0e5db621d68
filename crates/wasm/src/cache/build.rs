//! One entry made: compiled, sealed, put in place; by a thread that no deadline of a caller ends.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, flock, mkdirat, openat, renameat, unlinkat,
};
use rustix::io::Errno;

use super::failure::{self, Failed};
use super::identity::Identity;
use super::store::{Store, failed_of, new_of};
use super::{Error, Key, compile, entry};
use crate::{BLOCKS, CODE, HEAD, Preview, Program, Workshop, detect};

/// What is made, and of what. Whoever has one holds the entry's lock.
#[derive(Debug)]
pub(super) struct Build {
    pub(super) store: Arc<Store>,
    pub(super) compiler: Program,
    /// What the key says of the compiler.
    pub(super) identity: Identity,
    pub(super) runner: Option<Program>,
    pub(super) workshop: Option<Arc<dyn Workshop>>,
    /// How much all entries may take when this one is there.
    pub(super) limit: u64,
    /// How long it may take.
    pub(super) patience: Duration,
    pub(super) key: Key,
    /// What the module may ask for.
    pub(super) preview: Preview,
    /// The module, which nobody can change any more.
    pub(super) module: File,
    pub(super) name: String,
    pub(super) lock: Arc<File>,
}

/// What came of it.
pub(super) struct Built {
    /// The entry, in use.
    pub(super) directory: OwnedFd,
    pub(super) unshared: Option<Error>,
    pub(super) crowded: Option<Error>,
}

// === impl Build ===

impl Build {
    /// Compiles for as long as it may take, and makes room for what came of it.
    pub(super) fn run(self) -> Result<Built, Error> {
        let (store, limit) = (Arc::clone(&self.store), self.limit);
        let (key, patience, name) = (self.key, self.patience, self.name.clone());
        let lock = Arc::clone(&self.lock);
        let fresh = new_of(key);
        let deadline = Instant::now() + patience;
        let (directory, unshared) = match self.make(&fresh, deadline) {
            Ok(made) => made,
            Err(failed) => {
                // Under the lock: the next builder makes one of the same name. What is left it discards.
                drop(store.discard(&fresh));
                let now = SystemTime::now();
                let error = failure::remember(&store, key, patience, &name, failed, now);
                drop(lock);
                // The failure is what the caller hears of. Who adds an entry hears of a cache that is too large.
                drop(store.shrink(limit));
                return Err(error);
            }
        };
        drop(lock);
        Ok(Built {
            directory,
            unshared,
            // The lock is free by now, and the entry is in use: it stays, whatever has to go.
            crowded: store.shrink(limit).err(),
        })
    }

    fn make(self, fresh: &str, deadline: Instant) -> Result<(OwnedFd, Option<Error>), Failed> {
        let Self {
            store,
            compiler,
            identity,
            runner,
            workshop,
            key,
            preview,
            module,
            name,
            lock,
            ..
        } = self;
        let place = key.to_string();
        let failed = |e: Errno| store.failed(fresh, e);
        let broken = |source| Error::Entry {
            path: store.path.join(fresh),
            source,
        };

        is_still(&compiler, &identity).map_err(|source| Error::Compiler {
            path: compiler.path().to_owned(),
            source,
        })?;
        store.discard(fresh)?;
        mkdirat(&store.directory, fresh, Mode::from_raw_mode(0o700)).map_err(failed)?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(&store.directory, fresh, flags, Mode::empty()).map_err(failed)?;
        // In use from its first moment: who makes room meanwhile leaves it alone.
        flock(&directory, FlockOperation::NonBlockingLockShared).map_err(failed)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let code: File = openat(&directory, CODE, flags, Mode::from_raw_mode(0o600))
            .map_err(failed)?
            .into();

        let mut head = [0; HEAD];
        let format = match module.read_exact_at(&mut head, 0) {
            Ok(()) => detect(&head),
            Err(_) => None,
        };
        let room = workshop.map(|workshop| workshop.open()).transpose();
        let room = room.map_err(|source| Error::Workshop {
            name: name.clone(),
            source,
        })?;
        let run = compile::Run {
            room: room.as_ref(),
            name: &name,
            preview,
            deadline,
        };
        let out = code.try_clone().map_err(broken)?;
        run.compiler(&compiler, module, out)?;
        entry::seal(&code, key).map_err(broken)?;
        // The runner has its container's user, who is not us.
        rustix::fs::fchmod(&code, Mode::from_raw_mode(0o444)).map_err(failed)?;
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o755)).map_err(failed)?;
        let unshared = match (runner, format) {
            (Some(runner), Some(format)) => add_blocks(&store, &directory, |entry, out| {
                run.runner(&runner, format, entry, out)
            }),
            (None, _) | (_, None) => Ok(()),
        };
        // Nobody works there any more: a pod that ends need not wait for a disk.
        drop(room);
        rustix::fs::fsync(&code).map_err(failed)?;
        rustix::fs::fsync(&directory).map_err(failed)?;
        // A directory can only replace an empty one: what was found unfit goes first.
        store.discard(&place)?;
        renameat(&store.directory, fresh, &store.directory, &place).map_err(failed)?;
        store.discard(&failed_of(key))?;
        rustix::fs::fsync(&store.directory).map_err(failed)?;
        entry::stamp(&code, &lock).map_err(broken)?;
        Ok((directory, unshared.err()))
    }
}

/// That nobody has written another build into the compiler's file, which installing does not do.
fn is_still(compiler: &Program, identity: &Identity) -> io::Result<()> {
    if Identity::of(compiler.file()?)? == *identity {
        return Ok(());
    }
    let why = "another build was written into its file while this pod runs: start the pod again";
    Err(io::Error::other(why))
}

/// Adds the blocks to an entry that is being made; without them it is as good, but dearer.
fn add_blocks(
    store: &Store,
    directory: &OwnedFd,
    run: impl FnOnce(OwnedFd, OwnedFd) -> Result<(), Error>,
) -> Result<(), Error> {
    let failed = |e: Errno| store.failed(BLOCKS, e);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let blocks = openat(directory, BLOCKS, flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
    let out = rustix::io::fcntl_dupfd_cloexec(&blocks, 0).map_err(failed)?;
    let entry = rustix::io::fcntl_dupfd_cloexec(directory, 0).map_err(failed)?;
    if let Err(error) = run(entry, out) {
        unlinkat(directory, BLOCKS, AtFlags::empty()).map_err(failed)?;
        return Err(error);
    }
    rustix::fs::fchmod(&blocks, Mode::from_raw_mode(0o444)).map_err(failed)?;
    rustix::fs::fsync(&blocks).map_err(failed)
}
