//! `process.scheduler` and `process.execCPUAffinity`: when and where a process may run.

use crate::{Error, document::Document};
use serde::Deserialize;
use serde_json::Value;

/// How the kernel schedules a process, as `sched_setattr(2)` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scheduler {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// -20 to 19.
    pub nice: i32,
    /// Static priority of `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// Nanoseconds of `SCHED_DEADLINE`.
    pub runtime: u64,
    /// Likewise.
    pub deadline: u64,
    /// Likewise.
    pub period: u64,
}

/// Processors, as `sched_setaffinity(2)` takes them: bit n of the words is processor n.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Processors(Vec<u32>);

/// Where an exec's process may run; nothing is said of a container's first one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecAffinity {
    /// Before it enters the container's cgroup.
    pub initial: Option<Processors>,
    /// From there on.
    pub last: Option<Processors>,
}

/// The highest number of a processor: 8191, the most that Linux can be built for.
const LAST: u32 = 8191;

/// Taken out of the document before `oci-spec` sees it, whose names of two flags are not those of
/// the specification.
#[derive(Debug, Deserialize)]
struct Written {
    policy: String,
    nice: Option<i32>,
    priority: Option<i32>,
    flags: Option<Vec<String>>,
    runtime: Option<u64>,
    deadline: Option<u64>,
    period: Option<u64>,
}

// === impl Scheduler ===

impl Scheduler {
    /// `SCHED_DEADLINE`.
    pub const DEADLINE: u32 = 6;
    /// `SCHED_FLAG_RESET_ON_FORK`.
    pub const RESET_ON_FORK: u64 = 1;

    /// Takes `scheduler` out of a process.
    pub(crate) fn lift(
        document: Document<'_>,
        prefix: &str,
        process: Option<&mut Value>,
    ) -> Result<Option<Self>, Error> {
        let taken = process
            .and_then(Value::as_object_mut)
            .and_then(|process| process.remove("scheduler"));
        match taken {
            // What asks for nothing has no policy either.
            Some(Value::Object(members)) if !members.is_empty() => {
                let field = format!("{prefix}scheduler");
                let written = document.typed_at(&field, Value::Object(members))?;
                Self::read(document, &field, &written).map(Some)
            }
            None | Some(Value::Null | Value::Object(_)) => Ok(None),
            Some(other) => {
                let field = format!("{prefix}scheduler");
                Err(document.value(&field, &other.to_string(), "is not an object"))
            }
        }
    }

    fn read(document: Document<'_>, field: &str, written: &Written) -> Result<Self, Error> {
        let refuse = |name: &str, value: String, why| {
            Err(document.value(&format!("{field}.{name}"), &value, why))
        };
        let policy = match written.policy.as_str() {
            "SCHED_OTHER" => 0,
            "SCHED_FIFO" => 1,
            "SCHED_RR" => 2,
            "SCHED_BATCH" => 3,
            "SCHED_IDLE" => 5,
            "SCHED_DEADLINE" => Self::DEADLINE,
            "SCHED_ISO" => {
                let why = "is in no released Linux";
                return refuse("policy", written.policy.clone(), why);
            }
            other => return refuse("policy", other.to_owned(), "is not a scheduling policy"),
        };
        let mut flags = 0;
        for (index, flag) in written.flags.iter().flatten().enumerate() {
            flags |= match flag.as_str() {
                "SCHED_FLAG_RESET_ON_FORK" => Self::RESET_ON_FORK,
                "SCHED_FLAG_RECLAIM" => 0x02,
                "SCHED_FLAG_DL_OVERRUN" => 0x04,
                "SCHED_FLAG_KEEP_POLICY" => 0x08,
                "SCHED_FLAG_KEEP_PARAMS" => 0x10,
                "SCHED_FLAG_UTIL_CLAMP_MIN" => 0x20,
                "SCHED_FLAG_UTIL_CLAMP_MAX" => 0x40,
                other => {
                    let name = format!("flags[{index}]");
                    return refuse(&name, other.to_owned(), "is not a scheduling flag");
                }
            };
        }
        let nice = written.nice.unwrap_or(0);
        if !(-20..=19).contains(&nice) {
            return refuse("nice", nice.to_string(), "is not in -20..=19");
        }
        let priority = written.priority.unwrap_or(0);
        let Ok(static_priority) = u32::try_from(priority) else {
            return refuse("priority", priority.to_string(), "is negative");
        };
        if static_priority != 0 && !matches!(policy, 1 | 2) {
            let why = "is for SCHED_FIFO and SCHED_RR alone";
            return refuse("priority", priority.to_string(), why);
        }
        for (name, value) in [
            ("runtime", written.runtime),
            ("deadline", written.deadline),
            ("period", written.period),
        ] {
            if let Some(value @ 1..) = value
                && policy != Self::DEADLINE
            {
                return refuse(name, value.to_string(), "is for SCHED_DEADLINE alone");
            }
        }
        Ok(Self {
            policy,
            flags,
            nice,
            priority: static_priority,
            runtime: written.runtime.unwrap_or(0),
            deadline: written.deadline.unwrap_or(0),
            period: written.period.unwrap_or(0),
        })
    }
}

// === impl Processors ===

impl Processors {
    /// The words of the mask; always an even number of them, for the kernel counts in longs.
    #[must_use]
    pub fn words(&self) -> &[u32] {
        &self.0
    }

    /// Reads `0-3,7`; nothing for an empty text.
    pub(crate) fn read(
        document: Document<'_>,
        field: &str,
        list: Option<&str>,
    ) -> Result<Option<Self>, Error> {
        let list = match list {
            None | Some("") => return Ok(None),
            Some(list) => list,
        };
        match crate::list::bits(list, LAST) {
            Some(words) => Ok(Some(Self(words))),
            None => Err(document.value(field, list, "is not a list of processors, such as 0-3,7")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DOCUMENT: Document<'_> = Document { name: "d" };

    fn lift(scheduler: Value) -> Result<Option<Scheduler>, String> {
        let mut process = json!({ "scheduler": scheduler });
        Scheduler::lift(DOCUMENT, "process.", Some(&mut process)).map_err(|e| e.to_string())
    }

    #[test]
    fn a_scheduler_is_what_the_kernel_takes() {
        let flags = ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"];
        let read = lift(json!({ "policy": "SCHED_BATCH", "nice": -5, "flags": flags }));
        let expected = Scheduler {
            policy: 3,
            flags: 5,
            nice: -5,
            ..Scheduler::default()
        };
        assert_eq!(read, Ok(Some(expected)));
        assert_eq!(lift(Value::Null), Ok(None));
    }

    #[test]
    fn what_no_kernel_takes_is_named() {
        for (scheduler, field) in [
            (json!({ "policy": "SCHED_NEW" }), "policy"),
            (json!({ "policy": "SCHED_ISO" }), "policy"),
            (json!({ "policy": "SCHED_OTHER", "nice": 20 }), "nice"),
            (
                json!({ "policy": "SCHED_OTHER", "priority": 1 }),
                "priority",
            ),
            (json!({ "policy": "SCHED_RR", "priority": -1 }), "priority"),
            (json!({ "policy": "SCHED_RR", "period": 1 }), "period"),
            (json!({ "policy": "SCHED_RR", "flags": ["X"] }), "flags[0]"),
            (json!({ "nice": 1 }), ""),
            (json!(5), ""),
        ] {
            let why = lift(scheduler).unwrap_err();
            assert!(
                why.contains(format!("process.scheduler.{field}").trim_end_matches('.')),
                "{why}"
            );
        }
    }

    #[test]
    fn processors_are_ranges() {
        let read = |list| Processors::read(DOCUMENT, "f", Some(list));
        assert_eq!(read("").unwrap(), None);
        assert_eq!(read("0").unwrap().unwrap().words(), [1, 0]);
        assert_eq!(read("0-2,33,64").unwrap().unwrap().words(), [7, 2, 1, 0]);
        for bad in ["a", "2-1", "0,", "8192", "-1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
