//! The sandbox of a pod in CRI's words.

use super::{UID_LABEL, security};
use crate::environment::namespace;
use crate::manifest::Refused;
use k8s_cri::v1::{
    DnsConfig, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol,
};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use std::collections::HashMap;
use std::path::Path;

/// Where a pod's things are on this machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placement<'a> {
    pub(crate) uid: &'a str,
    pub(crate) logs: &'a Path,
    /// Where `localhostProfile` files are looked up.
    pub(crate) profiles: &'a Path,
    pub(crate) cgroup_parent: &'a str,
}

/// The sandbox that `pod` asks for.
pub(crate) fn config(pod: &Pod, spec: &PodSpec, placement: Placement<'_>) -> PodSandboxConfig {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let namespace = namespace(pod).to_owned();
    let mut labels: HashMap<String, String> = pod
        .metadata
        .labels
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    labels.insert("io.kubernetes.pod.name".to_owned(), name.clone());
    labels.insert("io.kubernetes.pod.namespace".to_owned(), namespace.clone());
    labels.insert(UID_LABEL.to_owned(), placement.uid.to_owned());
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    let sysctls = spec
        .security_context
        .iter()
        .flat_map(|security| security.sysctls.iter().flatten());
    PodSandboxConfig {
        hostname: hostname(&name, spec),
        metadata: Some(PodSandboxMetadata {
            name,
            uid: placement.uid.to_owned(),
            namespace,
            attempt: 0,
        }),
        log_directory: placement.logs.display().to_string(),
        dns_config: dns(spec),
        port_mappings: ports(spec),
        labels,
        annotations: annotations.into_iter().collect(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: placement.cgroup_parent.to_owned(),
            security_context: Some(security::sandbox(spec, placement.profiles)),
            sysctls: sysctls
                .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
                .collect(),
            ..LinuxPodSandboxConfig::default()
        }),
        windows: None,
    }
}

/// A pod on the host's network keeps the host's name; else its own, cut to 63 bytes.
fn hostname(name: &str, spec: &PodSpec) -> String {
    if spec.host_network == Some(true) {
        return String::new();
    }
    let name = spec.hostname.as_deref().unwrap_or(name);
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// Absent means a copy of the machine's `resolv.conf`.
fn dns(spec: &PodSpec) -> Option<DnsConfig> {
    let config = spec.dns_config.as_ref()?;
    let options = config.options.iter().flatten().map(|option| {
        let name = option.name.clone().unwrap_or_default();
        match &option.value {
            Some(value) => format!("{name}:{value}"),
            None => name,
        }
    });
    Some(DnsConfig {
        servers: config.nameservers.clone().unwrap_or_default(),
        searches: config.searches.clone().unwrap_or_default(),
        options: options.collect(),
    })
}

fn ports(spec: &PodSpec) -> Vec<PortMapping> {
    if spec.host_network == Some(true) {
        return Vec::new();
    }
    let sidecars = spec.init_containers.iter().flatten();
    let ports = sidecars
        .chain(&spec.containers)
        .flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(PortMapping {
                protocol: i32::from(match port.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    Some(_) | None => Protocol::Tcp,
                }),
                container_port: port.container_port,
                host_port: port.host_port?,
                host_ip: port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

/// The first port of the host's that the pod wants mapped: its field and value.
pub(crate) fn host_port(spec: &PodSpec) -> Option<(String, i32)> {
    if spec.host_network == Some(true) {
        return None;
    }
    let init = spec.init_containers.iter().flatten().enumerate();
    let init = init.map(|(index, container)| (format!("spec.initContainers[{index}]"), container));
    let main = spec.containers.iter().enumerate();
    let main = main.map(|(index, container)| (format!("spec.containers[{index}]"), container));
    init.chain(main).find_map(|(path, container)| {
        let mut ports = container.ports.iter().flatten().enumerate();
        ports.find_map(|(index, port)| {
            Some((format!("{path}.ports[{index}].hostPort"), port.host_port?))
        })
    })
}

/// Refuses what depends on fields of both pod and sandbox.
pub(crate) fn check(spec: &PodSpec) -> Result<(), Refused> {
    if spec.dns_policy.as_deref() == Some("None") && spec.dns_config.is_none() {
        return Err(Refused::Field {
            path: "spec.dnsConfig".to_owned(),
            why: "required with dnsPolicy: None".to_owned(),
        });
    }
    Ok(())
}
