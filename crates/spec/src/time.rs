//! `linux.timeOffsets`: how far the clocks of a time namespace are off.

use crate::{Error, Namespace, document::Document};
use oci_spec::runtime::LinuxTimeOffset;
use std::collections::{BTreeMap, HashMap};

/// How far the clocks of a new time namespace are off, in the words of
/// `/proc/<pid>/timens_offsets`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TimeOffsets(BTreeMap<&'static str, (i64, u32)>);

// === impl TimeOffsets ===

impl TimeOffsets {
    /// Whether no clock is off.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is written to the file: a line a clock.
    #[must_use]
    pub fn lines(&self) -> String {
        let line = |(clock, (seconds, nanoseconds)): (&&str, &(i64, u32))| {
            format!("{clock} {seconds} {nanoseconds}\n")
        };
        self.0.iter().map(line).collect()
    }

    pub(crate) fn read(
        document: Document<'_>,
        written: Option<&HashMap<String, LinuxTimeOffset>>,
        namespace: &Namespace,
    ) -> Result<Self, Error> {
        let mut offsets = BTreeMap::new();
        for (name, offset) in written.into_iter().flatten() {
            let field = format!("linux.timeOffsets.{name}");
            let seconds = offset.secs().unwrap_or(0);
            let nanoseconds = offset.nanosecs().unwrap_or(0);
            if seconds == 0 && nanoseconds == 0 {
                continue;
            }
            let value = format!("{seconds} s {nanoseconds} ns");
            let clock = match name.as_str() {
                "monotonic" => "monotonic",
                "boottime" => "boottime",
                _ => {
                    return Err(document.value(
                        &field,
                        &value,
                        "is not a clock of a time namespace",
                    ));
                }
            };
            if nanoseconds >= 1_000_000_000 {
                let field = format!("{field}.nanosecs");
                let value = nanoseconds.to_string();
                return Err(document.value(&field, &value, "is a second or more"));
            }
            if *namespace != Namespace::New {
                let why = "the container has no new time namespace";
                return Err(document.value(&field, &value, why));
            }
            offsets.insert(clock, (seconds, nanoseconds));
        }
        Ok(Self(offsets))
    }
}
