//! Which fields of the OCI runtime specification Duet offers.
//!
//! An allow-list down to the leaves, so that a field Duet has never heard of and one that
//! it knows and does not offer are refused alike, by their full path. A field that asks for
//! nothing (`null`, `false`, `0`, `""`, or a list or object of only those) is passed over:
//! Go's encoders write many of them.

use serde_json::Value;

#[cfg(test)]
mod coverage;
#[cfg(test)]
mod types;

/// What may stand at one place of a document.
#[derive(Debug)]
pub(crate) enum Shape {
    /// Anything; the types check it.
    Any,
    /// An object with these members.
    Object(&'static [(&'static str, Shape)]),
    /// An object with any member names.
    Map(&'static Shape),
    /// A list.
    List(&'static Shape),
}

/// What is wrong with a document.
#[derive(Debug)]
pub(crate) enum Objection<'a> {
    NotOffered { field: String, value: &'a Value },
    Nul { field: String },
}

use Shape::{Any, List, Map, Object};

const STRINGS: Shape = List(&Any);

const ID_MAPPINGS: Shape = List(&Object(&[
    ("containerID", Any),
    ("hostID", Any),
    ("size", Any),
]));

/// `process` of `config.json`, and the whole document of an exec.
pub(crate) const PROCESS: Shape = Object(&[
    ("terminal", Any),
    ("consoleSize", Object(&[("height", Any), ("width", Any)])),
    (
        "user",
        Object(&[
            ("uid", Any),
            ("gid", Any),
            ("umask", Any),
            ("additionalGids", STRINGS),
        ]),
    ),
    ("args", STRINGS),
    ("env", STRINGS),
    ("cwd", Any),
    (
        "capabilities",
        Object(&[
            ("bounding", STRINGS),
            ("effective", STRINGS),
            ("inheritable", STRINGS),
            ("permitted", STRINGS),
            ("ambient", STRINGS),
        ]),
    ),
    (
        "rlimits",
        List(&Object(&[("type", Any), ("hard", Any), ("soft", Any)])),
    ),
    ("noNewPrivileges", Any),
    ("apparmorProfile", Any),
    ("selinuxLabel", Any),
    ("oomScoreAdj", Any),
    ("ioPriority", Object(&[("class", Any), ("priority", Any)])),
    (
        "scheduler",
        Object(&[
            ("policy", Any),
            ("nice", Any),
            ("priority", Any),
            ("flags", STRINGS),
            ("runtime", Any),
            ("deadline", Any),
            ("period", Any),
        ]),
    ),
    (
        "execCPUAffinity",
        Object(&[("initial", Any), ("final", Any)]),
    ),
]);

const THROTTLES: Shape = List(&Object(&[("major", Any), ("minor", Any), ("rate", Any)]));

/// `linux.resources` of `config.json`, and the whole document of an update. That each of
/// them takes effect is the cgroup crate's promise.
pub(crate) const RESOURCES: Shape = Object(&[
    (
        "devices",
        List(&Object(&[
            ("allow", Any),
            ("type", Any),
            ("major", Any),
            ("minor", Any),
            ("access", Any),
        ])),
    ),
    (
        "memory",
        Object(&[
            ("limit", Any),
            ("reservation", Any),
            ("swap", Any),
            ("kernel", Any),
            ("kernelTCP", Any),
            ("swappiness", Any),
            ("disableOOMKiller", Any),
            ("useHierarchy", Any),
            ("checkBeforeUpdate", Any),
        ]),
    ),
    (
        "cpu",
        Object(&[
            ("shares", Any),
            ("quota", Any),
            ("burst", Any),
            ("period", Any),
            ("realtimeRuntime", Any),
            ("realtimePeriod", Any),
            ("cpus", Any),
            ("mems", Any),
            ("idle", Any),
        ]),
    ),
    ("pids", Object(&[("limit", Any)])),
    (
        "blockIO",
        Object(&[
            ("weight", Any),
            ("leafWeight", Any),
            (
                "weightDevice",
                List(&Object(&[
                    ("major", Any),
                    ("minor", Any),
                    ("weight", Any),
                    ("leafWeight", Any),
                ])),
            ),
            ("throttleReadBpsDevice", THROTTLES),
            ("throttleWriteBpsDevice", THROTTLES),
            ("throttleReadIOPSDevice", THROTTLES),
            ("throttleWriteIOPSDevice", THROTTLES),
        ]),
    ),
    (
        "hugepageLimits",
        List(&Object(&[("pageSize", Any), ("limit", Any)])),
    ),
    (
        "network",
        Object(&[
            ("classID", Any),
            (
                "priorities",
                List(&Object(&[("name", Any), ("priority", Any)])),
            ),
        ]),
    ),
    (
        "rdma",
        Map(&Object(&[("hcaHandles", Any), ("hcaObjects", Any)])),
    ),
    ("unified", Map(&Any)),
]);

const SECCOMP: Shape = Object(&[
    ("defaultAction", Any),
    ("defaultErrnoRet", Any),
    ("architectures", STRINGS),
    ("flags", STRINGS),
    ("listenerPath", Any),
    ("listenerMetadata", Any),
    (
        "syscalls",
        List(&Object(&[
            ("names", STRINGS),
            ("action", Any),
            ("errnoRet", Any),
            (
                "args",
                List(&Object(&[
                    ("index", Any),
                    ("value", Any),
                    ("valueTwo", Any),
                    ("op", Any),
                ])),
            ),
        ])),
    ),
]);

const HOOKS: Shape = List(&Object(&[
    ("path", Any),
    ("args", STRINGS),
    ("env", STRINGS),
    ("timeout", Any),
]));

/// The whole `config.json`.
pub(crate) const CONFIG: Shape = Object(&[
    ("ociVersion", Any),
    ("root", Object(&[("path", Any), ("readonly", Any)])),
    (
        "mounts",
        List(&Object(&[
            ("destination", Any),
            ("type", Any),
            ("source", Any),
            ("options", STRINGS),
            ("uidMappings", ID_MAPPINGS),
            ("gidMappings", ID_MAPPINGS),
        ])),
    ),
    ("process", PROCESS),
    ("hostname", Any),
    ("domainname", Any),
    ("annotations", Map(&Any)),
    (
        "hooks",
        Object(&[
            ("prestart", HOOKS),
            ("createRuntime", HOOKS),
            ("createContainer", HOOKS),
            ("startContainer", HOOKS),
            ("poststart", HOOKS),
            ("poststop", HOOKS),
        ]),
    ),
    (
        "linux",
        Object(&[
            ("uidMappings", ID_MAPPINGS),
            ("gidMappings", ID_MAPPINGS),
            (
                "timeOffsets",
                Map(&Object(&[("secs", Any), ("nanosecs", Any)])),
            ),
            ("personality", Object(&[("domain", Any)])),
            (
                "memoryPolicy",
                Object(&[("mode", Any), ("nodes", Any), ("flags", STRINGS)]),
            ),
            ("netDevices", Map(&Object(&[("name", Any)]))),
            (
                "intelRdt",
                Object(&[
                    ("closID", Any),
                    ("schemata", STRINGS),
                    ("l3CacheSchema", Any),
                    ("memBwSchema", Any),
                    ("enableMonitoring", Any),
                    ("enableCMT", Any),
                    ("enableMBM", Any),
                ]),
            ),
            ("mountLabel", Any),
            ("sysctl", Map(&Any)),
            ("resources", RESOURCES),
            ("cgroupsPath", Any),
            ("namespaces", List(&Object(&[("type", Any), ("path", Any)]))),
            (
                "devices",
                List(&Object(&[
                    ("path", Any),
                    ("type", Any),
                    ("major", Any),
                    ("minor", Any),
                    ("fileMode", Any),
                    ("uid", Any),
                    ("gid", Any),
                ])),
            ),
            ("seccomp", SECCOMP),
            ("rootfsPropagation", Any),
            ("maskedPaths", STRINGS),
            ("readonlyPaths", STRINGS),
        ]),
    ),
]);

/// Finds the first field that asks for something outside `shape`, or holds a NUL byte.
pub(crate) fn check<'a>(value: &'a Value, shape: &Shape) -> Result<(), Objection<'a>> {
    walk(value, shape, &mut String::new())
}

fn walk<'a>(value: &'a Value, shape: &Shape, path: &mut String) -> Result<(), Objection<'a>> {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        Value::String(text) if text.contains('\0') => Err(Objection::Nul {
            field: path.clone(),
        }),
        Value::String(_) => Ok(()),
        Value::Array(items) => {
            let inner = match shape {
                List(inner) => inner,
                // A list where none belongs is a wrong type: the typed pass says it better.
                Any | Object(_) | Map(_) => &Any,
            };
            let length = path.len();
            for (index, item) in items.iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                walk(item, inner, path)?;
                path.truncate(length);
            }
            Ok(())
        }
        Value::Object(members) => {
            let length = path.len();
            for (name, member) in members {
                if length > 0 {
                    path.push('.');
                }
                path.push_str(name);
                if name.contains('\0') {
                    return Err(Objection::Nul {
                        field: path.replace('\0', "\\0"),
                    });
                }
                let inner = match shape {
                    Any | List(_) => Some(&Any),
                    Map(inner) => Some(*inner),
                    Object(known) => known
                        .iter()
                        .find(|(known, _)| known == name)
                        .map(|(_, inner)| inner),
                };
                match inner {
                    Some(inner) => walk(member, inner, path)?,
                    None if asks(member) => {
                        return Err(Objection::NotOffered {
                            field: path.clone(),
                            value: member,
                        });
                    }
                    None => {}
                }
                path.truncate(length);
            }
            Ok(())
        }
    }
}

/// Whether a value asks for anything.
pub(crate) fn asks(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => items.iter().any(asks),
        Value::Object(members) => members.values().any(asks),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Spec;

    /// A document with every offered field, none of them empty.
    const EVERYTHING: &str = include_str!("../tests/fixtures/everything.json");

    /// Checks that a document has every member that a shape offers.
    fn covers(value: &Value, shape: &Shape, path: &str) {
        match shape {
            Any => assert!(asks(value), "{path} asks for nothing"),
            List(inner) => covers(&value[0], inner, &format!("{path}[0]")),
            Map(inner) => {
                let (name, member) = value.as_object().unwrap().iter().next().unwrap();
                covers(member, inner, &format!("{path}.{name}"));
            }
            Object(members) => {
                for (name, inner) in *members {
                    covers(&value[*name], inner, &format!("{path}.{name}"));
                }
            }
        }
    }

    #[test]
    fn nothing_that_is_offered_is_dropped_by_the_types() {
        let mut document: Value = serde_json::from_str(EVERYTHING).unwrap();
        covers(&document, &CONFIG, "");
        // For `oci-spec` these two have other names; Duet reads them itself.
        for name in ["enableCMT", "enableMBM"] {
            let rdt = document["linux"]["intelRdt"].as_object_mut().unwrap();
            assert!(rdt.remove(name).is_some());
        }
        let typed: Spec = serde_json::from_value(document.clone()).unwrap();
        assert_eq!(serde_json::to_value(typed).unwrap(), document);
    }

    #[test]
    fn everything_that_is_offered_is_read() {
        let bundle = std::path::Path::new("/b");
        let mut document: Value = serde_json::from_str(EVERYTHING).unwrap();
        // No policy has both a priority and a deadline.
        document["process"]["scheduler"]["priority"] = Value::Null;
        crate::Container::parse(bundle, document.to_string().as_bytes()).unwrap();
    }
}
