//! SELinux: whether it is there, and the labels of files.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::LazyLock;

use rustix::fs::{XattrFlags, fsetxattr, lsetxattr};

/// Where a file has its label.
const ATTRIBUTE: &str = "security.selinux";

/// Whether a policy is loaded, which stays so.
///
/// The label of this process tells it: a policy need not let who starts containers look into SELinux' own file system,
/// and Debian's does not.
#[must_use]
pub fn is_loaded() -> bool {
    static LOADED: LazyLock<bool> = LazyLock::new(|| {
        // Registered by a SELinux that is not switched off. Other modules have labels in the same place.
        let switched_on = fs::read_to_string("/proc/filesystems")
            .is_ok_and(|known| known.lines().any(|line| line == "nodev\tselinuxfs"));
        switched_on && fs::read("/proc/self/attr/current").is_ok_and(|label| is_of_a_policy(&label))
    });
    *LOADED
}

/// Whether a label is of a policy: user, role and type. Without one, all is called `kernel`.
fn is_of_a_policy(label: &[u8]) -> bool {
    label.iter().filter(|&&byte| byte == b':').count() >= 2
}

/// Labels an open file.
///
/// # Errors
///
/// The kernel's: `EINVAL` for a label that the policy does not know, `EACCES` for one that it does not let us give.
pub fn label(file: impl AsFd, label: &str) -> io::Result<()> {
    Ok(fsetxattr(
        file,
        ATTRIBUTE,
        label.as_bytes(),
        XattrFlags::empty(),
    )?)
}

/// Labels what is at a path, be it a link.
///
/// # Errors
///
/// As [`label`], and those of looking it up.
pub fn label_at(path: &Path, label: &str) -> io::Result<()> {
    Ok(lsetxattr(
        path,
        ATTRIBUTE,
        label.as_bytes(),
        XattrFlags::empty(),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_of_a_policy_has_a_type() {
        for label in [
            "system_u:system_r:dockerd_t:s0\0",
            "system_u:system_r:kernel_t\0",
        ] {
            assert!(is_of_a_policy(label.as_bytes()), "{label}");
        }
        for label in ["kernel\0", "unconfined\n", ""] {
            assert!(!is_of_a_policy(label.as_bytes()), "{label}");
        }
    }
}
