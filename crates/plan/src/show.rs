//! A plan for people: one line a step.

use crate::{Descriptor, Given, Plan, labels, mounts::ms, namespaces::clone};
use duet_spec::{Capabilities, IdRange, MemoryPolicy, attr};
use duet_step::{Destination, Exec, Mount, Slot, Source, Step};

// === impl Plan ===

impl Plan {
    /// The whole plan: what is born, what is opened, and one line a step.
    ///
    /// The environment is shown by name only: its values may be secret.
    #[must_use]
    pub fn show(&self) -> String {
        let mut text = format!("birth: {}\n", namespaces(self.clone));
        if let Some(slot) = self.pid_namespace {
            text += &format!("in the PID namespace of {}\n", self.slot(slot));
        }
        let env = self.texts(self.envp);
        let names: Vec<&str> = env
            .iter()
            .map(|entry| entry.split('=').next().unwrap_or_default())
            .collect();
        text += &format!(
            "argv: {:?}\nenvp: {}\n",
            self.texts(self.argv),
            names.join(" ")
        );
        for (number, step) in (1..).zip(&self.steps) {
            text += &format!("{number:3} {}\n", self.line(step));
        }
        text
    }

    /// What a step is about, without its details.
    pub(crate) fn subject(&self, step: &Step) -> String {
        match *step {
            Step::Mount(ref mount) => format!("mount {}", self.text(mount.target)),
            Step::AttachRoot { at: Some(at), .. } => format!("attach root {}", self.text(at)),
            Step::AttachRoot { at: None, .. } => "attach root here".to_owned(),
            Step::HostDir(path) => format!("go to {}", self.text(path)),
            Step::Remount(path, ..) => format!("remount {}", self.text(path)),
            Step::MakeDir(path, ..) => format!("make directory {}", self.text(path)),
            Step::Node(ref node) => {
                format!("make node {} in {:?}", self.text(node.path), node.base)
            }
            Step::Symlink(base, _, path) => format!("link {} in {base:?}", self.text(path)),
            Step::Sysctl(path, _) => format!("sysctl {}", self.text(path)),
            Step::Rlimit { resource, .. } => format!("limit {}", rlimit(resource)),
            Step::OomScoreAdj(value) => format!("process.oomScoreAdj: {}", self.text(value)),
            Step::Label(attribute, value) => match self.text(attribute).as_str() {
                labels::APPARMOR => {
                    let profile = self.text(value);
                    let profile = profile.strip_prefix("exec ").unwrap_or(&profile);
                    format!("process.apparmorProfile: {profile}")
                }
                labels::SELINUX | labels::SELINUX_KEY => {
                    format!("process.selinuxLabel: {}", self.text(value).trim_end())
                }
                other => format!("label {other}"),
            },
            Step::JoinClass(tasks) => format!("linux.intelRdt: enter by {}", self.text(tasks)),
            Step::Scheduler(_) => "process.scheduler".to_owned(),
            Step::Personality(_) => "linux.personality.domain".to_owned(),
            Step::MemoryPolicy { mode, first, len } => {
                let name = MemoryPolicy::name(mode);
                let nodes = bits(&self.group_ids(first, len));
                format!("linux.memoryPolicy: {name} {nodes:?}")
            }
            Step::Console { .. } => "console".to_owned(),
            Step::Capabilities(_) => "capabilities".to_owned(),
            Step::Seccomp(..) => "seccomp".to_owned(),
            Step::Await
            | Step::JoinCgroup(_)
            | Step::Setns(..)
            | Step::Unshare(_)
            | Step::TimeNamespace(_)
            | Step::Detached(..)
            | Step::MappedRoot
            | Step::Fork(_)
            | Step::Loopback
            | Step::Setsid
            | Step::Propagation(..)
            | Step::Open(..)
            | Step::PrivateProc
            | Step::BindConsole
            | Step::ReadOnlyRoot
            | Step::Carry(_)
            | Step::Pause
            | Step::Pivot
            | Step::LockMounts
            | Step::ReadOnly(_)
            | Step::Mask(_)
            | Step::Hostname(_)
            | Step::Domainname(_)
            | Step::Hold(_)
            | Step::Umask(_)
            | Step::IoPriority(_)
            | Step::Affinity { .. }
            | Step::ControllingTerminal
            | Step::Dup(..)
            | Step::Null(_)
            | Step::Keyring(_)
            | Step::NoNewPrivileges
            | Step::Groups { .. }
            | Step::User { .. }
            | Step::Bounding(_)
            | Step::Chdir(_)
            | Step::FindProgram(_)
            | Step::CloseFrom(_)
            | Step::Ready
            | Step::Gate
            | Step::Exec(_) => self.line(step),
        }
    }

    fn line(&self, step: &Step) -> String {
        let subject = || self.subject(step);
        match *step {
            Step::Await => "wait for the cgroup".to_owned(),
            Step::JoinCgroup(tasks) => format!("join cgroup by {}", self.text(tasks)),
            Step::Setns(slot, kinds) => {
                let kinds = namespaces(u64::from(kinds));
                format!("join {kinds} of {}", self.slot(slot))
            }
            Step::Unshare(kinds) => format!("new {}", namespaces(u64::from(kinds))),
            Step::TimeNamespace(offsets) => {
                let offsets = self.text(offsets);
                format!(
                    "new time namespace {}",
                    offsets.trim_end().replace('\n', ", ")
                )
                .trim_end()
                .to_owned()
            }
            Step::Detached(source, attributes, register) => {
                let set = changes("", attributes, 0);
                format!("make{}{set} as {register:?}", self.source(source))
            }
            Step::HostDir(_) => subject(),
            Step::MappedRoot => "root of the user namespace".to_owned(),
            Step::Fork(kinds) => format!("fork into {}", namespaces(u64::from(kinds))),
            Step::Loopback => "loopback up".to_owned(),
            Step::Setsid => "new session".to_owned(),
            Step::Propagation(path, bits) => {
                format!("propagation {} of {}", propagation(bits), self.text(path))
            }
            Step::AttachRoot {
                tree, propagation, ..
            } => {
                let kind = self::propagation(propagation);
                format!("{} from {}, {kind}", subject(), self.slot(tree))
            }
            Step::Open(path, register) => format!("open {} as {register:?}", self.text(path)),
            Step::PrivateProc => "private procfs".to_owned(),
            Step::Mount(ref mount) => format!("{}{}", subject(), self.mount(mount)),
            Step::Carry(path) => format!("carry {} over", self.text(path)),
            Step::MakeDir(_, uid, gid) => format!("{} {uid}:{gid}", subject()),
            Step::Node(ref node) => {
                let (mode, major, minor) = (node.mode, node.major, node.minor);
                let (uid, gid) = (node.uid, node.gid);
                format!("{} {mode:o} {major}:{minor} {uid}:{gid}", subject())
            }
            Step::Symlink(_, target, _) => format!("{} -> {}", subject(), self.text(target)),
            Step::Console { uid, rows, cols } => format!("console {rows}x{cols} of user {uid}"),
            Step::BindConsole => "bind console".to_owned(),
            Step::Remount(_, set, clear) => format!("{}{}", subject(), changes("", set, clear)),
            Step::ReadOnlyRoot => "read-only root".to_owned(),
            Step::Pause => "pause".to_owned(),
            Step::Pivot => "pivot".to_owned(),
            Step::LockMounts => "lock mounts".to_owned(),
            Step::Sysctl(_, value) => format!("{} = {}", subject(), self.text(value)),
            Step::ReadOnly(path) => format!("read-only {}", self.text(path)),
            Step::Mask(path) => format!("mask {}", self.text(path)),
            Step::Hostname(name) => format!("host name {}", self.text(name)),
            Step::Domainname(name) => format!("domain name {}", self.text(name)),
            Step::Hold(signals) => format!("hold signals {signals:#x}"),
            Step::Umask(mask) => format!("umask {mask:03o}"),
            Step::Rlimit { soft, hard, .. } => {
                format!("{} {} {}", subject(), limit(soft), limit(hard))
            }
            Step::OomScoreAdj(value) => format!("oom_score_adj {}", self.text(value)),
            Step::Label(attribute, value) => {
                format!(
                    "label {} = {}",
                    self.text(attribute),
                    self.text(value).trim_end()
                )
            }
            Step::IoPriority(value) => format!("I/O priority {:#x}", value),
            Step::Scheduler(ref scheduler) => format!(
                "scheduler {} flags {:#x} nice {} priority {}",
                scheduler.policy, scheduler.flags, scheduler.nice, scheduler.priority
            ),
            Step::Personality(domain) => format!("personality {domain:#x}"),
            Step::MemoryPolicy { .. } | Step::JoinClass(_) => subject(),
            Step::Affinity { first, len } => {
                format!("processors {:x?}", self.group_ids(first, len))
            }
            Step::ControllingTerminal => "controlling terminal on 0 1 2".to_owned(),
            Step::Dup(slot, number) => format!("{} on {number}", self.slot(slot)),
            Step::Null(number) => format!("/dev/null on {number}"),
            Step::Keyring(name) => format!("keyring {}", self.text(name)),
            Step::NoNewPrivileges => "no new privileges".to_owned(),
            // Not the program's length: that is the compiler's business.
            Step::Seccomp(_, flags) => format!("seccomp flags {flags:#x}"),
            Step::Groups { first, len } => format!("groups {:?}", self.group_ids(first, len)),
            Step::User { uid, gid } => format!("user {uid}:{gid}"),
            Step::Bounding(mask) => format!("bounding {}", capabilities(mask)),
            Step::Capabilities(ref sets) => format!(
                "{} effective {} permitted {} inheritable {} ambient {}",
                subject(),
                capabilities(sets.effective),
                capabilities(sets.permitted),
                capabilities(sets.inheritable),
                capabilities(sets.ambient)
            ),
            Step::Chdir(path) => format!("chdir {}", self.text(path)),
            Step::FindProgram(texts) => format!("find {}", self.texts(texts).join(" ")),
            Step::CloseFrom(number) => format!("close from {number} on exec"),
            Step::Ready => "ready".to_owned(),
            Step::Gate => "gate".to_owned(),
            Step::Exec(Exec::Path) => "exec".to_owned(),
            Step::Exec(Exec::Slot(slot)) => format!("exec {}", self.slot(slot)),
        }
    }

    fn group_ids(&self, first: u32, len: u32) -> Vec<u32> {
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let groups = self.groups.iter().skip(first).take(len);
        groups.copied().collect()
    }

    fn mount(&self, mount: &Mount) -> String {
        let mut text = self.source(mount.source);
        if mount.kind == Destination::File {
            text += " file";
        }
        text += &changes("", mount.set, mount.clear);
        text += &changes("r", mount.set_recursive, mount.clear_recursive);
        if mount.cut != 0 {
            text += &format!(" {}", propagation(mount.cut | ms::REC));
        }
        if mount.propagation != 0 {
            let recursive = if mount.propagation_recursive {
                ms::REC
            } else {
                0
            };
            text += &format!(" {}", propagation(mount.propagation | recursive));
        }
        if mount.inherit_mode {
            text += " mode of what it covers";
        }
        if mount.copy_up {
            text += " with what it covers";
        }
        if let Some(register) = mount.keep {
            text += &format!(" as {register:?}");
        }
        text
    }

    fn source(&self, source: Source) -> String {
        match source {
            Source::Filesystem {
                fstype,
                source,
                options,
            } => format!(
                " {} {} [{}]",
                self.text(fstype),
                self.text(source),
                self.texts(options).join(",")
            ),
            Source::Tree(slot) => format!(" from {}", self.slot(slot)),
            Source::Host(path) => format!(" from the host's {}", self.text(path)),
            Source::Made(register) => format!(" made as {register:?}"),
        }
    }

    fn slot(&self, slot: Slot) -> String {
        match self.slots.get(usize::from(slot.0)) {
            None => format!("slot {}", slot.0),
            Some(Descriptor::Tree {
                path,
                recursive,
                id_map,
            }) => {
                let below = if *recursive { "/..." } else { "" };
                let owners = id_map.map_or_else(String::new, |map| {
                    let below = if map.recursive { ", below too" } else { "" };
                    format!(" owned as in {}{below}", self.slot(map.namespace))
                });
                format!("{}{below}{owners}", path.display())
            }
            Some(Descriptor::UserNamespace(ids)) => {
                let ranges = |ranges: &[IdRange]| {
                    let range = |r: &IdRange| format!("{}:{}:{}", r.container, r.host, r.size);
                    ranges.iter().map(range).collect::<Vec<_>>().join(",")
                };
                format!("new [{} {}]", ranges(&ids.uids), ranges(&ids.gids))
            }
            Some(Descriptor::Namespace { path, .. }) => path.display().to_string(),
            Some(Descriptor::Given(Given::Namespace(kind))) => {
                format!("the pod's {}", namespaces(u64::from(*kind)))
            }
            Some(Descriptor::Given(given)) => format!("{given:?}"),
        }
    }
}

fn namespaces(flags: u64) -> String {
    let names = [
        (clone::MOUNT, "mount"),
        (clone::PID, "pid"),
        (clone::NETWORK, "network"),
        (clone::IPC, "ipc"),
        (clone::UTS, "uts"),
        (clone::CGROUP, "cgroup"),
        (clone::USER, "user"),
        (clone::TIME, "time"),
    ];
    let known = names
        .into_iter()
        .filter(|(flag, _)| flags & u64::from(*flag) != 0);
    let words: Vec<&str> = known.map(|(_, name)| name).collect();
    if words.is_empty() {
        return "no new namespace".to_owned();
    }
    format!("{} namespace", words.join("+"))
}

fn propagation(bits: u32) -> String {
    let recursive = if bits & ms::REC != 0 { "r" } else { "" };
    let kind = match bits & !ms::REC {
        ms::SHARED => "shared",
        ms::SLAVE => "slave",
        ms::PRIVATE => "private",
        ms::UNBINDABLE => "unbindable",
        _ => "?",
    };
    format!("{recursive}{kind}")
}

fn changes(prefix: &str, set: u64, clear: u64) -> String {
    const NAMES: [(u64, &str); 8] = [
        (attr::RDONLY, "ro"),
        (attr::NOSUID, "nosuid"),
        (attr::NODEV, "nodev"),
        (attr::NOEXEC, "noexec"),
        (attr::NOATIME, "noatime"),
        (attr::STRICTATIME, "strictatime"),
        (attr::NODIRATIME, "nodiratime"),
        (attr::NOSYMFOLLOW, "nosymfollow"),
    ];
    let mut text = String::new();
    for (bit, name) in NAMES {
        if set & bit != 0 {
            text += &format!(" +{prefix}{name}");
        }
        if clear & bit != 0 && clear & attr::ATIME != attr::ATIME {
            text += &format!(" -{prefix}{name}");
        }
    }
    if clear & attr::ATIME == attr::ATIME {
        text += &format!(" -{prefix}atime");
    }
    text
}

/// The names, or of many the mask: a privileged container has all of them.
fn capabilities(mask: u64) -> String {
    if mask.count_ones() > 16 {
        return format!("{mask:#x}");
    }
    let held = (0..u64::BITS).filter(|number| mask & (1 << number) != 0);
    let names: Vec<String> = held
        .map(|number| match Capabilities::name(number) {
            Some(name) => name.trim_start_matches("CAP_").to_lowercase(),
            None => number.to_string(),
        })
        .collect();
    format!("[{}]", names.join(" "))
}

/// The numbers of the bits that are set.
fn bits(words: &[u32]) -> Vec<u32> {
    let bits = words
        .iter()
        .flat_map(|word| (0..u32::BITS).map(move |bit| word >> bit & 1));
    let numbers = (0..).zip(bits).filter(|(_, bit)| *bit == 1);
    numbers.map(|(number, _)| number).collect()
}

fn limit(value: u64) -> String {
    if value == u64::MAX {
        "unlimited".to_owned()
    } else {
        value.to_string()
    }
}

fn rlimit(resource: u32) -> String {
    const NAMES: [&str; 16] = [
        "cpu",
        "fsize",
        "data",
        "stack",
        "core",
        "rss",
        "nproc",
        "nofile",
        "memlock",
        "as",
        "locks",
        "sigpending",
        "msgqueue",
        "nice",
        "rtprio",
        "rttime",
    ];
    let known = usize::try_from(resource)
        .ok()
        .and_then(|number| NAMES.get(number));
    known.map_or_else(|| resource.to_string(), ToString::to_string)
}
