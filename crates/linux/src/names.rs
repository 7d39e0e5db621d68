//! `__nss_configure_lookup`: whom glibc asks for the addresses of a name.

use std::ffi::{c_char, c_int};
use std::io;

unsafe extern "C" {
    /// Declared in glibc's `nss.h`, which the `libc` crate does not have.
    fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
}

/// From now on names of hosts are looked up in `/etc/hosts` and asked of the servers in `/etc/resolv.conf`, and
/// of nobody else.
///
/// Otherwise `/etc/nsswitch.conf` says who is asked, and each that it names but these two is a library of the root
/// folder's, which glibc loads: also into a program that is linked statically. A process in a root folder that
/// is not to be trusted must therefore say this before it looks up its first name, best while it has one thread. That
/// file is read once more here, and never again.
///
/// # Errors
///
/// When there is no memory for it.
///
/// # References
///
/// [nsswitch.conf(5)](https://man7.org/linux/man-pages/man5/nsswitch.conf.5.html); glibc 2.36, `nss/nss_database.c`.
pub fn of_files_and_dns() -> io::Result<()> {
    // SAFETY: both are strings that end with a zero and are only read, while the call lasts. What it changes is one
    // aligned pointer, to a list that is never freed; it takes no lock for that. A lookup of another thread, if there is
    // one, finds the old list or the new one, and may go on with either.
    let result = unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::net::ToSocketAddrs as _;

    use super::*;

    #[test]
    fn names_are_found_afterwards() {
        of_files_and_dns().unwrap();
        assert!(
            ("localhost", 80)
                .to_socket_addrs()
                .unwrap()
                .next()
                .is_some()
        );
    }
}
