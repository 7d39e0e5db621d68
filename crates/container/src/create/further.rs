//! The birth of an exec: a second guest or an executable, beside either.

use std::os::fd::AsFd;

use duet_launch::Supplies;
use duet_plan::{Facts, Filesystem, Kinds, Program};
use duet_spec::Process;

use super::{Linux, tell_unknown};
use crate::body::Born;
use crate::error::Error;
use crate::kind::{self, Guest, Kind};
use crate::outputs::Writes;
use crate::plumbing::Plumbing;
use crate::signal;
use crate::tools;
use crate::words::Stdio;

impl Linux {
    /// Makes the process of the exec of this name.
    pub(super) fn further(
        &self,
        exec: &str,
        process: &Process,
        stdio: &Stdio,
    ) -> Result<Born, Error> {
        tell_unknown(&self.id, process);
        let (pid, init) = self.init.get().ok_or(Error::Gone)?;
        let kind = match kind::of_exec(&self.spec, process, *pid)? {
            Some(kind) => kind,
            None => self.tool(process)?.map_or(Kind::Native, Kind::Wasm),
        };
        let kinds = Kinds {
            container: self.program,
            process: kind.program(),
        };
        let served = self.ground.served(exec, &self.ledger);
        let uid = self.spec.host_uid(process);
        let writes = Writes::of(&[process, &self.spec.process]);
        let (plumbing, ends) = Plumbing::open(stdio, uid, self.io_owner, writes, served)?;
        let _labour = self.ground.children().labour();
        let facts = duet_launch::exec_facts(self.ask(process, &ends))?;
        let tree = if kinds.container == kinds.process {
            Vec::new()
        } else {
            duet_launch::tree(*pid)?
        };
        let facts = Facts { tree, ..facts };
        // Nobody looks at it between its birth and its program.
        let plan = duet_plan::exec(process, &self.spec, &facts, kinds)?.at_once();
        let supplied = match kind {
            Kind::Native => None,
            Kind::Wasm(guest) => {
                // Sockets are its first process's.
                let supplied = self.supply(guest, process, None, &facts)?;
                Some((supplied, self.ground.runner()?))
            }
        };
        let guest = supplied.as_ref();
        let supplies = Supplies {
            init: Some(init.as_fd()),
            runner: guest.map(|(_, runner)| *runner),
            module: guest.map(|(supplied, _)| supplied.module.as_fd()),
            handoff: guest.map(|(supplied, _)| supplied.handoff.as_fd()),
            tally: guest.map(|(supplied, _)| supplied.account.tally.as_fd()),
            ..Supplies::default()
        };
        // It is not kept from its program until it has an owner.
        let mut launch = self.ground.children().launch();
        let newborn = match self.spawn(&plan, &ends, supplies, Some(&mut launch)) {
            // On v2, when the container's processes have moved into cgroups of their own.
            Err(Error::Launch(duet_launch::Error::Call {
                number: signal::EBUSY,
                ..
            })) => {
                let beside = self.confined.cgroup.attach_beside(*pid);
                let beside = beside.map_err(Error::cgroup("enter the cgroup"))?;
                self.spawn_in(&plan, &ends, supplies, Some(&beside), Some(&mut launch))
            }
            newborn => newborn,
        };
        let newborn = newborn?;
        if let Some((supplied, _)) = supplied {
            self.keep(newborn.pid, supplied.account);
        }
        Ok(self.adopt(newborn, plumbing))
    }

    /// One of Duet's own programs, for a process whose container has none of that name.
    fn tool(&self, process: &Process) -> Result<Option<Guest>, Error> {
        match (self.program, tools::named(process)) {
            (Program::Wasm, Some(name)) => Ok(Some(self.ground.tool(name)?)),
            (Program::Wasm, None) | (Program::Native, _) => Ok(None),
        }
    }
}

/// Makes sure that a guest beside a native program sees nothing of the kernel, now that nothing can be
/// mounted in its tree any more: what is to be hidden was looked up before.
pub(super) fn check_hidden(pid: i32) -> Result<(), Error> {
    let tree = duet_launch::tree(pid)?;
    match tree
        .iter()
        .find(|seen| seen.filesystem != Filesystem::Other)
    {
        None => Ok(()),
        Some(seen) => Err(duet_plan::Error::Refused {
            field: "exec of a wasm program".to_owned(),
            value: seen.point.display().to_string(),
            why: format!(
                "has become {}, which a wasm program must not see",
                seen.filesystem.name()
            ),
        }
        .into()),
    }
}
