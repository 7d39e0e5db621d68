//! The birth of a container's processes, the first and the others.

use std::os::fd::{AsFd, OwnedFd};

use duet_launch::{Ask, Newborn, Stop, Supplies, spawn_with};
use duet_plan::{Descriptor, Given};
use duet_spec::Process;

use super::{Linux, further};
use crate::body::{Born, Gate};
use crate::children::Launch;
use crate::error::Error;
use crate::plumbing::Plumbing;
use crate::stdio::Ends;

impl Linux {
    pub(super) fn adopt(&self, newborn: Newborn, plumbing: Plumbing) -> Born {
        let Newborn {
            pid,
            pidfd,
            gate,
            console,
        } = newborn;
        let gate = if gate.needs_answer() {
            let answered = self.answered(pid, "created");
            Gate::Attended(Box::new(move || gate.open_with(answered)))
        } else {
            Gate::Plain(gate)
        };
        Born {
            pid,
            pidfd: self.ground.children().own(pid, pidfd),
            console,
            plumbing,
            gate,
        }
    }

    pub(super) fn spawn(
        &self,
        plan: &duet_plan::Plan,
        ends: &Ends,
        supplies: Supplies<'_>,
        launch: Option<&mut Launch>,
    ) -> Result<Newborn, Error> {
        let cgroup = self.confined.attach()?;
        self.spawn_in(plan, ends, supplies, cgroup.as_ref(), launch)
    }

    /// A birth in this directory of the v2 tree.
    pub(super) fn spawn_in(
        &self,
        plan: &duet_plan::Plan,
        ends: &Ends,
        supplies: Supplies<'_>,
        cgroup: Option<&OwnedFd>,
        mut launch: Option<&mut Launch>,
    ) -> Result<Newborn, Error> {
        let namespaces = self.ground.given();
        let memory = if plan.slots.contains(&Descriptor::Given(Given::Memory)) {
            let memory = self.confined.cgroup.memory();
            Some(memory.map_err(Error::cgroup("open the memory limit"))?)
        } else {
            None
        };
        let supplies = Supplies {
            memory: memory.as_ref().map(AsFd::as_fd),
            stdin: ends.stdin.as_ref().map(AsFd::as_fd),
            stdout: ends.stdout.as_ref().map(AsFd::as_fd),
            stderr: ends.stderr.as_ref().map(AsFd::as_fd),
            cgroup: cgroup.map(AsFd::as_fd),
            namespaces: &namespaces,
            ..supplies
        };
        let first = self.init.get().is_none();
        // Also of the first: a cgroup that was there and empty is taken, with what it has counted.
        let before = self.killed();
        let born = spawn_with(plan, supplies, |stop| match stop {
            Stop::Born { pid } if first => {
                self.on_record(pid)?;
                self.confined.complete()
            }
            Stop::Born { pid } => {
                if let Some(launch) = &mut launch {
                    launch.known(pid);
                }
                Ok(())
            }
            Stop::Pause { pid, pidfd } if first => {
                self.hand_over_net_devices(pid)?;
                self.pause(pid, pidfd)
            }
            Stop::Pause { pid, .. } => further::check_hidden(pid),
            Stop::Listener { pid, listener } => self.answered(pid, "creating")(listener),
        });
        born.map_err(|error| self.explained(error, first, before))
    }

    /// The failure of a birth, with the reason if the kernel has killed more than `before`.
    fn explained(&self, error: Error, first: bool, before: u64) -> Error {
        let Error::Launch(source @ duet_launch::Error::Died(_)) = error else {
            return error;
        };
        if self.killed() <= before {
            return Error::Launch(source);
        }
        let memory = self.spec.resources.as_ref();
        let limit = memory.and_then(|of| of.memory().as_ref()?.limit());
        // Of a later process an update may have changed it.
        let limit = limit.filter(|limit| first && *limit > 0);
        Error::Starved { limit, source }
    }

    /// How many of its processes the kernel has killed for want of memory, as far as that can be known.
    fn killed(&self) -> u64 {
        self.confined.cgroup.oom_kills().unwrap_or(0)
    }

    /// Puts its first process on record, while that is on its way to the gate.
    fn on_record(&self, pid: i32) -> Result<(), Error> {
        let recorded = self.ledger.begin(pid);
        recorded.map_err(|source| Error::Host {
            step: "record the process",
            source,
        })
    }

    pub(super) fn ask<'a>(&'a self, process: &'a Process, ends: &Ends) -> Ask<'a> {
        Ask {
            // The name is runc's.
            keyring: (!self.no_new_keyring).then(|| format!("_ses.{}", self.id)),
            container: &self.spec,
            process,
            cgroup: self.confined.facts(),
            resctrl: match &self.class {
                None => Vec::new(),
                Some(class) if self.init.get().is_none() => class.entrances(),
                Some(class) => class.entrances_left(),
            },
            pod: self.ground.pod(),
            stdio: duet_plan::Stdio {
                stdin: ends.stdin.is_some(),
                stdout: ends.stdout.is_some(),
                stderr: ends.stderr.is_some(),
            },
        }
    }
}
