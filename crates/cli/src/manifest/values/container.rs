//! The values of one container.

use super::{at_least_zero, below, dns_name, in_range, one_of, only_false, quantity, seccomp};
use crate::environment::Field;
use crate::manifest::Refused;
use crate::manifest::shape::item;
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, ResourceRequirements, SecurityContext, VolumeMount,
};
use std::collections::BTreeSet;

/// The names of `linux/capability.h` in Kubernetes' form, without `CAP_`.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

pub(super) fn check(
    path: &str,
    container: &Container,
    volumes: &BTreeSet<String>,
) -> Result<(), Refused> {
    let at = |field: &str| format!("{path}.{field}");
    dns_name(&at("name"), &container.name, 63, false)?;
    if container.image.as_deref().unwrap_or_default().is_empty() {
        return Err(Refused::field(at("image"), "this field is required"));
    }
    one_of(
        &at("imagePullPolicy"),
        container.image_pull_policy.as_deref(),
        &["IfNotPresent", "Never", "Always"],
    )?;
    one_of(
        &at("restartPolicy"),
        container.restart_policy.as_deref(),
        &["Always"],
    )?;
    only_false(&at("stdin"), container.stdin)?;
    only_false(&at("tty"), container.tty)?;
    for (index, variable) in container.env.iter().flatten().enumerate() {
        environment(&item(&at("env"), index), variable)?;
    }
    for (index, port) in container.ports.iter().flatten().enumerate() {
        ports(&item(&at("ports"), index), port)?;
    }
    if let Some(resources) = &container.resources {
        self::resources(&at("resources"), resources)?;
    }
    super::probe::check(path, container)?;
    let security = container.security_context.as_ref();
    if let Some(security) = security {
        self::security(&at("securityContext"), security)?;
    }
    let privileged = security.is_some_and(|security| security.privileged == Some(true));
    let mut targets = BTreeSet::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = item(&at("volumeMounts"), index);
        self::mount(&path, mount, volumes, privileged)?;
        super::unique(
            &mut targets,
            format!("{path}.mountPath"),
            mount.mount_path.trim_end_matches('/'),
        )?;
    }
    Ok(())
}

fn environment(path: &str, variable: &EnvVar) -> Result<(), Refused> {
    let name = &variable.name;
    if name.is_empty() || name.contains('=') || name.contains('\0') {
        return Err(Refused::field(
            format!("{path}.name"),
            format!("{name:?} cannot name a variable"),
        ));
    }
    let Some(source) = &variable.value_from else {
        return Ok(());
    };
    let path = format!("{path}.valueFrom");
    if variable.value.is_some() {
        return Err(Refused::field(
            path,
            "value stands beside it; one of them is expected",
        ));
    }
    let Some(field) = &source.field_ref else {
        return Err(Refused::field(path, "fieldRef is expected"));
    };
    one_of(
        &format!("{path}.fieldRef.apiVersion"),
        field.api_version.as_deref(),
        &["v1"],
    )?;
    match Field::parse(&field.field_path) {
        Some(_) => Ok(()),
        None => Err(Refused::field(
            format!("{path}.fieldRef.fieldPath"),
            format!(
                "{:?} is not supported, only {} is",
                field.field_path,
                Field::OFFERED
            ),
        )),
    }
}

fn ports(path: &str, port: &ContainerPort) -> Result<(), Refused> {
    in_range(
        &format!("{path}.containerPort"),
        Some(port.container_port),
        1,
        65535,
    )?;
    in_range(&format!("{path}.hostPort"), port.host_port, 1, 65535)?;
    if let Some(host) = &port.host_ip
        && host.parse::<std::net::IpAddr>().is_err()
    {
        return Err(Refused::field(
            format!("{path}.hostIP"),
            format!("{host:?} is not an IP address"),
        ));
    }
    one_of(
        &format!("{path}.protocol"),
        port.protocol.as_deref(),
        &["TCP", "UDP", "SCTP"],
    )
}

fn resources(path: &str, resources: &ResourceRequirements) -> Result<(), Refused> {
    let limits = resources.limits.iter().flatten();
    for (name, limit) in limits {
        quantity(&format!("{path}.limits.{name}"), &limit.0)?;
    }
    for (name, request) in resources.requests.iter().flatten() {
        let path = format!("{path}.requests.{name}");
        let value = quantity(&path, &request.0)?;
        let limit = resources
            .limits
            .as_ref()
            .and_then(|limits| limits.get(name));
        if let Some(limit) = limit
            && value > quantity(&path, &limit.0)?
        {
            return Err(Refused::field(
                path,
                format!("{:?} is more than the limit {:?}", request.0, limit.0),
            ));
        }
    }
    Ok(())
}

fn security(path: &str, security: &SecurityContext) -> Result<(), Refused> {
    at_least_zero(&format!("{path}.runAsUser"), security.run_as_user)?;
    at_least_zero(&format!("{path}.runAsGroup"), security.run_as_group)?;
    one_of(
        &format!("{path}.procMount"),
        security.proc_mount.as_deref(),
        &["Default"],
    )?;
    if security.privileged == Some(true) && security.allow_privilege_escalation == Some(false) {
        return Err(Refused::field(
            format!("{path}.allowPrivilegeEscalation"),
            "cannot be false in a privileged container",
        ));
    }
    if let Some(asked) = &security.capabilities {
        for (list, names) in [("add", &asked.add), ("drop", &asked.drop)] {
            let list = format!("{path}.capabilities.{list}");
            for (index, name) in names.iter().flatten().enumerate() {
                capability(&item(&list, index), name)?;
            }
        }
    }
    seccomp(
        &format!("{path}.seccompProfile"),
        security.seccomp_profile.as_ref(),
    )
}

/// containerd hands an unknown name on, and the runtime would leave it out: the pod would run
/// with less than its manifest says, or with more.
fn capability(path: &str, name: &str) -> Result<(), Refused> {
    let upper = name.to_ascii_uppercase();
    if upper == "ALL" || CAPABILITIES.contains(&upper.as_str()) {
        return Ok(());
    }
    let hint = match upper.strip_prefix("CAP_") {
        Some(short) if CAPABILITIES.contains(&short) => format!("; Kubernetes writes {short:?}"),
        Some(_) | None => String::new(),
    };
    Err(Refused::field(
        path,
        format!("{name:?} is not a capability{hint}"),
    ))
}

fn mount(
    path: &str,
    mount: &VolumeMount,
    volumes: &BTreeSet<String>,
    privileged: bool,
) -> Result<(), Refused> {
    if !volumes.contains(&mount.name) {
        return Err(Refused::field(
            format!("{path}.name"),
            format!("no volume is named {:?}", mount.name),
        ));
    }
    super::absolute(&format!("{path}.mountPath"), &mount.mount_path)?;
    if let Some(sub) = &mount.sub_path {
        below(&format!("{path}.subPath"), sub)?;
    }
    let propagation = mount.mount_propagation.as_deref();
    one_of(
        &format!("{path}.mountPropagation"),
        propagation,
        &["None", "HostToContainer", "Bidirectional"],
    )?;
    if propagation == Some("Bidirectional") && !privileged {
        return Err(Refused::field(
            format!("{path}.mountPropagation"),
            "\"Bidirectional\" needs a privileged container",
        ));
    }
    Ok(())
}
