//! One layer: files of this machine at their places in an image.

use crate::error::Error;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// A tar in memory whose bytes depend on nothing but what was put in: owner root, time 0.
pub(crate) struct Layer {
    tar: Builder<Vec<u8>>,
    directories: BTreeSet<PathBuf>,
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Layer")
            .field("directories", &self.directories)
            .finish_non_exhaustive()
    }
}

// === impl Layer ===

impl Layer {
    pub(crate) fn new() -> Self {
        Self {
            tar: Builder::new(Vec::new()),
            directories: BTreeSet::new(),
        }
    }

    /// Puts `source` at `target`: a file with its mode or the given one, a directory with all
    /// it holds. A link given as `source` is followed; links below it stay links.
    pub(crate) fn add(
        &mut self,
        source: &Path,
        target: &Path,
        mode: Option<u32>,
    ) -> Result<(), Error> {
        let found = fs::metadata(source).map_err(Error::at("could not read", source))?;
        if found.is_dir() {
            self.directory(target, mode.unwrap_or_else(|| permissions(&found)))?;
            return self.children(source, target);
        }
        if !found.is_file() {
            return Err(Error::Argument(format!(
                "{} is neither a file nor a directory",
                source.display()
            )));
        }
        self.file(source, target, &found, mode)
    }

    fn children(&mut self, source: &Path, target: &Path) -> Result<(), Error> {
        let read = Error::at("could not read", source);
        let entries = fs::read_dir(source).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = entries.map_err(read)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (source, target) = (entry.path(), target.join(entry.file_name()));
            let read = Error::at("could not read", &source);
            let found = fs::symlink_metadata(&source).map_err(read)?;
            if found.is_dir() {
                self.directory(&target, permissions(&found))?;
                self.children(&source, &target)?;
            } else if found.is_symlink() {
                let link = fs::read_link(&source);
                self.link(
                    &target,
                    &link.map_err(Error::at("could not read", &source))?,
                )?;
            } else if found.is_file() {
                self.file(&source, &target, &found, None)?;
            } else {
                return Err(Error::Argument(format!(
                    "{} is not a file, directory or link",
                    source.display()
                )));
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        source: &Path,
        target: &Path,
        found: &fs::Metadata,
        mode: Option<u32>,
    ) -> Result<(), Error> {
        let file = fs::File::open(source).map_err(Error::at("could not read", source))?;
        let mode = mode.unwrap_or_else(|| permissions(found));
        self.bytes(target, mode, found.len(), file)
    }

    /// Puts a file with the bytes of `content` at `target`.
    pub(crate) fn bytes(
        &mut self,
        target: &Path,
        mode: u32,
        size: u64,
        content: impl Read,
    ) -> Result<(), Error> {
        let name = inside(target)?;
        self.parents(&name)?;
        let mut header = header(EntryType::Regular, mode);
        header.set_size(size);
        self.tar
            .append_data(&mut header, &name, content.take(size))
            .map_err(Error::at("could not add", target))
    }

    /// Makes a directory, and those above it.
    pub(crate) fn directory(&mut self, target: &Path, mode: u32) -> Result<(), Error> {
        let name = inside(target)?;
        if name.as_os_str().is_empty() || self.directories.contains(&name) {
            return Ok(());
        }
        self.parents(&name)?;
        self.directories.insert(name.clone());
        self.tar
            .append_data(&mut header(EntryType::Directory, mode), &name, io::empty())
            .map_err(Error::at("could not add", target))
    }

    /// Makes a symbolic link to `link` at `target`.
    pub(crate) fn link(&mut self, target: &Path, link: &Path) -> Result<(), Error> {
        let name = inside(target)?;
        self.parents(&name)?;
        self.tar
            .append_link(&mut header(EntryType::Symlink, 0o777), &name, link)
            .map_err(Error::at("could not add", target))
    }

    fn parents(&mut self, name: &Path) -> Result<(), Error> {
        match name.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.directory(parent, 0o755),
            Some(_) | None => Ok(()),
        }
    }

    /// The finished tar.
    pub(crate) fn finish(self) -> Result<Vec<u8>, Error> {
        self.tar.into_inner().map_err(|source| Error::System {
            action: "could not finish the layer",
            source,
        })
    }
}

/// A header that says nothing about this machine.
pub(crate) fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

fn permissions(found: &fs::Metadata) -> u32 {
    found.permissions().mode() & 0o7777
}

/// A path in the image, relative to its root.
fn inside(target: &Path) -> Result<PathBuf, Error> {
    let mut name = PathBuf::new();
    for part in target.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => name.push(part),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::Argument(format!(
                    "{} is not a path inside an image",
                    target.display()
                )));
            }
        }
    }
    Ok(name)
}
