//! A container's cgroup, from its birth to its removal.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use duet_cgroup::systemd::{self, Property, Scope};
use duet_cgroup::{Begun, Cgroup, Host, Mode, OomWatch};
use duet_plan::{CgroupFacts, Hierarchy};
use duet_spec::{CgroupsPath, Container, LinuxPids, LinuxResources, Namespace, Namespaces};

use crate::error::Error;
use crate::ground::Ground;
use crate::placeholder::Placeholder;

/// How long systemd may take to stop a unit whose processes have ended: 10 s.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// The steps of a birth that fail here.
const CREATE: &str = "create the cgroup";
const LIMIT: &str = "limit the container";

/// The file of v2 that limits tasks.
const TASKS: &str = "pids.max";

/// Where a container's cgroup is to be, and who makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Duet itself, below the root of each hierarchy.
    Path(PathBuf),
    /// systemd, and the user of the host to whom it is given.
    Scope(Scope, Option<u32>),
}

/// A cgroup that is removed with its owner, and whatever lives in it killed.
pub(crate) struct Confined {
    /// Which.
    pub(crate) cgroup: Cgroup,
    /// The unit that it belongs to.
    scope: Option<Scope>,
    /// Who keeps the unit alive until the container's own process does.
    placeholder: Mutex<Option<Placeholder>>,
    /// Whether its limit of tasks waits until only the container's own process is in it.
    roomy: bool,
    /// What is to be done when its first process is there.
    pending: Mutex<Option<Pending>>,
    removed: AtomicBool,
}

/// A cgroup that is made while its first process is on its way.
struct Pending {
    begun: Begun,
    limits: LinuxResources,
}

// === impl Place ===

impl Place {
    /// Where `linux.cgroupsPath` says, else where runc would have it. Annotations of systemd's count for a scope
    /// only, as under runc.
    pub(crate) fn of(spec: &Container, id: &str) -> Result<Self, Error> {
        Ok(match &spec.cgroups_path {
            Some(CgroupsPath::Cgroupfs(path)) => Place::Path(path.clone()),
            None => Place::Path(Path::new("/").join(id)),
            Some(CgroupsPath::Systemd {
                slice,
                prefix,
                name,
            }) => {
                let scope = Scope::new(slice, prefix, name);
                let scope = scope.map_err(Error::cgroup("find the cgroup"))?;
                let asked = spec.annotations.iter();
                let asked =
                    asked.filter_map(|(name, value)| Property::annotated(name, value).transpose());
                let asked = asked.collect::<Result<_, _>>();
                Place::Scope(
                    scope.with(asked.map_err(Error::cgroup(CREATE))?),
                    spec.cgroup_owner(),
                )
            }
        })
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Place::Path(path) => path,
            Place::Scope(scope, _) => scope.path(),
        }
    }

    pub(crate) fn unit(&self) -> Option<&str> {
        match self {
            Place::Path(_) => None,
            Place::Scope(scope, _) => Some(scope.unit()),
        }
    }
}

// === impl Confined ===

impl Confined {
    /// Makes it and limits it.
    pub(crate) fn create(
        ground: &Ground,
        place: Place,
        resources: &LinuxResources,
        namespaces: &Namespaces,
    ) -> Result<Self, Error> {
        let failed = Error::cgroup(CREATE);
        let mut confined = match place {
            Place::Path(path) => Self::at(ground.host(), &path).map_err(failed)?,
            Place::Scope(scope, owner) => {
                let placeholder = Placeholder::stand(ground.children())?;
                let pid = placeholder.pid.unsigned_abs();
                let confined = Confined {
                    cgroup: scope.start(ground.host(), pid, resources).map_err(failed)?,
                    scope: Some(scope),
                    placeholder: Mutex::new(Some(placeholder)),
                    roomy: true,
                    pending: Mutex::default(),
                    removed: AtomicBool::new(false),
                };
                if let Some(uid) = owner {
                    let given = confined.cgroup.delegate(uid);
                    given.map_err(Error::cgroup("give away the cgroup"))?;
                }
                confined
            }
        };
        // Into a user namespace two are born, of whom one ends: no room for the second is EAGAIN.
        confined.roomy |= namespaces.user != Namespace::Host && limits_tasks(resources);
        let limits = if confined.roomy {
            confined.cgroup.limit(&with_room(resources))
        } else {
            confined.cgroup.limit(resources)
        };
        limits.map_err(Error::cgroup(LIMIT))?;
        Ok(confined)
    }

    /// As [`Confined::create`]; where the container's first process can come a part of its way
    /// before it must be in its cgroup, that is only begun ([`Confined::complete`]).
    pub(crate) fn begin(
        ground: &Ground,
        place: Place,
        resources: &LinuxResources,
        namespaces: &Namespaces,
    ) -> Result<Self, Error> {
        match place {
            Place::Path(path)
                if [&namespaces.user, &namespaces.cgroup] == [&Namespace::Host; 2] =>
            {
                let begun = Cgroup::begin(ground.host(), &path);
                let Some(begun) = begun.map_err(Error::cgroup(CREATE))? else {
                    return Self::create(ground, Place::Path(path), resources, namespaces);
                };
                let confined = Self::of(begun.cgroup().clone());
                let limits = resources.clone();
                *confined.pending() = Some(Pending { begun, limits });
                Ok(confined)
            }
            Place::Path(_) | Place::Scope(..) => Self::create(ground, place, resources, namespaces),
        }
    }

    /// Makes and limits what was only begun.
    pub(crate) fn complete(&self) -> Result<(), Error> {
        let mut pending = self.pending();
        let Some(Pending { begun, .. }) = &*pending else {
            return Ok(());
        };
        begun.complete().map_err(Error::cgroup(CREATE))?;
        let limits = pending.take().map(|pending| pending.limits);
        drop(pending);
        let limited = limits.map_or(Ok(()), |limits| self.cgroup.limit(&limits));
        limited.map_err(Error::cgroup(LIMIT))
    }

    /// Makes the cgroup of what is no container.
    pub(crate) fn at(host: &Host, path: &Path) -> Result<Self, duet_cgroup::Error> {
        Cgroup::create(host, path).map(Self::of)
    }

    fn of(cgroup: Cgroup) -> Self {
        Confined {
            cgroup,
            scope: None,
            placeholder: Mutex::default(),
            roomy: false,
            pending: Mutex::default(),
            removed: AtomicBool::new(false),
        }
    }

    /// Lets go of what was needed until the container's process was in it.
    pub(crate) fn settle(&self, resources: &LinuxResources) -> Result<(), Error> {
        self.leave();
        if !self.roomy {
            return Ok(());
        }
        let limited = self.cgroup.update(&of_tasks(resources));
        limited.map_err(Error::cgroup(LIMIT))
    }

    /// The files by which a process of one thread enters it, writing `0` to each.
    pub(crate) fn entrances(&self) -> impl Iterator<Item = PathBuf> {
        let file = match self.cgroup.mode() {
            Mode::V1 | Mode::Hybrid => "tasks",
            Mode::V2 => "cgroup.procs",
        };
        let dirs = self.cgroup.own_dirs().into_iter();
        dirs.map(move |own| own.path.join(file))
    }

    /// What a plan must know of it.
    pub(crate) fn facts(&self) -> CgroupFacts {
        let hierarchies = self.cgroup.own_dirs().into_iter().map(|own| Hierarchy {
            name: own.name,
            mountpoint: own.mountpoint,
            path: own.path,
        });
        CgroupFacts {
            v2: self.cgroup.mode() == duet_cgroup::Mode::V2,
            hierarchies: hierarchies.collect(),
            awaited: self.pending().is_some(),
        }
    }

    /// The directory of the v2 tree to be born in, if the host has one.
    pub(crate) fn attach(&self) -> Result<Option<OwnedFd>, Error> {
        self.cgroup
            .attach()
            .map_err(Error::cgroup("enter the cgroup"))
    }

    /// Changes its limits.
    pub(crate) fn update(&self, resources: &LinuxResources) -> Result<(), duet_cgroup::Error> {
        match &self.scope {
            None => self.cgroup.update(resources),
            Some(scope) => scope.update(&self.cgroup, resources),
        }
    }

    /// Whether it is systemd's, and gone when nobody is in it any more.
    pub(crate) fn is_scope(&self) -> bool {
        self.scope.is_some()
    }

    /// Hears of kills for want of memory.
    pub(crate) fn oom(&self) -> Result<OomWatch, duet_cgroup::Error> {
        match &self.scope {
            None => self.cgroup.oom(),
            Some(_) => self.cgroup.oom_of_scope(),
        }
    }

    /// Ends what lives in it and removes it. May be called again.
    pub(crate) fn remove(&self) -> Result<(), duet_cgroup::Error> {
        if self.removed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.leave();
        if let Some(Pending { begun, .. }) = &*self.pending() {
            // The rest, if there is one of that name, is somebody else's.
            begun.abandon()?;
            self.removed.store(true, Ordering::Release);
            return Ok(());
        }
        self.cgroup.remove().or_else(|_| {
            // Something was still in it that nobody knows: it dies with its container.
            self.cgroup.kill()?;
            self.cgroup.remove()
        })?;
        if let Some(scope) = &self.scope {
            systemd::stop(scope.unit(), STOP_LIMIT)?;
        }
        self.removed.store(true, Ordering::Release);
        Ok(())
    }

    fn pending(&self) -> MutexGuard<'_, Option<Pending>> {
        // It is set and taken, never changed.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the placeholder, if there is one.
    fn leave(&self) {
        let mut placeholder = self
            .placeholder
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        drop(placeholder.take());
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(cgroup = %self.cgroup.path().display(), %error, "cgroup left behind");
        }
    }
}

fn limits_tasks(resources: &LinuxResources) -> bool {
    let unified = resources.unified().as_ref();
    resources.pids().is_some() || unified.is_some_and(|unified| unified.contains_key(TASKS))
}

/// The limits while others are there who count among the container's tasks.
fn with_room(resources: &LinuxResources) -> LinuxResources {
    let mut resources = resources.clone();
    let mut unlimited = LinuxPids::default();
    unlimited.set_limit(-1);
    resources.set_pids(Some(unlimited));
    let unified = resources.unified().clone().map(|mut unified| {
        unified.remove(TASKS);
        unified
    });
    resources.set_unified(unified);
    resources
}

/// The limits that wait until they have gone.
fn of_tasks(resources: &LinuxResources) -> LinuxResources {
    let mut tasks = LinuxResources::default();
    tasks.set_devices(None);
    tasks.set_pids(*resources.pids());
    let unified = resources.unified().clone().map(|mut unified| {
        unified.retain(|file, _| file == TASKS);
        unified
    });
    tasks.set_unified(unified);
    tasks
}
