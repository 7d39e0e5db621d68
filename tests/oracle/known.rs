//! What differs between Duet and runc, and why.

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
    /// Whether it shows on some machines only: not on others is no news.
    pub(crate) of_the_machine: bool,
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
        of_the_machine: false,
    },
    Difference {
        cases: &[],
        section: "mounts",
        duet: &["/sys in / from / ro,nosuid,nodev,noexec,relatime [] - sysfs sysfs rw"],
        runc: &["/sys in / from / ro,nosuid,nodev,noexec,relatime [] - sysfs sysfs ro"],
        why: "the mount is read-only, the file system is not: a pod has one sysfs for all its containers",
        of_the_machine: false,
    },
    Difference {
        cases: &[],
        section: "devices",
        duet: &["'/dev/core' -> '/proc/kcore'"],
        runc: &[],
        why: "runc leaves the link out on a kernel without /proc/kcore",
        of_the_machine: true,
    },
    Difference {
        cases: &[],
        section: "status",
        duet: &["SigIgn:"],
        runc: &["SigIgn:"],
        why: "which signals the shim ignores, or was started with ignored, is not a container's to suffer from; runc hands it on",
        of_the_machine: true,
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
        of_the_machine: false,
    },
    Difference {
        cases: &["working directory behind a link"],
        section: "outcome",
        duet: &["Create is refused"],
        runc: &["code 1"],
        why: "a working directory is not walked through links that procfs makes up (CVE-2024-21626)",
        of_the_machine: false,
    },
    Difference {
        cases: &["masked and read-only paths of the image"],
        section: "environment",
        duet: &["HOME=/root"],
        runc: &["HOME=/"],
        why: "the passwd is read before it is masked",
        of_the_machine: false,
    },
    Difference {
        cases: &["masked and read-only paths of the image"],
        section: "identity",
        duet: &["home /root"],
        runc: &["home /"],
        why: "the passwd is read before it is masked",
        of_the_machine: false,
    },
    Difference {
        cases: &["limits as kubelet sends them"],
        section: "outcome",
        duet: &["code 1"],
        runc: &["Create is refused"],
        why: "a limit of 0 on huge pages, as kubelet sends it, asks for nothing on a host that counts none",
        of_the_machine: false,
    },
    // --- what Debian 12's runc 1.1.5 does otherwise ---
    Difference {
        cases: &["a group beyond 31 bits"],
        section: "outcome",
        duet: &["code 1"],
        runc: &["Create is refused"],
        why: "runc takes ids up to 2147483647, the kernel and Duet up to 4294967294",
        of_the_machine: false,
    },
    Difference {
        cases: &["I/O priority"],
        section: "process",
        duet: &["best-effort: prio 6"],
        runc: &["none: prio 0"],
        why: "runc ignores the field before 1.2",
        of_the_machine: false,
    },
    Difference {
        cases: &["scheduler"],
        section: "process",
        duet: &["nice 5 threads 1 policy 3"],
        runc: &["nice 0 threads 1 policy 0"],
        why: "runc ignores the field before 1.2",
        of_the_machine: false,
    },
    Difference {
        cases: &["domain name"],
        section: "kernel",
        duet: &["kernel/domainname delphi"],
        runc: &["kernel/domainname (none)"],
        why: "runc ignores the field before 1.2",
        of_the_machine: false,
    },
    Difference {
        cases: &["seccomp with flags"],
        section: "outcome",
        duet: &["code 1"],
        runc: &["Create is refused"],
        why: "runc knows no flags before 1.1.6",
        of_the_machine: false,
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
        of_the_machine: true,
    },
    Difference {
        cases: &["cgroup mount in a cgroup namespace"],
        section: "mounts",
        duet: &["- cgroup cgroup rw,name=systemd"],
        runc: &["- cgroup systemd rw,name=systemd"],
        why: "the source of a cgroup mount is a mere name",
        of_the_machine: true,
    },
    Difference {
        cases: &["exec with a umask"],
        section: "identity",
        duet: &["0027"],
        runc: &["0022"],
        why: "this runc ignores the umask of an exec",
        of_the_machine: false,
    },
    Difference {
        cases: &["exec with a umask"],
        section: "status",
        duet: &["Umask:\t0027"],
        runc: &["Umask:\t0022"],
        why: "this runc ignores the umask of an exec",
        of_the_machine: false,
    },
    Difference {
        cases: &["exec with a badness"],
        section: "scores",
        duet: &["oom_score_adj 900"],
        runc: &["oom_score_adj "],
        why: "this runc ignores the score of an exec",
        of_the_machine: false,
    },
];
