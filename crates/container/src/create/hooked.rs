//! The hooks of a container, each where its birth has a place for it, and its seccomp agent.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use duet_launch::{Ask, Supplies};
use duet_plan::Facts;
use duet_spec::{Hook, Moment};

use super::Linux;
use crate::body::Gate;
use crate::error::Error;
use crate::helper::Helper;
use crate::hooks;
use crate::notify::Agent;
use crate::stdio::Ends;

impl Linux {
    /// The hooks that run before the pivot, if there are any.
    pub(super) fn pause(&self, pid: i32, pidfd: BorrowedFd<'_>) -> Result<(), Error> {
        if !self.spec.hooks.any(&Moment::BEFORE_THE_PIVOT) {
            return Ok(());
        }
        self.begun.store(true, Ordering::Release);
        let state = self.state(Some(pid));
        for moment in [Moment::Prestart, Moment::CreateRuntime] {
            state.run(moment, self.beside())?;
        }
        let state = self.state(hooks::number_inside(pid));
        state.run(Moment::CreateContainer, |hook, stdin, output| {
            let facts = self.facts_of_hooks()?;
            let plan = hooks::described(hook, &[], "/").plan_in(&self.spec, &facts)?;
            let supplies = Supplies {
                init: Some(pidfd),
                passed: &[stdin, output, output],
                ..Supplies::default()
            };
            self.help(&plan, supplies)
        })
    }

    /// Opens the gate, with the hooks before and after it. On an error the program is not to go on.
    pub(super) fn start(&self, gate: Gate) -> Result<(), Error> {
        let (pid, init) = self.init.get().ok_or(Error::Gone)?;
        let state = self.state(hooks::number_inside(*pid));
        let ran = state.run(Moment::StartContainer, |hook, stdin, output| {
            let plan = duet_plan::hook(hook, &self.spec, &self.facts_of_hooks()?)?;
            let supplies = Supplies {
                init: Some(init.as_fd()),
                stdin: Some(stdin),
                stdout: Some(output),
                stderr: Some(output),
                ..Supplies::default()
            };
            self.help(&plan, supplies)
        });
        // In a container that has ended a hook fails too; why it has ended says more.
        ran.map_err(|error| gate.last_words().unwrap_or(error))?;
        gate.open()?;
        self.state(Some(*pid)).run(Moment::Poststart, self.beside())
    }

    /// Hands a seccomp listener of the container's process `pid` to who answers it.
    pub(super) fn answered(
        &self,
        pid: i32,
        status: &'static str,
    ) -> impl FnOnce(OwnedFd) -> Result<(), Error> + Send + use<> {
        let init = self.init.get().map(|(init, _)| *init);
        // Beside the first process, it is an exec's.
        let status = init.map_or(status, |_| "running");
        let agent = Agent::of(self.state(Some(init.unwrap_or(pid))), status, pid);
        move |listener| agent.map_or(Ok(()), |agent| agent.take(&listener))
    }

    fn state(&self, pid: Option<i32>) -> hooks::State<'_> {
        hooks::State {
            id: &self.id,
            spec: &self.spec,
            pid,
        }
    }

    fn beside(&self) -> impl Fn(&Hook, BorrowedFd<'_>, BorrowedFd<'_>) -> Result<Helper, Error> {
        let served = self.ground.served(&self.id, &self.ledger);
        hooks::beside(served, &self.spec.bundle)
    }

    /// Runs a helper in the container's cgroup.
    fn help(&self, plan: &duet_plan::Plan, supplies: Supplies<'_>) -> Result<Helper, Error> {
        let cgroup = self.confined.attach()?;
        let supplies = Supplies {
            cgroup: cgroup.as_ref().map(AsFd::as_fd),
            ..supplies
        };
        let served = self.ground.served(&self.id, &self.ledger);
        Helper::start(served, plan, supplies)
    }

    /// What the plan of a hook in the container must know: all three descriptors are its own.
    fn facts_of_hooks(&self) -> Result<Facts, Error> {
        let _labour = self.ground.children().labour();
        let stdio = duet_plan::Stdio {
            stdin: true,
            stdout: true,
            stderr: true,
        };
        let ask = self.ask(&self.spec.process, &Ends::default());
        Ok(duet_launch::exec_facts(Ask { stdio, ..ask })?)
    }

    /// The poststop hooks of a container of which nothing is left, once.
    pub(super) fn bid_farewell(&self) {
        if self.begun.swap(false, Ordering::AcqRel) {
            let state = self.state(None);
            state.run_or_warn(Moment::Poststop, hooks::LONGEST, self.beside());
        }
    }
}
