//! `linux.resources.pids`, of which the releases of the specification say two things.
//!
//! | | before 1.3 | since 1.3 |
//! | --- | --- | --- |
//! | no `limit` | nothing is asked for | nothing is asked for |
//! | 0 | nothing is asked for: Go's word for a number that nobody has set | a limit: the first process may make no other |
//! | -1 | no limit | no limit |
//!
//! `ociVersion` tells which of them wrote a 0. A limit of 0 is set as 1: the first process is there by then, so that they mean
//! the same, and systemd knows no `TasksMax=0` (decision 35).
//!
//! # References
//!
//! [opencontainers/runtime-spec#1279](https://github.com/opencontainers/runtime-spec/pull/1279).

use oci_spec::runtime::{LinuxPids, LinuxResources};
use serde_json::Value;

/// The first release, major and minor, by which 0 is a limit.
const ZERO_IS_A_LIMIT: (u64, u64) = (1, 3);

/// Takes `pids` without a `limit` out of the limits of a document, which for `oci-spec` is one of 0.
pub(crate) fn lift_unset(resources: Option<&mut Value>) {
    let Some(resources) = resources.and_then(Value::as_object_mut) else {
        return;
    };
    let unset = resources
        .get("pids")
        .and_then(Value::as_object)
        .is_some_and(|pids| pids.get("limit").is_none_or(Value::is_null));
    if unset {
        resources.remove("pids");
    }
}

/// The limits with what a limit of no tasks means in a document of this version.
pub(crate) fn read(version: &str, mut resources: LinuxResources) -> LinuxResources {
    if resources.pids().is_some_and(|pids| pids.limit() == 0) {
        let mut one = LinuxPids::default();
        one.set_limit(1);
        resources.set_pids(zero_is_a_limit(version).then_some(one));
    }
    resources
}

fn zero_is_a_limit(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u64>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= ZERO_IS_A_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(version: &str, pids: &str) -> Option<i64> {
        let mut resources = serde_json::from_str(&format!(r#"{{"pids": {pids}}}"#)).unwrap();
        lift_unset(Some(&mut resources));
        let resources = serde_json::from_value(resources).unwrap();
        read(version, resources).pids().map(|pids| pids.limit())
    }

    #[test]
    fn no_task_more_is_a_limit_since_1_3() {
        for (version, pids, expected) in [
            ("1.3.0", r#"{"limit": 0}"#, Some(1)),
            ("1.3.0-rc.1", r#"{"limit": 0}"#, Some(1)),
            ("2.0.0", r#"{"limit": 0}"#, Some(1)),
            ("1.2.1", r#"{"limit": 0}"#, None),
            ("1.2.1+dev", r#"{"limit": 0}"#, None),
            ("", r#"{"limit": 0}"#, None),
            ("1.3.0", "{}", None),
            ("1.3.0", r#"{"limit": null}"#, None),
            ("1.3.0", r#"{"limit": -1}"#, Some(-1)),
            ("1.2.1", r#"{"limit": -1}"#, Some(-1)),
            ("1.2.1", r#"{"limit": 7}"#, Some(7)),
        ] {
            assert_eq!(limit(version, pids), expected, "{version} {pids}");
        }
    }
}
