//! Security labels that a process has from exec on.
//!
//! They are written while the child may still do everything, and take effect at exec. So they
//! come before `no_new_privs`, the system call filter and the change of user, none of which
//! the kernel then holds against them. What is executed need not be visible in the container:
//! a runner comes from a mount that is attached nowhere, and profiles made for containers have
//! `attach_disconnected`.

use crate::{Error, Facts, writer::Writer};
use duet_spec::{Container, Process};
use duet_step::Step;

/// AppArmor's own file: `self/attr/exec` belongs to whichever module the kernel shows first.
pub(crate) const APPARMOR: &str = "self/attr/apparmor/exec";
/// SELinux has no file of its own.
pub(crate) const SELINUX: &str = "self/attr/exec";
/// The label of keys that are made.
pub(crate) const SELINUX_KEY: &str = "self/attr/keycreate";
/// The profile that confines nothing.
const UNCONFINED: &str = "unconfined";

/// Refuses a label that nobody would enforce.
pub(crate) fn check(process: &Process, facts: &Facts) -> Result<(), Error> {
    let refuse = |field: &str, label: &str, why: &str| {
        Err(Error::Refused {
            field: format!("process.{field}"),
            value: label.to_owned(),
            why: why.to_owned(),
        })
    };
    match &process.apparmor_profile {
        Some(profile) if !facts.apparmor && profile != UNCONFINED => {
            let why = "AppArmor is not enabled in this kernel";
            return refuse("apparmorProfile", profile, why);
        }
        Some(_) | None => {}
    }
    match &process.selinux_label {
        Some(label) if !facts.selinux => {
            let why = "SELinux is not enabled in this kernel";
            refuse("selinuxLabel", label, why)
        }
        Some(_) | None => Ok(()),
    }
}

/// Refuses a label of mounts that nobody would enforce.
pub(crate) fn check_mounts(spec: &Container, facts: &Facts) -> Result<(), Error> {
    match &spec.mount_label {
        Some(label) if !facts.selinux => Err(Error::Refused {
            field: "linux.mountLabel".to_owned(),
            value: label.clone(),
            why: "SELinux is not enabled in this kernel".to_owned(),
        }),
        Some(_) | None => Ok(()),
    }
}

/// The option that labels a new file system's files. Those of the kernel's own have labels by the
/// policy, as under runc, which only gives a message queue's root the label afterwards.
pub(crate) fn mount(spec: &Container, fstype: &str) -> Option<String> {
    let label = spec.mount_label.as_ref()?;
    match fstype {
        "proc" | "sysfs" | "mqueue" => None,
        _ => Some(format!("context={label}")),
    }
}

/// Whether something has to be written to procfs.
pub(crate) fn any(process: &Process, facts: &Facts) -> bool {
    process.selinux_label.is_some() || (process.apparmor_profile.is_some() && facts.apparmor)
}

/// The label of the program.
pub(crate) fn program(writer: &mut Writer, process: &Process, facts: &Facts) {
    match &process.apparmor_profile {
        // Where there is no AppArmor, check() has let nothing pass but `unconfined`.
        Some(profile) if facts.apparmor => write(writer, APPARMOR, &format!("exec {profile}")),
        Some(_) | None => {}
    }
    if let Some(label) = &process.selinux_label {
        write(writer, SELINUX, label);
    }
}

/// Joins the container's session keyring, which must have the label of its processes.
pub(crate) fn keyring(writer: &mut Writer, process: &Process, keyring: Step) {
    if let Some(label) = &process.selinux_label {
        write(writer, SELINUX_KEY, label);
    }
    writer.step(keyring);
    if process.selinux_label.is_some() {
        // An empty line takes it back: the program's own keys are the policy's business.
        write(writer, SELINUX_KEY, "\n");
    }
}

fn write(writer: &mut Writer, attribute: &str, value: &str) {
    let (attribute, value) = (writer.text(attribute), writer.text(value));
    writer.step(Step::Label(attribute, value));
}
