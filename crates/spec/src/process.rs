//! `process` of `config.json`, and the process of an exec.

use crate::{
    Capabilities, Error, ExecAffinity, Processors, Scheduler, capability::bit, document::Document,
    fields,
};
use oci_spec::runtime::{IOPriorityClass, PosixRlimitType, Process as Written};
use serde_json::Value;

/// The size of a console, in characters. 0 by 0 leaves the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConsoleSize {
    /// Height.
    pub rows: u16,
    /// Width.
    pub cols: u16,
}

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// File mode creation mask.
    pub umask: Option<u32>,
}

/// A resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// `RLIMIT_*` as the kernel numbers them on x86-64 and aarch64.
    pub resource: u32,
    /// In force.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

/// An I/O priority as `ioprio_set(2)` takes it: class and level in one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoPriority(pub i32);

/// A process to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The console's first size; `None` runs without a console.
    pub terminal: Option<ConsoleSize>,
    /// Who it is.
    pub user: User,
    /// Its arguments; at least one.
    pub args: Vec<String>,
    /// Its environment, each `NAME=value`; of a name given twice the last value.
    pub env: Vec<String>,
    /// Its working directory: absolute.
    pub cwd: String,
    /// Its capabilities; `None` when the document has no such field, which leaves a
    /// container none, and gives an exec those of its container.
    pub capabilities: Option<Capabilities>,
    /// Capability names that Duet's table does not have: worth a warning.
    pub unknown_capabilities: Vec<String>,
    /// Its limits.
    pub rlimits: Vec<Rlimit>,
    /// Whether exec may never gain privileges.
    pub no_new_privileges: bool,
    /// The AppArmor profile that confines it.
    pub apparmor_profile: Option<String>,
    /// The SELinux label that it runs under.
    pub selinux_label: Option<String>,
    /// How readily the kernel kills it: -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Its I/O priority.
    pub io_priority: Option<IoPriority>,
    /// How it is scheduled.
    pub scheduler: Option<Scheduler>,
    /// Where it may run, if it is an exec's.
    pub exec_affinity: ExecAffinity,
}

// === impl Process ===

impl Process {
    /// Reads the process of an exec.
    ///
    /// # Errors
    ///
    /// [`Error`], naming the field.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        Self::of_exec(json, None)
    }

    /// As [`Process::parse`], for a request that has a word of its own on the terminal.
    ///
    /// That word counts, as under runc's shim: clients take the document of the container's own
    /// process, change its arguments and leave `terminal` as it was.
    ///
    /// # Errors
    ///
    /// As [`Process::parse`].
    pub fn parse_with_terminal(json: &[u8], terminal: bool) -> Result<Self, Error> {
        Self::of_exec(json, Some(terminal))
    }

    /// Gives its terminal another size; `None` if it asks for no terminal.
    #[must_use]
    pub fn resize(&mut self, cols: u16, rows: u16) -> Option<()> {
        let size = self.terminal.as_mut()?;
        *size = ConsoleSize { rows, cols };
        Some(())
    }

    fn of_exec(json: &[u8], terminal: Option<bool>) -> Result<Self, Error> {
        let document = Document {
            name: "exec process",
        };
        let mut value = document.syntax(json)?;
        document.offered(&value, &fields::PROCESS)?;
        if let (Some(terminal), Some(fields)) = (terminal, value.as_object_mut()) {
            fields.insert("terminal".to_owned(), terminal.into());
        }
        let lifted = Lifted::lift(document, "", Some(&mut value))?;
        Self::read(document, "", &document.typed(value)?, lifted)
    }

    /// Checks a process whose fields stand below `prefix` (`process.` or nothing).
    pub(crate) fn read(
        document: Document<'_>,
        prefix: &str,
        written: &Written,
        lifted: Lifted,
    ) -> Result<Self, Error> {
        let Lifted {
            capabilities,
            scheduler,
        } = lifted;
        let field = |name: &str| format!("{prefix}{name}");
        let args = written.args().clone().unwrap_or_default();
        if args.first().is_none_or(String::is_empty) {
            return Err(document.missing(&field("args")));
        }
        let cwd = written.cwd().to_str().unwrap_or_default();
        if !cwd.starts_with('/') {
            let cwd = written.cwd().display().to_string();
            return Err(document.value(&field("cwd"), &cwd, "is not absolute"));
        }
        let user = written.user();
        if let Some(oom_score_adj) = written.oom_score_adj()
            && !(-1000..=1000).contains(&oom_score_adj)
        {
            let value = oom_score_adj.to_string();
            return Err(document.value(&field("oomScoreAdj"), &value, "is not in -1000..=1000"));
        }
        if let Some(umask) = user.umask()
            && umask > 0o777
        {
            let value = format!("{umask:#o}");
            return Err(document.value(&field("user.umask"), &value, "has bits beyond 0777"));
        }
        Ok(Self {
            terminal: terminal(document, &field("consoleSize"), written)?,
            user: User {
                uid: user.uid(),
                gid: user.gid(),
                additional_gids: user.additional_gids().clone().unwrap_or_default(),
                umask: user.umask(),
            },
            args,
            env: environment(
                document,
                &field("env"),
                written.env().as_deref().unwrap_or_default(),
            )?,
            cwd: cwd.to_owned(),
            capabilities: capabilities.sets,
            unknown_capabilities: capabilities.unknown,
            rlimits: rlimits(document, &field("rlimits"), written)?,
            no_new_privileges: written.no_new_privileges().unwrap_or(false),
            apparmor_profile: label(written.apparmor_profile()),
            selinux_label: label(written.selinux_label()),
            oom_score_adj: written.oom_score_adj(),
            io_priority: io_priority(document, &field("ioPriority.priority"), written)?,
            scheduler,
            exec_affinity: exec_affinity(document, &field("execCPUAffinity"), written)?,
        })
    }
}

/// A label; containerd writes an empty one where it means none.
fn label(written: &Option<String>) -> Option<String> {
    written.clone().filter(|label| !label.is_empty())
}

fn terminal(
    document: Document<'_>,
    field: &str,
    written: &Written,
) -> Result<Option<ConsoleSize>, Error> {
    if written.terminal() != Some(true) {
        return Ok(None);
    }
    let size = written.console_size().unwrap_or_default();
    let characters = |name: &str, value: u64| {
        u16::try_from(value).map_err(|_| {
            document.value(
                &format!("{field}.{name}"),
                &value.to_string(),
                "is larger than 65535",
            )
        })
    };
    Ok(Some(ConsoleSize {
        rows: characters("height", size.height())?,
        cols: characters("width", size.width())?,
    }))
}

/// Checks the environment and keeps, of a name given twice, the last value at the first
/// place: `execve` would pass both on, and programs disagree on which one counts.
fn environment(document: Document<'_>, field: &str, env: &[String]) -> Result<Vec<String>, Error> {
    let mut kept: Vec<&String> = Vec::with_capacity(env.len());
    let mut places = std::collections::HashMap::new();
    for (index, entry) in env.iter().enumerate() {
        let name = match entry.split_once('=') {
            Some((name, _)) if !name.is_empty() => name,
            // The entry may be half of a secret: it is not repeated.
            _ => {
                let field = format!("{field}[{index}]");
                return Err(document.value(&field, "(hidden)", "is not NAME=value"));
            }
        };
        match places.get(name) {
            None => {
                places.insert(name, kept.len());
                kept.push(entry);
            }
            Some(&place) => {
                if let Some(earlier) = kept.get_mut(place) {
                    *earlier = entry;
                }
            }
        }
    }
    Ok(kept.into_iter().cloned().collect())
}

fn rlimits(document: Document<'_>, field: &str, written: &Written) -> Result<Vec<Rlimit>, Error> {
    let mut limits: Vec<Rlimit> = Vec::new();
    for (index, limit) in written.rlimits().iter().flatten().enumerate() {
        let (soft, hard) = (limit.soft(), limit.hard());
        let resource = resource(limit.typ());
        let field = format!("{field}[{index}]");
        if soft > hard {
            let why = "the soft limit is above the hard limit";
            return Err(document.value(&field, &format!("{} {soft} > {hard}", limit.typ()), why));
        }
        if limits.iter().any(|other| other.resource == resource) {
            return Err(document.value(&field, &limit.typ().to_string(), "is listed twice"));
        }
        limits.push(Rlimit {
            resource,
            soft,
            hard,
        });
    }
    Ok(limits)
}

/// `asm-generic/resource.h`.
fn resource(typ: PosixRlimitType) -> u32 {
    match typ {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    }
}

fn io_priority(
    document: Document<'_>,
    field: &str,
    written: &Written,
) -> Result<Option<IoPriority>, Error> {
    let Some(priority) = written.io_priority() else {
        return Ok(None);
    };
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match i32::try_from(priority.priority()) {
        // IOPRIO_PRIO_VALUE of linux/ioprio.h.
        Ok(level @ 0..=7) => Ok(Some(IoPriority((class << 13) | level))),
        _ => Err(document.value(field, &priority.priority().to_string(), "is not in 0..=7")),
    }
}

fn exec_affinity(
    document: Document<'_>,
    field: &str,
    written: &Written,
) -> Result<ExecAffinity, Error> {
    let Some(affinity) = written.exec_cpu_affinity() else {
        return Ok(ExecAffinity::default());
    };
    let read = |name: &str, list: &Option<String>| {
        Processors::read(document, &format!("{field}.{name}"), list.as_deref())
    };
    Ok(ExecAffinity {
        initial: read("initial", affinity.initial())?,
        last: read("final", affinity.cpu_affinity_final())?,
    })
}

/// What is taken out of a process before `oci-spec` sees it.
#[derive(Debug, Default)]
pub(crate) struct Lifted {
    capabilities: LiftedCapabilities,
    scheduler: Option<Scheduler>,
}

// === impl Lifted ===

impl Lifted {
    pub(crate) fn lift(
        document: Document<'_>,
        prefix: &str,
        mut process: Option<&mut Value>,
    ) -> Result<Self, Error> {
        Ok(Self {
            capabilities: LiftedCapabilities::lift(document, prefix, process.as_deref_mut())?,
            scheduler: Scheduler::lift(document, prefix, process)?,
        })
    }
}

/// The capability sets, taken out of the document before `oci-spec` sees them: its closed
/// list of names fails on one from a newer kernel, where runc warns and goes on.
#[derive(Debug, Default)]
struct LiftedCapabilities {
    sets: Option<Capabilities>,
    unknown: Vec<String>,
}

// === impl LiftedCapabilities ===

impl LiftedCapabilities {
    fn lift(
        document: Document<'_>,
        prefix: &str,
        process: Option<&mut Value>,
    ) -> Result<Self, Error> {
        let mut lifted = Self::default();
        let Some(taken) = process
            .and_then(Value::as_object_mut)
            .and_then(|process| process.remove("capabilities"))
        else {
            return Ok(lifted);
        };
        if taken.is_null() {
            return Ok(lifted);
        }
        let field = format!("{prefix}capabilities");
        let Value::Object(members) = taken else {
            return Err(document.value(&field, &taken.to_string(), "is not an object"));
        };
        let mut sets = Capabilities::default();
        for (name, list) in members {
            let field = format!("{field}.{name}");
            let set = match name.as_str() {
                "bounding" => &mut sets.bounding,
                "effective" => &mut sets.effective,
                "inheritable" => &mut sets.inheritable,
                "permitted" => &mut sets.permitted,
                "ambient" => &mut sets.ambient,
                // Not in the list of offered fields, so it asks for nothing.
                _ => continue,
            };
            if list.is_null() {
                continue;
            }
            let Value::Array(names) = list else {
                return Err(document.value(&field, &list.to_string(), "is not a list"));
            };
            for (index, name) in names.into_iter().enumerate() {
                let Value::String(name) = name else {
                    let field = format!("{field}[{index}]");
                    return Err(document.value(&field, &name.to_string(), "is not a string"));
                };
                match bit(&name) {
                    Some(bit) => *set |= bit,
                    None if lifted.unknown.contains(&name) => {}
                    None => lifted.unknown.push(name),
                }
            }
        }
        let missing = sets.effective & !sets.permitted;
        if missing != 0 {
            let name = Capabilities::name(missing.trailing_zeros()).unwrap_or_default();
            let field = format!("{field}.effective");
            return Err(document.value(&field, &name, "is not permitted"));
        }
        lifted.sets = Some(sets);
        Ok(lifted)
    }
}
