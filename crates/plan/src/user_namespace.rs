//! A container in a user namespace of its own.
//!
//! Two processes are born, one after the other, for three rules of the kernel's: nobody joins a
//! user namespace who has threads (so not the launching one), whoever joins it is not in its PID
//! namespace (only children are), and procfs wants a PID namespace that its mounter owns.
//!
//! ```text
//!   first    as root of the host: cgroup; what only the host's root may do (oom_score_adj,
//!            priorities, higher limits, device nodes on a tmpfs); the namespaces that have paths;
//!            last the user namespace, as whose root it forks and ends
//!   second   born into the new namespaces, which are the user namespace's: the usual order
//! ```
//!
//! The first process is in the host's mount namespace and attaches nothing. What the second one
//! needs of the host it has by descriptor, for the ids of its user namespace may not be allowed
//! to walk there: the root and the sources of binds are trees of the parent's, the bundle is the
//! working directory, and procfs is mounted by the first.

use crate::{
    Descriptor, Error, Facts, Program, dev, mounts, namespaces, namespaces::clone, privileges,
    wasm, writer::Writer,
};
use duet_spec::{Container, Namespace, Process, Scheduler, User};
use duet_step::{Slot, Step};
use std::path::Path;

/// Whether a container has a user namespace that is not the host's.
pub(crate) fn has_one(spec: &Container) -> bool {
    spec.namespaces.user != Namespace::Host
}

/// Refuses ids that the user namespace does not have: the kernel would, with a bare EINVAL.
pub(crate) fn check(user: &User, facts: &Facts) -> Result<(), Error> {
    let Some((field, id)) = facts.ids.unmapped(user) else {
        return Ok(());
    };
    Err(Error::Refused {
        field: format!("process.user.{field}"),
        value: id.to_string(),
        why: "is not mapped in the container's user namespace".to_owned(),
    })
}

/// Refuses what a process could not hand on to one that it forks: the kernel lets nobody fork under a
/// deadline, and the other flag says that a fork begins anew.
pub(crate) fn check_scheduler(spec: &Container, process: &Process) -> Result<(), Error> {
    let Some(scheduler) = process.scheduler.filter(|_| has_one(spec)) else {
        return Ok(());
    };
    let refuse = |field: &str, value: &str| {
        Err(Error::Refused {
            field: format!("process.scheduler.{field}"),
            value: value.to_owned(),
            why: "is not possible in a user namespace".to_owned(),
        })
    };
    if scheduler.policy == Scheduler::DEADLINE {
        return refuse("policy", "SCHED_DEADLINE");
    }
    if scheduler.flags & Scheduler::RESET_ON_FORK != 0 {
        return refuse("flags", "SCHED_FLAG_RESET_ON_FORK");
    }
    Ok(())
}

/// A spec whose `/dev` is a file system of its own, for no node can be made in the image's.
pub(crate) fn with_dev(spec: &Container) -> Container {
    let mut with_dev = spec.clone();
    if dev::find(spec) == dev::Dev::Image {
        with_dev
            .mounts
            .insert(0, wasm::fresh_dev(spec.mounts.len()));
    }
    with_dev
}

/// Everything up to the fork, and what the second process does first.
pub(crate) fn enter(
    writer: &mut Writer,
    spec: &Container,
    facts: &Facts,
    kind: Program,
) -> Result<(), Error> {
    let user = join(writer, spec, facts);
    as_host(writer, &spec.process, facts);
    namespaces::own_time(writer, spec);
    dev::prepare(writer, spec, facts, kind)?;
    let born = namespaces::enter(writer, spec, facts)?;
    let bundle = writer.path(&spec.root.path);
    writer.step(Step::HostDir(bundle));
    writer.step(Step::Setns(user, clone::USER));
    writer.step(Step::MappedRoot);
    writer.step(Step::Fork(born));
    namespaces::own_cgroup(writer, spec, facts);
    Ok(())
}

/// Locks what is mounted, and what it hides and covers, against the container's root, to whom the
/// mount namespace belongs: if there is a way for it to `CAP_SYS_ADMIN`, without which nobody mounts.
pub(crate) fn lock(writer: &mut Writer, spec: &Container, process: &Process) {
    const SYS_ADMIN: u64 = 1 << 21;
    let sets = process.capabilities.unwrap_or_default();
    let reached = sets.bounding | sets.permitted | sets.inheritable;
    if !has_one(spec) || reached & SYS_ADMIN == 0 {
        return;
    }
    writer.step(Step::LockMounts);
    for (number, mount) in spec.mounts.iter().enumerate() {
        let at = Path::new(&mount.destination);
        let mut later = spec.mounts.iter().skip(number + 1);
        // What a later one covers nobody sees, and its path leads elsewhere.
        let covered = later.any(|later| at.starts_with(&later.destination));
        if let Some(asked) = mount.propagation.filter(|_| !covered) {
            mounts::announce(writer, &mount.destination, asked.kind, asked.recursive);
        }
    }
}

/// The user namespace, opened or made.
fn join(writer: &mut Writer, spec: &Container, facts: &Facts) -> Slot {
    match &spec.namespaces.user {
        Namespace::Path(path) => {
            let path = path.clone();
            let kind = clone::USER;
            let slot = writer.slot(Descriptor::Namespace { path, kind });
            writer.keep_user_namespace(&facts.ids, slot);
            slot
        }
        Namespace::New | Namespace::Host => writer.user_namespace(&facts.ids),
    }
}

/// What takes capabilities over the host, and what is inherited by a child.
///
/// procfs is mounted in the host's mount namespace, for in the container's the kernel mounts no second
/// one once a part of the first is hidden; `self` is right in that of either's PID namespace, and so
/// are the namespaces of sysctls.
pub(crate) fn as_host(writer: &mut Writer, process: &Process, facts: &Facts) {
    writer.step(Step::PrivateProc);
    // The files of a process that cannot be looked into are the host's root's.
    privileges::outranking(writer, process, facts);
    // In there nobody has the host's CAP_SYS_RESOURCE: raised here, a limit is only lowered then.
    for limit in &process.rlimits {
        let (resource, hard) = (limit.resource, limit.hard);
        let held = facts.hard_limits.get(&resource);
        if held.is_some_and(|held| hard > *held) {
            let soft = hard;
            writer.step(Step::Rlimit {
                resource,
                soft,
                hard,
            });
        }
    }
}
