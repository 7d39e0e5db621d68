//! Every field of a Pod that `duet run` honours; all others are refused by name.

use super::Refused;
use super::shape::{field, found, item};
use serde_json::Value;

/// Fields of the pod. `[]` stands for any item of a list, `*` for any key of a mapping.
/// Fields of containers are in [`CONTAINER`].
const POD: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata.annotations.*",
    "metadata.labels.*",
    "metadata.name",
    "metadata.namespace",
    "spec.automountServiceAccountToken",
    "spec.dnsConfig.nameservers[]",
    "spec.dnsConfig.options[].name",
    "spec.dnsConfig.options[].value",
    "spec.dnsConfig.searches[]",
    "spec.dnsPolicy",
    "spec.enableServiceLinks",
    "spec.hostIPC",
    "spec.hostNetwork",
    "spec.hostPID",
    "spec.hostname",
    "spec.restartPolicy",
    "spec.runtimeClassName",
    "spec.securityContext.fsGroup",
    "spec.securityContext.runAsGroup",
    "spec.securityContext.runAsNonRoot",
    "spec.securityContext.runAsUser",
    "spec.securityContext.seccompProfile.localhostProfile",
    "spec.securityContext.seccompProfile.type",
    "spec.securityContext.supplementalGroups[]",
    "spec.securityContext.sysctls[].name",
    "spec.securityContext.sysctls[].value",
    "spec.shareProcessNamespace",
    "spec.terminationGracePeriodSeconds",
    "spec.volumes[].emptyDir.medium",
    "spec.volumes[].emptyDir.sizeLimit",
    "spec.volumes[].hostPath.path",
    "spec.volumes[].hostPath.type",
    "spec.volumes[].name",
];

/// Fields of `spec.containers[]` and `spec.initContainers[]`.
const CONTAINER: &[&str] = &[
    "args[]",
    "command[]",
    "env[].name",
    "env[].value",
    "env[].valueFrom.fieldRef.apiVersion",
    "env[].valueFrom.fieldRef.fieldPath",
    "image",
    "imagePullPolicy",
    "name",
    "ports[].containerPort",
    "ports[].hostIP",
    "ports[].hostPort",
    "ports[].name",
    "ports[].protocol",
    "resources.limits.cpu",
    "resources.limits.memory",
    "resources.requests.cpu",
    "resources.requests.memory",
    "securityContext.allowPrivilegeEscalation",
    "securityContext.capabilities.add[]",
    "securityContext.capabilities.drop[]",
    "securityContext.privileged",
    "securityContext.procMount",
    "securityContext.readOnlyRootFilesystem",
    "securityContext.runAsGroup",
    "securityContext.runAsNonRoot",
    "securityContext.runAsUser",
    "securityContext.seccompProfile.localhostProfile",
    "securityContext.seccompProfile.type",
    "stdin",
    "tty",
    "volumeMounts[].mountPath",
    "volumeMounts[].mountPropagation",
    "volumeMounts[].name",
    "volumeMounts[].readOnly",
    "volumeMounts[].subPath",
    "workingDir",
];

/// Fields of `livenessProbe`, `readinessProbe` and `startupProbe`.
const PROBE: &[&str] = &[
    "exec.command[]",
    "failureThreshold",
    "httpGet.host",
    "httpGet.httpHeaders[].name",
    "httpGet.httpHeaders[].value",
    "httpGet.path",
    "httpGet.port",
    "httpGet.scheme",
    "initialDelaySeconds",
    "periodSeconds",
    "successThreshold",
    "tcpSocket.host",
    "tcpSocket.port",
    "timeoutSeconds",
];

/// Fields of `spec.initContainers[]` alone.
const INIT_CONTAINER: &[&str] = &["restartPolicy"];

/// Refuses the first field of `written` that no list names.
///
/// `path` is where `written` stands; an absent field (`null`) asks for nothing.
pub(super) fn only(written: &Value, path: &str) -> Result<(), Refused> {
    match written {
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                let path = field(path, name);
                if !is_offered(&path) {
                    let why = format!(
                        "not supported by `duet run`, see docs/run.md; found {}",
                        found(value)
                    );
                    return Err(Refused::field(path, why));
                }
                // Below a `*` the keys are the user's own and may hold dots.
                if !matches!(path.as_str(), "metadata.labels" | "metadata.annotations") {
                    only(value, &path)?;
                }
            }
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                only(value, &item(path, index))?;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    Ok(())
}

/// Whether `path` is offered, or something below it is.
fn is_offered(path: &str) -> bool {
    let general = without_indices(path);
    let among = |rest: &str, fields: &[&str]| fields.iter().any(|offered| reaches(offered, rest));
    let container = |rest: &str| match rest.split_once('.').unwrap_or((rest, "")) {
        ("livenessProbe" | "readinessProbe" | "startupProbe", probe) => among(probe, PROBE),
        (_, _) => among(rest, CONTAINER),
    };
    if let Some(rest) = general.strip_prefix("spec.containers[].") {
        container(rest)
    } else if let Some(rest) = general.strip_prefix("spec.initContainers[].") {
        container(rest) || among(rest, INIT_CONTAINER)
    } else {
        matches!(
            general.as_str(),
            "spec.containers" | "spec.initContainers" | "spec"
        ) || among(&general, POD)
    }
}

/// Whether `offered` is `path` or lies below it.
fn reaches(offered: &str, path: &str) -> bool {
    path.is_empty()
        || offered
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || rest.starts_with('['))
}

/// `a[3].b` as `a[].b`.
fn without_indices(path: &str) -> String {
    let mut general = String::with_capacity(path.len());
    let mut inside = false;
    for character in path.chars() {
        inside &= character != ']';
        if !inside {
            general.push(character);
        }
        inside |= character == '[';
    }
    general
}

#[cfg(test)]
mod tests {
    use super::{CONTAINER, INIT_CONTAINER, POD, PROBE};
    use std::collections::BTreeSet;

    /// Every field of the lists above, as its path without `[]` and `*`.
    fn offered() -> BTreeSet<String> {
        let plain = |path: String| {
            path.trim_end_matches(".*")
                .trim_end_matches("[]")
                .to_owned()
        };
        let pod = POD.iter().map(|path| (*path).to_owned());
        let container = |path: &&str| format!("spec.containers[].{path}");
        let probe = |path: &&str| format!("spec.containers[].…Probe.{path}");
        let init = |path: &&str| format!("spec.initContainers[].{path}");
        pod.chain(CONTAINER.iter().map(container))
            .chain(PROBE.iter().map(probe))
            .chain(INIT_CONTAINER.iter().map(init))
            .map(plain)
            .collect()
    }

    /// Every field that the table of `docs/run.md` has.
    fn written() -> BTreeSet<String> {
        let page = include_str!("../../../../docs/run.md");
        let (_, table) = page.split_once("| In | Fields | Only |\n").unwrap();
        let rows = table
            .lines()
            .take_while(|line| line.starts_with('|'))
            .skip(1);
        rows.flat_map(|row| {
            let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            let place = match cells[0] {
                "the document" => String::new(),
                place => format!("{}.", place.trim_matches('`')),
            };
            let fields = cells[1].split('`').skip(1).step_by(2);
            // What init containers have of others is no field.
            fields
                .filter(|field| *field != "spec.containers[]")
                .map(|field| format!("{place}{field}"))
                .collect::<Vec<_>>()
        })
        .collect()
    }

    #[test]
    fn every_field_is_on_the_page_and_none_that_is_refused() {
        let (written, offered) = (written(), offered());
        let missing: Vec<_> = offered.difference(&written).collect();
        let more: Vec<_> = written.difference(&offered).collect();
        assert!(
            missing.is_empty() && more.is_empty(),
            "missing: {missing:?}, not offered: {more:?}"
        );
    }
}
