//! A shim without a daemon: started as containerd starts it, asked as containerd asks.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use containerd_shim_protos::{api, sandbox_api as sandbox};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use ttrpc::context;
use ttrpc::proto::Request;

use crate::command::{self, Outcome};
use crate::containerd::Containerd;
use crate::wait::{self, patience};

/// The name of the Task service that every shim of the field speaks.
const TASK: &str = "containerd.task.v2.Task";
/// The name of the service of pods that a shim makes itself.
const SANDBOX: &str = "containerd.runtime.sandbox.v1.Sandbox";

/// A shim that serves a pod.
pub struct Shim {
    client: ttrpc::Client,
    program: PathBuf,
    flags: Vec<String>,
    bundle: PathBuf,
    events: PathBuf,
    /// The reading end of its log: it must stay open, or the shim could not write.
    _log: File,
}

/// A folder with what a shim needs to make one container.
#[derive(Debug)]
pub struct Bundle {
    /// Its path.
    pub dir: PathBuf,
}

// === impl Bundle ===

impl Bundle {
    /// Makes a bundle with `config` as its `config.json`, or without one.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written.
    pub fn new(dir: &Path, config: Option<&str>) -> io::Result<Self> {
        fs::create_dir_all(dir.join("rootfs"))?;
        if let Some(config) = config {
            fs::write(dir.join("config.json"), config)?;
        }
        nix::unistd::mkfifo(&dir.join("log"), nix::sys::stat::Mode::S_IRWXU)?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }
}

// === impl Shim ===

impl std::fmt::Debug for Shim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shim")
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

impl Shim {
    /// Runs `program ... start` in `bundle` and returns all that it said.
    #[must_use]
    pub fn invoke(daemon: &Containerd, program: &Path, flags: &[String], bundle: &Path) -> Outcome {
        let events = daemon.ttrpc_socket();
        command::run(&mut invocation(program, flags, bundle, &events, "start"))
    }

    /// The flags that containerd gives a shim.
    #[must_use]
    pub fn flags(daemon: &Containerd, namespace: &str, id: &str) -> Vec<String> {
        let (socket, program) = (daemon.socket(), daemon.program());
        let (socket, program) = (socket.display().to_string(), program.display().to_string());
        [
            "-namespace",
            namespace,
            "-address",
            &socket,
            "-publish-binary",
            &program,
            "-id",
            id,
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Starts a shim for `bundle` and connects to it.
    ///
    /// # Errors
    ///
    /// What it said instead of an address.
    pub fn start(
        daemon: &Containerd,
        program: &Path,
        namespace: &str,
        id: &str,
        bundle: &Bundle,
    ) -> Result<Self, String> {
        let flags = Self::flags(daemon, namespace, id);
        let log = bundle.dir.join("log");
        let log = OpenOptions::new()
            .read(true)
            .write(true)
            .open(log)
            .map_err(|e| e.to_string())?;
        let outcome = Self::invoke(daemon, program, &flags, &bundle.dir);
        let address = address(&outcome.stdout).ok_or_else(|| format!("{outcome:?}"))?;
        let client = ttrpc::Client::connect(&address).map_err(|error| error.to_string())?;
        Ok(Self {
            client,
            program: program.to_owned(),
            flags,
            bundle: bundle.dir.clone(),
            events: daemon.ttrpc_socket(),
            _log: log,
        })
    }

    /// Calls one method of the Task service.
    ///
    /// # Errors
    ///
    /// The status the shim answered with.
    pub fn call<A: Message>(&self, method: &str, request: &impl Message) -> Result<A, String> {
        self.ask(TASK, method, request)
    }

    /// Calls one method of the Sandbox service.
    ///
    /// # Errors
    ///
    /// The status the shim answered with.
    pub fn sandbox<A: Message>(&self, method: &str, request: &impl Message) -> Result<A, String> {
        self.ask(SANDBOX, method, request)
    }

    fn ask<A: Message>(
        &self,
        service: &str,
        method: &str,
        request: &impl Message,
    ) -> Result<A, String> {
        let timeout = i64::try_from(patience().as_nanos()).map_err(|error| error.to_string())?;
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            timeout_nano: timeout,
            payload: request
                .write_to_bytes()
                .map_err(|error| error.to_string())?,
            metadata: context::to_pb(context::with_timeout(timeout).metadata),
            ..Request::default()
        };
        let response = self
            .client
            .request(request)
            .map_err(|error| error.to_string())?;
        A::parse_from_bytes(&response.payload).map_err(|error| error.to_string())
    }

    /// Makes a container from `bundle`, without standard streams.
    ///
    /// # Errors
    ///
    /// What the shim said.
    pub fn create(&self, id: &str, bundle: &Path) -> Result<u32, String> {
        let mut request = api::CreateTaskRequest::new();
        id.clone_into(&mut request.id);
        request.bundle = bundle.display().to_string();
        let answer: api::CreateTaskResponse = self.call("Create", &request)?;
        Ok(answer.pid)
    }

    /// Starts a container.
    ///
    /// # Errors
    ///
    /// What the shim said.
    pub fn begin(&self, id: &str) -> Result<(), String> {
        let mut request = api::StartRequest::new();
        id.clone_into(&mut request.id);
        self.call::<api::StartResponse>("Start", &request).map(drop)
    }

    /// Waits for a container's end: its exit code.
    ///
    /// # Errors
    ///
    /// What the shim said.
    pub fn wait(&self, id: &str) -> Result<u32, String> {
        let mut request = api::WaitRequest::new();
        id.clone_into(&mut request.id);
        let answer: api::WaitResponse = self.call("Wait", &request)?;
        Ok(answer.exit_status)
    }

    /// Ends a container by SIGKILL.
    ///
    /// # Errors
    ///
    /// What the shim said.
    pub fn kill(&self, id: &str) -> Result<(), String> {
        let mut request = api::KillRequest::new();
        id.clone_into(&mut request.id);
        request.signal = 9;
        request.all = true;
        self.call::<api::Empty>("Kill", &request).map(drop)
    }

    /// Sends a signal to the first process of a container.
    ///
    /// # Errors
    ///
    /// What the shim said.
    pub fn signal(&self, id: &str, signal: u32) -> Result<(), String> {
        let mut request = api::KillRequest::new();
        id.clone_into(&mut request.id);
        request.signal = signal;
        self.call::<api::Empty>("Kill", &request).map(drop)
    }

    /// Forgets a container that has ended.
    ///
    /// # Errors
    ///
    /// What the shim said.
    pub fn delete(&self, id: &str) -> Result<(), String> {
        let mut request = api::DeleteRequest::new();
        id.clone_into(&mut request.id);
        self.call::<api::DeleteResponse>("Delete", &request)
            .map(drop)
    }

    /// A further process of a container without standard streams, from Exec to its Delete: its
    /// code. `process` is the OCI process in JSON.
    ///
    /// # Errors
    ///
    /// What the shim said.
    pub fn exec(&self, id: &str, exec: &str, process: &str) -> Result<u32, String> {
        let mut add = api::ExecProcessRequest::new();
        id.clone_into(&mut add.id);
        exec.clone_into(&mut add.exec_id);
        add.spec = MessageField::some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
            value: process.as_bytes().to_vec(),
            ..Any::default()
        });
        self.call::<api::Empty>("Exec", &add)?;
        let mut start = api::StartRequest::new();
        id.clone_into(&mut start.id);
        exec.clone_into(&mut start.exec_id);
        self.call::<api::StartResponse>("Start", &start)?;
        let mut wait = api::WaitRequest::new();
        id.clone_into(&mut wait.id);
        exec.clone_into(&mut wait.exec_id);
        let ended: api::WaitResponse = self.call("Wait", &wait)?;
        let mut delete = api::DeleteRequest::new();
        id.clone_into(&mut delete.id);
        exec.clone_into(&mut delete.exec_id);
        self.call::<api::DeleteResponse>("Delete", &delete)?;
        Ok(ended.exit_status)
    }

    /// The process id of the shim, as it tells it.
    ///
    /// # Errors
    ///
    /// What the shim said.
    pub fn pid(&self, id: &str) -> Result<u32, String> {
        let mut request = api::ConnectRequest::new();
        id.clone_into(&mut request.id);
        let answer: api::ConnectResponse = self.call("Connect", &request)?;
        Ok(answer.shim_pid)
    }

    /// Ends the shim, and has it clean up as containerd would: what `delete` said.
    pub fn shutdown(self) -> Outcome {
        let request = api::ShutdownRequest::new();
        // The shim may close the connection before its answer is out.
        let _answer: Result<api::Empty, _> = self.call("Shutdown", &request);
        clean(&self.program, self.flags, &self.bundle, &self.events)
    }

    /// Ends the shim of sandbox `id` as containerd does, and waits until it has gone: what
    /// `delete` said.
    ///
    /// # Panics
    ///
    /// When the shim does not do it.
    pub fn shutdown_sandbox(self, id: &str) -> Outcome {
        let server = self.pid(id).expect("Connect");
        let mut request = sandbox::StopSandboxRequest::new();
        id.clone_into(&mut request.sandbox_id);
        let _: sandbox::StopSandboxResponse =
            self.sandbox("StopSandbox", &request).expect("StopSandbox");
        let mut request = sandbox::ShutdownSandboxRequest::new();
        id.clone_into(&mut request.sandbox_id);
        let _: sandbox::ShutdownSandboxResponse = self
            .sandbox("ShutdownSandbox", &request)
            .expect("ShutdownSandbox");
        // The shim stays until its caller has hung up.
        drop(self.client);
        wait::until("the shim to end by itself", || {
            (!Path::new(&format!("/proc/{server}")).exists()).then_some(())
        });
        clean(&self.program, self.flags, &self.bundle, &self.events)
    }
}

/// Runs `delete` as containerd does.
fn clean(program: &Path, mut flags: Vec<String>, bundle: &Path, events: &Path) -> Outcome {
    flags.extend(["-bundle".to_owned(), bundle.display().to_string()]);
    command::run(&mut invocation(program, &flags, bundle, events, "delete"))
}

fn invocation(
    program: &Path,
    flags: &[String],
    bundle: &Path,
    events: &Path,
    action: &str,
) -> Command {
    let mut command = Command::new(program);
    command
        .args(flags)
        .arg(action)
        .current_dir(bundle)
        .env("TTRPC_ADDRESS", events)
        .env("MAX_SHIM_VERSION", "2")
        .env("GOMAXPROCS", "2")
        .stdin(Stdio::null());
    command
}

/// The address in a shim's reply: plain, or in JSON.
fn address(reply: &str) -> Option<String> {
    let reply = reply.trim();
    if reply.starts_with("unix://") {
        return Some(reply.to_owned());
    }
    let reply: serde_json::Value = serde_json::from_str(reply).ok()?;
    Some(reply["address"].as_str()?.to_owned())
}
