//! The container's memory as its cgroup counts it, in the files of either version.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags, openat};

/// The directory, and those of its files that were needed so far: a guest that never grows opens none.
#[derive(Debug)]
pub(crate) struct Memory {
    directory: OwnedFd,
    limit: OnceLock<File>,
    usage: OnceLock<File>,
    stat: OnceLock<File>,
}

/// What `memory.stat` says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// What the kernel can take back when it needs room: files that are elsewhere, too.
    pub(crate) reclaimable: u64,
    /// The lowest limit of this cgroup and those above it. Only v1 tells.
    pub(crate) lowest: Option<u64>,
}

// === impl Memory ===

impl Memory {
    pub(crate) fn of(directory: OwnedFd) -> Self {
        Self {
            directory,
            limit: OnceLock::new(),
            usage: OnceLock::new(),
            stat: OnceLock::new(),
        }
    }

    /// The limit as it is now, if there is one.
    pub(crate) fn limit(&self) -> Option<u64> {
        let names = ["memory.max", "memory.limit_in_bytes"];
        bounded(number(self.open(&self.limit, &names)?)?)
    }

    /// All that is in use, what the kernel could do without included.
    pub(crate) fn usage(&self) -> Option<u64> {
        let names = ["memory.current", "memory.usage_in_bytes"];
        number(self.open(&self.usage, &names)?)
    }

    /// Which of it that is. To be asked seldom: the kernel adds up what its processors have counted.
    pub(crate) fn stat(&self) -> Option<Stat> {
        let mut text = [0; 8 << 10];
        let file = self.open(&self.stat, &["memory.stat"])?;
        let read = file.read_at(&mut text, 0).ok()?;
        parse(std::str::from_utf8(text.get(..read)?).ok()?)
    }

    fn open<'a>(&self, file: &'a OnceLock<File>, names: &[&str]) -> Option<&'a File> {
        if file.get().is_none() {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let directory = self.directory.as_fd();
            let mut opened = names
                .iter()
                .filter_map(|name| openat(directory, *name, flags, Mode::empty()).ok());
            // Another thread may have been faster.
            drop(file.set(opened.next()?.into()));
        }
        file.get()
    }
}

/// `max` is no number.
fn number(file: &File) -> Option<u64> {
    let mut text = [0; 32];
    let read = file.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..read)?).ok()?;
    text.trim().parse().ok()
}

/// v1 has a limit that no machine has for none.
fn bounded(limit: u64) -> Option<u64> {
    (limit < 1 << 62).then_some(limit)
}

/// Of either version. v1 has what is below the cgroup in lines of their own.
fn parse(stat: &str) -> Option<Stat> {
    let value = |name: &str| {
        let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
        let (_, value) = lines.find(|(key, _)| *key == name)?;
        value.parse::<u64>().ok()
    };
    let inactive = value("total_inactive_file").or_else(|| value("inactive_file"))?;
    let active = value("total_active_file").or_else(|| value("active_file"))?;
    // v1 does not tell.
    let names = value("slab_reclaimable").unwrap_or_default();
    Some(Stat {
        reclaimable: inactive.saturating_add(active).saturating_add(names),
        lowest: value("hierarchical_memory_limit").and_then(bounded),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_taken_back_is_told_by_both_versions() {
        let v2 = "anon 9\nfile 5000\nshmem 300\ninactive_file 4000\nactive_file 700\nslab_reclaimable 10\n";
        let told = Stat {
            reclaimable: 4710,
            lowest: None,
        };
        assert_eq!(parse(v2), Some(told));
        let v1 = "cache 9\ninactive_file 1\nactive_file 1\nhierarchical_memory_limit 99\n\
            total_inactive_file 4000\ntotal_active_file 700\n";
        let told = Stat {
            reclaimable: 4700,
            lowest: Some(99),
        };
        assert_eq!(parse(v1), Some(told));
        assert_eq!(parse("anon 1\n"), None);
    }

    #[test]
    fn a_limit_that_no_machine_has_is_none() {
        assert_eq!(bounded(9_223_372_036_854_771_712), None);
        assert_eq!(bounded(32 << 20), Some(32 << 20));
    }
}
