//! Drives the pod's containers: starts them in order, watches them, restarts them, stops them.
//!
//! containerd is asked for the containers' states every [`POLL`]: CRI's event stream does not
//! exist in containerd 1.6.

use super::probing::{self, Heard, Subject};
use super::signals::{Asked, Stops};
use crate::cri::Cri;
use crate::cri::container::{self, Surroundings, log_name};
use crate::environment::Place;
use crate::error::Error;
use crate::log::follow::Follower;
use crate::manifest::{is_sidecar, timeout_seconds};
use crate::probe::Kind;
use crate::restart::{Next, Policy, Restarts, Role};
use crate::screen::{Screen, step};
use crate::volumes::Volumes;
use k8s_cri::v1::{ContainerState, Image, PodSandboxConfig, PodSandboxState};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// How often containerd is asked what has ended: 100 ms, which a person does not notice.
const POLL: Duration = Duration::from_millis(100);

/// What a container has at least to end after TERM, even if the others used up the grace
/// period: 2 s, the kubelet's number.
const LEAST_GRACE_SECONDS: i64 = 2;

/// How the pod's run came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// By itself.
    Finished,
    /// Because somebody asked.
    Stopped(Asked),
}

/// The pod while it runs.
#[derive(Debug)]
pub(super) struct Driver<'a> {
    pub(super) pod: &'a Pod,
    pub(super) spec: &'a PodSpec,
    pub(super) images: &'a BTreeMap<String, Image>,
    pub(super) volumes: &'a Volumes,
    pub(super) profiles: &'a Path,
    pub(super) place: Place,
    pub(super) config: PodSandboxConfig,
    /// Empty until it is made.
    pub(super) sandbox: String,
    pub(super) follower: Follower,
    pub(super) screen: Screen,
    pub(super) members: Vec<Member>,
    pub(super) cri: Cri,
    pub(super) stops: Stops,
    pub(super) verdicts: Verdicts,
}

/// What the probes say, and the stops they cause.
#[derive(Debug)]
pub(super) struct Verdicts {
    tell: UnboundedSender<Heard>,
    hear: UnboundedReceiver<Heard>,
    stops: JoinSet<Result<(), Error>>,
}

/// One container of the pod.
#[derive(Debug)]
pub(super) struct Member {
    container: Container,
    role: Role,
    restarts: Restarts,
    attempt: u32,
    state: State,
    started: Started,
    /// Asks the probes; emptied when the container ends.
    probes: JoinSet<()>,
}

/// Whether what waits for this container may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Started {
    Yes,
    /// Its startup probe has not passed.
    No,
}

/// Where a container stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    NotStarted,
    Running { id: String },
    Resting { id: String, until: Instant },
    Done { code: i32 },
}

/// The names of all containers, in the order in which they start.
pub(super) fn names(spec: &PodSpec) -> Vec<String> {
    let init = spec.init_containers.iter().flatten();
    init.chain(&spec.containers)
        .map(|container| container.name.clone())
        .collect()
}

/// The pod's containers, in the order in which they start.
pub(super) fn members(spec: &PodSpec, base: Duration) -> Vec<Member> {
    let policy = Policy::named(spec.restart_policy.as_deref()).unwrap_or(Policy::Always);
    let member = |container: &Container, role: Role| Member {
        container: container.clone(),
        role,
        restarts: Restarts::new(policy.of(role), base),
        attempt: 0,
        state: State::NotStarted,
        started: Started::No,
        probes: JoinSet::new(),
    };
    let init = spec.init_containers.iter().flatten().map(|container| {
        let role = if is_sidecar(container) {
            Role::Sidecar
        } else {
            Role::Init
        };
        member(container, role)
    });
    let main = spec.containers.iter();
    init.chain(main.map(|container| member(container, Role::Main)))
        .collect()
}

// === impl Verdicts ===

impl Verdicts {
    pub(super) fn new() -> Self {
        let (tell, hear) = mpsc::unbounded_channel();
        Self {
            tell,
            hear,
            stops: JoinSet::new(),
        }
    }
}

// === impl Member ===

impl Member {
    fn name(&self) -> String {
        format!("container {}", self.container.name)
    }

    fn running(&self) -> Option<&str> {
        match &self.state {
            State::Running { id } => Some(id),
            State::NotStarted | State::Resting { .. } | State::Done { .. } => None,
        }
    }

    fn code(&self) -> Option<i32> {
        match self.state {
            State::Done { code } => Some(code),
            State::NotStarted | State::Running { .. } | State::Resting { .. } => None,
        }
    }
}

// === impl Driver ===

impl Driver<'_> {
    /// Runs the pod until its containers have ended, or somebody asks it to stop.
    ///
    /// After an error, too, [`Self::shut_down`] is to be called.
    pub(super) async fn drive(&mut self, handler: &str) -> Result<Ended, Error> {
        let pod = format!(
            "pod {}",
            self.pod.metadata.name.as_deref().unwrap_or_default()
        );
        let sandbox = self.cri.run_sandbox(&self.config, handler).await?;
        self.sandbox = sandbox.id;
        if sandbox.ip.is_empty() {
            step(&pod, "sandbox created, on the host's network");
            self.place.pod_ip.clone_from(&self.place.host_ip);
        } else {
            step(&pod, &format!("sandbox created, {}", sandbox.ip));
            self.place.pod_ip = sandbox.ip;
        }
        for index in 0..self.members.len() {
            if let Some(asked) = self.stops.signal() {
                return Ok(Ended::Stopped(asked));
            }
            self.start(index).await?;
            let role = self.members.get(index).map(|member| member.role);
            let done = |driver: &Self| driver.members.get(index).and_then(Member::code);
            let started = |driver: &Self| {
                let member = driver.members.get(index);
                member.is_some_and(|member| member.started == Started::Yes)
            };
            let waited = match role {
                Some(Role::Init) => self.until(|driver| done(driver).is_some()).await?,
                Some(Role::Sidecar) => self.until(started).await?,
                Some(Role::Main) | None => continue,
            };
            if let Ended::Stopped(asked) = waited {
                return Ok(Ended::Stopped(asked));
            }
            if role == Some(Role::Init) && done(self) != Some(0) {
                step(&pod, "failed in its init containers");
                return Ok(Ended::Finished);
            }
        }
        let mains = |member: &&Member| member.role == Role::Main;
        self.until(|driver| {
            let mut mains = driver.members.iter().filter(mains);
            mains.all(|member| member.code().is_some())
        })
        .await
    }

    /// The pod's exit status: 0, or that of the first container that failed, as declared.
    pub(super) fn status(&self) -> u8 {
        let failed = self
            .members
            .iter()
            .filter(|member| member.role != Role::Sidecar)
            .find_map(|member| member.code().filter(|code| *code != 0));
        failed.map_or(0, |code| u8::try_from(code).unwrap_or(255))
    }

    async fn start(&mut self, index: usize) -> Result<(), Error> {
        let Some(member) = self.members.get_mut(index) else {
            return Ok(());
        };
        let name = member.container.name.clone();
        let failed = |why: String| Error::Container {
            name: name.clone(),
            why,
        };
        let image = member.container.image.as_deref().unwrap_or_default();
        let image = self
            .images
            .get(image)
            .ok_or_else(|| failed(format!("image {image} is not present")))?;
        let around = Surroundings {
            pod: self.pod,
            spec: self.spec,
            place: &self.place,
            profiles: self.profiles,
            memory_bytes: crate::machine::memory_bytes(),
        };
        let mounts = self.volumes.mounts(&member.container)?;
        let config = container::config(around, &member.container, image, mounts, member.attempt)
            .map_err(failed)?;
        let id = self
            .cri
            .create(&self.sandbox, &self.config, config)
            .await
            .map_err(|status| failed(status.message().to_owned()))?;
        self.cri
            .start(&id)
            .await
            .map_err(|status| failed(status.message().to_owned()))?;
        self.follower.add(&name, &log_name(&name, member.attempt))?;
        step(&member.name(), "started");
        member.started = match member.container.startup_probe {
            Some(_) => Started::No,
            None => Started::Yes,
        };
        let subject = Subject {
            index,
            id: id.clone(),
            ip: self.place.pod_ip.clone(),
            cri: self.cri.clone(),
            tell: self.verdicts.tell.clone(),
        };
        member
            .probes
            .spawn(probing::ask(subject, member.container.clone()));
        member.state = State::Running { id };
        Ok(())
    }

    /// Watches until `enough`, or until somebody asks to stop.
    async fn until(&mut self, enough: impl Fn(&Self) -> bool) -> Result<Ended, Error> {
        let mut poll = Instant::now();
        while !enough(self) {
            if let Some(asked) = self.stops.signal() {
                return Ok(Ended::Stopped(asked));
            }
            tokio::select! {
                () = self.stops.next() => {}
                changed = self.follower.changed() => {
                    changed?;
                    self.show()?;
                }
                Some(heard) = self.verdicts.hear.recv() => self.hear(&heard),
                Some(stopped) = self.verdicts.stops.join_next() => {
                    stopped.unwrap_or(Ok(()))?;
                }
                () = sleep_until(poll) => {
                    self.poll().await?;
                    poll = Instant::now() + POLL;
                }
            }
        }
        Ok(Ended::Finished)
    }

    /// Acts on a probe's verdict, unless the container has been restarted meanwhile.
    fn hear(&mut self, heard: &Heard) {
        let Some(member) = self.members.get_mut(heard.index) else {
            return;
        };
        if member.running() != Some(&heard.id) {
            return;
        }
        let name = member.name();
        match (heard.kind, &heard.verdict) {
            (Kind::Startup, Ok(())) => {
                member.started = Started::Yes;
                step(&name, "has come up");
            }
            (Kind::Readiness, Ok(())) => step(&name, "ready"),
            (Kind::Readiness, Err(why)) => step(&name, &format!("not ready: {why}")),
            (Kind::Liveness, Ok(())) => {}
            (kind @ (Kind::Startup | Kind::Liveness), Err(why)) => {
                step(
                    &name,
                    &format!("{} failed: {why}; it is stopped", kind.name()),
                );
                let (mut cri, id) = (self.cri.clone(), heard.id.clone());
                let grace = timeout_seconds(self.spec);
                let stop = async move { cri.stop(&id, grace).await };
                self.verdicts.stops.spawn(stop);
            }
        }
    }

    fn show(&mut self) -> Result<(), Error> {
        self.follower
            .drain(|container, line| self.screen.line(container, line))
    }

    /// Sees who has ended, and starts again whose rest is over.
    async fn poll(&mut self) -> Result<(), Error> {
        let sandboxes = self.cri.sandboxes(Some(&self.place.uid)).await?;
        let ready = i32::from(PodSandboxState::SandboxReady);
        if !sandboxes.iter().any(|sandbox| sandbox.state == ready) {
            return Err(Error::Pod {
                name: self.pod.metadata.name.clone().unwrap_or_default(),
                why: "the sandbox has ended".to_owned(),
            });
        }
        let containers = self.cri.containers(&self.sandbox).await?;
        let exited = i32::from(ContainerState::ContainerExited);
        for index in 0..self.members.len() {
            let state = self.members.get(index).map(|member| member.state.clone());
            match state {
                Some(State::Running { id }) => {
                    let known = containers.iter().find(|container| container.id == id);
                    if known.is_none_or(|container| container.state == exited) {
                        self.exited(index, &id).await?;
                    }
                }
                Some(State::Resting { id, until }) if until <= Instant::now() => {
                    self.cri.remove(&id).await?;
                    self.start(index).await?;
                }
                Some(State::NotStarted | State::Resting { .. } | State::Done { .. }) | None => {}
            }
        }
        Ok(())
    }

    /// Reads how a container ended and decides what comes next.
    async fn exited(&mut self, index: usize, id: &str) -> Result<(), Error> {
        let status = self.cri.container_status(id).await?;
        let Some(member) = self.members.get_mut(index) else {
            return Ok(());
        };
        member.probes = JoinSet::new();
        self.follower
            .finish(&member.container.name, |container, line| {
                self.screen.line(container, line)
            })?;
        let mut text = format!("exited with {}", status.exit_code);
        if !matches!(status.reason.as_str(), "Completed" | "Error" | "") {
            text = format!("{text}, {}", status.reason);
        }
        let nanoseconds = status.finished_at.saturating_sub(status.started_at);
        let ran = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or_default());
        member.state = match member.restarts.exited(status.exit_code, ran) {
            Next::Done => State::Done {
                code: status.exit_code,
            },
            Next::Restart(wait) => {
                member.attempt += 1;
                text.push_str("; it is restarted");
                if !wait.is_zero() {
                    text = format!("{text} in {wait:?}");
                }
                State::Resting {
                    id: id.to_owned(),
                    until: Instant::now() + wait,
                }
            }
        };
        step(&member.name(), &text);
        Ok(())
    }

    /// Stops what still runs: the pod's containers together, then its sidecars, last first.
    pub(super) async fn shut_down(&mut self) -> Result<(), Error> {
        let end = Instant::now()
            + Duration::from_secs(u64::try_from(timeout_seconds(self.spec)).unwrap_or_default());
        let running = |role: Role, driver: &Self| -> Vec<usize> {
            let members = driver.members.iter().enumerate();
            members
                .filter(|(_, member)| member.role == role && member.running().is_some())
                .map(|(index, _)| index)
                .collect()
        };
        let mut first = running(Role::Init, self);
        first.extend(running(Role::Main, self));
        self.stop(&first, end).await?;
        for index in running(Role::Sidecar, self).into_iter().rev() {
            self.stop(&[index], end).await?;
        }
        Ok(())
    }

    /// Stops these containers together; shows what they still say.
    async fn stop(&mut self, indices: &[usize], end: Instant) -> Result<(), Error> {
        let ids: Vec<(usize, String)> = indices
            .iter()
            .filter_map(|index| Some((*index, self.members.get(*index)?.running()?.to_owned())))
            .collect();
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        let grace = i64::try_from(left).unwrap_or(i64::MAX);
        let mut grace = match timeout_seconds(self.spec) {
            0 => 0,
            _ => grace.max(LEAST_GRACE_SECONDS),
        };
        if self.stops.impatient() {
            grace = 0;
        }
        for index in indices {
            if let Some(member) = self.members.get_mut(*index) {
                member.probes = JoinSet::new();
            }
        }
        let mut stops = JoinSet::new();
        for (_, id) in &ids {
            let (mut cri, id) = (self.cri.clone(), id.clone());
            stops.spawn(async move { cri.stop(&id, grace).await });
        }
        let mut result = Ok(());
        while !stops.is_empty() {
            tokio::select! {
                Some(stopped) = stops.join_next() => {
                    let stopped = stopped.unwrap_or(Ok(()));
                    result = result.and(stopped);
                }
                changed = self.follower.changed() => {
                    changed?;
                    self.show()?;
                }
                () = self.stops.next() => if self.stops.impatient() && grace > 0 {
                    grace = 0;
                    for (_, id) in &ids {
                        let (mut cri, id) = (self.cri.clone(), id.clone());
                        stops.spawn(async move { cri.stop(&id, 0).await });
                    }
                }
            }
        }
        for (index, id) in &ids {
            let status = self.cri.container_status(id).await?;
            let Some(member) = self.members.get_mut(*index) else {
                continue;
            };
            self.follower
                .finish(&member.container.name, |container, line| {
                    self.screen.line(container, line)
                })?;
            step(
                &member.name(),
                &format!("stopped, exited with {}", status.exit_code),
            );
            member.state = State::Done {
                code: status.exit_code,
            };
        }
        result
    }
}
