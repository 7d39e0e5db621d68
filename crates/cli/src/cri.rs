//! containerd's CRI: the calls Duet makes, and the messages it fills in.

pub(crate) mod container;
pub(crate) mod sandbox;
mod security;

use crate::error::Error;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    Container, ContainerConfig, ContainerFilter, ContainerStatus, ContainerStatusRequest,
    CreateContainerRequest, ExecSyncRequest, Image, ImageSpec, ImageStatusRequest,
    ListContainersRequest, ListPodSandboxRequest, PodSandbox, PodSandboxConfig, PodSandboxFilter,
    PodSandboxStatusRequest, PullImageRequest, RemoveContainerRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StatusRequest, StatusResponse,
    StopContainerRequest, StopPodSandboxRequest,
};
use std::collections::HashMap;
use std::path::Path;
use tonic::transport::{Channel, Endpoint};

/// The label that names a pod's own uid; clean-up goes by it.
pub(crate) const UID_LABEL: &str = "io.kubernetes.pod.uid";

/// A connection to one containerd.
#[derive(Debug, Clone)]
pub(crate) struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

/// What is known of a running sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    /// Empty if the pod is on the host's network.
    pub(crate) ip: String,
}

/// A connection to the socket of a containerd.
pub(crate) async fn channel(socket: &Path) -> Result<Channel, Error> {
    let failed = |source| Error::Connect {
        socket: socket.to_owned(),
        source,
    };
    Endpoint::try_from(format!("unix://{}", socket.display()))
        .map_err(failed)?
        .connect()
        .await
        .map_err(failed)
}

// === impl Cri ===

impl Cri {
    /// Connects to the socket of a containerd.
    pub(crate) async fn connect(socket: &Path) -> Result<Self, Error> {
        let channel = channel(socket).await?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel),
        })
    }

    pub(crate) async fn status(&mut self) -> Result<StatusResponse, Error> {
        let request = StatusRequest { verbose: true };
        let answer = self.runtime.status(request).await;
        Ok(answer
            .map_err(Error::cri("could not ask for containerd's status"))?
            .into_inner())
    }

    /// The image named `name`, if containerd has it.
    pub(crate) async fn image(&mut self, name: &str) -> Result<Option<Image>, Error> {
        let request = ImageStatusRequest {
            image: Some(image_spec(name)),
            verbose: false,
        };
        let answer = self.images.image_status(request).await;
        Ok(answer
            .map_err(Error::cri(format!("image {name}")))?
            .into_inner()
            .image)
    }

    pub(crate) async fn pull(&mut self, name: &str) -> Result<(), Error> {
        let request = PullImageRequest {
            image: Some(image_spec(name)),
            ..PullImageRequest::default()
        };
        self.images
            .pull_image(request)
            .await
            .map(drop)
            .map_err(Error::cri(format!("could not pull image {name}")))
    }

    /// Makes the sandbox and asks for its address.
    pub(crate) async fn run_sandbox(
        &mut self,
        config: &PodSandboxConfig,
        handler: &str,
    ) -> Result<Sandbox, Error> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        let answer = self.runtime.run_pod_sandbox(request).await;
        let id = answer
            .map_err(Error::cri("could not create the sandbox"))?
            .into_inner()
            .pod_sandbox_id;
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.clone(),
            verbose: false,
        };
        let answer = self.runtime.pod_sandbox_status(request).await;
        let status = answer
            .map_err(Error::cri("could not ask for the sandbox's status"))?
            .into_inner()
            .status;
        let network = status.and_then(|status| status.network);
        let ip = network.map(|network| network.ip).unwrap_or_default();
        Ok(Sandbox { id, ip })
    }

    pub(crate) async fn create(
        &mut self,
        sandbox: &str,
        pod: &PodSandboxConfig,
        config: ContainerConfig,
    ) -> Result<String, tonic::Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(pod.clone()),
        };
        let answer = self.runtime.create_container(request).await?;
        Ok(answer.into_inner().container_id)
    }

    pub(crate) async fn start(&mut self, id: &str) -> Result<(), tonic::Status> {
        let request = StartContainerRequest {
            container_id: id.to_owned(),
        };
        self.runtime.start_container(request).await.map(drop)
    }

    /// Sends TERM, and KILL after `grace_seconds`; returns when the container has ended.
    pub(crate) async fn stop(&mut self, id: &str, grace_seconds: i64) -> Result<(), Error> {
        let request = StopContainerRequest {
            container_id: id.to_owned(),
            timeout: grace_seconds,
        };
        self.runtime
            .stop_container(request)
            .await
            .map(drop)
            .map_err(Error::cri(format!("could not stop container {id}")))
    }

    /// Runs a command in a container to its end; `Err` says how it failed.
    pub(crate) async fn exec(
        &mut self,
        id: &str,
        command: &[String],
        timeout_seconds: i64,
    ) -> Result<(), String> {
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: timeout_seconds,
        };
        let answer = self.runtime.exec_sync(request).await;
        let answer = answer.map_err(|status| status.message().to_owned())?;
        let answer = answer.into_inner();
        if answer.exit_code == 0 {
            return Ok(());
        }
        let said = [answer.stdout, answer.stderr].concat();
        Err(format!(
            "{} exited with {}: {}",
            command.first().map_or("", String::as_str),
            answer.exit_code,
            String::from_utf8_lossy(&said).trim()
        ))
    }

    pub(crate) async fn remove(&mut self, id: &str) -> Result<(), Error> {
        let request = RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        self.runtime
            .remove_container(request)
            .await
            .map(drop)
            .map_err(Error::cri(format!("could not remove container {id}")))
    }

    pub(crate) async fn container_status(&mut self, id: &str) -> Result<ContainerStatus, Error> {
        let request = ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let answer = self.runtime.container_status(request).await;
        Ok(answer
            .map_err(Error::cri(format!("status of container {id}")))?
            .into_inner()
            .status
            .unwrap_or_default())
    }

    /// All containers of a sandbox, in any state.
    pub(crate) async fn containers(&mut self, sandbox: &str) -> Result<Vec<Container>, Error> {
        let request = ListContainersRequest {
            filter: Some(ContainerFilter {
                pod_sandbox_id: sandbox.to_owned(),
                ..ContainerFilter::default()
            }),
        };
        let answer = self.runtime.list_containers(request).await;
        Ok(answer
            .map_err(Error::cri("could not list the containers"))?
            .into_inner()
            .containers)
    }

    /// The sandboxes of the pod with this uid, or all of them.
    pub(crate) async fn sandboxes(&mut self, uid: Option<&str>) -> Result<Vec<PodSandbox>, Error> {
        let label = uid.map(|uid| (UID_LABEL.to_owned(), uid.to_owned()));
        let request = ListPodSandboxRequest {
            filter: Some(PodSandboxFilter {
                label_selector: HashMap::from_iter(label),
                ..PodSandboxFilter::default()
            }),
        };
        let answer = self.runtime.list_pod_sandbox(request).await;
        Ok(answer
            .map_err(Error::cri("could not list the sandboxes"))?
            .into_inner()
            .items)
    }

    /// Kills what still runs in a sandbox and removes it with its containers.
    pub(crate) async fn remove_sandbox(&mut self, id: &str) -> Result<(), Error> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.runtime
            .stop_pod_sandbox(request)
            .await
            .map_err(Error::cri("could not stop the sandbox"))?;
        for container in self.containers(id).await? {
            self.remove(&container.id).await?;
        }
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.runtime
            .remove_pod_sandbox(request)
            .await
            .map(drop)
            .map_err(Error::cri("could not remove the sandbox"))
    }
}

fn image_spec(name: &str) -> ImageSpec {
    ImageSpec {
        image: name.to_owned(),
        ..ImageSpec::default()
    }
}
