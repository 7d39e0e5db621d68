//! What lives in the pod, on disk, so that a shim that was killed can be cleaned up after.
//!
//! ```text
//!   <bundle of the shim>/duet-pod.json     the bundles and cgroups of all members
//!   <bundle of a member>/duet.json         its cgroup, rootfs and init
//! ```
//!
//! Two files, because containerd removes the shim's own bundle with its first container, which
//! need not be the last; and under version 3 it removes a member's bundle without having it cleaned when
//! the shim was killed, so that the list must do for that. Each is replaced as a whole, so that a reader sees the old or the new
//! one; bundles are on a tmpfs, which a power cut takes away with everything recorded, so
//! nothing is flushed. A member is written before anything of it exists.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use duet_container::Ledger;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The version of both files. A reader refuses others: what it does not understand it must not
/// remove.
const VERSION: u32 = 1;

/// The list of members, in the shim's bundle.
const LIST: &str = "duet-pod.json";

/// A member, in its own bundle.
const MEMBER: &str = "duet.json";

/// A container, as far as cleaning up needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Member {
    version: u32,
    /// Its name.
    pub(crate) id: String,
    /// Its cgroup, below the root of each hierarchy.
    pub(crate) cgroup: PathBuf,
    /// The unit of systemd that this belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<String>,
    /// The pod's, if the shim made it.
    pub(crate) pod_cgroup: Option<PathBuf>,
    /// That in which the shim compiles wasm, while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workshop: Option<PathBuf>,
    /// Classes of resctrl and groups in them that go with it, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) classes: Vec<PathBuf>,
    /// What was mounted for it, if anything was.
    pub(crate) rootfs: Option<PathBuf>,
    /// Its first process, once there is one.
    pub(crate) init: Option<Init>,
    /// The host's programs that serve it: loggers, hooks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) helpers: Vec<Init>,
}

/// A process that a number alone does not name for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Init {
    /// Its number.
    pub(crate) pid: i32,
    /// When it began, in clock ticks since the machine did (`/proc/<pid>/stat`, field 22).
    pub(crate) started: u64,
}

/// Who is in the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    version: u32,
    bundles: Vec<PathBuf>,
    /// The cgroup of the member with each bundle.
    #[serde(default)]
    cgroups: BTreeMap<PathBuf, PathBuf>,
}

/// The record of a pod that is served.
#[derive(Debug)]
pub(crate) struct Record {
    path: PathBuf,
    list: Mutex<List>,
}

/// A member's file, while it is served.
#[derive(Debug)]
pub(crate) struct Page {
    record: Arc<Record>,
    bundle: PathBuf,
    member: Mutex<Member>,
}

// === impl Record ===

impl Record {
    /// The record kept in the bundle of the shim; nothing is written yet.
    pub(crate) fn new(bundle: &Path) -> Self {
        Record {
            path: bundle.join(LIST),
            list: Mutex::new(List {
                version: VERSION,
                bundles: Vec::new(),
                cgroups: BTreeMap::new(),
            }),
        }
    }

    /// Adds a member whose first process does not exist yet.
    pub(crate) fn add(&self, bundle: &Path, member: &Member) -> Result<(), Error> {
        member.write(bundle)?;
        self.change(|list| {
            list.bundles.push(bundle.to_owned());
            let cgroup = member.cgroup.clone();
            list.cgroups.insert(bundle.to_owned(), cgroup);
        })
    }

    /// Forgets a member of which nothing is left.
    pub(crate) fn remove(&self, bundle: &Path) -> Result<(), Error> {
        self.change(|list| {
            list.bundles.retain(|known| known != bundle);
            list.cgroups.remove(bundle);
        })?;
        forget(bundle)
    }

    fn change(&self, change: impl FnOnce(&mut List)) -> Result<(), Error> {
        // A list that lacks a cgroup is still of use, so also after a panic.
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut list);
        match write(&self.path, &*list) {
            // containerd removed the shim's bundle with its first container: from now on each
            // member is cleaned by its own file alone.
            Err(Error::Record { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            written => written,
        }
    }
}

// === impl Member ===

impl Member {
    /// A container that is about to be created.
    pub(crate) fn new(id: String, cgroup: PathBuf, rootfs: Option<PathBuf>) -> Self {
        Member {
            version: VERSION,
            id,
            cgroup,
            unit: None,
            pod_cgroup: None,
            workshop: None,
            classes: Vec::new(),
            rootfs,
            init: None,
            helpers: Vec::new(),
        }
    }

    /// Replaces what is written in its bundle.
    pub(crate) fn write(&self, bundle: &Path) -> Result<(), Error> {
        write(&bundle.join(MEMBER), self)
    }

    /// The member whose bundle was removed and whose cgroup is on the list.
    pub(crate) fn of_lost(bundle: &Path, cgroup: PathBuf) -> Self {
        let id = bundle.file_name().unwrap_or_default();
        Self::new(id.to_string_lossy().into_owned(), cgroup, None)
    }

    /// The member of a bundle; `None` if there is none (any more).
    pub(crate) fn read(bundle: &Path) -> Result<Option<Self>, Error> {
        let path = bundle.join(MEMBER);
        let member: Option<Member> = read(&path)?;
        if let Some(member) = &member {
            check(&path, member.version)?;
        }
        Ok(member)
    }
}

// === impl Page ===

impl Page {
    /// The file of a member that was added to the record.
    pub(crate) fn new(record: &Arc<Record>, bundle: &Path, member: Member) -> Self {
        Page {
            record: Arc::clone(record),
            bundle: bundle.to_owned(),
            member: Mutex::new(member),
        }
    }

    /// Changes what it says.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Member)) -> Result<(), Error> {
        // Every change is one step, so also whole after a panic.
        let mut member = self.member.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut member);
        member.write(&self.bundle)
    }
}

impl Ledger for Page {
    fn begin(&self, pid: i32) -> io::Result<()> {
        let init = Init::of(pid).ok_or(io::ErrorKind::NotFound)?;
        self.change(|member| member.init = Some(init))
            .map_err(io::Error::other)
    }

    fn enter(&self, pid: i32) -> io::Result<()> {
        let helper = Init::of(pid).ok_or(io::ErrorKind::NotFound)?;
        self.change(|member| member.helpers.push(helper))
            .map_err(io::Error::other)
    }

    fn strike(&self, pid: i32) {
        // Once the member is forgotten, nothing may bring its file back.
        if !self.bundle.join(MEMBER).exists() {
            return;
        }
        let struck = self.change(|member| member.helpers.retain(|helper| helper.pid != pid));
        if let Err(error) = struck {
            tracing::debug!(%error, pid, "a helper that has ended stays on record");
        }
    }

    fn close(&self) {
        if let Err(error) = self.record.remove(&self.bundle) {
            tracing::warn!(%error, "record left behind");
        }
    }

    fn is_closed(&self) -> bool {
        !is_recorded(&self.bundle)
    }
}

// === impl Init ===

impl Init {
    /// The process that has this number now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        // Some 350 bytes, which the kernel gives in one piece.
        let mut stat = [0; 1024];
        let mut file = File::open(format!("/proc/{pid}/stat")).ok()?;
        let len = file.read(&mut stat).ok()?;
        let stat = String::from_utf8_lossy(stat.get(..len)?);
        // The name in the second field may hold anything, brackets and spaces too.
        let (_, rest) = stat.rsplit_once(')')?;
        let started = rest.split_whitespace().nth(19)?.parse().ok()?;
        Some(Init { pid, started })
    }
}

/// The bundle of every member of the pod whose shim had this one, and the member's cgroup.
pub(crate) fn listed(shim: &Path) -> Result<Vec<(PathBuf, Option<PathBuf>)>, Error> {
    let path = shim.join(LIST);
    let Some(mut list) = read::<List>(&path)? else {
        return Ok(Vec::new());
    };
    check(&path, list.version)?;
    let bundles = list.bundles.into_iter();
    Ok(bundles
        .map(|bundle| {
            let cgroup = list.cgroups.remove(&bundle);
            (bundle, cgroup)
        })
        .collect())
}

/// Whether a bundle has the file of a member, or may have.
pub(crate) fn is_recorded(bundle: &Path) -> bool {
    !matches!(bundle.join(MEMBER).try_exists(), Ok(false))
}

/// Removes the file of a member.
pub(crate) fn forget(bundle: &Path) -> Result<(), Error> {
    remove(bundle.join(MEMBER))
}

/// Removes the list of members.
pub(crate) fn forget_list(shim: &Path) -> Result<(), Error> {
    remove(shim.join(LIST))
}

fn remove(path: PathBuf) -> Result<(), Error> {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Record {
            step: "remove",
            path,
            source,
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let new = path.with_extension("json.new");
    let written = serde_json::to_vec(value)
        .map_err(io::Error::from)
        .and_then(|json| fs::write(&new, json))
        .and_then(|()| fs::rename(&new, path));
    written.map_err(|source| {
        // Half of it may be there, on a full disk; the error at hand is the one to report.
        drop(fs::remove_file(&new));
        Error::Record {
            step: "write",
            path: path.to_owned(),
            source,
        }
    })
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let failed = |step| {
        move |source| Error::Record {
            step,
            path: path.to_owned(),
            source,
        }
    };
    let json = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        json => json.map_err(failed("read"))?,
    };
    serde_json::from_slice(&json)
        .map(Some)
        .map_err(io::Error::from)
        .map_err(failed("parse"))
}

fn check(path: &Path, version: u32) -> Result<(), Error> {
    if version == VERSION {
        return Ok(());
    }
    Err(Error::Record {
        step: "understand",
        path: path.to_owned(),
        source: io::Error::other(format!("version {version}, not {VERSION}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str) -> Member {
        Member::new(id.to_owned(), PathBuf::from("/ns").join(id), None)
    }

    #[test]
    fn members_are_listed_until_they_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (shim, other) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir(&shim).unwrap();
        fs::create_dir(&other).unwrap();
        let record = Record::new(&shim);
        record.add(&shim, &member("a")).unwrap();
        record.add(&other, &member("b")).unwrap();
        let cgroup = |id: &str| Some(Path::new("/ns").join(id));
        assert_eq!(
            listed(&shim).unwrap(),
            [(shim.clone(), cgroup("a")), (other.clone(), cgroup("b"))]
        );
        assert_eq!(Member::read(&other).unwrap(), Some(member("b")));
        record.remove(&shim).unwrap();
        assert_eq!(listed(&shim).unwrap(), [(other.clone(), cgroup("b"))]);
        assert_eq!(Member::read(&shim).unwrap(), None);
        fs::remove_dir_all(&shim).unwrap();
        record
            .remove(&other)
            .expect("the shim's bundle may be gone before its last member");
    }

    #[test]
    fn a_bundle_without_a_record_is_clean() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Member::read(dir.path()).unwrap(), None);
        assert_eq!(listed(dir.path()).unwrap(), []);
        forget(dir.path()).unwrap();
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LIST), r#"{"version":2,"bundles":[]}"#).unwrap();
        let error = listed(dir.path()).unwrap_err();
        assert!(error.to_string().starts_with("understand "), "{error}");
        fs::write(dir.path().join(MEMBER), "{").unwrap();
        let error = Member::read(dir.path()).unwrap_err();
        assert!(error.to_string().starts_with("parse "), "{error}");
    }

    #[test]
    fn helpers_are_listed_while_they_run_and_never_bring_a_page_back() {
        let dir = tempfile::tempdir().unwrap();
        member("a").write(dir.path()).unwrap();
        let record = Arc::new(Record::new(dir.path()));
        let page = Page::new(&record, dir.path(), member("a"));
        let own = i32::try_from(std::process::id()).unwrap();
        let listed = || Member::read(dir.path()).unwrap().unwrap().helpers;
        page.enter(own).unwrap();
        assert_eq!(listed(), [Init::of(own).unwrap()]);
        page.strike(own);
        assert_eq!(listed(), []);
        page.enter(0).expect_err("nobody has that number");
        forget(dir.path()).unwrap();
        page.strike(own);
        assert_eq!(Member::read(dir.path()).unwrap(), None);
    }

    #[test]
    fn a_process_is_told_by_its_beginning() {
        let own = i32::try_from(std::process::id()).unwrap();
        let init = Init::of(own).unwrap();
        assert_eq!(Init::of(own), Some(init));
        assert!(init.started > 0);
        assert_eq!(Init::of(0), None);
    }
}
