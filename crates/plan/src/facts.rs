//! What a plan must know about the machine, asked by the parent beforehand.

use duet_seccomp::Arch;
use duet_spec::IdMappings;
use std::{collections::BTreeMap, path::PathBuf};

/// What a plan must know about the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The session keyring of the container's own that its processes join; without it they keep
    /// that of the parent.
    pub keyring: Option<String>,
    /// The container's place in the cgroup hierarchies.
    pub cgroup: CgroupFacts,
    /// The `tasks` files of the container's class of resctrl and of its monitoring group, in the order in
    /// which they are entered.
    pub resctrl: Vec<PathBuf>,
    /// What each source of a bind mount is. A source that is not here does not exist.
    pub sources: BTreeMap<PathBuf, SourceFacts>,
    /// The mounts that the container's first process sees, by path. Only looked at for a further
    /// process of the other kind.
    pub tree: Vec<Seen>,
    /// Which namespaces the pod holds itself.
    pub pod: PodNamespaces,
    /// The kernel's highest capability (`/proc/sys/kernel/cap_last_cap`).
    pub last_capability: u32,
    /// The capabilities that a child can be given, as a mask: the permitted ones of the parent.
    pub held: u64,
    /// How far the parent may raise limits, by `RLIMIT_*`: those that the process or its container
    /// asks for. Only looked at in a user namespace.
    pub hard_limits: BTreeMap<u32, u64>,
    /// Which of 0, 1 and 2 the caller supplies; the others become `/dev/null`. Not looked at
    /// when the process has a terminal.
    pub stdio: Stdio,
    /// The home directory of the process's user, from the container's `/etc/passwd`. `None`
    /// (no such user) means `/`, as runc does. Only looked at when the environment has no
    /// `HOME`.
    pub home: Option<String>,
    /// The architecture of the machine.
    pub arch: Arch,
    /// The ids of the container's user namespace, whoever made it; empty when it is the host's.
    pub ids: IdMappings,
    /// Whether the kernel enforces AppArmor profiles.
    pub apparmor: bool,
    /// Whether the kernel has an SELinux policy.
    pub selinux: bool,
    /// Whether a wasm program has a way to the listeners of its pod.
    pub listeners: bool,
}

/// The container's place in the cgroup hierarchies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CgroupFacts {
    /// Whether the unified hierarchy has the controllers. Then the birth itself is in the
    /// cgroup (`CLONE_INTO_CGROUP`) and nothing needs to be joined.
    pub v2: bool,
    /// The v1 hierarchies that the container has a cgroup in.
    pub hierarchies: Vec<Hierarchy>,
    /// Whether its cgroups of v1 are made only while the birth goes on ([`Step::Await`]). Not for
    /// a container with a user namespace.
    ///
    /// [`Step::Await`]: duet_step::Step::Await
    pub awaited: bool,
}

/// A cgroup v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its controllers, or its name: `cpu,cpuacct`, `name=systemd`.
    pub name: String,
    /// Where the host has it mounted; the last part is its name in the container.
    pub mountpoint: PathBuf,
    /// The container's own directory in it.
    pub path: PathBuf,
}

/// What a bind mount's source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFacts {
    /// What the path leads to.
    pub kind: SourceKind,
    /// The file system it is on.
    pub filesystem: Filesystem,
    /// A mount below it that is not [`Filesystem::Other`], if there is one.
    pub below: Option<(PathBuf, Filesystem)>,
}

/// A mount of a container that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Where it is, in the container.
    pub point: PathBuf,
    /// What it is.
    pub filesystem: Filesystem,
}

/// What a path leads to, as far as mounting cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// A regular file, a socket, a pipe.
    File,
    /// A directory.
    Directory,
    /// A block or character device.
    Device,
}

/// File systems that show the host or the kernel rather than files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filesystem {
    /// procfs.
    Proc,
    /// sysfs.
    Sysfs,
    /// devpts.
    Devpts,
    /// devtmpfs: the host's devices.
    Devtmpfs,
    /// cgroup v1 or v2.
    Cgroup,
    /// POSIX message queues.
    Mqueue,
    /// A window into the kernel: debugfs, tracefs, securityfs, bpf and their like.
    Kernel,
    /// Files.
    Other,
}

/// Which namespaces the pod holds itself, so that what a container asks for as new is the
/// pod's: pods of plain `ctr run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PodNamespaces {
    /// Network.
    pub network: bool,
    /// IPC.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
}

/// Which of the standard descriptors the caller supplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stdio {
    /// 0.
    pub stdin: bool,
    /// 1.
    pub stdout: bool,
    /// 2.
    pub stderr: bool,
}

// === impl Filesystem ===

impl Filesystem {
    /// The kind of a file system by the kernel's name of it, as in `/proc/self/mountinfo`.
    ///
    /// By name, because a devtmpfs has the magic number of a tmpfs.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name {
            "proc" => Self::Proc,
            "sysfs" => Self::Sysfs,
            "devpts" => Self::Devpts,
            "devtmpfs" => Self::Devtmpfs,
            "cgroup" | "cgroup2" => Self::Cgroup,
            "mqueue" => Self::Mqueue,
            "debugfs" | "tracefs" | "securityfs" | "configfs" | "bpf" | "pstore" | "efivarfs"
            | "selinuxfs" | "fusectl" | "binfmt_misc" | "nsfs" | "rpc_pipefs" | "nfsd"
            | "resctrl" => Self::Kernel,
            _ => Self::Other,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Proc => "procfs",
            Self::Sysfs => "sysfs",
            Self::Devpts => "devpts",
            Self::Devtmpfs => "devtmpfs",
            Self::Cgroup => "a cgroup hierarchy",
            Self::Mqueue => "mqueue",
            Self::Kernel => "a window into the kernel",
            Self::Other => "files",
        }
    }
}
