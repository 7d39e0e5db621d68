//! The words a plan is written in: `plan` writes them, `launch` fills in the
//! descriptors, and the child reads them.
//!
//! Everything here is `Copy` and flat. Text lives in one NUL-terminated buffer
//! ([`Text`] is an offset into it), descriptors that the parent opens are numbered
//! [`Slot`]s, and descriptors that the child makes for itself live in [`Reg`]isters.
//! So the child needs neither an allocator nor a lock, and a plan can be printed,
//! compared and tested without running it.
#![no_std]
#![forbid(unsafe_code)]

/// A NUL-terminated string: the offset of its first byte in the plan's text buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(pub u32);

/// Several strings: entries `first .. first + len` of the plan's table of [`Text`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Texts {
    /// The first entry.
    pub first: u32,
    /// How many entries follow from there.
    pub len: u32,
}

/// A descriptor that the parent opens before the child exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

/// A descriptor that the child makes for itself and needs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reg {
    /// The container's root directory. Every path of the container is walked below it.
    Root,
    /// The `/dev` that was just mounted; device nodes are made relative to it.
    Dev,
    /// The `devpts` that was just mounted; consoles come from it.
    Pts,
    /// A procfs of the child's own that no path leads to; sysctls and `/proc/self`
    /// attributes are written through it.
    Proc,
    /// An empty read-only tmpfs that hides every masked directory.
    Empty,
    /// The user's end of the console.
    Console,
    /// A `/dev` that another one is about to cover.
    Covered,
    /// What was last mounted at `/proc`: what is hidden or kept below that is walked from here.
    Procfs,
    /// What was last mounted at `/sys`, likewise.
    Sysfs,
}

impl Reg {
    /// How many registers there are.
    pub const COUNT: usize = 9;
}

/// A range of the plan's BPF instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// The first instruction.
    pub first: u32,
    /// How many instructions: 1 to 4096.
    pub len: u16,
}

/// One classic BPF instruction, laid out as the kernel's `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    /// Opcode.
    pub code: u16,
    /// Jump offset if true.
    pub jt: u8,
    /// Jump offset if false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Where a mount comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A new file system: `fsopen`, `fsconfig` for each option (`key` or `key=value`), `fsmount`.
    Filesystem {
        /// The kernel's name of the file system.
        fstype: Text,
        /// `source` of the file system as `/proc/mounts` shows it.
        source: Text,
        /// Options for the superblock.
        options: Texts,
    },
    /// A detached tree that the parent made with `open_tree(OPEN_TREE_CLONE)`; used once.
    Tree(Slot),
    /// A copy of what is mounted at a path of the host, without what is mounted below it.
    Host(Text),
    /// What [`Step::Detached`] has made, with the attributes that it has from there.
    Made(Reg),
}

/// What a mount's destination is made as when it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// A directory, parents included.
    Directory,
    /// An empty regular file, parents included.
    File,
}

/// A mount to make, change and attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mount {
    /// Where it comes from.
    pub source: Source,
    /// Where it goes, walked below [`Reg::Root`] with `RESOLVE_IN_ROOT`.
    pub target: Text,
    /// What to make there when nothing is there.
    pub kind: Destination,
    /// `MOUNT_ATTR_*` bits to set on the mount itself.
    pub set: u64,
    /// `MOUNT_ATTR_*` bits to clear on the mount itself, before `set`.
    pub clear: u64,
    /// `MOUNT_ATTR_*` bits to set on the mount and everything below it (`rro` and its kin).
    pub set_recursive: u64,
    /// `MOUNT_ATTR_*` bits to clear on the mount and everything below it.
    pub clear_recursive: u64,
    /// `MS_SLAVE` or `MS_PRIVATE`, for the mount and everything below it before `propagation`, or
    /// 0: a copy that is to be shared must not stay the peer of what it is a copy of.
    pub cut: u32,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`, or 0 to leave it.
    pub propagation: u32,
    /// Whether `propagation` applies to everything below the mount too.
    pub propagation_recursive: bool,
    /// Give the mount's root the mode of the directory that it covers, if that was there.
    pub inherit_mode: bool,
    /// Copy into the mount what the directory has that it covers.
    pub copy_up: bool,
    /// Keep the mount's own descriptor here.
    pub keep: Option<Reg>,
}

/// A device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Path relative to `base`.
    pub path: Text,
    /// [`Reg::Dev`] for nodes of the mounted `/dev`, else [`Reg::Root`].
    pub base: Reg,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO` and permission bits.
    pub mode: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Who owns the directories that are made on the way: user and group.
    pub parents: (u32, u32),
}

/// Five capability sets as bit masks; bit n is capability n of `linux/capability.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// What an exec can ever gain.
    pub bounding: u64,
    /// In force.
    pub effective: u64,
    /// May be put in force.
    pub permitted: u64,
    /// Kept across exec of a file with inheritable capabilities.
    pub inheritable: u64,
    /// Kept across exec of any file.
    pub ambient: u64,
}

/// How the kernel schedules a process: `struct sched_attr` without its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scheduler {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// -20 to 19.
    pub nice: i32,
    /// Of `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// Of `SCHED_DEADLINE`, in nanoseconds.
    pub runtime: u64,
    /// Likewise.
    pub deadline: u64,
    /// Likewise.
    pub period: u64,
}

/// Which program the birth ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exec {
    /// The first of the paths that is a regular file which the container's user may execute.
    /// Found and checked before the gate, so that Create reports a missing program.
    Path,
    /// A descriptor (`execveat` with `AT_EMPTY_PATH`): the runner of wasm containers.
    Slot(Slot),
}

/// One thing the child does. The order of the variants is the usual order of a birth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Waits for the parent's word that the cgroup is there. The parent gives it unasked, as soon as
    /// it knows of the process; comes once, and not in a plan that forks.
    Await,
    /// Writes `0` into a `tasks` file of cgroup v1, a path of the host: the caller alone moves, without
    /// an RCU wait.
    JoinCgroup(Text),
    /// Likewise into one of resctrl.
    JoinClass(Text),
    /// `setns` to the namespace in the slot; the value is its `CLONE_NEW*` flag, or several
    /// flags when the slot holds a pidfd.
    Setns(Slot, u32),
    /// `unshare` of `CLONE_NEW*` flags.
    Unshare(u32),
    /// Makes a time namespace whose clocks are off by these lines of
    /// `/proc/self/timens_offsets`, through [`Reg::Proc`], and enters it.
    TimeNamespace(Text),
    /// Makes a file system without attaching it, as the root of the caller's user namespace:
    /// what it is, its `MOUNT_ATTR_*` bits, and where it is kept.
    Detached(Source, u64, Reg),
    /// `chdir` to a path of the host, as whoever the child still is.
    HostDir(Text),
    /// Becomes root of the user namespace that was just joined, without groups.
    MappedRoot,
    /// `clone3` with `CLONE_PARENT` and these `CLONE_NEW*` flags: the new process is the
    /// parent's child too and goes on with the next step; this one tells the parent and ends.
    Fork(u32),
    /// Brings up the loopback interface of the caller's network namespace, which nobody else will.
    Loopback,
    /// `setsid`.
    Setsid,
    /// Sets the propagation of the mount at a path below the process's root: `MS_*`, with `MS_REC`
    /// that of everything below it too.
    Propagation(Text, u32),
    /// Attaches the detached tree of the slot at a host directory; the root of the tree is
    /// [`Reg::Root`] from here on. `propagation` is applied to the tree, recursively.
    AttachRoot {
        /// The tree.
        tree: Slot,
        /// Where, in the host's mount tree as the child sees it; `None` at its working directory.
        at: Option<Text>,
        /// `MS_*`.
        propagation: u32,
    },
    /// Opens a directory or mount that exists below the root (no creation) into a register.
    Open(Text, Reg),
    /// Mounts a private procfs that no path leads to, into [`Reg::Proc`].
    PrivateProc,
    /// Makes and attaches a mount.
    Mount(Mount),
    /// Attaches a copy of the mount at a path below [`Reg::Covered`] at the same path below
    /// [`Reg::Dev`]; a missing path is skipped, and so is a device other than `null`.
    Carry(Text),
    /// Makes a directory below the root with its parents (mode 0755) if missing;
    /// `(path, uid, gid)` for what is made.
    MakeDir(Text, u32, u32),
    /// Makes a device node; an existing node of that name is replaced.
    Node(Node),
    /// Makes a symbolic link: `(base, target, path relative to base)`. An existing name is kept.
    Symlink(Reg, Text, Text),
    /// Allocates a console from [`Reg::Pts`] with `(rows, columns)` (0 0 leaves the size),
    /// gives it to the uid, sends the master to the parent, keeps the user's end in
    /// [`Reg::Console`].
    Console {
        /// Owner of the user's end.
        uid: u32,
        /// Height in characters.
        rows: u16,
        /// Width in characters.
        cols: u16,
    },
    /// Binds the user's end of the console over `console` of [`Reg::Dev`].
    BindConsole,
    /// Changes attributes of the mount at a path below the root: `(path, set, clear)`.
    Remount(Text, u64, u64),
    /// Makes the root mount read-only (this mount alone).
    ReadOnlyRoot,
    /// Tells the parent that the tree is there, and waits until it has done what belongs here: run
    /// the hooks that see the host's tree beside a new container's, or looked at an exec's.
    Pause,
    /// Makes [`Reg::Root`] the root and the cwd and detaches the old root.
    Pivot,
    /// Puts a copy in the place of the mount namespace, in which root of the container's user
    /// namespace can change and remove nothing that is mounted now, and opens in it again what
    /// later steps need. Needs [`Reg::Proc`]. Shared mounts are slaves afterwards.
    LockMounts,
    /// Writes a sysctl: `(path below /proc/sys, value)`, through [`Reg::Proc`].
    Sysctl(Text, Text),
    /// Binds a path onto itself read-only, keeping its other flags; a missing path is skipped.
    /// Below `/proc` and `/sys` it is walked from [`Reg::Procfs`] and [`Reg::Sysfs`], where filled.
    ReadOnly(Text),
    /// Hides a path: a file behind `null` of [`Reg::Dev`], a directory behind [`Reg::Empty`]
    /// (made at first use); a missing path is skipped. Walked as for [`Step::ReadOnly`].
    Mask(Text),
    /// `sethostname`.
    Hostname(Text),
    /// `setdomainname`.
    Domainname(Text),
    /// `umask`.
    Umask(u32),
    /// Blocks these signals, bit n - 1 for signal n: what comes for a program before it listens is kept.
    Hold(u64),
    /// `setrlimit`: resource number, soft, hard.
    Rlimit {
        /// `RLIMIT_*`.
        resource: u32,
        /// Soft limit.
        soft: u64,
        /// Hard limit.
        hard: u64,
    },
    /// Writes `/proc/self/oom_score_adj` through [`Reg::Proc`]: the decimal number as text.
    OomScoreAdj(Text),
    /// Writes `(attribute, value)`, a security label's, to a file below `/proc` through
    /// [`Reg::Proc`]: `self/attr/apparmor/exec` and its like. What is to hold from exec on
    /// must be written before [`Step::NoNewPrivileges`], [`Step::Seccomp`] and [`Step::User`].
    Label(Text, Text),
    /// `ioprio_set` of the caller.
    IoPriority(i32),
    /// `sched_setattr` of the caller.
    Scheduler(Scheduler),
    /// `personality` of the caller: `PER_*`.
    Personality(u32),
    /// `set_mempolicy` of the caller: `MPOL_*` with its flags, and entries of the plan's table of groups,
    /// which are words of the mask of nodes here; an even number of them.
    MemoryPolicy {
        /// `MPOL_*` and `MPOL_F_*`.
        mode: u32,
        /// The first entry.
        first: u32,
        /// How many.
        len: u32,
    },
    /// `sched_setaffinity` of the caller: entries of the plan's table of groups, which are words
    /// of the mask here.
    Affinity {
        /// The first entry.
        first: u32,
        /// How many.
        len: u32,
    },
    /// Takes the console as controlling terminal and as 0, 1 and 2.
    ControllingTerminal,
    /// `dup2` of a slot to a descriptor number of the program.
    Dup(Slot, u32),
    /// `dup2` of `/dev/null`, opened below [`Reg::Dev`] or the root and verified to be 1:3,
    /// to a descriptor number of the program.
    Null(u32),
    /// Joins a new session keyring of this name; a kernel without keyrings is no error.
    Keyring(Text),
    /// `no_new_privs`.
    NoNewPrivileges,
    /// Installs a seccomp filter: the program and `SECCOMP_FILTER_FLAG_*`. If the kernel makes a
    /// listener, tells the parent its number and waits until the parent has taken it.
    Seccomp(Program, u32),
    /// `setgroups`: entries of the plan's table of groups.
    Groups {
        /// The first entry.
        first: u32,
        /// How many.
        len: u32,
    },
    /// `setresgid`, `setresuid`, keeping permitted capabilities across the change.
    User {
        /// All user ids.
        uid: u32,
        /// All group ids.
        gid: u32,
    },
    /// Drops the bounding set to this mask. Comes before [`Step::User`].
    Bounding(u64),
    /// Sets effective, permitted, inheritable and ambient sets. Comes after [`Step::User`].
    Capabilities(Capabilities),
    /// `chdir` to a path of the container, then verifies that the cwd is below the root.
    Chdir(Text),
    /// Finds the program among the plan's candidates as the container's user; remembers which.
    /// Failing here is Create's failure.
    FindProgram(Texts),
    /// Sets close-on-exec on every descriptor from this number up.
    CloseFrom(u32),
    /// Tells the parent that everything above is done.
    Ready,
    /// Waits until the parent opens the gate. Comes after [`Step::Ready`].
    Gate,
    /// Runs the program with the plan's arguments and environment.
    Exec(Exec),
}

/// What the child sends to the parent: one fixed record a message, over a
/// `SOCK_SEQPACKET` socket that closes on exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Message {
    /// What kind: one of the `Message::` constants.
    pub kind: u32,
    /// The step it is about.
    pub step: u32,
    /// Which part of the step: an [`Op`] as a number.
    pub op: u32,
    /// The errno, or 0.
    pub errno: i32,
}

impl Message {
    /// The child has come to [`Step::Ready`].
    pub const READY: u32 = 1;
    /// A step failed; the child has exited.
    pub const FAILED: u32 = 2;
    /// The console's master comes with this message (`SCM_RIGHTS`).
    pub const CONSOLE: u32 = 3;
    /// The child stands at [`Step::Pause`].
    pub const PAUSED: u32 = 4;
    /// The child waits until the parent has taken the descriptor whose number is the step's, the
    /// listener of its seccomp filter.
    pub const LISTENER: u32 = 5;
    /// [`Step::Fork`] has made a process: its pidfd comes with this message, and `step` is its
    /// number in the PID namespace of the one that forked, which need not be the parent's.
    pub const BORN: u32 = 6;
}

/// The part of a step that failed, so that one step can be several calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[expect(
    missing_docs,
    reason = "each is the name of the system call or of the check"
)]
pub enum Op {
    Step = 0,
    Openat2,
    Fsopen,
    Fsconfig,
    Fsmount,
    OpenTree,
    MountSetattr,
    MoveMount,
    Mkdirat,
    Mknodat,
    Fchownat,
    Fchmodat,
    Symlinkat,
    Unlinkat,
    Ioctl,
    Sendmsg,
    Dup3,
    Write,
    Setns,
    Unshare,
    PivotRoot,
    Umount2,
    Chdir,
    Prctl,
    Seccomp,
    Setgroups,
    Setresgid,
    Setresuid,
    Capset,
    Access,
    Execve,
    Read,
    Fstat,
    Clone3,
    Getdents64,
    Readlinkat,
    Utimensat,
    CopyFileRange,
    /// A check of Duet's own: the errno says why.
    Check,
}
