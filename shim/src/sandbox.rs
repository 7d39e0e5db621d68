//! The Sandbox service: containerd's words for a pod that the shim makes itself.
//!
//! Served beside the Task service on the same socket, for `sandboxer = "shim"`. The sandbox's
//! holder is a container of the pod, so that the Task service answers for its name, too: a
//! restarted containerd asks it for `Connect` and `Pids`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use containerd_shim_protos::sandbox_api as api;
use containerd_shim_protos::sandbox_async::Sandbox;
use containerd_shim_protos::types::platform::Platform;
use duet_pod::{Pod, SandboxStatus, Standing};
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use tokio::sync::oneshot;
use tracing::warn;
use ttrpc::asynchronous::TtrpcContext;

use crate::cri;
use crate::end::{End, Last};
use crate::events::{exited_at, unsigned};
use crate::metrics::metrics;
use crate::request::Request;
use crate::status::Refusal;

/// OCI's specification of a container in JSON, as containerd's `typeurl` names it.
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// The machine's architecture, as OCI's image specification spells it.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

/// The pod as the Sandbox service knows it.
#[derive(Debug)]
pub(crate) struct Sandboxes {
    pod: Pod,
    end: Arc<End>,
}

// === impl Sandboxes ===

impl Sandboxes {
    /// Serves `pod`; `end` hears when it was shut down.
    pub(crate) fn new(pod: Pod, end: Arc<End>) -> Self {
        Self { pod, end }
    }

    /// Nobody but a sandbox that could not be made, or was forgotten, would need this shim, and
    /// containerd (2.1) asks nothing of it any more: it ends by itself.
    pub(crate) async fn give_up(pod: &Pod, last: &Last, id: &str) {
        if pod.sandbox(id).is_ok()
            && let Err(error) = pod.shut_sandbox(id).await
        {
            warn!(id, %error, "a sandbox that cannot run is left behind");
        }
        last.ask();
    }
}

#[async_trait]
impl Sandbox for Sandboxes {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::CreateSandboxRequest,
    ) -> ttrpc::Result<api::CreateSandboxResponse> {
        let (pod, last) = (self.pod.clone(), Last::of(&self.end, &self.pod));
        let working = Arc::clone(&last);
        // Goes with the call: a caller who left is told of no sandbox, and asks for no end of it.
        let (caller, _listens) = oneshot::channel::<()>();
        let answer = Request::change("CreateSandbox", &request.sandbox_id, "")
            .finish(async move {
                let id = request.sandbox_id.clone();
                let known = pod.sandbox(&id).is_ok();
                let created = match cri::sandbox(request) {
                    Ok(sandbox) => pod.create_sandbox(sandbox).await.map_err(Refusal::from),
                    Err(refusal) => Err(refusal),
                };
                if !known && (created.is_err() || caller.is_closed()) {
                    Self::give_up(&pod, &working, &id).await;
                }
                created.map(|()| api::CreateSandboxResponse::new())
            })
            .await;
        drop(last);
        answer
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::StartSandboxRequest,
    ) -> ttrpc::Result<api::StartSandboxResponse> {
        let (pod, last) = (self.pod.clone(), Last::of(&self.end, &self.pod));
        let working = Arc::clone(&last);
        let (caller, _listens) = oneshot::channel::<()>();
        let answer = Request::change("StartSandbox", &request.sandbox_id, "")
            .finish(async move {
                let id = request.sandbox_id;
                let before = pod.sandbox(&id)?.standing;
                let started = pod.start_sandbox(&id).await;
                if before == Standing::Created && (started.is_err() || caller.is_closed()) {
                    Self::give_up(&pod, &working, &id).await;
                }
                let status = started?;
                Ok(api::StartSandboxResponse {
                    pid: unsigned(status.pid),
                    created_at: Some(Timestamp::from(status.created_at)).into(),
                    // containerd 2.3 shows it to NRI's plugins.
                    spec: Some(Any {
                        type_url: SPEC.to_owned(),
                        value: status.config.into_bytes(),
                        ..Any::default()
                    })
                    .into(),
                    ..Default::default()
                })
            })
            .await;
        drop(last);
        answer
    }

    async fn platform(
        &self,
        _: &TtrpcContext,
        request: api::PlatformRequest,
    ) -> ttrpc::Result<api::PlatformResponse> {
        Request::question("Platform", &request.sandbox_id, "")
            .answer(async {
                let platform = Platform {
                    os: "linux".to_owned(),
                    architecture: ARCHITECTURE.to_owned(),
                    ..Default::default()
                };
                Ok(api::PlatformResponse {
                    platform: Some(platform).into(),
                    ..Default::default()
                })
            })
            .await
    }

    /// The time that is given is for programs that ask to be asked; the holder has nothing to
    /// save, and containers that are left were asked by containerd.
    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::StopSandboxRequest,
    ) -> ttrpc::Result<api::StopSandboxResponse> {
        let pod = self.pod.clone();
        Request::change("StopSandbox", &request.sandbox_id, "")
            .finish(async move {
                pod.stop_sandbox(&request.sandbox_id).await?;
                Ok(api::StopSandboxResponse::new())
            })
            .await
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::WaitSandboxRequest,
    ) -> ttrpc::Result<api::WaitSandboxResponse> {
        Request::question("WaitSandbox", &request.sandbox_id, "")
            .answer(async {
                let exit = self.pod.wait_sandbox(&request.sandbox_id).await?;
                Ok(api::WaitSandboxResponse {
                    exit_status: u32::from(exit.code),
                    exited_at: exited_at(exit).into(),
                    ..Default::default()
                })
            })
            .await
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: api::SandboxStatusRequest,
    ) -> ttrpc::Result<api::SandboxStatusResponse> {
        Request::question("SandboxStatus", &request.sandbox_id, "")
            .answer(async {
                let status = self.pod.sandbox(&request.sandbox_id)?;
                Ok(status_response(status, request.verbose))
            })
            .await
    }

    async fn ping_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::PingRequest,
    ) -> ttrpc::Result<api::PingResponse> {
        Request::question("PingSandbox", &request.sandbox_id, "")
            .answer(async { Ok(api::PingResponse::new()) })
            .await
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::ShutdownSandboxRequest,
    ) -> ttrpc::Result<api::ShutdownSandboxResponse> {
        let (pod, last) = (self.pod.clone(), Last::of(&self.end, &self.pod));
        let working = Arc::clone(&last);
        let answer = Request::change("ShutdownSandbox", &request.sandbox_id, "")
            .finish(async move {
                // Also without a sandbox: whoever asks wants the shim gone.
                working.ask();
                let shut = match pod.sandbox(&request.sandbox_id) {
                    Ok(_) => pod.shut_sandbox(&request.sandbox_id).await,
                    Err(_) => Ok(()),
                };
                shut?;
                Ok(api::ShutdownSandboxResponse::new())
            })
            .await;
        drop(last);
        answer
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: api::SandboxMetricsRequest,
    ) -> ttrpc::Result<api::SandboxMetricsResponse> {
        let pod = self.pod.clone();
        Request::question("SandboxMetrics", &request.sandbox_id, "")
            .finish(async move {
                let stats = pod.sandbox_stats(&request.sandbox_id).await?;
                let mut response = api::SandboxMetricsResponse::new();
                // The message's type has no public name.
                let metric = response.metrics.mut_or_insert_default();
                metric.timestamp = Some(Timestamp::from(SystemTime::now())).into();
                metric.id = request.sandbox_id;
                metric.data = Some(metrics(stats)).into();
                Ok(response)
            })
            .await
    }
}

fn status_response(status: SandboxStatus, verbose: bool) -> api::SandboxStatusResponse {
    // CRI's words, which it hands on as they are.
    let (state, exit) = match status.standing {
        Standing::Ready => ("SANDBOX_READY", None),
        Standing::Created => ("SANDBOX_NOTREADY", None),
        Standing::Over(exit) => ("SANDBOX_NOTREADY", Some(exit)),
    };
    let mut info = HashMap::new();
    if verbose {
        // In the shape that containerd's own sandboxes have, as far as a pod of Duet's has it.
        let spec: serde_json::Value = serde_json::from_str(&status.config).unwrap_or_default();
        let told = serde_json::json!({
            "pid": status.pid,
            "processStatus": if exit.is_none() { "running" } else { "stopped" },
            "runtimeType": crate::NAME,
            "runtimeSpec": spec,
        });
        info.insert("info".to_owned(), told.to_string());
    }
    api::SandboxStatusResponse {
        sandbox_id: status.id,
        pid: unsigned(status.pid),
        state: state.to_owned(),
        info,
        created_at: Some(Timestamp::from(status.created_at)).into(),
        exited_at: exit.and_then(exited_at).into(),
        ..Default::default()
    }
}
