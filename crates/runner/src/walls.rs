//! What the process takes from itself, so that there is less to find for a guest that gets the better of the engine.

mod calls;

use std::io;

use duet_linux::{appends, code, kernel, names, seccomp};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
};

use self::calls::Kernel;
use crate::end::{End, say};

/// What of a container's capabilities its guest can use: to have another user's files as it has its own, and to listen
/// below port 1024. WASI has no call for what the others allow.
const USED: CapabilitySet = CapabilitySet::DAC_OVERRIDE
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// To be called before anything of the image's is asked for.
pub(crate) fn of_the_image() -> Result<(), End> {
    // An `/etc/nsswitch.conf` would name libraries of the image's, and the first lookup load them into us.
    names::of_files_and_dns()
        .map_err(|error| End::Unfit(format!("cannot say who knows the names of hosts: {error}")))
}

/// To be called when the guest's code is mapped, before it runs, and while there is one thread.
pub(crate) fn of_the_guest() {
    // No memory becomes code any more. What the kernel refuses or does not know was a wall behind others.
    code::seal();
    // Nothing is executed either; if it were, it would gain nothing from a program that belongs to root.
    set_no_new_privs(true).ok();
    keep_what_is_used();
    // Last: it leaves no way to do the others.
    let program = calls::program(std::process::id(), this_kernel());
    match seccomp::install(&program) {
        Ok(()) => {}
        // There is a filter already, the container's, and it forbids to ask for another.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) => say(&format!(
            "duet: the process of this guest has no filter of system calls: {error}"
        )),
    }
}

fn this_kernel() -> Kernel {
    Kernel {
        loses_appends: appends::are_lost(),
        knows_self: kernel::is_at_least((6, 14)),
    }
}

/// Lets go of the other capabilities. None is left to be inherited, and so none is ambient.
///
/// The bounding set stays: it is about programs that are executed, and to lower it takes a call for each.
fn keep_what_is_used() {
    let Ok(had) = capabilities(None) else { return };
    let kept = CapabilitySets {
        effective: had.effective & USED,
        permitted: had.permitted & USED,
        inheritable: CapabilitySet::empty(),
    };
    if kept != had {
        set_capabilities(None, kept).ok();
    }
}
