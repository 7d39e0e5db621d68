//! The pod as the Sandbox service knows it: created, ready, over.
//!
//! Its holder is a member of the pod like a container, so that its birth, its end, its record and
//! its removal are a container's. What is different is here: no events are told of it, the pod
//! outlives it until it is shut down, and containers get the pod's files.

use std::path::Path;
use std::time::SystemTime;

use duet_cgroup::systemd::slice_path;
use duet_cgroup::{Cgroup, Stats};
use duet_container::{Denied, Error as ContainerError, Exit};
use duet_spec::PodFiles;

use super::{Asked, Inner, Pod, of};
use crate::error::Error;
use crate::holder::Sandbox;
use crate::sandbox::check_id;

/// How a sandbox stands.
#[derive(Debug, Clone)]
pub struct SandboxStatus {
    /// Its name.
    pub id: String,
    /// Its holder.
    pub pid: i32,
    /// What it is doing.
    pub standing: Standing,
    /// When its holder was born.
    pub created_at: SystemTime,
    /// The holder's spec, as a `config.json`.
    pub config: String,
}

/// What a sandbox is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its holder stands at the gate.
    Created,
    /// Containers can live in it.
    Ready,
    /// Its holder has ended.
    Over(Exit),
}

/// The sandbox of a pod, from its creation on.
#[derive(Debug)]
pub(super) struct Served {
    status: SandboxStatus,
    files: PodFiles,
    cgroup_parent: String,
    /// It was shut down: the pod need not stay for it.
    shut: bool,
}

// === impl Pod ===

impl Pod {
    /// Makes the pod that the Sandbox service asks for; its holder stands at the gate.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`], [`Error::Wish`] naming a field, or why a step failed; then nothing of
    /// it is left.
    pub async fn create_sandbox(&self, sandbox: Sandbox) -> Result<(), Error> {
        check_id(&sandbox.id)?;
        let id = sandbox.id.clone();
        if self.inner.served.borrow().is_some() {
            return Err(Error::Exists { id });
        }
        let cgroup_parent = sandbox.cgroup_parent.clone();
        let furnished = sandbox.furnish(&self.inner.holder, self.inner.ground.namespace())?;
        let (told, files) = (furnished.clone(), furnished.files.clone());
        let pid = self.admit(Asked::Holder(Box::new(furnished))).await?;
        let holder = self.find(&id)?;
        let status = SandboxStatus {
            id,
            pid,
            standing: Standing::Created,
            created_at: SystemTime::now(),
            config: told.told(pid),
        };
        self.inner.served.send_replace(Some(Served {
            status,
            files,
            cgroup_parent,
            shut: false,
        }));
        let served = self.inner.served.clone();
        self.inner.roster().owners.spawn(async move {
            // It fails only for a holder that was removed before it ran.
            let exit = holder.wait(None).await.unwrap_or_else(|_| Exit {
                code: KILLED,
                at: SystemTime::now(),
            });
            served.send_modify(|served| {
                if let Some(served) = served {
                    served.status.standing = Standing::Over(exit);
                }
            });
        });
        Ok(())
    }

    /// Lets the pod's holder go.
    ///
    /// # Errors
    ///
    /// There is no such sandbox, it was started before, or its program cannot be run.
    pub async fn start_sandbox(&self, id: &str) -> Result<SandboxStatus, Error> {
        self.sandbox(id)?;
        self.start(id, None).await?;
        self.inner.served.send_modify(|served| {
            if let Some(served) = served
                && served.status.standing == Standing::Created
            {
                served.status.standing = Standing::Ready;
            }
        });
        self.sandbox(id)
    }

    /// How the sandbox stands.
    ///
    /// # Errors
    ///
    /// There is no such sandbox.
    pub fn sandbox(&self, id: &str) -> Result<SandboxStatus, Error> {
        let served = self.inner.served.borrow();
        let found = served.as_ref().filter(|served| served.status.id == id);
        match found {
            Some(served) => Ok(served.status.clone()),
            None => Err(Error::Unknown { id: id.to_owned() }),
        }
    }

    /// Waits for the holder's end; answers at once if it was.
    ///
    /// # Errors
    ///
    /// There is no such sandbox.
    pub async fn wait_sandbox(&self, id: &str) -> Result<Exit, Error> {
        self.sandbox(id)?;
        let mut served = self.inner.served.subscribe();
        loop {
            if let Standing::Over(exit) = self.sandbox(id)?.standing {
                return Ok(exit);
            }
            // The pod itself holds the other end.
            if served.changed().await.is_err() {
                return Err(Error::Unknown { id: id.to_owned() });
            }
        }
    }

    /// Ends everything in the pod, its holder last, and removes the holder. Containers stay to be
    /// asked how they ended. May be called again.
    ///
    /// # Errors
    ///
    /// There is no such sandbox, or something could not be ended or removed.
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        self.sandbox(id)?;
        let mut members = self.ids();
        members.retain(|member| member != id);
        for member in &members {
            self.shoot(member).await?;
        }
        for member in &members {
            self.see_off(member).await?;
        }
        self.shoot(id).await?;
        self.see_off(id).await?;
        unless_gone(self.delete(id, None).await.map(drop))
    }

    /// Ends the pod: what [`Pod::stop_sandbox`] ends is removed, too.
    ///
    /// # Errors
    ///
    /// As [`Pod::stop_sandbox`].
    pub async fn shut_sandbox(&self, id: &str) -> Result<(), Error> {
        self.stop_sandbox(id).await?;
        for member in self.ids() {
            unless_gone(self.delete(&member, None).await.map(drop))?;
        }
        self.inner.served.send_modify(|served| {
            if let Some(served) = served {
                served.shut = true;
            }
        });
        Ok(())
    }

    /// What everything in the pod has used: its own cgroup's numbers, or the holder's where the
    /// pod has no cgroup of its own.
    ///
    /// # Errors
    ///
    /// There is no such sandbox, or its cgroup cannot be read.
    pub async fn sandbox_stats(&self, id: &str) -> Result<Stats, Error> {
        self.sandbox(id)?;
        let parent = self.inner.cgroup_parent();
        if parent.trim_matches('/').is_empty() {
            return self.stats(id).await;
        }
        let here = self.inner.clone();
        let read = tokio::task::spawn_blocking(move || {
            // Whoever names a pod's slice may do without those above it, as containerd does.
            let last = Path::new(&parent)
                .file_name()
                .and_then(|name| name.to_str());
            let slice = last.and_then(slice_path);
            let path = slice.unwrap_or_else(|| Path::new("/").join(&parent));
            Cgroup::open(here.ground.host(), &path).and_then(|cgroup| cgroup.stats())
        });
        let stats = read.await.map_err(|_| super::dropped())?;
        stats.map_err(|source| {
            of(id)(ContainerError::Cgroup {
                step: "read the pod's statistics",
                source,
            })
        })
    }

    /// Kills every process of a member.
    async fn shoot(&self, id: &str) -> Result<(), Error> {
        unless_gone(self.kill(id, None, SIGKILL, true).await)
    }

    /// Waits for the end of a member that was killed.
    async fn see_off(&self, id: &str) -> Result<(), Error> {
        unless_gone(self.wait(id, None).await.map(drop))
    }
}

/// That it had ended, or somebody else had removed it, is what was wanted.
fn unless_gone(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(
            Error::Unknown { .. }
            | Error::Container {
                source: ContainerError::Denied(Denied::AlreadyStopped) | ContainerError::Gone,
                ..
            },
        ) => Ok(()),
        done => done,
    }
}

// === impl Inner ===

impl Inner {
    /// What the pod gives its containers, if it is the Sandbox service's.
    pub(super) fn files(&self) -> Option<PodFiles> {
        let served = self.served.borrow();
        served.as_ref().map(|served| served.files.clone())
    }

    fn cgroup_parent(&self) -> String {
        let served = self.served.borrow();
        let parent = served.as_ref().map(|served| served.cgroup_parent.clone());
        parent.unwrap_or_default()
    }

    /// Whether there is a sandbox that was not shut down.
    pub(super) fn is_kept(&self) -> bool {
        let served = self.served.borrow();
        served.as_ref().is_some_and(|served| !served.shut)
    }
}

/// `SIGKILL`, as callers name it.
const SIGKILL: u32 = 9;

/// The code of a process that was killed by it.
const KILLED: u8 = 137;
