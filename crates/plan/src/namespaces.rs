//! Cgroups and namespaces: joined, made, or left as they are; and what only makes sense in
//! one of the container's own.

use crate::{Descriptor, Error, Facts, Given, user_namespace, writer::Writer};
use duet_spec::{Container, Namespace};
use duet_step::Step;
use std::path::Path;

/// `CLONE_NEW*` flags without a sign.
pub(crate) mod clone {
    pub(crate) const MOUNT: u32 = libc::CLONE_NEWNS.cast_unsigned();
    pub(crate) const PID: u32 = libc::CLONE_NEWPID.cast_unsigned();
    pub(crate) const NETWORK: u32 = libc::CLONE_NEWNET.cast_unsigned();
    pub(crate) const IPC: u32 = libc::CLONE_NEWIPC.cast_unsigned();
    pub(crate) const UTS: u32 = libc::CLONE_NEWUTS.cast_unsigned();
    pub(crate) const CGROUP: u32 = libc::CLONE_NEWCGROUP.cast_unsigned();
    pub(crate) const USER: u32 = libc::CLONE_NEWUSER.cast_unsigned();
    pub(crate) const TIME: u32 = libc::CLONE_NEWTIME.cast_unsigned();
}

/// Moves the child into the container's cgroup, if it is not there yet. On v2 it is born there.
///
/// First of all steps, so that everything the child does is already counted; but where the cgroup is
/// made meanwhile, only before a step that needs it or would fill its memory. The paths are the host's.
pub(crate) fn join_cgroup(writer: &mut Writer, facts: &Facts) {
    if std::mem::replace(&mut writer.confined, true) {
        return;
    }
    if !facts.cgroup.v2 {
        if facts.cgroup.awaited {
            writer.step(Step::Await);
        }
        for hierarchy in &facts.cgroup.hierarchies {
            let tasks = writer.path(&hierarchy.path.join("tasks"));
            writer.step(Step::JoinCgroup(tasks));
        }
    }
    // resctrl takes the same word. By the child itself, so that none of its children is elsewhere.
    for tasks in &facts.resctrl {
        let tasks = writer.path(tasks);
        writer.step(Step::JoinClass(tasks));
    }
}

/// Joins namespaces that are there, and returns the `CLONE_NEW*` flags of those that are new.
///
/// A PID namespace is joined by children alone: whose they are depends on who is born in it.
pub(crate) fn enter(writer: &mut Writer, spec: &Container, facts: &Facts) -> Result<u32, Error> {
    let namespaces = &spec.namespaces;
    if namespaces.mount != Namespace::New {
        return Err(Error::MountNamespace);
    }
    let mut born = clone::MOUNT;
    match &namespaces.pid {
        Namespace::Host => {}
        Namespace::New => born |= clone::PID,
        Namespace::Path(path) => {
            let slot = writer.slot(by_path(path, clone::PID));
            if user_namespace::has_one(spec) {
                writer.step(Step::Setns(slot, clone::PID));
            } else {
                writer.plan.pid_namespace = Some(slot);
            }
        }
    }
    let ordinary = [
        (&namespaces.ipc, clone::IPC, facts.pod.ipc),
        (&namespaces.uts, clone::UTS, facts.pod.uts),
        (&namespaces.network, clone::NETWORK, facts.pod.network),
    ];
    for (namespace, kind, pod_has_one) in ordinary {
        match namespace {
            Namespace::Host => {}
            Namespace::New if pod_has_one => {
                let slot = writer.slot(Descriptor::Given(Given::Namespace(kind)));
                writer.step(Step::Setns(slot, kind));
            }
            Namespace::New => born |= kind,
            Namespace::Path(path) => {
                let slot = writer.slot(by_path(path, kind));
                writer.step(Step::Setns(slot, kind));
            }
        }
    }
    if let Namespace::Path(path) = &namespaces.time {
        let slot = writer.slot(by_path(path, clone::TIME));
        writer.step(Step::Setns(slot, clone::TIME));
    }
    if let Namespace::Path(path) = &namespaces.cgroup {
        let slot = writer.slot(by_path(path, clone::CGROUP));
        writer.step(Step::Setns(slot, clone::CGROUP));
    }
    Ok(born)
}

/// Brings up the loopback interface of a network namespace that is the container's alone: one that
/// is given or joined is somebody else's to set up. As under runc.
pub(crate) fn loopback(writer: &mut Writer, spec: &Container, facts: &Facts) {
    if spec.namespaces.network == Namespace::New && !facts.pod.network {
        writer.step(Step::Loopback);
    }
}

/// A time namespace of the child's own, with clocks that are off. Not by the birth: the offsets
/// are written while nobody is in it yet. As whoever may set clocks, so before a user namespace is
/// entered.
pub(crate) fn own_time(writer: &mut Writer, spec: &Container) {
    if spec.namespaces.time == Namespace::New {
        let lines = writer.text(&spec.time_offsets.lines());
        writer.step(Step::TimeNamespace(lines));
    }
}

/// A cgroup namespace of the child's own. Not by the birth: on v1 it is in its cgroup only now, and
/// that is the root of the namespace.
pub(crate) fn own_cgroup(writer: &mut Writer, spec: &Container, facts: &Facts) {
    if spec.namespaces.cgroup == Namespace::New {
        join_cgroup(writer, facts);
        writer.step(Step::Unshare(clone::CGROUP));
    }
}

fn by_path(path: &Path, kind: u32) -> Descriptor {
    Descriptor::Namespace {
        path: path.to_owned(),
        kind,
    }
}

/// Kernel parameters, each refused unless it belongs to a namespace that is not the host's.
pub(crate) fn sysctls(writer: &mut Writer, spec: &Container) -> Result<(), Error> {
    for (key, value) in &spec.sysctl {
        if let Err(why) = namespaced(key, spec) {
            return Err(Error::Sysctl {
                key: key.clone(),
                why,
            });
        }
        let step = Step::Sysctl(writer.text(key), writer.text(value));
        writer.step(step);
    }
    Ok(())
}

fn namespaced(key: &str, spec: &Container) -> Result<(), &'static str> {
    /// IPC parameters that every IPC namespace has its own of (`ipc/ipc_sysctl.c`).
    const IPC: [&str; 10] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
        "kernel/shm_next_id",
        "kernel/auto_msgmni",
    ];
    let own = |namespace: &Namespace| *namespace != Namespace::Host;
    if IPC.contains(&key) || key.starts_with("fs/mqueue/") {
        return match own(&spec.namespaces.ipc) {
            true => Ok(()),
            false => Err("the container has no IPC namespace of its own"),
        };
    }
    if key.starts_with("net/") {
        return match own(&spec.namespaces.network) {
            true => Ok(()),
            false => Err("the container has no network namespace of its own"),
        };
    }
    match key {
        "kernel/domainname" if own(&spec.namespaces.uts) => Ok(()),
        "kernel/domainname" => Err("the container has no UTS namespace of its own"),
        "kernel/hostname" => Err("is set by the field hostname"),
        _ => Err("is not a parameter of a namespace: it would change the host"),
    }
}

/// Host and domain name.
pub(crate) fn names(writer: &mut Writer, spec: &Container) -> Result<(), Error> {
    let names = [
        ("hostname", &spec.hostname),
        ("domainname", &spec.domainname),
    ];
    for (field, name) in names {
        let Some(name) = name else { continue };
        if spec.namespaces.uts == Namespace::Host {
            return Err(Error::Name {
                field,
                name: name.clone(),
            });
        }
        let text = writer.text(name);
        writer.step(match field {
            "hostname" => Step::Hostname(text),
            _ => Step::Domainname(text),
        });
    }
    Ok(())
}
