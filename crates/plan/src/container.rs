//! The birth of a container's first process.
//!
//! The order follows from what each part needs and what the next one takes away:
//!
//! 1. cgroup, namespaces, session: where everything after happens; a cgroup that is made meanwhile is
//!    entered when it is needed;
//! 2. the root, attached where `pivot_root` finds it, and every mount below it, made through
//!    descriptors while the host's tree is still there; then a pause, in which the parent runs
//!    the hooks that see both;
//! 3. the pivot, after which no host path leads anywhere;
//! 4. what changes or hides parts of the finished tree: sysctls, read-only and masked paths;
//! 5. the process itself, with fewer privileges after each step (`privileges`).

use crate::{
    Error, Facts, Plan, Program, dev, labels, mounts, namespaces, privileges, program,
    user_namespace, view, wasm, writer::Writer,
};
use duet_spec::{Container, Moment, Namespace, Propagation};
use duet_step::Step;

/// Plans the birth of a container.
///
/// # Errors
///
/// [`Error`], naming the field of `config.json` that stands in the way.
pub fn container(spec: &Container, facts: &Facts, kind: Program) -> Result<Plan, Error> {
    let guarded;
    let asked = spec;
    let spec = match kind {
        Program::Native if user_namespace::has_one(spec) => {
            guarded = user_namespace::with_dev(spec);
            &guarded
        }
        Program::Native => spec,
        Program::Wasm => {
            guarded = wasm::guard(spec, facts)?;
            &guarded
        }
    };
    user_namespace::check(&spec.process.user, facts)?;
    labels::check(&spec.process, facts)?;
    labels::check_mounts(spec, facts)?;
    privileges::check(spec, &spec.process, facts)?;
    user_namespace::check_scheduler(spec, &spec.process)?;
    let mut writer = Writer::new();

    if !facts.cgroup.awaited {
        namespaces::join_cgroup(&mut writer, facts);
    }
    if user_namespace::has_one(spec) {
        user_namespace::enter(&mut writer, spec, facts, kind)?;
    } else {
        let born = namespaces::enter(&mut writer, spec, facts)?;
        writer.plan.clone = u64::from(born);
        namespaces::own_cgroup(&mut writer, spec, facts);
    }
    namespaces::loopback(&mut writer, spec, facts);
    // A session of its own: signals to the shim's terminal, if it has one, do not reach the
    // container, and a console can become the controlling terminal.
    writer.step(Step::Setsid);

    mounts::root(&mut writer, spec);
    // Sysctls and /proc/self are written through a procfs of the child's own, so that nothing
    // an image or a volume puts on /proc can redirect them (CVE-2025-52881).
    if !user_namespace::has_one(spec)
        && (!spec.sysctl.is_empty()
            || spec.process.oom_score_adj.is_some()
            || spec.namespaces.time == Namespace::New
            || labels::any(&spec.process, facts))
    {
        writer.step(Step::PrivateProc);
        namespaces::own_time(&mut writer, spec);
    }
    mounts::all(&mut writer, spec, facts, kind)?;
    // While the root can still be written to. As root, like runc: a missing working directory
    // belongs to nobody in particular.
    if spec.process.cwd != "/" {
        let cwd = writer.text(&spec.process.cwd);
        writer.step(Step::MakeDir(cwd, 0, 0));
    }
    if let Some(size) = spec.process.terminal {
        match kind {
            Program::Native => dev::console(&mut writer, spec, size),
            Program::Wasm => {
                view::hidden_pts(&mut writer, asked);
                dev::allocate_console(&mut writer, &spec.process, size);
            }
        }
    }
    // While the host's paths lead somewhere, and before hooks look at where it is.
    namespaces::join_cgroup(&mut writer, facts);
    // Before anything becomes read-only, as under runc: hooks add files to the root. And before sysctls,
    // which may be a network device's.
    if spec.hooks.any(&Moment::BEFORE_THE_PIVOT) || !spec.net_devices.is_empty() {
        writer.step(Step::Pause);
    }
    mounts::close(&mut writer, spec);
    writer.step(Step::Pivot);

    namespaces::sysctls(&mut writer, spec)?;
    mounts::protect(&mut writer, spec, kind);
    // A guest has no system call to change a mount with, and a program that is executed beside it
    // gets a tree of its own.
    if kind == Program::Native {
        user_namespace::lock(&mut writer, spec, &spec.process);
    }
    // Last, because nothing can be bound out of an unbindable root, and what is mounted on a
    // shared one becomes shared.
    if let Some(Propagation { kind, .. }) = spec.root.propagation {
        mounts::announce(&mut writer, "/", kind, false);
    }
    namespaces::names(&mut writer, spec)?;

    program::words(&mut writer, &spec.process, facts, kind);
    let seccomp = privileges::compile(&mut writer, spec.seccomp.as_deref(), facts)?;
    privileges::become_program(&mut writer, spec, &spec.process, facts, kind, seccomp);
    writer.finish()
}
