//! The manifest's values: names, references, ranges, and the words each field accepts.

mod container;
mod probe;

use super::Refused;
use super::shape::item;
use crate::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, SeccompProfile, Volume};
use std::collections::BTreeSet;
use std::fmt::Display;

/// The grace period of a pod that names none: 30 s, Kubernetes' default.
const GRACE_SECONDS: i64 = 30;

/// How long a container of this pod may take to end after TERM, in seconds.
pub(crate) fn timeout_seconds(spec: &PodSpec) -> i64 {
    spec.termination_grace_period_seconds
        .unwrap_or(GRACE_SECONDS)
}

/// Whether an init container stays beside the others instead of ending before them.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Refuses values that Kubernetes or `duet run` does not accept.
pub(super) fn check(pod: &Pod) -> Result<(), Refused> {
    let name = required(pod.metadata.name.as_deref(), "metadata.name")?;
    dns_name("metadata.name", name, 253, true)?;
    if let Some(namespace) = &pod.metadata.namespace {
        dns_name("metadata.namespace", namespace, 63, false)?;
    }
    let spec = pod
        .spec
        .as_ref()
        .ok_or_else(|| Refused::field("spec", "this field is required"))?;
    pod_fields(spec)?;
    let volumes = volumes(spec.volumes.as_deref().unwrap_or_default())?;

    if spec.containers.is_empty() {
        return Err(Refused::field(
            "spec.containers",
            "at least one container is required",
        ));
    }
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let init = init.iter().enumerate();
    let init = init.map(|(index, container)| (item("spec.initContainers", index), container));
    let main = spec.containers.iter().enumerate();
    let main = main.map(|(index, container)| (item("spec.containers", index), container));
    let mut names = BTreeSet::new();
    for (path, container) in init.chain(main) {
        container::check(&path, container, &volumes)?;
        unique(&mut names, format!("{path}.name"), &container.name)?;
    }
    Ok(())
}

fn pod_fields(spec: &PodSpec) -> Result<(), Refused> {
    if let Some(hostname) = &spec.hostname {
        dns_name("spec.hostname", hostname, 63, false)?;
    }
    if let Some(class) = &spec.runtime_class_name {
        dns_name("spec.runtimeClassName", class, 253, true)?;
    }
    one_of(
        "spec.restartPolicy",
        spec.restart_policy.as_deref(),
        &["Always", "OnFailure", "Never"],
    )?;
    // There is no cluster whose names could be served.
    one_of(
        "spec.dnsPolicy",
        spec.dns_policy.as_deref(),
        &["Default", "None"],
    )?;
    only_false("spec.enableServiceLinks", spec.enable_service_links)?;
    only_false(
        "spec.automountServiceAccountToken",
        spec.automount_service_account_token,
    )?;
    at_least_zero(
        "spec.terminationGracePeriodSeconds",
        spec.termination_grace_period_seconds,
    )?;
    if spec.host_pid == Some(true) && spec.share_process_namespace == Some(true) {
        return Err(Refused::field(
            "spec.shareProcessNamespace",
            "cannot be true together with hostPID",
        ));
    }
    let Some(security) = &spec.security_context else {
        return Ok(());
    };
    let path = "spec.securityContext";
    at_least_zero(&format!("{path}.runAsUser"), security.run_as_user)?;
    at_least_zero(&format!("{path}.runAsGroup"), security.run_as_group)?;
    at_least_zero(&format!("{path}.fsGroup"), security.fs_group)?;
    for (index, group) in security.supplemental_groups.iter().flatten().enumerate() {
        at_least_zero(
            &item(&format!("{path}.supplementalGroups"), index),
            Some(*group),
        )?;
    }
    seccomp(
        &format!("{path}.seccompProfile"),
        security.seccomp_profile.as_ref(),
    )
}

/// Checks the volumes and returns their names.
fn volumes(volumes: &[Volume]) -> Result<BTreeSet<String>, Refused> {
    let mut names = BTreeSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = item("spec.volumes", index);
        dns_name(&format!("{path}.name"), &volume.name, 63, false)?;
        unique(&mut names, format!("{path}.name"), &volume.name)?;
        match (&volume.empty_dir, &volume.host_path) {
            (Some(empty), None) => {
                let medium = empty.medium.as_deref();
                one_of(&format!("{path}.emptyDir.medium"), medium, &["", "Memory"])?;
                if let Some(limit) = &empty.size_limit {
                    let path = format!("{path}.emptyDir.sizeLimit");
                    quantity(&path, &limit.0)?;
                    if medium != Some("Memory") {
                        let why = "`duet run` enforces it only with medium: Memory";
                        return Err(Refused::field(path, why));
                    }
                }
            }
            (None, Some(host)) => {
                let path = format!("{path}.hostPath");
                absolute(&format!("{path}.path"), &host.path)?;
                one_of(
                    &format!("{path}.type"),
                    host.type_.as_deref(),
                    &[
                        "",
                        "DirectoryOrCreate",
                        "Directory",
                        "FileOrCreate",
                        "File",
                        "Socket",
                        "CharDevice",
                        "BlockDevice",
                    ],
                )?;
            }
            (None, None) | (Some(_), Some(_)) => {
                return Err(Refused::field(
                    path,
                    "exactly one of emptyDir and hostPath is expected",
                ));
            }
        }
    }
    Ok(names)
}

fn seccomp(path: &str, profile: Option<&SeccompProfile>) -> Result<(), Refused> {
    let Some(profile) = profile else {
        return Ok(());
    };
    one_of(
        &format!("{path}.type"),
        Some(&profile.type_),
        &["RuntimeDefault", "Unconfined", "Localhost"],
    )?;
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => Err(Refused::field(
            format!("{path}.localhostProfile"),
            "required with type: Localhost",
        )),
        ("Localhost", Some(file)) => below(&format!("{path}.localhostProfile"), file),
        (_, Some(_)) => Err(Refused::field(
            format!("{path}.localhostProfile"),
            "only with type: Localhost",
        )),
        (_, None) => Ok(()),
    }
}

fn required<'a>(value: Option<&'a str>, path: &str) -> Result<&'a str, Refused> {
    value
        .filter(|value| !value.is_empty())
        .ok_or_else(|| Refused::field(path, "this field is required"))
}

/// A name that Kubernetes takes: RFC 1123, of one label or, if `dotted`, of several.
fn dns_name(path: &str, name: &str, longest: usize, dotted: bool) -> Result<(), Refused> {
    let label = |label: &str| {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        !label.is_empty()
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let fits = name.len() <= longest
        && if dotted {
            name.split('.').all(label)
        } else {
            label(name)
        };
    if fits {
        return Ok(());
    }
    let dots = if dotted { ", `.`" } else { "" };
    Err(Refused::field(
        path,
        format!(
            "{name:?} is not a valid name: at most {longest} of a-z, 0-9, `-`{dots}, \
             with a letter or digit at both ends"
        ),
    ))
}

fn unique(names: &mut BTreeSet<String>, path: String, name: &str) -> Result<(), Refused> {
    if names.insert(name.to_owned()) {
        Ok(())
    } else {
        Err(Refused::field(path, format!("{name:?} is used twice")))
    }
}

/// An absent value fits every list.
fn one_of(path: &str, value: Option<&str>, accepted: &[&str]) -> Result<(), Refused> {
    match value {
        Some(value) if !accepted.contains(&value) => {
            let accepted: Vec<String> = accepted
                .iter()
                .filter(|word| !word.is_empty())
                .map(|word| format!("{word:?}"))
                .collect();
            Err(Refused::field(
                path,
                format!(
                    "{value:?} is not supported, only {} is",
                    accepted.join(" or ")
                ),
            ))
        }
        Some(_) | None => Ok(()),
    }
}

fn only_false(path: &str, value: Option<bool>) -> Result<(), Refused> {
    if value == Some(true) {
        return Err(Refused::field(path, "`duet run` offers only false"));
    }
    Ok(())
}

fn at_least_zero(path: &str, value: Option<i64>) -> Result<(), Refused> {
    in_range(path, value, 0, i64::from(i32::MAX))
}

fn in_range<T: PartialOrd + Display>(
    path: &str,
    value: Option<T>,
    least: T,
    most: T,
) -> Result<(), Refused> {
    match value {
        Some(value) if value < least || value > most => Err(Refused::field(
            path,
            format!("{value} is not between {least} and {most}"),
        )),
        Some(_) | None => Ok(()),
    }
}

fn quantity(path: &str, text: &str) -> Result<Quantity, Refused> {
    Quantity::parse(text).ok_or_else(|| {
        Refused::field(
            path,
            format!("{text:?} is not a quantity, such as 64Mi or 250m"),
        )
    })
}

fn absolute(path: &str, value: &str) -> Result<(), Refused> {
    if !value.starts_with('/') || value.split('/').any(|part| part == "..") {
        return Err(Refused::field(
            path,
            format!("{value:?} is not an absolute path without `..`"),
        ));
    }
    Ok(())
}

/// A relative path that stays below where it starts.
fn below(path: &str, value: &str) -> Result<(), Refused> {
    if value.starts_with('/') || value.split('/').any(|part| part == "..") {
        return Err(Refused::field(
            path,
            format!("{value:?} is not a relative path without `..`"),
        ));
    }
    Ok(())
}
