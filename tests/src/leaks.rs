//! What a test may not leave behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command;
use crate::containerd::Containerd;
use crate::machine::{self, Cgroups, Runtime};

/// The folder in which shims have their sockets.
const SOCKET_DIR: &str = "/run/containerd/s";
/// The folders in which network namespaces get names.
const NETNS_DIRS: [&str; 2] = ["/run/netns", "/var/run/netns"];
/// Where systemd has the files of units that somebody made while it ran, until it forgets them.
const UNIT_DIR: &str = "/run/systemd/transient";
/// Where Duet may keep records outside of bundles.
const RECORD_DIR: &str = "/run/duet";

/// What exists on the machine and could be ours, one sentence each.
#[derive(Debug, Default)]
pub struct Snapshot {
    sentences: BTreeSet<String>,
}

/// What is asked about.
#[derive(Debug)]
pub struct Scope<'a> {
    /// The daemon that the test used.
    pub daemon: &'a Containerd,
    /// What ran the containers.
    pub runtime: Runtime,
    /// The containerd namespaces that the test used.
    pub namespaces: &'a [String],
    /// The network namespaces that CRI made for the test.
    pub netns: &'a [PathBuf],
}

impl Snapshot {
    /// Looks at everything.
    #[must_use]
    pub fn take(scope: &Scope<'_>) -> Self {
        let mut sentences = BTreeSet::new();
        sentences.extend(processes(scope).into_iter().map(|(_, sentence)| sentence));
        sentences.extend(mounts(scope));
        sentences.extend(cgroups(scope).map(|dir| format!("cgroup {}", dir.display())));
        sentences.extend(named_network_namespaces(scope));
        // A runc shim that is shot leaves its socket; the oracle is not on trial.
        if scope.runtime == Runtime::Duet {
            sentences.extend(sockets());
        }
        sentences.extend(state_files(scope));
        sentences.extend(scope.daemon.network.leftovers());
        sentences.extend(of_duet_run());
        sentences.extend(units(scope));
        Self { sentences }
    }

    /// What is there now and was not `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Vec<String> {
        self.sentences
            .difference(&before.sentences)
            .cloned()
            .collect()
    }
}

/// Ends what a failed test has left, as far as it can be, so that the next one starts clean.
pub fn clear(scope: &Scope<'_>) {
    for (pid, _) in processes(scope) {
        let pid = nix::unistd::Pid::from_raw(pid);
        // It may be gone already.
        let _sent = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    let emptied = || {
        cgroups(scope)
            .all(|dir| fs::remove_dir(dir).is_ok())
            .then_some(())
    };
    let _given_up = crate::wait::within(std::time::Duration::from_secs(2), emptied);
}

/// Removes the folders `/<namespace>` that containers had their cgroups in: they are
/// `ctr`'s choice and no runtime removes them.
pub fn remove_empty_parents(scope: &Scope<'_>) {
    for hierarchy in hierarchies() {
        for namespace in scope.namespaces {
            // A folder that is missing is fine; one with children is a leak and reported.
            let _removed = fs::remove_dir(hierarchy.join(namespace));
        }
    }
    if Cgroups::chosen() == Cgroups::Systemd {
        for namespace in scope.namespaces {
            stop_if_empty(&slice(namespace));
            // On v1 systemd has none of its own in some hierarchies; the one that stops is not there.
            for hierarchy in hierarchies() {
                let _removed = fs::remove_dir(hierarchy.join(parent_of_cgroups(namespace)));
            }
        }
    }
}

/// The slice of a namespace's containers, where systemd makes their cgroups.
#[must_use]
pub fn slice(namespace: &str) -> String {
    format!("{namespace}.slice")
}

/// Where the containers of a namespace have their cgroups, below the root of each hierarchy.
#[must_use]
pub fn parent_of_cgroups(namespace: &str) -> PathBuf {
    match Cgroups::chosen() {
        Cgroups::Cgroupfs => PathBuf::from(namespace),
        // `a-b.slice` lies in `a.slice`.
        Cgroups::Systemd => namespace
            .match_indices('-')
            .map(|(at, _)| at)
            .chain([namespace.len()])
            .map(|end| slice(&namespace[..end]))
            .collect(),
    }
}

/// Stops a slice that holds nothing: systemd keeps it for whoever comes next.
fn stop_if_empty(slice: &str) {
    let told = |property: &str| {
        let mut show = Command::new("systemctl");
        let show = show.args(["show", "--value", "-p", property, slice]);
        command::run(show).ok().stdout.trim().to_owned()
    };
    let group = told("ControlGroup");
    let empty = hierarchies().iter().all(|hierarchy| {
        let below = fs::read_dir(hierarchy.join(group.trim_start_matches('/')));
        let mut below = below.into_iter().flatten().flatten();
        !below.any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    });
    if !group.is_empty() && empty {
        let _stopped = command::run(Command::new("systemctl").args(["stop", slice]));
    }
}

/// Processes of ours: by environment (shims), cgroup (containers), command line, program.
fn processes(scope: &Scope<'_>) -> Vec<(i32, String)> {
    let run = format!("DUET_TEST_RUN={}", scope.daemon.dir.display());
    let daemon = i32::try_from(scope.daemon.pid()).expect("a pid is small");
    let bin_dir = machine::bin_dir();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("procfs is mounted").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let (environ, cgroup, cmdline) = (read("environ"), read("cgroup"), read("cmdline"));
        let (cgroup, cmdline) = (
            String::from_utf8_lossy(&cgroup),
            String::from_utf8_lossy(&cmdline),
        );
        let shown = cmdline.replace('\0', " ");
        let exe = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        let ours = environ
            .split(|byte| *byte == 0)
            .any(|entry| entry == run.as_bytes())
            || names_a_namespace(&cgroup, scope)
            || names_a_namespace(&cmdline, scope)
            || (exe.starts_with(&bin_dir) && exe.to_string_lossy().contains("duet-"))
                && is_child_of(pid, daemon);
        // `ctr` and `strace` are the test's own and end with it; zombies have no name.
        if ours && pid != daemon && !is_client(&exe) && !shown.is_empty() {
            found.push((pid, format!("process {pid}: {shown}({})", cgroup.trim())));
        }
    }
    found
}

fn names_a_namespace(text: &str, scope: &Scope<'_>) -> bool {
    // CRI's own namespace is everybody's; its cgroups are told by the pods' parent.
    scope
        .namespaces
        .iter()
        .any(|namespace| text.contains(namespace.as_str()))
}

fn is_client(exe: &Path) -> bool {
    exe.file_name().is_some_and(|name| name == "ctr")
        || std::env::current_exe().is_ok_and(|this| this == exe)
}

/// The parent of a process; `None` once that is gone.
#[must_use]
pub fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

fn is_child_of(pid: i32, parent: i32) -> bool {
    parent_of(pid) == Some(parent)
}

/// Mounts below the daemon's folders, and namespaces that somebody pinned by a mount.
fn mounts(scope: &Scope<'_>) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("procfs is mounted");
    let ours = |line: &&str| {
        let point = line.split(' ').nth(4).unwrap_or_default();
        Path::new(point).starts_with(&scope.daemon.dir)
            || Path::new(point).starts_with(RECORD_DIR)
            || names_a_namespace(point, scope)
    };
    table
        .lines()
        .filter(ours)
        .map(|line| format!("mount {line}"))
        .collect()
}

/// Cgroups with the name of one of the test's namespaces in their path.
fn cgroups(scope: &Scope<'_>) -> impl Iterator<Item = PathBuf> {
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        for namespace in scope.namespaces {
            find_named(&hierarchy, namespace, &mut found);
        }
    }
    // The deepest first, so that they can be removed in this order.
    found.sort_by_key(|dir: &PathBuf| std::cmp::Reverse(dir.components().count()));
    found.into_iter()
}

fn find_named(dir: &Path, name: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = entry.path();
            if path.to_string_lossy().contains(name) {
                found.push(path.clone());
            }
            find_named(&path, name, found);
        }
    }
}

/// Where each hierarchy is mounted: one on v2, one per controller on v1.
///
/// # Panics
///
/// Without procfs.
#[must_use]
pub fn hierarchies() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").expect("procfs is mounted");
    let is_cgroup = |kind: &str| kind == "cgroup" || kind == "cgroup2";
    table
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| fields.len() > 2 && is_cgroup(fields[2]))
        .map(|fields| PathBuf::from(fields[1]))
        .collect()
}

fn named_network_namespaces(scope: &Scope<'_>) -> Vec<String> {
    let exists = |path: &&PathBuf| path.exists();
    let mut found: Vec<_> = scope
        .netns
        .iter()
        .filter(exists)
        .map(|path| format!("network namespace {}", path.display()))
        .collect();
    for dir in NETNS_DIRS {
        // CRI's names are random, so those of others cannot be told from ours; Duet's own can.
        let names = entries(Path::new(dir)).filter(|name| name.contains("duet"));
        found.extend(names.map(|name| format!("network namespace {dir}/{name}")));
    }
    found
}

/// Shim sockets that nobody listens on. One that is served belongs to a process, and
/// those are looked at by themselves.
fn sockets() -> Vec<String> {
    let served = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let dead = |name: &String| !served.contains(&format!("{SOCKET_DIR}/{name}"));
    entries(Path::new(SOCKET_DIR))
        .filter(dead)
        .map(|name| format!("socket {SOCKET_DIR}/{name}"))
        .collect()
}

/// What `duet run` makes on the machine under its own name: cgroups and a bridge.
fn of_duet_run() -> Vec<String> {
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        let pods = hierarchy.join("duet");
        found.extend(
            entries(&pods)
                .filter(|name| pods.join(name).is_dir())
                .map(|name| format!("cgroup {}/{name}", pods.display())),
        );
    }
    let bridge = |name: &String| {
        name.strip_prefix("duet")
            .is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let interfaces = entries(Path::new("/sys/class/net")).filter(bridge);
    found.extend(interfaces.map(|name| format!("interface {name}")));
    found
}

/// Units that systemd still knows in a slice of the test's own, also if they have failed: by their files, since
/// other tests may have units of such names at the same time.
fn units(scope: &Scope<'_>) -> Vec<String> {
    let of_ours = |name: &String| {
        let text = fs::read_to_string(Path::new(UNIT_DIR).join(name)).unwrap_or_default();
        let mut slices = text.lines().filter_map(|line| line.strip_prefix("Slice="));
        slices.any(|slice| names_a_namespace(slice, scope))
    };
    entries(Path::new(UNIT_DIR))
        .filter(of_ours)
        .map(|name| format!("unit {name}"))
        .collect()
}

/// What containerd keeps of tasks and sandboxes.
pub(crate) fn bundles(daemon: &Containerd, namespaces: &[&str]) -> Vec<String> {
    let dirs = namespaces
        .iter()
        .flat_map(|namespace| daemon.task_dirs(namespace));
    let kept = |dir: PathBuf| {
        let kept: Vec<_> = entries(&dir)
            .filter(|name| !is_containerds_own(&dir.join(name)))
            .map(|name| format!("state {}/{name}", dir.display()))
            .collect();
        kept
    };
    dirs.flat_map(kept).collect()
}

/// Whether containerd 2.x has lost the folder to itself: it hides a bundle before it removes it, and if its shim dies
/// at the moment at which it has connected, it writes `bootstrap.json` there at the same time
/// (`writeBootstrapParams` beside `cleanupAfterDeadShim` in `core/runtime/v2`).
fn is_containerds_own(bundle: &Path) -> bool {
    let hidden = bundle
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    // It has a number for a name until it is whole.
    let theirs =
        |name: String| name == "bootstrap.json" || name.bytes().all(|digit| digit.is_ascii_digit());
    let mut names = entries(bundle).peekable();
    hidden && names.peek().is_some() && names.all(theirs)
}

fn state_files(scope: &Scope<'_>) -> Vec<String> {
    let namespaces = scope
        .namespaces
        .iter()
        .map(String::as_str)
        .chain(["k8s.io"]);
    let mut found = bundles(scope.daemon, &namespaces.collect::<Vec<_>>());
    let records = Path::new(RECORD_DIR);
    let ours = entries(records).filter(|name| scope.namespaces.iter().any(|n| name.contains(n)));
    found.extend(ours.map(|name| format!("record {RECORD_DIR}/{name}")));
    found
}

fn entries(dir: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}
