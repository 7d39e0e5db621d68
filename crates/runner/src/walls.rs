//! What the process takes from itself, so that there is less to find for a guest that gets the better of the engine.

use duet_linux::{appends, code, names};
use rustix::thread::set_no_new_privs;

use crate::end::End;

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
    // Where a filter of the container's forbids to ask, an older kernel has a guest that appends to a file of an
    // overlay write to its start.
    appends::by_a_flag_are_refused_where_they_are_lost().ok();
}
