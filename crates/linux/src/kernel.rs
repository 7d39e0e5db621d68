//! Which kernel this is.

use nix::errno::Errno;
use rustix::system::uname;

/// The oldest kernel Duet runs on: it is the first with `cgroup.kill`, and has everything else.
pub const MINIMUM: (u32, u32) = (5, 14);

/// A kernel that is too old.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Linux {} is too old: Duet needs {}.{} or newer", .release, MINIMUM.0, MINIMUM.1)]
pub struct TooOld {
    /// What `uname -r` says.
    pub release: String,
}

/// Refuses a kernel older than [`MINIMUM`].
///
/// # Errors
///
/// [`TooOld`], with the release as the kernel names it.
pub fn check() -> Result<(), TooOld> {
    check_release(&uname().release().to_string_lossy())
}

/// Whether this kernel is of that release or a later one. What cannot be read is older.
#[must_use]
pub fn is_at_least(release: (u32, u32)) -> bool {
    version(&uname().release().to_string_lossy()) >= Some(release)
}

/// The name of an error of the kernel's, such as `ENOENT`; what is none of the kernel's in its
/// own words.
#[must_use]
pub fn errno_name(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", Errno::from_raw(number)),
        None => error.to_string(),
    }
}

/// The kernel's answer in words and by name: `no such file or directory (ENOENT)`.
#[must_use]
pub fn errno_words(error: &std::io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(errno) => format!("{} ({errno:?})", errno.desc().to_lowercase()),
        None => error.to_string(),
    }
}

/// Whether an error says that a path leads nowhere.
#[must_use]
pub fn is_absent(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ENOENT | Errno::ENOTDIR)
    )
}

fn check_release(release: &str) -> Result<(), TooOld> {
    if version(release) >= Some(MINIMUM) {
        Ok(())
    } else {
        let release = release.to_owned();
        Err(TooOld { release })
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-', '+']).map(|part| part.parse().ok());
    numbers.next().flatten().zip(numbers.next().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        for good in ["5.14.0-611.el9.x86_64", "5.14", "6.1.0-9-amd64", "10.0.1"] {
            assert_eq!(check_release(good), Ok(()), "{good}");
        }
        for bad in ["5.13.19", "5.4.0-150-generic", "4.18.0-553.el8", "strange"] {
            let release = bad.to_owned();
            assert_eq!(check_release(bad), Err(TooOld { release }), "{bad}");
        }
    }

    #[test]
    fn the_refusal_says_what_is_needed() {
        let text = check_release("5.4.0-150-generic").unwrap_err().to_string();
        assert_eq!(
            text,
            "Linux 5.4.0-150-generic is too old: Duet needs 5.14 or newer"
        );
    }
}
