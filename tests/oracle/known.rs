//! What differs between Duet and runc, and why.

use crate::probe;

/// A difference between the two.
pub(crate) struct Difference {
    /// The cases it is seen in.
    pub(crate) cases: Cases,
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

/// Cases by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cases {
    All,
    AllBut(&'static [&'static str]),
    These(&'static [&'static str]),
}

/// Where a difference shows. Where it does not is no news, and it explains nothing.
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
        self.shows.may_here()
            && self.cases.include(case)
            && self.section == section
            && parts.iter().any(|part| line.contains(part))
    }

    /// Whether one of these cases must show it.
    pub(crate) fn must_show<'a>(&self, mut cases: impl Iterator<Item = &'a str>) -> bool {
        self.shows != Shows::Somewhere
            && self.shows.may_here()
            && cases.any(|case| self.cases.include(case))
    }
}

// === impl Cases ===

impl Cases {
    fn include(self, case: &str) -> bool {
        match self {
            Cases::All => true,
            Cases::AllBut(names) => !names.contains(&case),
            Cases::These(names) => names.contains(&case),
        }
    }
}

// === impl Shows ===

impl Shows {
    /// Whether it may show on this machine.
    fn may_here(self) -> bool {
        match self {
            Shows::Everywhere | Shows::Somewhere => true,
            Shows::OnV1 => !probe::is_v2(),
            Shows::OnV2 => probe::is_v2(),
        }
    }
}

/// Those that do not have the 1024 shares that `ctr` asks for.
const WEIGHT_OF_THEIR_OWN: &[&str] = &[
    "processor time",
    "processor time without limit",
    "limits as kubelet sends them",
    "limits by file",
];

/// Those in a user namespace of their own.
const OF_OTHER_USERS: &[&str] = &["a user namespace", "exec in a user namespace"];

/// Why root of a user namespace finds other devices.
const MADE_OR_BOUND: &str = "root of a user namespace cannot create device nodes: Duet creates them before it enters the namespace, runc binds those of the host";

/// Every known difference.
pub(crate) const DIFFERENCES: &[Difference] = &[
    // --- what Duet does otherwise on purpose ---
    Difference {
        cases: Cases::These(OF_OTHER_USERS),
        section: "devices",
        duet: &["crw-rw-rw- 0:0 1:", "crw-rw-rw- 0:0 5:0 /dev/tty"],
        runc: &[
            "crw-rw-rw- 65534:65534 1:",
            "crw-rw-rw- 65534:65534 5:0 /dev/tty",
        ],
        why: MADE_OR_BOUND,
        shows: Shows::Everywhere,
    },
    Difference {
        cases: Cases::These(OF_OTHER_USERS),
        section: "mounts",
        // What covers a masked file is the null device of each.
        duet: &[" in /proc from /null rw,nosuid [] - tmpfs tmpfs"],
        runc: &[
            " in /dev from /",
            " in /proc from /null rw,relatime [] - devtmpfs",
        ],
        why: MADE_OR_BOUND,
        shows: Shows::Everywhere,
    },
    Difference {
        cases: Cases::These(OF_OTHER_USERS),
        section: "devices",
        duet: &["drwxrwxrwt 0:0 0:0 /dev/mqueue"],
        runc: &["drwxrwxrwt 0:65534 0:0 /dev/mqueue"],
        why: "it belongs to the group that mounts it, which in this runc is still a group of the host",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: Cases::All,
        section: "descriptors",
        duet: &["1 HERE/ID/said", "2 HERE/ID/said"],
        runc: &["1 pipe", "2 pipe"],
        why: "the program writes into containerd's FIFO directly (decision 3); runc's shim copies from a pipe",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: Cases::All,
        section: "mounts",
        duet: &["/sys in / from / ro,nosuid,nodev,noexec,relatime [] - sysfs sysfs rw"],
        runc: &["/sys in / from / ro,nosuid,nodev,noexec,relatime [] - sysfs sysfs ro"],
        why: "the mount is read-only, the file system is not: a pod has one sysfs for all its containers",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: Cases::All,
        section: "devices",
        duet: &["'/dev/core' -> '/proc/kcore'"],
        runc: &[],
        why: "runc leaves the link out on a kernel without /proc/kcore",
        shows: Shows::Somewhere,
    },
    Difference {
        cases: Cases::All,
        section: "status",
        duet: &["SigIgn:"],
        runc: &["SigIgn:"],
        why: "Duet resets ignored signals before it runs the program; runc passes on what the shim's parent ignored",
        shows: Shows::Somewhere,
    },
    Difference {
        cases: Cases::These(&["root propagation rshared", "root propagation unbindable"]),
        section: "mounts",
        duet: &[
            "/ in outside from / rw,relatime [shared]",
            "/ in outside from / rw,relatime [unbindable]",
        ],
        runc: &["/ in outside from / rw,relatime []"],
        why: "the field applies to the root; runc applies it to everything but the root",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: Cases::These(&["working directory behind a link"]),
        section: "outcome",
        duet: &["Create is refused"],
        runc: &["code 1"],
        why: "Duet does not follow the magic links of procfs to a working directory (CVE-2024-21626)",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: Cases::These(&["masked and read-only paths of the image"]),
        section: "environment",
        duet: &["HOME=/root"],
        runc: &["HOME=/"],
        why: "Duet reads `/etc/passwd` before it is masked",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: Cases::These(&["masked and read-only paths of the image"]),
        section: "identity",
        duet: &["home /root"],
        runc: &["home /"],
        why: "Duet reads `/etc/passwd` before it is masked",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: Cases::These(&["limits as kubelet sends them"]),
        section: "outcome",
        duet: &["code 1"],
        runc: &["Create is refused"],
        why: "the kubelet sends a huge page limit of 0; where the kernel counts no huge pages there is nothing to limit",
        // The emulated machine counts them.
        shows: Shows::OnV1,
    },
    Difference {
        cases: Cases::These(&["memory", "memory without the killer"]),
        section: "outcome",
        duet: &["Create is refused"],
        runc: &["code 1"],
        why: "cgroup v2 has no such setting, so Duet refuses it; runc ignores it",
        shows: Shows::OnV2,
    },
    // --- what Debian 12's runc 1.1.5 does otherwise ---
    Difference {
        cases: Cases::These(&["no rlimits"]),
        section: "limits",
        duet: &["Max open files "],
        runc: &["Max open files "],
        why: "without the field Duet leaves the limit that the shim was started with; this runc's Go runtime raises the soft limit for itself and passes that on",
        // Where the soft limit is not the hard one, as in the emulated machine.
        shows: Shows::Somewhere,
    },
    Difference {
        cases: Cases::AllBut(WEIGHT_OF_THEIR_OWN),
        section: "settings",
        duet: &["cpu.weight 100"],
        runc: &["cpu.weight 39"],
        why: "newer releases of runc, and Duet, convert shares to a weight by a curve that maps one default to the other; this runc converts them linearly",
        shows: Shows::OnV2,
    },
    Difference {
        cases: Cases::These(&["processor time"]),
        section: "settings",
        duet: &["cpu.weight 59"],
        runc: &["cpu.weight 20"],
        why: "newer releases of runc, and Duet, convert shares to a weight by a curve that maps one default to the other; this runc converts them linearly",
        shows: Shows::OnV2,
    },
    Difference {
        cases: Cases::These(&["limits as kubelet sends them"]),
        section: "settings",
        duet: &["cpu.weight 17"],
        runc: &["cpu.weight 4"],
        why: "newer releases of runc, and Duet, convert shares to a weight by a curve that maps one default to the other; this runc converts them linearly",
        shows: Shows::OnV2,
    },
    Difference {
        cases: Cases::AllBut(WEIGHT_OF_THEIR_OWN),
        section: "settings",
        duet: &["cpu.weight.nice 0"],
        runc: &["cpu.weight.nice 4"],
        why: "the kernel derives it from the weight",
        shows: Shows::OnV2,
    },
    Difference {
        cases: Cases::These(&["processor time"]),
        section: "settings",
        duet: &["cpu.weight.nice 2"],
        runc: &["cpu.weight.nice 7"],
        why: "the kernel derives it from the weight",
        shows: Shows::OnV2,
    },
    Difference {
        cases: Cases::These(&["limits as kubelet sends them"]),
        section: "settings",
        duet: &["cpu.weight.nice 8"],
        runc: &["cpu.weight.nice 14"],
        why: "the kernel derives it from the weight",
        shows: Shows::OnV2,
    },
    Difference {
        cases: Cases::These(&["huge pages", "limits as kubelet sends them"]),
        section: "settings",
        duet: &[".rsvd.max "],
        runc: &[".rsvd.max "],
        why: "Duet limits the reservation of huge pages, too; this runc limits only their use",
        shows: Shows::OnV2,
    },
    Difference {
        cases: Cases::These(&["a group beyond 31 bits"]),
        section: "outcome",
        duet: &["code 1"],
        runc: &["Create is refused"],
        why: "runc accepts ids up to 2147483647, the kernel and Duet up to 4294967294",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: Cases::These(&["I/O priority"]),
        section: "process",
        duet: &["best-effort: prio 6"],
        runc: &["none: prio 0"],
        why: "runc ignores the field before 1.2",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: Cases::These(&["scheduler"]),
        section: "process",
        duet: &["nice 5 threads 1 policy 3"],
        runc: &["nice 0 threads 1 policy 0"],
        why: "runc ignores the field before 1.2",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: Cases::These(&["domain name"]),
        section: "kernel",
        duet: &["kernel/domainname delphi"],
        runc: &["kernel/domainname (none)"],
        why: "runc ignores the field before 1.2",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: Cases::These(&["seccomp with flags"]),
        section: "outcome",
        duet: &["code 1"],
        runc: &["Create is refused"],
        why: "runc before 1.1.6 does not support flags",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: Cases::These(&[
            "cgroup mount read-only",
            "cgroup mount in a cgroup namespace",
        ]),
        section: "mounts",
        duet: &["/sys/fs/cgroup in /sys from / ro,"],
        runc: &["/sys/fs/cgroup in /sys from / rw,"],
        why: "`ro` applies to the folder of the hierarchies, too; this runc leaves it writable",
        shows: Shows::Somewhere,
    },
    Difference {
        cases: Cases::These(&["cgroup mount in a cgroup namespace"]),
        section: "mounts",
        duet: &["- cgroup cgroup rw,name=systemd"],
        runc: &["- cgroup systemd rw,name=systemd"],
        why: "the source of a cgroup mount is only a name",
        shows: Shows::Somewhere,
    },
    Difference {
        cases: Cases::These(&["exec with a umask"]),
        section: "identity",
        duet: &["0027"],
        runc: &["0022"],
        why: "this runc ignores the umask of an exec",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: Cases::These(&["exec with a umask"]),
        section: "status",
        duet: &["Umask:\t0027"],
        runc: &["Umask:\t0022"],
        why: "this runc ignores the umask of an exec",
        shows: Shows::Everywhere,
    },
    Difference {
        cases: Cases::These(&["exec with a badness"]),
        section: "scores",
        duet: &["oom_score_adj 900"],
        runc: &["oom_score_adj "],
        why: "this runc ignores the score of an exec",
        shows: Shows::Everywhere,
    },
];
