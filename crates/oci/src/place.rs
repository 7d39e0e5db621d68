//! A container's folder below `--root`: its name is taken while it is there.
//!
//! ```text
//!   <root>/<id>/keeper          the socket of the keeper
//!               state.json      what the commands know of it without the keeper
//!               duet-pod.json   the pod's record: whom to clean up after
//! ```

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;

/// A container's folder.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
}

/// What never changes of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct About {
    /// Absolute.
    pub(crate) bundle: PathBuf,
    /// As its `config.json` had them when it was created.
    pub(crate) oci_version: Value,
    pub(crate) annotations: Value,
}

// === impl Place ===

impl Place {
    /// Takes a name.
    pub(crate) fn make(root: &Path, id: &str) -> Result<Self, Error> {
        duet_pod::check_id(id)?;
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700);
        let made = builder.recursive(true).create(root);
        made.map_err(Error::file("make", root))?;
        let dir = root.join(id);
        match builder.recursive(false).create(&dir) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(Error::Exists { id: id.to_owned() })
            }
            made => {
                made.map_err(Error::file("make", &dir))?;
                let id = id.to_owned();
                Ok(Place { id, dir })
            }
        }
    }

    /// The place of a container that exists.
    pub(crate) fn find(root: &Path, id: &str) -> Result<Self, Error> {
        duet_pod::check_id(id)?;
        let (id, dir) = (id.to_owned(), root.join(id));
        if !dir.is_dir() {
            return Err(Error::Unknown { id });
        }
        Ok(Place { id, dir })
    }

    /// Makes the socket.
    pub(crate) fn listen(&self) -> Result<UnixListener, Error> {
        self.short(|path| UnixListener::bind(path))
            .map_err(Error::file("listen on", &self.dir.join("keeper")))
    }

    /// Reaches the keeper.
    pub(crate) fn connect(&self) -> Result<UnixStream, Error> {
        self.short(|path| UnixStream::connect(path))
            .map_err(|source| self.silent(source))
    }

    /// That nobody answers.
    pub(crate) fn silent(&self, source: io::Error) -> Error {
        let id = self.id.clone();
        Error::Keeper { id, source }
    }

    /// Does something with the socket by a path that fits into an address, however long ours is.
    fn short<T>(&self, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let mut options = fs::OpenOptions::new();
        let flags = (OFlag::O_PATH | OFlag::O_DIRECTORY).bits();
        let dir = options.read(true).custom_flags(flags).open(&self.dir)?;
        let path = format!("/proc/self/fd/{}/keeper", dir.as_raw_fd());
        with(Path::new(&path))
    }

    /// Writes down what never changes.
    pub(crate) fn write(&self, about: &About) -> Result<(), Error> {
        let path = self.dir.join("state.json");
        let text = serde_json::to_vec(about).map_err(|source| Error::Json {
            path: path.clone(),
            source,
        })?;
        fs::write(&path, text).map_err(Error::file("write", &path))
    }

    /// Reads it.
    pub(crate) fn read(&self) -> Result<About, Error> {
        let path = self.dir.join("state.json");
        let text = fs::read(&path).map_err(Error::file("read", &path))?;
        serde_json::from_slice(&text).map_err(|source| Error::Json { path, source })
    }

    /// Gives the name up.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        fs::remove_dir_all(&self.dir).map_err(Error::file("remove", &self.dir))
    }

    /// Removes what a keeper that is gone has left.
    pub(crate) fn clean(&self) -> Result<(), Error> {
        duet_pod::clean::clean(&self.dir, None)?;
        self.remove()
    }
}
