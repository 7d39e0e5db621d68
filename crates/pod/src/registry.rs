//! Who lives in the pod, and the way to them.

use std::path::PathBuf;
use std::sync::Arc;

use duet_container::{Create, Deleted, Exit, Fact, Status, Stdio};
use tokio::sync::mpsc::UnboundedSender;

use crate::error::Error;

/// What a pod needs to know from the start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The pod's name: the sandbox's id, or the value of the grouping annotation.
    pub id: String,
    /// containerd's namespace.
    pub namespace: String,
    /// The bundle of the shim itself (its first container's): the record is kept there.
    pub bundle: PathBuf,
    /// The program that runs wasm guests.
    pub runner: PathBuf,
    /// The program that compiles them.
    pub compiler: PathBuf,
    /// Where compiled code is kept, for the whole node.
    pub cache: PathBuf,
}

/// A handle on the pod; clones are the same pod.
#[derive(Debug, Clone)]
pub struct Pod {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    facts: UnboundedSender<Fact>,
}

// === impl Pod ===

impl Pod {
    /// An empty pod. Facts are sent to `facts` in the order in which they become true.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Host`] if the machine lacks something every container needs.
    pub fn new(config: Config, facts: UnboundedSender<Fact>) -> Result<Pod, Error> {
        Ok(Pod { inner: Arc::new(Inner { config, facts }) })
    }

    /// Creates a container; returns its init process, which stands at the gate.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`], or why a step failed; then nothing of it is left.
    pub async fn create(&self, request: Create) -> Result<i32, Error> {
        Err(Error::Unknown { id: request.id })
    }

    /// Starts a container, or an exec of it; returns the process.
    ///
    /// # Errors
    ///
    /// Refused by the lifecycle, or the program could not be run.
    pub async fn start(&self, id: &str, exec: Option<&str>) -> Result<i32, Error> {
        let _ = exec;
        Err(self.unknown(id))
    }

    /// Adds an exec: `process` is the OCI `Process` in JSON.
    ///
    /// # Errors
    ///
    /// The name is taken, the process asks for something unknown, or the container does not run.
    pub async fn exec(
        &self,
        id: &str,
        exec: &str,
        process: &[u8],
        stdio: Stdio,
    ) -> Result<(), Error> {
        let _ = (exec, process, stdio);
        Err(self.unknown(id))
    }

    /// Removes a container that ended or never ran, or an exec of it.
    ///
    /// # Errors
    ///
    /// It runs, or is unknown.
    pub async fn delete(&self, id: &str, exec: Option<&str>) -> Result<Deleted, Error> {
        let _ = exec;
        Err(self.unknown(id))
    }

    /// Sends a signal to a process, or with `all` to every process of the container.
    ///
    /// # Errors
    ///
    /// It ended (which callers read as "gone"), or the signal does not exist.
    pub async fn kill(
        &self,
        id: &str,
        exec: Option<&str>,
        signal: u32,
        all: bool,
    ) -> Result<(), Error> {
        let _ = (exec, signal, all);
        Err(self.unknown(id))
    }

    /// Waits for the end of a process; answers at once if it was.
    ///
    /// # Errors
    ///
    /// It is unknown, or was deleted meanwhile.
    pub async fn wait(&self, id: &str, exec: Option<&str>) -> Result<Exit, Error> {
        let _ = exec;
        Err(self.unknown(id))
    }

    /// How a process stands.
    ///
    /// # Errors
    ///
    /// It is unknown.
    pub async fn state(&self, id: &str, exec: Option<&str>) -> Result<Status, Error> {
        let _ = exec;
        Err(self.unknown(id))
    }

    /// Every process of the container, with the exec it is the first process of.
    ///
    /// # Errors
    ///
    /// It is unknown, or its cgroup cannot be read.
    pub async fn pids(&self, id: &str) -> Result<Vec<(i32, Option<String>)>, Error> {
        Err(self.unknown(id))
    }

    /// Freezes every process of the container.
    ///
    /// # Errors
    ///
    /// It does not run, or the freezer did not close in time (then it is open again).
    pub async fn pause(&self, id: &str) -> Result<(), Error> {
        Err(self.unknown(id))
    }

    /// Thaws it.
    ///
    /// # Errors
    ///
    /// It is not paused.
    pub async fn resume(&self, id: &str) -> Result<(), Error> {
        Err(self.unknown(id))
    }

    /// Changes limits in place: `resources` is the OCI `LinuxResources` in JSON.
    ///
    /// # Errors
    ///
    /// The text is malformed or a controller refuses a value.
    pub async fn update(&self, id: &str, resources: &[u8]) -> Result<(), Error> {
        let _ = resources;
        Err(self.unknown(id))
    }

    /// Changes the size of a terminal, in characters.
    ///
    /// # Errors
    ///
    /// The process has no terminal.
    pub async fn resize(
        &self,
        id: &str,
        exec: Option<&str>,
        width: u32,
        height: u32,
    ) -> Result<(), Error> {
        let _ = (exec, width, height);
        Err(self.unknown(id))
    }

    /// Ends a process's stdin once what was written to it has been delivered.
    ///
    /// # Errors
    ///
    /// It is unknown. A process without stdin has nothing to close, which is no error.
    pub async fn close_io(&self, id: &str, exec: Option<&str>) -> Result<(), Error> {
        let _ = exec;
        Err(self.unknown(id))
    }

    /// Whether no container lives here, nor is one being created.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// The ids of the containers that live here.
    pub fn ids(&self) -> Vec<String> {
        let _ = (&self.inner.config, &self.inner.facts);
        Vec::new()
    }

    fn unknown(&self, id: &str) -> Error {
        Error::Unknown { id: id.to_owned() }
    }
}
