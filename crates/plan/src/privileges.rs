//! The process itself, with fewer privileges after each step.
//!
//! Where the system call filter goes depends on `no_new_privs`:
//!
//! - with it anybody may install a filter, so it comes last, when the child is ready: before the gate
//!   if the profile allows to wait there, for then it costs nobody's time, else after it. So the
//!   profile needs to allow nothing but `execve` (`execveat` for a runner) of what Duet calls;
//! - without it CAP_SYS_ADMIN is needed, so it comes before the capabilities go. What follows
//!   must then be allowed by the profile, as under runc: `prctl`, `capset`, `setgroups`,
//!   `setresgid`, `setresuid`, and for the gate `write`, `read` and `exit_group`. Everything
//!   that can be done earlier is, and the program is looked for before if looking would be deadly.

use crate::{
    Descriptor, Error, Facts, Given, Program, labels, program, user_namespace, writer::Writer,
};
use duet_spec::{Container, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSyscall, Process};
use duet_step::{Capabilities, Exec, Scheduler, Step};

/// The file mode creation mask of a process that asks for none; runc's.
const UMASK: u32 = 0o022;

/// Refuses capabilities that the shim does not have to give.
///
/// As runc does, whose `capset` then fails. A privileged container is none the worse for it:
/// containerd asks for those that it has itself, and the shim has them from containerd. To
/// leave them out silently would only move the failure into the program.
///
/// In a user namespace of its own the child has all of them.
pub(crate) fn check(spec: &Container, process: &Process, facts: &Facts) -> Result<(), Error> {
    if user_namespace::has_one(spec) {
        return Ok(());
    }
    let sets = capabilities(process, facts);
    for (set, asked) in [
        ("permitted", sets.permitted),
        ("inheritable", sets.inheritable),
    ] {
        let missing = asked & !facts.held;
        if missing == 0 {
            continue;
        }
        let numbers = (0..u64::BITS).filter(|number| missing & (1 << number) != 0);
        let names: Vec<String> = numbers.filter_map(duet_spec::Capabilities::name).collect();
        return Err(Error::Refused {
            field: format!("process.capabilities.{set}"),
            value: names.join(" "),
            why: "not held by containerd, and so not by the shim: see CapabilityBoundingSet in its unit".to_owned(),
        });
    }
    Ok(())
}

/// Compiles the container's profile into the plan.
pub(crate) fn compile(
    writer: &mut Writer,
    profile: Option<&LinuxSeccomp>,
    facts: &Facts,
) -> Result<Option<Step>, Error> {
    let Some(profile) = profile else {
        return Ok(None);
    };
    let filter = duet_seccomp::compile(profile, facts.arch)?;
    check_listener(profile, filter.listener)?;
    let program = writer.program(&filter.program);
    Ok(Some(Step::Seccomp(program, filter.flags)))
}

/// Refuses a listener that nobody would get, and words for nobody.
fn check_listener(profile: &LinuxSeccomp, listener: bool) -> Result<(), Error> {
    let refuse = |field: &str, value: String, why: &str| {
        Err(Error::Refused {
            field: format!("linux.seccomp.{field}"),
            value,
            why: why.to_owned(),
        })
    };
    match (profile.listener_path(), profile.listener_metadata()) {
        (Some(path), _) if !path.is_absolute() => {
            let path = path.display().to_string();
            refuse("listenerPath", path, "is not absolute")
        }
        (None, _) if listener => {
            let why = "nobody would answer the calls with SCMP_ACT_NOTIFY";
            refuse("listenerPath", String::new(), why)
        }
        (None, Some(metadata)) if !metadata.is_empty() => {
            let why = "is for a listener, and listenerPath names none";
            refuse("listenerMetadata", metadata.clone(), why)
        }
        _ => Ok(()),
    }
}

/// Everything from the keyring to exec.
pub(crate) fn become_program(
    writer: &mut Writer,
    spec: &Container,
    process: &Process,
    facts: &Facts,
    kind: Program,
    seccomp: Option<Step>,
) {
    surroundings(writer, spec, process, facts, kind);
    descriptors(writer, facts, kind);
    if kind == Program::Wasm {
        // To process 1 of a PID namespace the kernel drops what it does not listen to yet.
        writer.step(Step::Hold(HELD));
    }
    // After everything that opens files, before CAP_SYS_RESOURCE goes.
    for limit in &process.rlimits {
        let (resource, soft, hard) = (limit.resource, limit.soft, limit.hard);
        writer.step(Step::Rlimit {
            resource,
            soft,
            hard,
        });
    }
    // A runner never execs: for it the promise costs nothing.
    let no_new_privileges = process.no_new_privileges || kind == Program::Wasm;
    let (early, late) = if no_new_privileges {
        writer.step(Step::NoNewPrivileges);
        (None, seccomp)
    } else {
        (seccomp, None)
    };
    // As the user, for what root can execute the user perhaps cannot; but who would be killed for
    // looking looks first.
    let first = early.is_some() && spec.seccomp.as_deref().is_some_and(kills_who_looks);
    if first && kind == Program::Native {
        find(writer, process);
    }
    writer.plan.steps.extend(early);
    user(writer, process, facts);
    let exec = match kind {
        Program::Native => {
            if !first {
                find(writer, process);
            }
            Exec::Path
        }
        Program::Wasm => Exec::Slot(writer.slot(Descriptor::Given(Given::Runner))),
    };
    writer.step(Step::Ready);
    // While the parent answers, if the filter lets the child wait for its word then.
    let waiting = spec.seccomp.as_deref().is_some_and(lets_wait);
    let (before, after) = if waiting { (late, None) } else { (None, late) };
    writer.plan.steps.extend(before);
    writer.step(Step::Gate);
    writer.plan.steps.extend(after);
    writer.step(Step::Exec(exec));
}

fn find(writer: &mut Writer, process: &Process) {
    let candidates = program::candidates(writer, process);
    writer.step(Step::FindProgram(candidates));
}

/// The calls that are made at the gate: by who goes through it, and by who finds it closed.
const WAITING: [&str; 2] = ["read", "exit_group"];

/// Whether a profile certainly allows them, and has no listener, whom the parent hands on when it
/// opens the gate.
fn lets_wait(profile: &LinuxSeccomp) -> bool {
    let allows = |action| matches!(action, Action::ScmpActAllow | Action::ScmpActLog);
    let always = |call: &LinuxSyscall| call.args().as_ref().is_none_or(Vec::is_empty);
    let calls = profile.syscalls().as_deref().unwrap_or_default();
    let notifies = |action| action == Action::ScmpActNotify;
    !notifies(profile.default_action())
        && !calls.iter().any(|call| notifies(call.action()))
        && WAITING.iter().all(|name| {
            let names = |call: &&LinuxSyscall| call.names().iter().any(|own| own == name);
            let mut named = calls.iter().filter(names).peekable();
            match named.peek() {
                None => allows(profile.default_action()),
                Some(_) => named.all(|call| allows(call.action()) && always(call)),
            }
        })
}

/// The calls by which a program is looked for.
const LOOKING: [&str; 5] = ["openat2", "fstat", "fstatfs", "faccessat2", "close"];

/// Whether a profile ends who makes one of them: an errno would only say that nothing can be seen.
fn kills_who_looks(profile: &LinuxSeccomp) -> bool {
    let kills = |action| {
        matches!(
            action,
            Action::ScmpActKill
                | Action::ScmpActKillThread
                | Action::ScmpActKillProcess
                | Action::ScmpActTrap
        )
    };
    let calls = profile.syscalls().as_deref().unwrap_or_default();
    LOOKING.iter().any(|name| {
        let names = |call: &&LinuxSyscall| call.names().iter().any(|own| own == name);
        let mut named = calls.iter().filter(names);
        // Where arguments are asked for, others fall to the default.
        let always = |call: &LinuxSyscall| call.args().as_ref().is_none_or(Vec::is_empty);
        named.clone().any(|call| kills(call.action()))
            || kills(profile.default_action()) && !named.any(always)
    })
}

/// What the program finds around it, made while the process may still do everything.
fn surroundings(
    writer: &mut Writer,
    spec: &Container,
    process: &Process,
    facts: &Facts,
    kind: Program,
) {
    // The shim's session keyring must not be the container's, unless that was asked for.
    if let Some(keyring) = &facts.keyring {
        let keyring = writer.text(keyring);
        labels::keyring(writer, process, Step::Keyring(keyring));
    }
    // Root of a user namespace may do none of these; there they are done before it is entered.
    if !user_namespace::has_one(spec) {
        outranking(writer, process, facts);
    }
    machine(writer, spec, kind);
    writer.step(Step::Umask(process.user.umask.unwrap_or(UMASK)));
    program::stdio(writer, process, facts);
    // As root, like runc: an image may send a user to a directory that only root may enter.
    let cwd = writer.text(&process.cwd);
    writer.step(Step::Chdir(cwd));
}

/// What the container's processes have of the machine, those that join it too, as under runc. Before the
/// filter, which need not allow it: containerd's default one allows but five values of `personality`.
fn machine(writer: &mut Writer, spec: &Container, kind: Program) {
    // A runner's is nobody's to see.
    if let Some(personality) = spec.personality.filter(|_| kind == Program::Native) {
        writer.step(Step::Personality(personality.number()));
    }
    // A guest's memory is its runner's.
    if let Some(policy) = &spec.memory_policy {
        writer.memory_policy(policy);
    }
}

/// What takes capabilities over the host; a child inherits it.
pub(crate) fn outranking(writer: &mut Writer, process: &Process, facts: &Facts) {
    labels::program(writer, process, facts);
    if let Some(adjustment) = process.oom_score_adj {
        let text = writer.text(&adjustment.to_string());
        writer.step(Step::OomScoreAdj(text));
    }
    if let Some(priority) = process.io_priority {
        writer.step(Step::IoPriority(priority.0));
    }
    if let Some(scheduler) = process.scheduler {
        writer.step(Step::Scheduler(Scheduler {
            policy: scheduler.policy,
            flags: scheduler.flags,
            nice: scheduler.nice,
            priority: scheduler.priority,
            runtime: scheduler.runtime,
            deadline: scheduler.deadline,
            period: scheduler.period,
        }));
    }
}

/// INT, QUIT and TERM, which end a guest. Its runner lets them come when it listens to them.
const HELD: u64 = 1 << (2 - 1) | 1 << (3 - 1) | 1 << (15 - 1);

/// The program's descriptors beyond 2, and nothing else (CVE-2024-21626).
fn descriptors(writer: &mut Writer, facts: &Facts, kind: Program) {
    match kind {
        Program::Native => writer.step(Step::CloseFrom(3)),
        Program::Wasm => {
            let module = writer.slot(Descriptor::Given(Given::Module));
            let handoff = writer.slot(Descriptor::Given(Given::Handoff));
            writer.step(Step::Dup(module, 3));
            let memory = writer.slot(Descriptor::Given(Given::Memory));
            writer.step(Step::Dup(handoff, 4));
            writer.step(Step::Dup(memory, 5));
            let tally = writer.slot(Descriptor::Given(Given::Tally));
            writer.step(Step::Dup(tally, 6));
            if facts.listeners {
                let listeners = writer.slot(Descriptor::Given(Given::Listeners));
                writer.step(Step::Dup(listeners, 7));
                writer.step(Step::CloseFrom(8));
            } else {
                writer.step(Step::CloseFrom(7));
            }
        }
    }
}

/// User, groups and capabilities.
fn user(writer: &mut Writer, process: &Process, facts: &Facts) {
    let sets = capabilities(process, facts);
    // Needs CAP_SETPCAP, which goes with the next steps.
    writer.step(Step::Bounding(sets.bounding));
    // Always, so that none of the shim's groups stays; needs CAP_SETGID.
    let groups = writer.groups(&process.user.additional_gids);
    writer.step(groups);
    writer.step(Step::User {
        uid: process.user.uid,
        gid: process.user.gid,
    });
    writer.step(Step::Capabilities(sets));
}

/// The sets as the kernel can take them: without what it does not know, and ambient only what
/// is permitted and inheritable, which the kernel insists on and runc only warns about.
fn capabilities(process: &Process, facts: &Facts) -> Capabilities {
    let known = match facts.last_capability {
        last @ 0..63 => (1 << (last + 1)) - 1,
        _ => u64::MAX,
    };
    let sets = process.capabilities.unwrap_or_default();
    Capabilities {
        bounding: sets.bounding & known,
        effective: sets.effective & known,
        permitted: sets.permitted & known,
        inheritable: sets.inheritable & known,
        ambient: sets.ambient & sets.permitted & sets.inheritable & known,
    }
}
