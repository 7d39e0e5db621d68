//! The birth of a further process in a container that lives.

use crate::{
    Descriptor, Error, Facts, Given, Kinds, Plan, Program, dev, labels, namespaces,
    namespaces::clone,
    privileges, program, user_namespace,
    view::{self, View},
    writer::Writer,
};
use duet_spec::{Container, Hook, Namespace, Process};
use duet_step::{Reg, Step};

/// Plans the birth of a further process.
///
/// Everything is joined through a pidfd of the first process, so that no path and no number
/// can come to mean another one in between.
///
/// # Errors
///
/// [`Error`], naming the field that stands in the way.
pub fn exec(
    process: &Process,
    container: &Container,
    facts: &Facts,
    kinds: Kinds,
) -> Result<Plan, Error> {
    let process = inherit(process, container);
    further(&process, container, facts, kinds, None)
}

/// Plans the birth of a hook that runs in the container, as the container's own process would:
/// its program is the image's, which must gain nothing by being called a hook. One without an
/// environment has the container's, as under runc (`SetDefaultEnv` in `libcontainer/configs`).
///
/// # Errors
///
/// [`Error`], naming the field that stands in the way.
pub fn hook(hook: &Hook, container: &Container, facts: &Facts) -> Result<Plan, Error> {
    let mut process = Process {
        terminal: None,
        args: vec![hook.path.clone()],
        ..container.process.clone()
    };
    if let Some(env) = hook.env.as_ref().filter(|env| !env.is_empty()) {
        process.env.clone_from(env);
    }
    further(&process, container, facts, Kinds::NATIVE, Some(&hook.args))
}

/// A further process; `args` are instead of its own, whose first names the program.
fn further(
    process: &Process,
    container: &Container,
    facts: &Facts,
    kinds: Kinds,
    args: Option<&[String]>,
) -> Result<Plan, Error> {
    labels::check(process, facts)?;
    privileges::check(container, process, facts)?;
    user_namespace::check(&process.user, facts)?;
    let view = View::of(container, process, kinds);
    if view.is_some() {
        // Its mounts may be locked, which takes a fork.
        user_namespace::check_scheduler(container, process)?;
    }
    let kind = kinds.process;
    let mut writer = Writer::new();
    if let Some(initial) = &process.exec_affinity.initial {
        writer.affinity(initial);
    }

    let joined = Joined {
        process: Some(process),
        view: view.as_ref(),
        kind,
    };
    join(&mut writer, container, facts, joined)?;
    // A cgroup with processors of its own has put it on those.
    if let Some(last) = &process.exec_affinity.last {
        writer.affinity(last);
    }
    writer.step(Step::Setsid);
    match &view {
        Some(view) => view.make(&mut writer, container, facts)?,
        None => {
            // Joining the mount namespace has made its root the child's.
            let root = writer.text("/");
            writer.step(Step::Open(root, Reg::Root));
        }
    }
    if !user_namespace::has_one(container)
        && (process.oom_score_adj.is_some() || labels::any(process, facts))
    {
        writer.step(Step::PrivateProc);
    }
    if let Some(size) = process.terminal {
        match kind {
            // No /dev/console: that is the first process's.
            Program::Native => {
                let pts = writer.text("/dev/pts");
                writer.step(Step::Open(pts, Reg::Pts));
            }
            Program::Wasm => view::hidden_pts(&mut writer, container),
        }
        dev::allocate_console(&mut writer, process, size);
    }

    program::words(&mut writer, process, facts, kind);
    if let Some(args) = args {
        writer.plan.argv = writer.texts(args);
    }
    let seccomp = privileges::compile(&mut writer, container.seccomp.as_deref(), facts)?;
    privileges::become_program(&mut writer, container, process, facts, kind, seccomp);
    writer.finish()
}

/// Who joins a container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Joined<'a> {
    /// A process of its own, with what outranks its root; nothing is a helper.
    pub(crate) process: Option<&'a Process>,
    /// What it sees otherwise.
    pub(crate) view: Option<&'a View>,
    /// What it runs.
    pub(crate) kind: Program,
}

/// Joins the container's cgroup and namespaces.
pub(crate) fn join(
    writer: &mut Writer,
    container: &Container,
    facts: &Facts,
    who: Joined<'_>,
) -> Result<(), Error> {
    namespaces::join_cgroup(writer, facts);
    let init = writer.slot(Descriptor::Given(Given::InitPidfd));
    let own = [
        (&container.namespaces.ipc, clone::IPC),
        (&container.namespaces.uts, clone::UTS),
        (&container.namespaces.network, clone::NETWORK),
        (&container.namespaces.cgroup, clone::CGROUP),
        (&container.namespaces.time, clone::TIME),
    ];
    let joined = own
        .into_iter()
        .filter(|(namespace, _)| **namespace != Namespace::Host)
        .fold(clone::MOUNT, |joined, (_, kind)| joined | kind);
    // Born there, for who joins one is not in it. It is also that of a procfs it mounts.
    if container.namespaces.pid != Namespace::Host {
        writer.plan.pid_namespace = Some(init);
    }
    if !user_namespace::has_one(container) {
        // All at once: one that cannot be joined leaves the child in none.
        writer.step(Step::Setns(init, joined));
        return Ok(());
    }
    if let Some(process) = who.process {
        user_namespace::as_host(writer, process, facts);
    }
    if let Some(view) = who.view {
        dev::prepare(writer, &view.spec, facts, who.kind)?;
    }
    writer.step(Step::Setns(init, joined | clone::USER));
    writer.step(Step::MappedRoot);
    Ok(())
}

/// What an exec's process leaves out, it has from the container, as under runc.
fn inherit(process: &Process, container: &Container) -> Process {
    let mut process = process.clone();
    let from = &container.process;
    process.capabilities = process.capabilities.or(from.capabilities);
    process.oom_score_adj = process.oom_score_adj.or(from.oom_score_adj);
    process.user.umask = process.user.umask.or(from.user.umask);
    let inherit = |own: &mut Option<String>, from: &Option<String>| {
        if own.is_none() {
            own.clone_from(from);
        }
    };
    inherit(&mut process.apparmor_profile, &from.apparmor_profile);
    inherit(&mut process.selinux_label, &from.selinux_label);
    if process.rlimits.is_empty() {
        process.rlimits.clone_from(&from.rlimits);
    }
    process
}
