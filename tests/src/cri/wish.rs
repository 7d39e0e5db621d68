//! What a container of a pod is made from.

use std::collections::HashMap;
use std::path::Path;

use k8s_cri::v1 as api;

use super::namespaces;
use crate::image;

/// What a container of a pod is made from.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    pub(super) name: String,
    image: String,
    command: Vec<String>,
    env: Vec<api::KeyValue>,
    mounts: Vec<api::Mount>,
    annotations: HashMap<String, String>,
    memory_limit_bytes: i64,
    memory_nodes: String,
    unified: HashMap<String, String>,
    namespaces: Option<api::NamespaceOption>,
    selinux: Option<api::SeLinuxOption>,
}

// === impl Wish ===

impl Wish {
    /// A native container that runs a shell script.
    #[must_use]
    pub fn native(name: &str, script: &str) -> Self {
        let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let (name, image) = (name.to_owned(), image::BUSYBOX.to_owned());
        Self {
            name,
            image,
            command,
            ..Self::default()
        }
    }

    /// A wasm container that does a job of the guest `probe`.
    #[must_use]
    pub fn wasm(name: &str, args: &[&str]) -> Self {
        let command = ["/probe.wasm"]
            .iter()
            .chain(args)
            .map(|&arg| arg.to_owned())
            .collect();
        let (name, image) = (name.to_owned(), image::GUESTS.to_owned());
        Self {
            name,
            image,
            command,
            ..Self::default()
        }
    }

    /// A wasm container that runs the component `ambassador`.
    #[must_use]
    pub fn ambassador(name: &str, token: &str, upstream: u16) -> Self {
        Self::wasm(name, &[])
            .command(&["/ambassador.wasm"])
            .env("TOKEN", token)
            .env("UPSTREAM", &upstream.to_string())
    }

    /// Chooses another image.
    #[must_use]
    pub fn image(mut self, image: &str) -> Self {
        image.clone_into(&mut self.image);
        self
    }

    /// Sets the program and its arguments.
    #[must_use]
    pub fn command(mut self, command: &[&str]) -> Self {
        self.command = command.iter().map(|&arg| arg.to_owned()).collect();
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push(api::KeyValue {
            key: key.to_owned(),
            value: value.to_owned(),
        });
        self
    }

    /// Adds a folder of the host, as a volume.
    #[must_use]
    pub fn volume(mut self, host: &Path, container: &str) -> Self {
        self.mounts.push(api::Mount {
            host_path: host.display().to_string(),
            container_path: container.to_owned(),
            ..Default::default()
        });
        self
    }

    /// Puts it into these namespaces; without, into the pod's, with processes of its own.
    #[must_use]
    pub fn namespaces(mut self, namespaces: api::NamespaceOption) -> Self {
        self.namespaces = Some(namespaces);
        self
    }

    /// Labels it.
    #[must_use]
    pub fn selinux(mut self, label: api::SeLinuxOption) -> Self {
        self.selinux = Some(label);
        self
    }

    /// Limits its memory.
    #[must_use]
    pub fn memory(mut self, limit_bytes: i64) -> Self {
        self.memory_limit_bytes = limit_bytes;
        self
    }

    /// Has it use memory of these NUMA nodes alone.
    #[must_use]
    pub fn memory_nodes(mut self, nodes: &str) -> Self {
        nodes.clone_into(&mut self.memory_nodes);
        self
    }

    /// Sets a file of its cgroup, which has to be one of v2.
    #[must_use]
    pub fn unified(mut self, file: &str, value: &str) -> Self {
        self.unified.insert(file.to_owned(), value.to_owned());
        self
    }

    /// As CRI takes it.
    /// `users` are its pod's, which it has too.
    pub(super) fn config(&self, users: Option<api::UserNamespace>) -> api::ContainerConfig {
        let mut options = self.namespaces.clone().unwrap_or_else(namespaces);
        options.userns_options = options.userns_options.or(users);
        let resources = api::LinuxContainerResources {
            memory_limit_in_bytes: self.memory_limit_bytes,
            cpuset_mems: self.memory_nodes.clone(),
            unified: self.unified.clone(),
            ..Default::default()
        };
        let security = api::LinuxContainerSecurityContext {
            namespace_options: Some(options),
            selinux_options: self.selinux.clone(),
            ..Default::default()
        };
        api::ContainerConfig {
            metadata: Some(api::ContainerMetadata {
                name: self.name.clone(),
                attempt: 0,
            }),
            image: Some(api::ImageSpec {
                image: self.image.clone(),
                ..Default::default()
            }),
            command: self.command.clone(),
            envs: self.env.clone(),
            mounts: self.mounts.clone(),
            annotations: self.annotations.clone(),
            log_path: format!("{}.log", self.name),
            linux: Some(api::LinuxContainerConfig {
                resources: Some(resources),
                security_context: Some(security),
            }),
            ..Default::default()
        }
    }
}
