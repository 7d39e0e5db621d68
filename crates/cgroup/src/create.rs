//! Makes and opens a cgroup in every hierarchy of the host.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::control::{read, write};
use crate::error::errno;
use crate::remove::remove_dir;
use crate::{Error, Host, Mode};
use nix::errno::Errno;

/// One cgroup, in every hierarchy of the host.
///
/// It is a name, not a possession: dropping it removes nothing, and two of them may name the same
/// cgroup ([`Cgroup::open`]).
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
    mode: Mode,
    places: Vec<Place>,
    unified: Option<PathBuf>,
}

/// A cgroup of a hybrid host that is there in the v2 tree. The rest can be made beside the birth.
#[derive(Debug)]
pub struct Begun {
    cgroup: Cgroup,
    /// What was not there before, the outermost first.
    made: Vec<PathBuf>,
}

/// A cgroup's directory in one hierarchy.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) mountpoint: PathBuf,
    pub(crate) dir: PathBuf,
}

/// Where one hierarchy keeps a cgroup: what a `cgroup` mount inside a container shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnDir {
    /// The hierarchy's name: `memory`, `cpu,cpuacct`, `name=systemd`; empty for v2.
    pub name: String,
    /// Where the hierarchy is mounted.
    pub mountpoint: PathBuf,
    /// The cgroup's directory, below the mount point.
    pub path: PathBuf,
}

// === impl Cgroup ===

impl Cgroup {
    /// Makes the cgroup `path`, and those above it that are missing, in every hierarchy.
    ///
    /// `path` is absolute and starts at the root of each hierarchy as it is mounted. What was made
    /// is removed again if a later step fails. A cgroup that exists and holds no process is taken
    /// over as it is: kubelet and an earlier attempt may have left it.
    ///
    /// # Errors
    ///
    /// [`Error::Occupied`] if processes live in it, [`Error::Path`] for a path that names no cgroup,
    /// [`Error::Call`] or [`Error::Refused`] if the kernel refuses.
    pub fn create(host: &Host, path: &Path) -> Result<Self, Error> {
        Self::make_where(host, path, vacant)
    }

    /// As [`Cgroup::create`], of one that systemd has made where it makes some, with a process in it.
    pub(crate) fn adopt(host: &Host, path: &Path) -> Result<Self, Error> {
        Self::make_where(host, path, |_| Ok(()))
    }

    /// Makes what is missing; what is there has to pass `look`.
    fn make_where(
        host: &Host,
        path: &Path,
        look: fn(&Path) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let cgroup = Self::name(host, path)?;
        undone_if_failed(|made| cgroup.make(host, made, look))?;
        Ok(cgroup)
    }

    /// Makes no more of the cgroup `path` than the directory in the v2 tree of a hybrid host, which says
    /// whose it is from the moment that a process is born there. Nothing on other hosts: there
    /// is no part of a cgroup that could wait.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::create`].
    pub fn begin(host: &Host, path: &Path) -> Result<Option<Begun>, Error> {
        let cgroup = Self::name(host, path)?;
        if cgroup.unified.is_none() {
            return Ok(None);
        }
        let made = undone_if_failed(|made| cgroup.make_unified(made, vacant))?;
        Ok(Some(Begun { cgroup, made }))
    }

    /// Opens a cgroup that exists.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] if no hierarchy has it, [`Error::Path`] as [`Cgroup::create`].
    pub fn open(host: &Host, path: &Path) -> Result<Self, Error> {
        let cgroup = Self::name(host, path)?;
        if cgroup.dirs().any(Path::is_dir) {
            Ok(cgroup)
        } else {
            Err(Error::Gone {
                path: cgroup.dir().to_owned(),
            })
        }
    }

    /// The path it was made with, below the root of each hierarchy.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the host keeps it.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Its directory in each hierarchy that controls something, in the order of
    /// [`Host::hierarchies`].
    #[must_use]
    pub fn own_dirs(&self) -> Vec<OwnDir> {
        self.places
            .iter()
            .map(|place| OwnDir {
                name: place.name.clone(),
                mountpoint: place.mountpoint.clone(),
                path: place.dir.clone(),
            })
            .collect()
    }

    /// Every directory it has, the v2 tree of a hybrid host included.
    pub(crate) fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.places
            .iter()
            .map(|place| place.dir.as_path())
            .chain(self.unified())
    }

    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    pub(crate) fn unified(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    /// The directory that stands for the cgroup: the only one on v2, the freezer's on v1 (the one
    /// that `freeze` and `kill` work on), else the first.
    pub(crate) fn dir(&self) -> &Path {
        match self.controller("freezer") {
            Some(dir) => dir,
            // `name` lets no cgroup without a place exist.
            None => self
                .places
                .first()
                .map_or(Path::new("/"), |place| &place.dir),
        }
    }

    /// The directory in the hierarchy of `controller`; on v2 always the only one.
    pub(crate) fn controller(&self, controller: &str) -> Option<&Path> {
        let place = match self.mode {
            Mode::V2 => self.places.first(),
            Mode::V1 | Mode::Hybrid => self
                .places
                .iter()
                .find(|place| place.name.split(',').any(|name| name == controller)),
        };
        place.map(|place| place.dir.as_path())
    }

    fn name(host: &Host, path: &Path) -> Result<Self, Error> {
        check(path)?;
        let places: Vec<Place> = host
            .hierarchies()
            .iter()
            .map(|hierarchy| Place {
                name: hierarchy.name.clone(),
                mountpoint: hierarchy.mountpoint.clone(),
                dir: hierarchy.dir(path),
            })
            .collect();
        if places.is_empty() {
            return Err(Error::NoHierarchy);
        }
        let unified = host.unified().map(|tree| tree.dir(path));
        Ok(Self {
            path: path.to_owned(),
            mode: host.mode(),
            places,
            unified,
        })
    }

    fn make(
        &self,
        host: &Host,
        made: &mut Vec<PathBuf>,
        look: fn(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.make_places(made, look)?;
        self.make_unified(made, look)?;
        if self.mode == Mode::V2
            && let Some(tree) = host.hierarchies().first()
        {
            enable_controllers(&tree.mountpoint, self.dir())?;
        }
        Ok(())
    }

    fn make_places(
        &self,
        made: &mut Vec<PathBuf>,
        look: fn(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for place in &self.places {
            make_dirs(&place.dir, made, look)?;
            if place.name.split(',').any(|name| name == "cpuset") {
                let new = made.last().is_some_and(|last| *last == place.dir);
                fill_cpuset(&place.dir, &place.mountpoint, new)?;
            }
        }
        Ok(())
    }

    fn make_unified(
        &self,
        made: &mut Vec<PathBuf>,
        look: fn(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.unified
            .as_ref()
            .map_or(Ok(()), |dir| make_dirs(dir, made, look))
    }
}

// === impl Begun ===

impl Begun {
    /// Which it is to be.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Makes the rest.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::create`]; what it was begun with is there still.
    pub fn complete(&self) -> Result<(), Error> {
        undone_if_failed(|made| self.cgroup.make_places(made, vacant)).map(drop)
    }

    /// Removes what it was begun with. Whoever was born there has ended. May be called again.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::remove`].
    pub fn abandon(&self) -> Result<(), Error> {
        let mut made = self.made.iter().rev();
        let own = made.next().map_or(Ok(()), |own| remove_dir(own));
        // Others may be in those above by now.
        made.for_each(|dir| drop(fs::remove_dir(dir)));
        own
    }
}

/// Makes cgroups, and removes again what was made if that fails.
fn undone_if_failed(
    make: impl FnOnce(&mut Vec<PathBuf>) -> Result<(), Error>,
) -> Result<Vec<PathBuf>, Error> {
    let mut made = Vec::new();
    if let Err(error) = make(&mut made) {
        for dir in made.iter().rev() {
            // The error at hand is the one to report; what cannot be removed is in use by now.
            drop(fs::remove_dir(dir));
        }
        return Err(error);
    }
    Ok(made)
}

/// Refuses what is not the path of a cgroup below the root.
fn check(path: &Path) -> Result<(), Error> {
    let refuse = |why| {
        Err(Error::Path {
            path: path.to_owned(),
            why,
        })
    };
    if !path.is_absolute() {
        return refuse("not absolute");
    }
    if path
        .components()
        .any(|part| matches!(part, Component::ParentDir | Component::CurDir))
    {
        return refuse("`..` leads out of it");
    }
    if path.components().count() < 2 {
        return refuse("is the root cgroup; a container needs one below it");
    }
    Ok(())
}

/// How often parents are made for a cgroup that somebody removes because nothing is in them yet.
const TRIES: usize = 8;

/// `mkdir -p`, noting what it made; one call if all but the last is there.
fn make_dirs(
    dir: &Path,
    made: &mut Vec<PathBuf>,
    look: fn(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut done = make_dir(dir, made);
    for _ in 0..TRIES {
        let missing = matches!(&done, Err(error) if errno(error) == Errno::ENOENT);
        let Some(parent) = dir.parent().filter(|_| missing) else {
            break;
        };
        make_parents(parent, made)?;
        done = make_dir(dir, made);
    }
    done.or_else(|error| {
        if errno(&error) == Errno::EEXIST {
            look(dir)
        } else {
            Err(Error::on("create", dir, &error))
        }
    })
}

/// As [`make_dirs`], but nobody minds processes in them.
fn make_parents(dir: &Path, made: &mut Vec<PathBuf>) -> Result<(), Error> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_parents(parent, made)?;
    }
    match make_dir(dir, made) {
        // Two births in one pod make the pod's cgroup at the same time; one that was just removed is missed by
        // who wants to make something in it.
        Err(error) if !matches!(errno(&error), Errno::EEXIST | Errno::ENOENT) => {
            Err(Error::on("create", dir, &error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn make_dir(dir: &Path, made: &mut Vec<PathBuf>) -> io::Result<()> {
    fs::create_dir(dir)?;
    made.push(dir.to_owned());
    Ok(())
}

/// Refuses a cgroup that holds processes: they would be limited, frozen and killed with ours.
fn vacant(dir: &Path) -> Result<(), Error> {
    match read(dir, "cgroup.procs")?.lines().count() {
        0 => Ok(()),
        count => Err(Error::Occupied {
            path: dir.to_owned(),
            count,
        }),
    }
}

/// Gives a v1 cpuset the processors and memory nodes of its parent where it has none yet.
///
/// A cpuset is born empty, and nothing may enter it like that. `cgroup.clone_children` would do the
/// same, but it is a switch on a cgroup that belongs to someone else. One that is `new` is not looked
/// at: it has none, or by that switch its parent's.
fn fill_cpuset(dir: &Path, mountpoint: &Path, new: bool) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        match dir.parent() {
            Some(parent) if new => write(dir, file, &inherit(parent, mountpoint, file)?)?,
            Some(_) | None => drop(inherit(dir, mountpoint, file)?),
        }
    }
    Ok(())
}

/// Returns the value of `file` in `dir` after it was taken over from above if it was empty.
fn inherit(dir: &Path, mountpoint: &Path, file: &str) -> Result<String, Error> {
    let value = read(dir, file)?;
    let value = value.trim();
    let parent = match dir.parent() {
        Some(parent) if value.is_empty() && dir != mountpoint => parent,
        _ => return Ok(value.to_owned()),
    };
    let value = inherit(parent, mountpoint, file)?;
    write(dir, file, &value)?;
    Ok(value)
}

/// Makes every controller of the tree available in the v2 cgroup `dir`.
///
/// One that an ancestor will not pass on (it holds processes itself, or it is a threaded domain) is
/// left out: a limit that needs it is then refused by the missing file, with its name.
fn enable_controllers(mountpoint: &Path, dir: &Path) -> Result<(), Error> {
    let all = read(mountpoint, "cgroup.controllers")?;
    let missing = |dir: &Path| -> Result<Vec<String>, Error> {
        let have = read(dir, "cgroup.controllers")?;
        let have: Vec<&str> = have.split_whitespace().collect();
        Ok(all
            .split_whitespace()
            .filter(|name| !have.contains(name))
            .map(|n| format!("+{n}"))
            .collect())
    };
    // Nearly always true but for the first container of a pod.
    if missing(dir)?.is_empty() {
        return Ok(());
    }
    let mut above: Vec<&Path> = dir.ancestors().skip(1).collect();
    above.retain(|ancestor| ancestor.starts_with(mountpoint));
    let mut below = dir;
    let steps: Vec<(&Path, &Path)> = above
        .into_iter()
        .map(|ancestor| {
            let step = (ancestor, below);
            below = ancestor;
            step
        })
        .collect();
    for (ancestor, child) in steps.into_iter().rev() {
        let wanted = missing(child)?;
        if wanted.is_empty() || write(ancestor, "cgroup.subtree_control", &wanted.join(" ")).is_ok()
        {
            continue;
        }
        for one in &wanted {
            drop(write(ancestor, "cgroup.subtree_control", one));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_enabled_from_the_root_down_to_the_parent() {
        let root = tempfile::tempdir().unwrap();
        let leaf = root.path().join("pod/container");
        fs::create_dir_all(&leaf).unwrap();
        let levels = [root.path(), &root.path().join("pod"), &leaf];
        for (dir, controllers) in levels.iter().zip(["cpu memory pids", "cpu", ""]) {
            fs::write(dir.join("cgroup.controllers"), controllers).unwrap();
            fs::write(dir.join("cgroup.subtree_control"), "").unwrap();
        }
        enable_controllers(root.path(), &leaf).unwrap();
        let written = levels.map(|dir| read(dir, "cgroup.subtree_control").unwrap());
        // A real kernel would have changed what the levels below have by now.
        assert_eq!(written, ["+memory +pids", "+cpu +memory +pids", ""]);
    }

    #[test]
    fn a_new_cpuset_takes_over_what_is_above_it() {
        let root = tempfile::tempdir().unwrap();
        let leaf = root.path().join("pod/container");
        fs::create_dir_all(&leaf).unwrap();
        for (dir, cpus) in [
            (root.path(), "0-3\n"),
            (&root.path().join("pod"), "\n"),
            (&leaf, ""),
        ] {
            fs::write(dir.join("cpuset.cpus"), cpus).unwrap();
            fs::write(dir.join("cpuset.mems"), "0\n").unwrap();
        }
        for new in [true, false] {
            fs::write(leaf.join("cpuset.cpus"), "").unwrap();
            fs::write(root.path().join("pod/cpuset.cpus"), "\n").unwrap();
            fill_cpuset(&leaf, root.path(), new).unwrap();
            assert_eq!(read(&leaf, "cpuset.cpus").unwrap(), "0-3");
            let above = read(&root.path().join("pod"), "cpuset.cpus").unwrap();
            assert_eq!(above, "0-3");
        }
    }
}
