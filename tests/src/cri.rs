//! Pods through CRI, as a kubelet asks for them.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use k8s_cri::v1 as api;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};

use crate::machine::Sandboxer;
use crate::node::Node;
use crate::wait::{self, patience};
use crate::{image, stream};

/// A blocking CRI client.
#[derive(Debug)]
pub struct Cri<'n> {
    node: &'n Node,
    runtime: tokio::runtime::Runtime,
    channel: RefCell<Channel>,
}

/// A pod that runs; it is stopped and removed by [`Pod::remove`].
#[derive(Debug)]
pub struct Pod<'c> {
    cri: &'c Cri<'c>,
    config: api::PodSandboxConfig,
    logs: PathBuf,
    id: String,
}

/// A container of a pod.
#[derive(Debug)]
pub struct Member<'p> {
    pod: &'p Pod<'p>,
    name: String,
    id: String,
}

/// Calls one method of the client and gives its answer.
macro_rules! call {
    ($cri:expr, $method:ident, $request:expr) => {{
        let mut client = RuntimeServiceClient::new($cri.channel());
        let call = async {
            let answer = tokio::time::timeout(patience(), client.$method($request)).await;
            answer.unwrap_or_else(|_| panic!("{} did not answer", stringify!($method)))
        };
        $cri.runtime.block_on(call).map(tonic::Response::into_inner)
    }};
}

mod starting;
mod users;
mod wish;

pub use starting::Starting;
pub use wish::Wish;

// === impl Cri ===

impl<'n> Cri<'n> {
    pub(crate) fn connect(node: &'n Node) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime needs only memory");
        let channel = RefCell::new(channel(&runtime, node));
        let this = Self {
            node,
            runtime,
            channel,
        };
        this.wait_until_ready();
        this
    }

    /// Connects to a containerd that was started again.
    pub fn reconnect(&self) {
        let channel = channel(&self.runtime, self.node);
        self.channel.replace(channel);
        self.wait_until_ready();
    }

    fn wait_until_ready(&self) {
        // CRI learns of imported images by events, a moment after the import.
        wait::until("CRI to see the images and the network", || {
            self.is_ready().then_some(())
        });
    }

    fn channel(&self) -> Channel {
        self.channel.borrow().clone()
    }

    /// Starts a pod called `name`.
    ///
    /// # Panics
    ///
    /// When CRI refuses.
    #[must_use]
    pub fn pod(&self, name: &str) -> Pod<'_> {
        self.pod_with(name, |_| {})
    }

    /// Starts a pod called `name` after `change` has seen its configuration.
    ///
    /// # Panics
    ///
    /// When CRI refuses.
    #[must_use]
    pub fn pod_with(&self, name: &str, change: impl FnOnce(&mut api::PodSandboxConfig)) -> Pod<'_> {
        self.try_pod(name, change)
            .unwrap_or_else(|status| panic!("RunPodSandbox: {status}"))
    }

    /// As [`Cri::pod_with`].
    ///
    /// # Errors
    ///
    /// What CRI says.
    pub fn try_pod(
        &self,
        name: &str,
        change: impl FnOnce(&mut api::PodSandboxConfig),
    ) -> Result<Pod<'_>, tonic::Status> {
        let (request, logs) = self.request(name, change);
        let config = request.config.clone().expect("it was just set");
        let id = call!(self, run_pod_sandbox, request)?.pod_sandbox_id;
        let pod = Pod {
            cri: self,
            config,
            logs,
            id,
        };
        if let Some(path) = pod.netns() {
            self.node.remember_netns(path);
        }
        Ok(pod)
    }

    /// What asks for a pod, and the folder of its logs.
    fn request(
        &self,
        name: &str,
        change: impl FnOnce(&mut api::PodSandboxConfig),
    ) -> (api::RunPodSandboxRequest, PathBuf) {
        let logs = self.node.scratch().join(format!("logs-{name}"));
        std::fs::create_dir_all(&logs).expect("our own folder");
        let mut config = api::PodSandboxConfig {
            metadata: Some(api::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("{}-{name}", self.node.namespace()),
                namespace: self.node.namespace().to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: logs.display().to_string(),
            linux: Some(api::LinuxPodSandboxConfig {
                cgroup_parent: self.node.cgroup_parent(),
                security_context: Some(api::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        change(&mut config);
        let request = api::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: self.node.handler().to_owned(),
        };
        (request, logs)
    }

    fn is_ready(&self) -> bool {
        let answer = call!(self, status, api::StatusRequest { verbose: false });
        // A daemon that was just started answers before it has found its pods again.
        let Ok(answer) = answer else { return false };
        let status = answer.status.unwrap_or_default();
        // containerd 2 tells of deprecated settings as a condition too.
        let ready = |condition: &&api::RuntimeCondition| condition.r#type.ends_with("Ready");
        let network = status
            .conditions
            .iter()
            .filter(ready)
            .all(|condition| condition.status);
        let mut images = k8s_cri::v1::image_service_client::ImageServiceClient::new(self.channel());
        let list = async {
            let asked = images.list_images(api::ListImagesRequest { filter: None });
            tokio::time::timeout(patience(), asked).await
        };
        let list = self.runtime.block_on(list).expect("CRI answers in time");
        let list = list.expect("CRI has a list of images").into_inner();
        let tags: Vec<_> = list
            .images
            .into_iter()
            .flat_map(|image| image.repo_tags)
            .collect();
        let known = |name: &&str| tags.iter().any(|tag| tag == *name);
        // Nobody ever pulls it: a pod of the shim's own needs none.
        let pause = known(&image::PAUSE);
        let as_expected = match self.node.sandboxer() {
            Sandboxer::Podsandbox => pause,
            Sandboxer::Shim => {
                assert!(!pause, "there is a pause image on the node");
                true
            }
        };
        network && as_expected && [image::BUSYBOX, image::GUESTS].iter().all(known)
    }
}

fn channel(runtime: &tokio::runtime::Runtime, node: &Node) -> Channel {
    let socket = format!("unix://{}", node.daemon().socket().display());
    let endpoint = Endpoint::from_shared(socket).expect("a path is a fine address");
    runtime
        .block_on(endpoint.connect())
        .expect("containerd answered before")
}

/// The pod's namespaces, with processes of its own.
fn namespaces() -> api::NamespaceOption {
    api::NamespaceOption {
        network: api::NamespaceMode::Pod.into(),
        pid: api::NamespaceMode::Container.into(),
        ipc: api::NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

// === impl Pod ===

impl Pod<'_> {
    /// The sandbox's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The address the network plugin gave it.
    ///
    /// # Panics
    ///
    /// When it has none.
    #[must_use]
    pub fn ip(&self) -> String {
        let network = self.status().status.and_then(|status| status.network);
        network
            .expect("a pod with a network of its own has an address")
            .ip
    }

    /// Makes a container; it does not run yet.
    ///
    /// # Errors
    ///
    /// What CRI says.
    pub fn create(&self, wish: &Wish) -> Result<Member<'_>, tonic::Status> {
        let config = wish.config(users::of(&self.config));
        let request = api::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let id = call!(self.cri, create_container, request)?.container_id;
        Ok(Member {
            pod: self,
            name: wish.name.clone(),
            id,
        })
    }

    /// Makes and starts a container.
    ///
    /// # Panics
    ///
    /// When CRI refuses.
    #[must_use]
    pub fn start(&self, wish: &Wish) -> Member<'_> {
        let member = self
            .create(wish)
            .unwrap_or_else(|status| panic!("{wish:?}: {status}"));
        member
            .start()
            .unwrap_or_else(|status| panic!("{wish:?}: {status}"));
        member
    }

    /// Stops the pod and removes it.
    ///
    /// # Panics
    ///
    /// When CRI refuses.
    pub fn remove(self) {
        self.stop();
        let request = api::RemovePodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        };
        let _done = call!(self.cri, remove_pod_sandbox, request).expect("RemovePodSandbox");
    }

    /// Stops the pod and all that is in it.
    ///
    /// # Panics
    ///
    /// When CRI refuses.
    pub fn stop(&self) {
        let request = api::StopPodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        };
        let _done = call!(self.cri, stop_pod_sandbox, request).expect("StopPodSandbox");
    }

    /// Stops the pod and removes it, as a kubelet does: again, until CRI has heard of every end.
    ///
    /// # Panics
    ///
    /// When CRI goes on refusing.
    pub fn remove_insistently(self) {
        self.cri.remove_insistently(&self.id);
    }

    /// Whether CRI calls it ready.
    ///
    /// # Panics
    ///
    /// When CRI does not know it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let status = self.status().status.expect("a pod has a status");
        status.state() == api::PodSandboxState::SandboxReady
    }

    /// The process that keeps its namespaces, from CRI's verbose words.
    ///
    /// # Panics
    ///
    /// When they do not tell it.
    #[must_use]
    pub fn holder(&self) -> i32 {
        let info = self.info().expect("CRI tells of a pod");
        let pid = info["pid"].as_i64().expect("it has a process");
        i32::try_from(pid).expect("a pid is small")
    }

    fn status(&self) -> api::PodSandboxStatusResponse {
        let pod_sandbox_id = self.id.clone();
        let request = api::PodSandboxStatusRequest {
            pod_sandbox_id,
            verbose: true,
        };
        call!(self.cri, pod_sandbox_status, request).expect("PodSandboxStatus")
    }

    fn info(&self) -> Option<serde_json::Value> {
        serde_json::from_str(self.status().info.get("info")?).ok()
    }

    /// The path of its network namespace, from CRI's verbose words.
    fn netns(&self) -> Option<PathBuf> {
        let info = self.info()?;
        let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array()?;
        let network = namespaces
            .iter()
            .find(|namespace| namespace["type"] == "network")?;
        Some(PathBuf::from(network["path"].as_str()?))
    }
}

impl Drop for Pod<'_> {
    /// A test that failed leaves its pod; what comes after must find a clean node.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let pod_sandbox_id = self.id.clone();
            let request = api::RemovePodSandboxRequest { pod_sandbox_id };
            let _done = call!(self.cri, remove_pod_sandbox, request);
        }
    }
}

// === impl Member ===

impl Member<'_> {
    /// CRI's name for it, which is containerd's too.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// What CRI says.
    pub fn start(&self) -> Result<(), tonic::Status> {
        let container_id = self.id.clone();
        let answer = call!(
            self.pod.cri,
            start_container,
            api::StartContainerRequest { container_id }
        );
        answer.map(drop)
    }

    /// Runs a program in it and waits: its exit code, output and errors.
    ///
    /// # Panics
    ///
    /// When CRI refuses.
    #[must_use]
    pub fn exec(&self, args: &[&str]) -> (i32, String, String) {
        let request = api::ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: args.iter().map(|&arg| arg.to_owned()).collect(),
            timeout: 20,
        };
        let answer = call!(self.pod.cri, exec_sync, request).expect("ExecSync");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (answer.exit_code, text(answer.stdout), text(answer.stderr))
    }

    /// Runs a program in it with `input` streamed to it, as `kubectl exec -i` does.
    ///
    /// # Panics
    ///
    /// When CRI refuses or the stream breaks.
    #[must_use]
    pub fn exec_streaming(&self, args: &[&str], input: &str, tty: bool) -> stream::Ended {
        let request = api::ExecRequest {
            container_id: self.id.clone(),
            cmd: args.iter().map(|&arg| arg.to_owned()).collect(),
            tty,
            stdin: true,
            stdout: true,
            stderr: !tty,
        };
        let url = call!(self.pod.cri, exec, request).expect("Exec").url;
        stream::exec(&url, input).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    /// Waits until it has ended: its exit code and CRI's reason.
    ///
    /// # Panics
    ///
    /// When it does not end.
    #[must_use]
    pub fn wait(&self) -> (i32, String) {
        wait::until(&format!("{} to end", self.name), || {
            let status = self.status();
            let exited = status.state() == api::ContainerState::ContainerExited;
            exited.then_some((status.exit_code, status.reason))
        })
    }

    /// Stops it: TERM, and KILL after `grace`.
    ///
    /// # Panics
    ///
    /// When CRI refuses.
    pub fn stop(&self, grace: Duration) {
        let timeout = i64::try_from(grace.as_secs()).expect("a grace period is short");
        let request = api::StopContainerRequest {
            container_id: self.id.clone(),
            timeout,
        };
        let _done = call!(self.pod.cri, stop_container, request).expect("StopContainer");
    }

    /// Changes its limits, as a kubelet resizes a container in place.
    ///
    /// # Errors
    ///
    /// What CRI says.
    pub fn update(&self, limits: api::LinuxContainerResources) -> Result<(), tonic::Status> {
        let request = api::UpdateContainerResourcesRequest {
            container_id: self.id.clone(),
            linux: Some(limits),
            ..Default::default()
        };
        call!(self.pod.cri, update_container_resources, request).map(drop)
    }

    /// CRI's words about it.
    ///
    /// # Panics
    ///
    /// When CRI refuses.
    #[must_use]
    pub fn status(&self) -> api::ContainerStatus {
        let container_id = self.id.clone();
        let request = api::ContainerStatusRequest {
            container_id,
            verbose: false,
        };
        let answer = call!(self.pod.cri, container_status, request).expect("ContainerStatus");
        answer.status.expect("a container has a status")
    }

    /// The process id of its program.
    ///
    /// # Panics
    ///
    /// When CRI refuses, or does not say.
    #[must_use]
    pub fn pid(&self) -> i32 {
        let container_id = self.id.clone();
        let request = api::ContainerStatusRequest {
            container_id,
            verbose: true,
        };
        let answer = call!(self.pod.cri, container_status, request).expect("ContainerStatus");
        let info = answer.info.get("info").map_or("", String::as_str);
        let info: serde_json::Value = serde_json::from_str(info).expect("its words are JSON");
        let pid = info["pid"].as_i64().and_then(|pid| pid.try_into().ok());
        pid.unwrap_or_else(|| panic!("{} has no process: {info}", self.name))
    }

    /// CRI's numbers about it.
    ///
    /// # Panics
    ///
    /// When CRI refuses.
    #[must_use]
    pub fn stats(&self) -> api::ContainerStats {
        let request = api::ContainerStatsRequest {
            container_id: self.id.clone(),
        };
        let answer = call!(self.pod.cri, container_stats, request).expect("ContainerStats");
        answer.stats.expect("a running container has numbers")
    }

    /// What it has written, as `kubectl logs` shows it: (stream, text) a line.
    ///
    /// # Panics
    ///
    /// When the log is not in CRI's form.
    #[must_use]
    pub fn log(&self) -> Vec<(String, String)> {
        let file = self.pod.logs.join(format!("{}.log", self.name));
        let log = std::fs::read_to_string(file).unwrap_or_default();
        let parse = |line: &str| {
            let mut fields = line.splitn(4, ' ').skip(1);
            let stream = fields.next().expect("a stream").to_owned();
            (stream, fields.nth(1).unwrap_or_default().to_owned())
        };
        // A line is there when its end is.
        let whole = log.split_inclusive('\n');
        let whole = whole.filter_map(|line| line.strip_suffix('\n'));
        whole.map(parse).collect()
    }

    /// Waits until its log has a line with `needle` in it.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn says(&self, needle: &str) {
        let said = wait::within(patience(), || {
            self.log()
                .iter()
                .any(|(_, text)| text.contains(needle))
                .then_some(())
        });
        assert!(
            said.is_some(),
            "{} did not say {needle:?}: {:?}",
            self.name,
            self.log()
        );
    }
}
