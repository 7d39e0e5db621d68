//! One container in CRI's words.

use super::{UID_LABEL, image_spec, security};
use crate::environment::{Environment, Place, namespace};
use crate::resources::{Quality, limits};
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, Image, KeyValue, LinuxContainerConfig, Mount,
};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use std::path::Path;

/// What all containers of a pod have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) spec: &'a PodSpec,
    pub(crate) place: &'a Place,
    /// Where `localhostProfile` files are looked up.
    pub(crate) profiles: &'a Path,
    pub(crate) memory_bytes: i64,
}

/// The container that `container` asks for, or the sentence that refuses it.
pub(crate) fn config(
    around: Surroundings<'_>,
    container: &Container,
    image: &Image,
    mounts: Vec<Mount>,
    attempt: u32,
) -> Result<ContainerConfig, String> {
    let environment = Environment::of(container, around.pod, around.place);
    let expand = |words: &Option<Vec<String>>| -> Vec<String> {
        let words = words.iter().flatten();
        words.map(|word| environment.expand(word)).collect()
    };
    let (command, args) = (expand(&container.command), expand(&container.args));
    let name = container.name.clone();
    let pod_name = around.pod.metadata.name.clone().unwrap_or_default();
    let labels = [
        ("io.kubernetes.container.name", name.clone()),
        ("io.kubernetes.pod.name", pod_name),
        (
            "io.kubernetes.pod.namespace",
            namespace(around.pod).to_owned(),
        ),
        (UID_LABEL, around.place.uid.clone()),
    ];
    Ok(ContainerConfig {
        log_path: log_name(&name, attempt),
        metadata: Some(ContainerMetadata { name, attempt }),
        image: Some(image_spec(&image.id)),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: environment
            .into_pairs()
            .map(|(key, value)| KeyValue { key, value })
            .collect(),
        mounts,
        labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
        linux: Some(LinuxContainerConfig {
            resources: Some(limits(
                container,
                Quality::of(around.pod),
                around.memory_bytes,
            )),
            security_context: Some(security::container(
                around.spec,
                container,
                image,
                around.profiles,
            )?),
        }),
        ..ContainerConfig::default()
    })
}

/// The file of a container's output below the pod's log directory.
pub(crate) fn log_name(container: &str, attempt: u32) -> String {
    format!("{container}.{attempt}.log")
}
