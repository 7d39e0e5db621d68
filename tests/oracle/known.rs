//! What differs between Duet and runc, and why.

use crate::probe;

/// A difference between the two.
pub(crate) struct Difference {
    /// The cases it is seen in; none means any.
    pub(crate) cases: &'static [&'static str],
    /// Where it is seen.
    pub(crate) section: &'static str,
    /// Parts of lines that only Duet's containers say.
    pub(crate) duet: &'static [&'static str],
    /// Parts of lines that only runc's containers say.
    pub(crate) runc: &'static [&'static str],
    /// Why that is so. `docs/differences.md` has the same sentence.
    pub(crate) why: &'static str,
    pub(crate) shows: Shows,
}

/// Where a difference shows. Where it does not is no news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shows {
    /// On every machine.
    Everywhere,
    /// On some machines.
    Somewhere,
    /// Where cgroups are of v1.
    OnV1,
    /// Where cgroups are of v2.
    OnV2,
}

// === impl Difference ===

impl Difference {
    /// Whether this is why only `side` has `line`.
    pub(crate) fn explains(&self, case: &str, section: &str, side: &str, line: &str) -> bool {
        let parts = if side == "duet" { self.duet } else { self.runc };
        (self.cases.is_empty() || self.cases.contains(&case))
            && self.section == section
            && parts.iter().any(|part| line.contains(part))
    }

    /// Whether one of these cases must show it.
    pub(crate) fn must_show<'a>(&self, mut cases: impl Iterator<Item = &'a str>) -> bool {
        let here = match self.shows {
            Shows::Everywhere => true,
            Shows::Somewhere => false,
            Shows::OnV1 => !probe::is_v2(),
            Shows::OnV2 => probe::is_v2(),
        };
        here && (self.cases.is_empty() || cases.any(|case| self.cases.contains(&case)))
    }
}

/// Every known difference.
pub(crate) const DIFFERENCES: &[Difference] = &[
    // --- what Duet does otherwise on purpose ---
    Difference {
        cases: &[],
        section: "descriptors",
        duet: &["1 HERE/ID/said", "2 HERE/ID/said"],
        runc: &["1 pipe", "2 pipe"],
        why: "the program writes into containerd's FIFO itself (decision 3); runc's shim copies from a pipe",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: &[],
        section: "mounts",
        duet: &["/sys in / from / ro,nosuid,nodev,noexec,relatime [] - sysfs sysfs rw"],
        runc: &["/sys in / from / ro,nosuid,nodev,noexec,relatime [] - sysfs sysfs ro"],
        why: "the mount is read-only, the file system is not: a pod has one sysfs for all its containers",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: &[],
        section: "devices",
        duet: &["'/dev/core' -> '/proc/kcore'"],
        runc: &[],
        why: "runc leaves the link out on a kernel without /proc/kcore",
        shows: Shows::Somewhere,
    },
    Difference {
        cases: &[],
        section: "status",
        duet: &["SigIgn:"],
        runc: &["SigIgn:"],
        why: "which signals the shim ignores, or was started with ignored, is not a container's to suffer from; runc hands it on",
        shows: Shows::Somewhere,
    },
    Difference {
        cases: &["root propagation rshared", "root propagation unbindable"],
        section: "mounts",
        duet: &[
            "/ in outside from / rw,relatime [shared]",
            "/ in outside from / rw,relatime [unbindable]",
        ],
        runc: &["/ in outside from / rw,relatime []"],
        why: "the root has the propagation that the field names; runc gives it to everything but the root",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: &["working directory behind a link"],
        section: "outcome",
        duet: &["Create is refused"],
        runc: &["code 1"],
        why: "a working directory is not walked through links that procfs makes up (CVE-2024-21626)",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: &["masked and read-only paths of the image"],
        section: "environment",
        duet: &["HOME=/root"],
        runc: &["HOME=/"],
        why: "the passwd is read before it is masked",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: &["masked and read-only paths of the image"],
        section: "identity",
        duet: &["home /root"],
        runc: &["home /"],
        why: "the passwd is read before it is masked",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: &["limits as kubelet sends them"],
        section: "outcome",
        duet: &["code 1"],
        runc: &["Create is refused"],
        why: "a limit of 0 on huge pages, as kubelet sends it, asks for nothing on a host that counts none",
        // The emulated machine counts them.
        shows: Shows::OnV1,
    },
    Difference {
        cases: &["memory", "memory without the killer"],
        section: "outcome",
        duet: &["Create is refused"],
        runc: &["code 1"],
        why: "cgroup v2 has no such setting, and what is asked for and not honoured is refused by name; runc ignores it",
        shows: Shows::OnV2,
    },
    // --- what Debian 12's runc 1.1.5 does otherwise ---
    Difference {
        cases: &[],
        section: "settings",
        duet: &["cpu.weight "],
        runc: &["cpu.weight "],
        why: "shares become a weight by a curve that makes the default of one the default of the other, as in runc now; this one draws a line",
        shows: Shows::OnV2,
    },
    Difference {
        cases: &[],
        section: "settings",
        duet: &["cpu.weight.nice "],
        runc: &["cpu.weight.nice "],
        why: "it is the weight once more",
        shows: Shows::OnV2,
    },
    Difference {
        cases: &["huge pages", "limits as kubelet sends them"],
        section: "settings",
        duet: &[".rsvd.max "],
        runc: &[".rsvd.max "],
        why: "what may not be touched may not be reserved either; this runc limits the one only",
        shows: Shows::OnV2,
    },
    Difference {
        cases: &["a group beyond 31 bits"],
        section: "outcome",
        duet: &["code 1"],
        runc: &["Create is refused"],
        why: "runc takes ids up to 2147483647, the kernel and Duet up to 4294967294",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: &["I/O priority"],
        section: "process",
        duet: &["best-effort: prio 6"],
        runc: &["none: prio 0"],
        why: "runc ignores the field before 1.2",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: &["scheduler"],
        section: "process",
        duet: &["nice 5 threads 1 policy 3"],
        runc: &["nice 0 threads 1 policy 0"],
        why: "runc ignores the field before 1.2",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: &["domain name"],
        section: "kernel",
        duet: &["kernel/domainname delphi"],
        runc: &["kernel/domainname (none)"],
        why: "runc ignores the field before 1.2",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: &["seccomp with flags"],
        section: "outcome",
        duet: &["code 1"],
        runc: &["Create is refused"],
        why: "runc knows no flags before 1.1.6",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: &[
            "cgroup mount read-only",
            "cgroup mount in a cgroup namespace",
        ],
        section: "mounts",
        duet: &["/sys/fs/cgroup in /sys from / ro,"],
        runc: &["/sys/fs/cgroup in /sys from / rw,"],
        why: "read-only holds for the folder of the hierarchies too; this runc leaves it writable",
        shows: Shows::Somewhere,
    },
    Difference {
        cases: &["cgroup mount in a cgroup namespace"],
        section: "mounts",
        duet: &["- cgroup cgroup rw,name=systemd"],
        runc: &["- cgroup systemd rw,name=systemd"],
        why: "the source of a cgroup mount is a mere name",
        shows: Shows::Somewhere,
    },
    Difference {
        cases: &["exec with a umask"],
        section: "identity",
        duet: &["0027"],
        runc: &["0022"],
        why: "this runc ignores the umask of an exec",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: &["exec with a umask"],
        section: "status",
        duet: &["Umask:\t0027"],
        runc: &["Umask:\t0022"],
        why: "this runc ignores the umask of an exec",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: &["exec with a badness"],
        section: "scores",
        duet: &["oom_score_adj 900"],
        runc: &["oom_score_adj "],
        why: "this runc ignores the score of an exec",
        shows: Shows::Everywhere,
    },
];
