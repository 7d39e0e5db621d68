//! The Task service: containerd's words in, the pod's words out, one line of log each.
//!
//! Nothing is decided here. Every method is overridden: the generated default answers
//! `NOT_FOUND`, which containerd reads as "the task is gone".

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::api::Empty;
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_async::Task;
use duet_pod::{Create, IoOwner, Phase, Pod, RootfsMount, Status, Stdio};
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use tokio::sync::oneshot;
use tracing::warn;
use ttrpc::asynchronous::TtrpcContext;

use crate::end::{End, Last};
use crate::events::{exited_at, pack, unsigned};
use crate::metrics::metrics;
use crate::options::Options;
use crate::request::Request;
use crate::status::Refusal;

/// The pod's tasks, and when to stop offering them.
#[derive(Debug)]
pub(crate) struct Tasks {
    pod: Pod,
    end: Arc<End>,
}

// === impl Tasks ===

impl Tasks {
    /// Serves `pod`.
    pub(crate) fn new(pod: Pod) -> Self {
        Self {
            pod,
            end: Arc::default(),
        }
    }

    /// When to stop serving.
    pub(crate) fn end(&self) -> &Arc<End> {
        &self.end
    }

    /// Waits until containerd has asked for the end and nobody lives here any more.
    pub(crate) async fn over(&self) {
        self.end.over(&self.pod).await;
    }

    fn last(&self) -> Arc<Last> {
        Last::of(&self.end, &self.pod)
    }
}

#[async_trait]
impl Task for Tasks {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateTaskRequest,
    ) -> ttrpc::Result<api::CreateTaskResponse> {
        // A Create that failed may have been the last thing the end waited for.
        let (pod, last, end) = (self.pod.clone(), self.last(), Arc::clone(&self.end));
        let working = Arc::clone(&last);
        // Goes with this call, which ttrpc drops when the caller has given up.
        let (caller, _listens) = oneshot::channel::<()>();
        let answer = Request::change("Create", &request.id, "")
            .finish(async move {
                let _working = working;
                if end.is_over() {
                    return Err(Refusal::Over);
                }
                let id = request.id.clone();
                let created = pod.create(creation(request)?).await;
                // The caller's Delete has come and gone by now, and found nothing yet: nobody
                // would ever delete it.
                if caller.is_closed()
                    && created.is_ok()
                    && let Err(error) = pod.delete(&id, None).await
                {
                    warn!(id, %error, "left behind by a caller who gave up");
                }
                Ok(api::CreateTaskResponse {
                    pid: unsigned(created?),
                    ..Default::default()
                })
            })
            .await;
        drop(last);
        answer
    }

    async fn start(
        &self,
        _: &TtrpcContext,
        request: api::StartRequest,
    ) -> ttrpc::Result<api::StartResponse> {
        let pod = self.pod.clone();
        Request::change("Start", &request.id, &request.exec_id)
            .finish(async move {
                let pid = pod.start(&request.id, exec(&request.exec_id)).await?;
                Ok(api::StartResponse {
                    pid: unsigned(pid),
                    ..Default::default()
                })
            })
            .await
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: api::DeleteRequest,
    ) -> ttrpc::Result<api::DeleteResponse> {
        let (pod, last, end) = (self.pod.clone(), self.last(), Arc::clone(&self.end));
        let working = Arc::clone(&last);
        let answer = Request::change("Delete", &request.id, &request.exec_id)
            .finish(async move {
                let _working = working;
                let deleted = pod.delete(&request.id, exec(&request.exec_id)).await?;
                end.has_deleted();
                Ok(api::DeleteResponse {
                    pid: unsigned(deleted.pid),
                    exit_status: u32::from(deleted.exit.code),
                    exited_at: exited_at(deleted.exit).into(),
                    ..Default::default()
                })
            })
            .await;
        drop(last);
        answer
    }

    async fn exec(
        &self,
        _: &TtrpcContext,
        request: api::ExecProcessRequest,
    ) -> ttrpc::Result<Empty> {
        let pod = self.pod.clone();
        Request::change("Exec", &request.id, &request.exec_id)
            .finish(async move {
                let process = json("spec", request.spec, "/Process")?;
                let stdio = Stdio {
                    stdin: request.stdin,
                    stdout: request.stdout,
                    stderr: request.stderr,
                    terminal: request.terminal,
                    given: None,
                };
                if request.exec_id.is_empty() {
                    return Err(Refusal::Missing { field: "exec_id" });
                }
                pod.exec(&request.id, &request.exec_id, &process, stdio)
                    .await?;
                Ok(Empty::new())
            })
            .await
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod.clone();
        Request::change("Kill", &request.id, &request.exec_id)
            .finish(async move {
                pod.kill(
                    &request.id,
                    exec(&request.exec_id),
                    request.signal,
                    request.all,
                )
                .await?;
                Ok(Empty::new())
            })
            .await
    }

    async fn pause(&self, _: &TtrpcContext, request: api::PauseRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod.clone();
        Request::change("Pause", &request.id, "")
            .finish(async move {
                pod.pause(&request.id).await?;
                Ok(Empty::new())
            })
            .await
    }

    async fn resume(&self, _: &TtrpcContext, request: api::ResumeRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod.clone();
        Request::change("Resume", &request.id, "")
            .finish(async move {
                pod.resume(&request.id).await?;
                Ok(Empty::new())
            })
            .await
    }

    async fn update(
        &self,
        _: &TtrpcContext,
        request: api::UpdateTaskRequest,
    ) -> ttrpc::Result<Empty> {
        let pod = self.pod.clone();
        Request::change("Update", &request.id, "")
            .finish(async move {
                // `annotations` are notes of containerd's plugins to each other: no runtime
                // reads them.
                let resources = json("resources", request.resources, "/LinuxResources")?;
                pod.update(&request.id, &resources).await?;
                Ok(Empty::new())
            })
            .await
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: api::ResizePtyRequest,
    ) -> ttrpc::Result<Empty> {
        let pod = self.pod.clone();
        Request::change("ResizePty", &request.id, &request.exec_id)
            .finish(async move {
                let exec = exec(&request.exec_id);
                pod.resize(&request.id, exec, request.width, request.height)
                    .await?;
                Ok(Empty::new())
            })
            .await
    }

    async fn close_io(
        &self,
        _: &TtrpcContext,
        request: api::CloseIORequest,
    ) -> ttrpc::Result<Empty> {
        let pod = self.pod.clone();
        Request::change("CloseIO", &request.id, &request.exec_id)
            .finish(async move {
                // Only input can be closed from outside; the request has no other field.
                if request.stdin {
                    pod.close_io(&request.id, exec(&request.exec_id)).await?;
                }
                Ok(Empty::new())
            })
            .await
    }

    async fn state(
        &self,
        _: &TtrpcContext,
        request: api::StateRequest,
    ) -> ttrpc::Result<api::StateResponse> {
        let pod = self.pod.clone();
        Request::question("State", &request.id, &request.exec_id)
            .finish(async move { Ok(state(pod.state(&request.id, exec(&request.exec_id)).await?)) })
            .await
    }

    async fn wait(
        &self,
        _: &TtrpcContext,
        request: api::WaitRequest,
    ) -> ttrpc::Result<api::WaitResponse> {
        Request::question("Wait", &request.id, &request.exec_id)
            .answer(async {
                let exit = self.pod.wait(&request.id, exec(&request.exec_id)).await?;
                Ok(api::WaitResponse {
                    exit_status: u32::from(exit.code),
                    exited_at: exited_at(exit).into(),
                    ..Default::default()
                })
            })
            .await
    }

    async fn pids(
        &self,
        _: &TtrpcContext,
        request: api::PidsRequest,
    ) -> ttrpc::Result<api::PidsResponse> {
        let pod = self.pod.clone();
        Request::question("Pids", &request.id, "")
            .finish(async move {
                let mut processes = pod.pids(&request.id).await?;
                if processes.is_empty() {
                    processes.push(first(&pod, &request.id).await?);
                }
                Ok(api::PidsResponse {
                    processes: processes.into_iter().map(process).collect(),
                    ..Default::default()
                })
            })
            .await
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        request: api::StatsRequest,
    ) -> ttrpc::Result<api::StatsResponse> {
        let pod = self.pod.clone();
        Request::question("Stats", &request.id, "")
            .finish(async move {
                let stats = pod.stats(&request.id).await?;
                Ok(api::StatsResponse {
                    stats: Some(metrics(stats)).into(),
                    ..Default::default()
                })
            })
            .await
    }

    /// Answers for ids nobody knows, too: it is how a restarted containerd finds out
    /// whether this shim lives.
    async fn connect(
        &self,
        _: &TtrpcContext,
        request: api::ConnectRequest,
    ) -> ttrpc::Result<api::ConnectResponse> {
        let pod = self.pod.clone();
        Request::question("Connect", &request.id, "")
            .finish(async move {
                let task_pid = pod
                    .state(&request.id, None)
                    .await
                    .map_or(0, |status| status.pid);
                Ok(api::ConnectResponse {
                    shim_pid: std::process::id(),
                    task_pid: unsigned(task_pid),
                    ..Default::default()
                })
            })
            .await
    }

    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        request: api::CheckpointTaskRequest,
    ) -> ttrpc::Result<Empty> {
        Request::question("Checkpoint", &request.id, "")
            .answer(async {
                Err(Refusal::Unimplemented(
                    "Duet does not checkpoint containers: there is no CRIU behind it",
                ))
            })
            .await
    }

    async fn shutdown(
        &self,
        _: &TtrpcContext,
        request: api::ShutdownRequest,
    ) -> ttrpc::Result<Empty> {
        // `now` is no exception: tasks that are left are somebody's.
        let last = self.last();
        self.end.ask();
        let answer = Request::change("Shutdown", &request.id, "")
            .answer(async { Ok(Empty::new()) })
            .await;
        drop(last);
        answer
    }
}

/// A process's name within its container: none for init.
fn exec(exec_id: &str) -> Option<&str> {
    (!exec_id.is_empty()).then_some(exec_id)
}

fn creation(request: api::CreateTaskRequest) -> Result<Create, Refusal> {
    let options = Options::read(request.options.as_ref())?;
    for (field, value) in [
        ("checkpoint", request.checkpoint),
        ("parent_checkpoint", request.parent_checkpoint),
    ] {
        // Not UNIMPLEMENTED: containerd 2 takes that for a shim that speaks version 2 only.
        if !value.is_empty() {
            let why = "Duet does not restore checkpoints";
            return Err(Refusal::NotOffered { field, value, why });
        }
    }
    let owner = IoOwner {
        uid: options.io_uid,
        gid: options.io_gid,
    };
    Ok(Create {
        id: request.id,
        bundle: PathBuf::from(request.bundle),
        rootfs: request.rootfs.into_iter().map(mount).collect(),
        stdio: Stdio {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
            given: None,
        },
        // 0 is the wire's word for "not said".
        io_owner: (owner.uid != 0 || owner.gid != 0).then_some(owner),
        no_new_keyring: options.no_new_keyring,
        cache_size: options.wasm_cache,
    })
}

fn mount(mount: api::Mount) -> RootfsMount {
    RootfsMount {
        fstype: mount.type_,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    }
}

/// The JSON that containerd packs into an `Any` for types of the OCI runtime-spec.
fn json(
    field: &'static str,
    any: MessageField<Any>,
    expected: &'static str,
) -> Result<Vec<u8>, Refusal> {
    let any = any.into_option().ok_or(Refusal::Missing { field })?;
    if any.type_url.ends_with(expected) {
        Ok(any.value)
    } else {
        Err(Refusal::Type {
            field,
            found: any.type_url,
            expected,
        })
    }
}

fn state(status: Status) -> api::StateResponse {
    let wire = match status.phase {
        Phase::Created => api::Status::CREATED,
        Phase::Running => api::Status::RUNNING,
        Phase::Pausing => api::Status::PAUSING,
        Phase::Paused => api::Status::PAUSED,
        Phase::Stopped => api::Status::STOPPED,
    };
    api::StateResponse {
        // As containerd's own shim says it: the process that is asked about.
        id: status.exec.clone().unwrap_or(status.id),
        bundle: status.bundle.to_string_lossy().into_owned(),
        pid: unsigned(status.pid),
        status: wire.into(),
        stdin: status.stdio.stdin,
        stdout: status.stdio.stdout,
        stderr: status.stdio.stderr,
        terminal: status.stdio.terminal,
        exit_status: status.exit.map_or(0, |exit| u32::from(exit.code)),
        exited_at: status.exit.and_then(exited_at).into(),
        exec_id: status.exec.unwrap_or_default(),
        ..Default::default()
    }
}

/// The program of a container in which no process is left, and that was not deleted.
///
/// containerd asks for the processes of every task when it is started again, and takes one without
/// any, or an error, for a shim that never made it: it cleans up, and the code and the time of an end
/// that came while nobody listened are lost (`core/runtime/v2/shim_load.go`, 1.7 and later). It is the
/// answer also for the moment in which the program has left its cgroup and its end is not known yet.
async fn first(pod: &Pod, id: &str) -> Result<(i32, Option<String>), Refusal> {
    Ok((pod.state(id, None).await?.pid, None))
}

fn process((pid, exec): (i32, Option<String>)) -> api::ProcessInfo {
    let details = |exec_id| {
        pack(&ProcessDetails {
            exec_id,
            ..ProcessDetails::default()
        })
    };
    api::ProcessInfo {
        pid: unsigned(pid),
        info: exec.map(details).into(),
        ..Default::default()
    }
}
