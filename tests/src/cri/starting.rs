//! Pods whose making or removal is not a matter of one call.

use std::thread::{self, JoinHandle};

use k8s_cri::v1 as api;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;

use super::{Cri, channel};
use crate::wait::{self, patience};

/// A RunPodSandbox that is under way.
#[derive(Debug)]
pub struct Starting(JoinHandle<Result<String, tonic::Status>>);

impl Cri<'_> {
    /// Begins to start a pod called `name`.
    #[must_use]
    pub fn begin_pod(&self, name: &str) -> Starting {
        let (request, _) = self.request(name, |_| {});
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime needs only memory");
        let mut client = RuntimeServiceClient::new(channel(&runtime, self.node));
        Starting(thread::spawn(move || {
            let call = async {
                let answer =
                    tokio::time::timeout(patience(), client.run_pod_sandbox(request)).await;
                answer.expect("RunPodSandbox answers in time")
            };
            let answer = runtime.block_on(call)?;
            Ok(answer.into_inner().pod_sandbox_id)
        }))
    }

    /// Stops and removes every pod of this node, as a kubelet does: again, until CRI has heard of
    /// every end. One that could not be made may be listed, too.
    ///
    /// # Panics
    ///
    /// When CRI goes on refusing.
    pub fn remove_all(&self) {
        let request = api::ListPodSandboxRequest { filter: None };
        let list = call!(self, list_pod_sandbox, request).expect("ListPodSandbox");
        for pod in list.items {
            self.remove_insistently(&pod.id);
        }
    }

    pub(super) fn remove_insistently(&self, id: &str) {
        let request = || api::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        wait::until("StopPodSandbox", || {
            call!(self, stop_pod_sandbox, request()).ok()
        });
        let request = || api::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        wait::until("RemovePodSandbox", || {
            call!(self, remove_pod_sandbox, request()).ok()
        });
    }
}

// === impl Starting ===

impl Starting {
    /// Waits for the answer: the pod's id.
    ///
    /// # Errors
    ///
    /// What CRI says.
    ///
    /// # Panics
    ///
    /// When CRI does not answer.
    pub fn wait(self) -> Result<String, tonic::Status> {
        self.0.join().expect("it only waits")
    }
}
