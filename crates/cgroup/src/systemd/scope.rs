//! A container's scope: the unit whose cgroup is the container's.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::LinuxResources;

use super::asked::Property;
use super::bus::Bus;
use super::message::{Value, Writer};
use super::properties::{PERIOD, Properties};
use crate::control::{read_optional, write};
use crate::{Cgroup, Error, Host, Mode};

/// How long systemd may take to start a unit: 30 s, as runc gives it.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Where a scope goes if nobody says where.
const SLICE: &str = "system.slice";

/// What systemd does with a job that is in the way.
const MODE: &str = "replace";

/// The unit is there already.
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

/// The unit is not there.
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// Names that systemd gives no cgroup, because a controller might make a file of that name.
const CONTROLLERS: [&str; 8] = [
    "cpu", "cpuacct", "cpuset", "io", "blkio", "memory", "devices", "pids",
];

/// Files that systemd writes whenever it is told of any limit: rounded, or as if nobody had set them.
const WRITTEN_OVER: [(&str, &str); 6] = [
    ("cpu", "cpu.max"),
    ("cpu", "cpu.cfs_period_us"),
    ("cpu", "cpu.cfs_quota_us"),
    ("memory", "memory.oom.group"),
    ("memory", "memory.zswap.max"),
    ("memory", "memory.zswap.writeback"),
];

/// A scope of systemd, running or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    unit: String,
    slice: String,
    path: PathBuf,
    asked: Vec<Property>,
}

// === impl Scope ===

impl Scope {
    /// The scope that `slice:prefix:name` names.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for what is no slice, or a container that is to be one.
    pub fn new(slice: &str, prefix: &str, name: &str) -> Result<Self, Error> {
        let refuse = |why| {
            let value = format!("{slice}:{prefix}:{name}");
            Err(Error::unsupported("linux.cgroupsPath", value, why))
        };
        let slice_name = if slice.is_empty() { SLICE } else { slice };
        let Some(parent) = slice_path(slice_name) else {
            return refuse("its first part is not a slice of systemd");
        };
        if name.ends_with(".slice") {
            return refuse("a slice holds no processes");
        }
        let unit = format!("{prefix}-{name}.scope");
        Ok(Scope {
            path: parent.join(escaped(&unit)),
            slice: slice_name.to_owned(),
            unit,
            asked: Vec::new(),
        })
    }

    /// Gives it properties besides those that make it a container's, which they outrank, and its
    /// limits, which outrank them.
    #[must_use]
    pub fn with(mut self, properties: Vec<Property>) -> Self {
        self.asked = properties;
        self
    }

    /// The unit's name.
    #[must_use]
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// Where its cgroup is, below the root of each hierarchy.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts it with the process `pid` in it, and opens its cgroup.
    ///
    /// The process is moved by systemd, and the unit lives as long as a process is in it. systemd is
    /// told the limits that it knows of; [`Cgroup::limit`] is to be called as for any other cgroup.
    ///
    /// # Errors
    ///
    /// [`Error::Bus`] if systemd does not answer, [`Error::Systemd`] and [`Error::Job`] if it
    /// refuses; then there is no unit. What of a limit cannot be said, as [`Cgroup::limit`].
    pub fn start(
        &self,
        host: &Host,
        pid: u32,
        resources: &LinuxResources,
    ) -> Result<Cgroup, Error> {
        let mut properties = self.properties(host.mode(), pid);
        properties.limit(host.mode(), resources, PERIOD)?;
        properties.confine(host.mode(), resources)?;
        let mut body = Writer::default();
        body.text(&self.unit);
        body.text(MODE);
        body.properties(properties.iter());
        // Units that are to come along: none.
        body.array(8, |_| {});
        let mut bus = Bus::connect(START_LIMIT)?;
        let mut start = || bus.work("StartTransientUnit", &self.unit, "ssa(sv)a(sa(sv))", &body);
        match start() {
            // One of that name that has failed stays until somebody has looked at it.
            Err(Error::Systemd { name, .. }) if *name == *UNIT_EXISTS => {
                let mut failed = Writer::default();
                failed.text(&self.unit);
                // If it has not failed, the second try tells.
                drop(Bus::connect(START_LIMIT)?.call("ResetFailedUnit", &self.unit, "s", &failed));
                start()?;
            }
            started => started?,
        }
        Cgroup::adopt(host, &self.path).inspect_err(|_| drop(stop(&self.unit, START_LIMIT)))
    }

    /// Changes the limits of its cgroup, and what systemd knows of them.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::update`] and [`Scope::start`].
    pub fn update(&self, cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
        // First, for this looks at what is in use.
        cgroup.update(resources)?;
        let mut properties = Properties::default();
        properties.limit(cgroup.mode(), resources, period(cgroup)?)?;
        if properties.is_empty() {
            return Ok(());
        }
        let mut kept = Vec::new();
        for (controller, file) in WRITTEN_OVER {
            if let Some(dir) = cgroup.controller(controller)
                && let Some(text) = read_optional(dir, file)?
            {
                kept.push((dir, file, text));
            }
        }
        let mut body = Writer::default();
        body.text(&self.unit);
        // As long as the unit lives, and no longer.
        body.number(1);
        body.properties(properties.iter());
        Bus::connect(START_LIMIT)?.call("SetUnitProperties", &self.unit, "sba(sv)", &body)?;
        kept.iter()
            .try_for_each(|(dir, file, text)| write(dir, file, text.trim()))
    }

    /// What makes it a container's.
    fn properties(&self, mode: Mode, pid: u32) -> Properties {
        let io = match mode {
            Mode::V2 => "IOAccounting",
            Mode::V1 | Mode::Hybrid => "BlockIOAccounting",
        };
        let text = |text: &str| Value::Text(text.to_owned());
        let mut properties = Properties::default();
        properties.set("Description", text(&format!("container in {self}")));
        properties.set("Slice", text(&self.slice));
        // What is below is the container's, and an OOM kill no end of the unit.
        properties.set("Delegate", Value::Flag(true));
        // Nothing is to wait for it, or to be stopped before it, when the machine goes down.
        properties.set("DefaultDependencies", Value::Flag(false));
        // Whoever has failed is forgotten like whoever has not.
        properties.set("CollectMode", text("inactive-or-failed"));
        for accounting in ["CPUAccounting", "MemoryAccounting", "TasksAccounting", io] {
            properties.set(accounting, Value::Flag(true));
        }
        // Its own default is a share of the machine's; a container has what was asked for.
        properties.set("TasksMax", Value::Number(u64::MAX));
        properties.set("PIDs", Value::Numbers(vec![pid]));
        for asked in &self.asked {
            properties.set(asked.name.clone(), asked.value.clone());
        }
        properties
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

/// Stops a unit and waits, no longer than `limit`, until it is gone; one that is gone is success.
///
/// # Errors
///
/// [`Error::Bus`], [`Error::Systemd`] or [`Error::Job`].
pub fn stop(unit: &str, limit: Duration) -> Result<(), Error> {
    let mut body = Writer::default();
    body.text(unit);
    body.text(MODE);
    match Bus::connect(limit)?.work("StopUnit", unit, "ss", &body) {
        Err(Error::Systemd { name, .. }) if *name == *NO_SUCH_UNIT => Ok(()),
        stopped => stopped,
    }
}

/// The cgroup of a slice: `a-b.slice` is `/a.slice/a-b.slice`. `None` for what is no slice.
#[must_use]
pub fn slice_path(slice: &str) -> Option<PathBuf> {
    let mut path = PathBuf::from("/");
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some(path);
    }
    if name.contains('/') || name.split('-').any(str::is_empty) {
        return None;
    }
    let ends = name.match_indices('-').map(|(at, _)| at);
    for end in ends.chain([name.len()]) {
        path.push(escaped(&format!("{}.slice", &name[..end])));
    }
    Some(path)
}

/// The directory of a unit: its name, unless that could be a file of the kernel's there.
///
/// # References
///
/// `cg_escape` in systemd's `src/basic/cgroup-util.c`.
fn escaped(unit: &str) -> String {
    let of_the_kernel = unit.starts_with(['_', '.'])
        || unit
            .split_once('.')
            .is_some_and(|(first, _)| first == "cgroup" || CONTROLLERS.contains(&first));
    if of_the_kernel {
        format!("_{unit}")
    } else {
        unit.to_owned()
    }
}

/// The period of a cgroup's quota, in microseconds.
fn period(cgroup: &Cgroup) -> Result<u64, Error> {
    let Some(dir) = cgroup.controller("cpu") else {
        return Ok(PERIOD);
    };
    let text = match cgroup.mode() {
        Mode::V2 => read_optional(dir, "cpu.max")?,
        Mode::V1 | Mode::Hybrid => read_optional(dir, "cpu.cfs_period_us")?,
    };
    let last = text
        .as_deref()
        .and_then(|text| text.split_whitespace().last());
    Ok(last
        .and_then(|period| period.parse().ok())
        .unwrap_or(PERIOD))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_lie_in_each_other_by_their_dashes() {
        for (slice, path) in [
            ("-.slice", "/"),
            ("system.slice", "/system.slice"),
            (
                "kubepods-burstable-pod1_2.slice",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice",
            ),
            ("memory.slice", "/_memory.slice"),
        ] {
            assert_eq!(slice_path(slice).as_deref(), Some(Path::new(path)));
        }
        for wrong in [
            "",
            "a",
            ".slice",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            "a/b.slice",
        ] {
            assert_eq!(slice_path(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_scope_is_named_as_runc_names_it() {
        let scope = Scope::new("kubepods-pod1.slice", "cri-containerd", "abc").unwrap();
        assert_eq!(scope.unit(), "cri-containerd-abc.scope");
        assert_eq!(
            scope.path(),
            Path::new("/kubepods.slice/kubepods-pod1.slice/cri-containerd-abc.scope")
        );
        let scope = Scope::new("", "", "abc").unwrap();
        assert_eq!(scope.path(), Path::new("/system.slice/-abc.scope"));
    }

    #[test]
    fn what_is_asked_for_outranks_what_makes_a_scope_a_containers() {
        let scope = Scope::new("", "", "abc").unwrap();
        let asked = [("CollectMode", "'inactive'"), ("TimeoutStopSec", "1")].map(|(name, text)| {
            let asked = Property::annotated(&format!("org.systemd.property.{name}"), text);
            asked.unwrap().unwrap()
        });
        let properties = scope.with(asked.to_vec()).properties(Mode::V2, 7);
        let values = |wanted: &str| {
            let values = properties.iter().filter(|(name, _)| *name == wanted);
            values.map(|(_, value)| value.clone()).collect::<Vec<_>>()
        };
        assert_eq!(values("CollectMode"), [Value::Text("inactive".to_owned())]);
        assert_eq!(values("TimeoutStopUSec"), [Value::Number(1_000_000)]);
        assert_eq!(values("PIDs"), [Value::Numbers(vec![7])]);
    }

    #[test]
    fn what_is_no_scope_is_refused_by_name() {
        for (parts, text) in [
            (
                ("pods", "a", "b"),
                "linux.cgroupsPath = pods:a:b: its first part is not a slice of systemd",
            ),
            (
                ("a.slice", "", "b.slice"),
                "linux.cgroupsPath = a.slice::b.slice: a slice holds no processes",
            ),
        ] {
            let error = Scope::new(parts.0, parts.1, parts.2).unwrap_err();
            assert_eq!(error.to_string(), text);
        }
    }
}
