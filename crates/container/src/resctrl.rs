//! `linux.intelRdt`: the class of resctrl that a container's processes are in.
//!
//! ```text
//!   /sys/fs/resctrl/            the class of everybody
//!       <closID or id>/         a class
//!           schemata            what it may use
//!           tasks               who is in it
//!           mon_groups/<id>/    what one container in it uses
//! ```
//!
//! A class that is there is somebody else's too: what a container asks for must be what it has, and it stays
//! (decision 23). Each pod is a process of its own, and two of them may ask for one class at once: classes are
//! made and compared under resctrl's lock. The child enters it itself, beside its cgroup, and so does each exec.
//!
//! # References
//!
//! "IntelRdt" of the runtime specification's `config-linux.md`; runc's `libcontainer/intelrdt`;
//! <https://docs.kernel.org/filesystems/resctrl.html>.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use duet_linux::mount;
use duet_spec::{IntelRdt, Schema};

use crate::error::Error;
use lock::Lock;

mod lock;

/// The field as a whole.
const FIELD: &str = "linux.intelRdt";
const CLASS: &str = "linux.intelRdt.closID";

/// Where it is looked for first.
const USUAL: &str = "/sys/fs/resctrl";

/// The class of a container. Dropping it removes what is the container's own of it.
#[derive(Debug)]
pub(crate) struct Class {
    /// Where resctrl is mounted.
    root: PathBuf,
    dir: PathBuf,
    /// The monitoring group, if the container has one.
    group: Option<PathBuf>,
    /// Whether there was no such class when it was asked for.
    missing: bool,
    /// Whether it goes with its container.
    own: bool,
    schemata: Vec<Schema>,
    /// Whether what goes with its container was made.
    made: AtomicBool,
}

/// Where resctrl is mounted, if it is.
pub(crate) fn find() -> Result<Option<PathBuf>, Error> {
    let table = mount::table().map_err(|source| Error::Host {
        step: "look for resctrl",
        source,
    })?;
    let mut points: Vec<_> = table
        .into_iter()
        .filter(|entry| entry.fstype == "resctrl")
        .map(|entry| entry.point)
        .collect();
    points.sort_by_key(|point| point != Path::new(USUAL));
    Ok(points.into_iter().next())
}

/// Removes classes and monitoring groups; those that are gone are no error.
pub fn remove_classes(paths: &[PathBuf]) -> io::Result<()> {
    for path in paths {
        match fs::remove_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

// === impl Class ===

impl Class {
    /// What a container of this id asks for in the resctrl that is mounted at `root`. Nothing is made.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], naming the field that cannot be honoured.
    pub(crate) fn of(asked: &IntelRdt, id: &str, root: Option<PathBuf>) -> Result<Self, Error> {
        let refuse = |field, value: &str, why| {
            Err(Error::Invalid {
                field,
                value: value.to_owned(),
                why,
            })
        };
        let name = asked.class.as_deref();
        let Some(root) = root else {
            let first = asked.schemata.first();
            let (field, value) = match (name, first, asked.monitoring) {
                (Some(name), ..) => (CLASS, name),
                (None, Some(schema), _) => (schema.field, &*schema.line),
                (None, None, Some(field)) => (field, "true"),
                (None, None, None) => (FIELD, ""),
            };
            return refuse(field, value, "no resctrl is mounted on this host");
        };
        let dir = match name {
            Some("/") => root.clone(),
            Some(name) => root.join(name),
            None => root.join(id),
        };
        // One that is there has its schemata, too.
        let _lock = Lock::shared(&root).map_err(unlocked(&root))?;
        let missing = !dir.is_dir();
        if let Some(name) = name.filter(|_| missing && asked.schemata.is_empty()) {
            return refuse(
                CLASS,
                name,
                "there is no such class, and no schemata to make it with",
            );
        }
        for Schema { field, line } in &asked.schemata {
            let resource = line.split(':').next().unwrap_or_default();
            // What is only monitored has no classes.
            let classes = format!("info/{resource}/num_closids");
            if !root.join(classes).exists() {
                return refuse(field, line, "this host's resctrl does not control that");
            }
        }
        if let Some(field) = asked.monitoring
            && !root.join("info/L3_MON").is_dir()
        {
            return refuse(field, "true", "this host's resctrl monitors nothing");
        }
        // Who removes it would move whoever else is in there.
        if name.is_none() && !missing {
            return refuse(FIELD, id, "there is a class of the container's id already");
        }
        let group = asked.monitoring.map(|_| dir.join("mon_groups").join(id));
        if let (Some(field), Some(group)) = (asked.monitoring, &group)
            && group.exists()
        {
            let why = "the class has a monitoring group of the container's id already";
            return refuse(field, "true", why);
        }
        let class = Self {
            group,
            own: name.is_none(),
            schemata: asked.schemata.clone(),
            made: AtomicBool::new(false),
            missing,
            root,
            dir,
        };
        if !missing {
            class.compare()?;
        }
        Ok(class)
    }

    /// The files by which a process of one thread enters it, writing `0` to each, in this order.
    pub(crate) fn entrances(&self) -> Vec<PathBuf> {
        let dirs = [Some(&self.dir), self.group.as_ref()];
        dirs.into_iter()
            .flatten()
            .map(|dir| dir.join("tasks"))
            .collect()
    }

    /// Those for an exec. Whose class an administrator has removed is in that of everybody, and so are its
    /// execs, as under runc.
    pub(crate) fn entrances_left(&self) -> Vec<PathBuf> {
        let mut left = self.entrances();
        left.retain(|tasks| tasks.exists());
        left
    }

    /// What goes with the container, in this order.
    pub(crate) fn leaves(&self) -> Vec<PathBuf> {
        let own = self.own.then(|| self.dir.clone());
        self.group.clone().into_iter().chain(own).collect()
    }

    /// Makes what there is to make. On an error nothing of it is left.
    pub(crate) fn make(&self) -> Result<(), Error> {
        let _lock = Lock::exclusive(&self.root).map_err(unlocked(&self.root))?;
        let made = self.missing && self.make_class()?;
        let filled = if made { self.write() } else { Ok(()) };
        if let Err(error) = filled.and_then(|()| self.make_group()) {
            // Under the lock nobody else has found it.
            if made && let Err(error) = fs::remove_dir(&self.dir) {
                tracing::warn!(class = %self.dir.display(), %error, "class of resctrl left behind");
            }
            return Err(error);
        }
        self.made.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether it is we who have made it, and not somebody who has been faster.
    fn make_class(&self) -> Result<bool, Error> {
        match fs::create_dir(&self.dir) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !self.own => {
                self.compare().map(|()| false)
            }
            Err(error) => Err(self.failed("make the class")(error)),
        }
    }

    fn make_group(&self) -> Result<(), Error> {
        let Some(group) = &self.group else {
            return Ok(());
        };
        fs::create_dir(group).map_err(self.failed_at("make the monitoring group", group))
    }

    /// Removes what goes with the container. May be called again.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        if self.made.load(Ordering::Acquire) {
            remove_classes(&self.leaves()).map_err(self.failed("remove the class"))?;
            self.made.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// All lines at once, as by runc: the kernel takes one after the other.
    fn write(&self) -> Result<(), Error> {
        if self.schemata.is_empty() {
            return Ok(());
        }
        let lines = self
            .schemata
            .iter()
            .map(|schema| format!("{}\n", schema.line));
        let text: String = lines.collect();
        let written = fs::write(self.dir.join("schemata"), &text);
        written.map_err(self.failed("write the schemata"))
    }

    /// Checks that a class which is there has what is asked for.
    fn compare(&self) -> Result<(), Error> {
        if self.schemata.is_empty() {
            return Ok(());
        }
        let has = fs::read_to_string(self.dir.join("schemata"));
        let has = has.map_err(self.failed("read the schemata"))?;
        let step = fs::read_to_string(self.root.join("info/MB/bandwidth_gran"));
        let step = step.ok().and_then(|text| text.trim().parse().ok());
        match self
            .schemata
            .iter()
            .find(|schema| !matches(&schema.line, &has, step))
        {
            None => Ok(()),
            Some(Schema { field, line }) => Err(Error::Invalid {
                field,
                value: line.clone(),
                why: "the class is there and has something else",
            }),
        }
    }

    fn failed(&self, step: &'static str) -> impl FnOnce(io::Error) -> Error {
        self.failed_at(step, &self.dir)
    }

    fn failed_at(&self, step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let lines = self.schemata.iter().map(|schema| &*schema.line);
        let asked = lines.collect::<Vec<_>>().join(" ");
        // What the kernel has to say beside the errno; `ok` where nothing.
        let status = fs::read_to_string(self.root.join("info/last_cmd_status"));
        let status = status.unwrap_or_default().trim().to_owned();
        let status = Some(status).filter(|status| !status.is_empty() && status != "ok");
        let path = path.to_owned();
        move |source| {
            // Of a name that is taken it was not asked: its word is about somebody else's command.
            let status = status.filter(|_| source.kind() != io::ErrorKind::AlreadyExists);
            Error::Resctrl {
                step,
                path,
                asked,
                status: status
                    .map_or_else(String::new, |status| format!("; resctrl says: {status}")),
                source,
            }
        }
    }
}

impl Drop for Class {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(class = %self.dir.display(), %error, "class of resctrl left behind");
        }
    }
}

fn unlocked(root: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = root.to_owned();
    move |source| Error::Resctrl {
        step: "wait for the lock of resctrl",
        path,
        asked: String::new(),
        status: String::new(),
        source,
    }
}

/// Whether each part of a line is what `schemata` has: the same number, or of bandwidth the one that the
/// kernel makes of it, which is the next one that is a multiple of `step`. Under `mba_MBps` it makes none of it.
fn matches(line: &str, schemata: &str, step: Option<u64>) -> bool {
    let split = |line: &'_ str| {
        let (resource, parts) = line.trim().split_once(':')?;
        Some((resource.to_owned(), parts.to_owned()))
    };
    let Some((resource, asked)) = split(line) else {
        return false;
    };
    let mut lines = schemata.lines().filter_map(split);
    let Some((_, has)) = lines.find(|(other, _)| *other == resource) else {
        return false;
    };
    let bandwidth = resource == "MB";
    let number = |text: &str| {
        let text = text.trim();
        match text.strip_prefix("0x") {
            _ if bandwidth => text.parse().ok(),
            hexadecimal => u64::from_str_radix(hexadecimal.unwrap_or(text), 16).ok(),
        }
    };
    let part = |part: &str| {
        let (place, value) = part.split_once('=')?;
        Some((place.trim().parse::<u32>().ok()?, number(value)?))
    };
    let step = step.filter(|_| bandwidth);
    let has: Vec<_> = has.split(';').filter_map(part).collect();
    asked.split(';').all(|asked| {
        part(asked).is_some_and(|(place, number)| {
            let rounded = step.and_then(|step| number.checked_next_multiple_of(step.max(1)));
            let mut numbers = [Some(number), rounded].into_iter().flatten();
            numbers.any(|number| has.contains(&(place, number)))
        })
    })
}

#[cfg(test)]
mod tests;
