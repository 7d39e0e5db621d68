//! Removes what a pod left behind, from its record alone: no tokio, no shim, no FIFO.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use duet_cgroup::{Cgroup, Host, systemd};
use duet_container::{Exit, leave_workshops, poststop, remove_classes, unmount_all};

use crate::error::Error;
use crate::record::{self, Init, Member};

/// The code of a process that was killed by `SIGKILL`.
const KILLED: u8 = 137;

/// How long those who were killed may take to leave: 3 s for all, who were killed at the same moment, of the
/// 5 s that containerd waits. Who takes longer is stuck in the kernel, and keeps nobody else from being removed.
const KILL_LIMIT: Duration = Duration::from_secs(3);

/// How long of that nobody who has left already waits for who has not: 500 ms.
const PROMPT_LIMIT: Duration = Duration::from_millis(500);

/// How long loggers may take to write what a killed container has left them: 300 ms for all,
/// of the 5 s that containerd waits.
const FLUSH_LIMIT: Duration = Duration::from_millis(300);

/// How long systemd may take to let go of units that are empty: 1 s for all.
const UNIT_LIMIT: Duration = Duration::from_secs(1);

/// How long poststop hooks may take: 1 s until the last of them begins, and each no longer than that,
/// whatever it was given.
const HOOK_LIMIT: Duration = Duration::from_secs(1);

/// What was found of a container that the shim had not deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleaned {
    /// The container.
    pub id: String,
    /// Its init process, as far as one was recorded; else 0.
    pub pid: i32,
    /// 137, now: a killed process is what is left.
    pub exit: Exit,
}

/// How long others than the killed may still take.
#[derive(Debug)]
struct Patience {
    /// Until then, loggers.
    flush: Instant,
    /// So long, systemd.
    units: Duration,
}

// === impl Cleaned ===

impl Cleaned {
    fn killed(member: &Member) -> Self {
        Cleaned {
            id: member.id.clone(),
            pid: member.init.map_or(0, |init| init.pid),
            exit: Exit {
                code: KILLED,
                at: SystemTime::now(),
            },
        }
    }
}

/// Kills and removes every member of the pod whose shim had `bundle`, or `only` the one whose
/// own bundle it is.
///
/// Members that are not in the record are gone already: cleaning twice is no error. Takes
/// milliseconds unless a process is stuck in the kernel, and opens nothing that could block. Everybody is killed
/// before anyone is waited for: containerd kills who takes longer than 5 s, and whoever was not killed by then
/// would run on beside the pod that takes this one's place.
///
/// # Errors
///
/// [`Error::Record`] if a part of the record exists and cannot be read, after all that could be
/// was cleaned; [`Error::Container`] if there are
/// no cgroups to look into. What cannot be removed is logged and stays in the record for the
/// next try.
pub fn clean(bundle: &Path, only: Option<&str>) -> Result<Vec<Cleaned>, Error> {
    let mut members = BTreeMap::new();
    let mut unread = Ok(());
    let mut bundles = vec![(bundle.to_owned(), None)];
    if only.is_none() {
        match record::listed(bundle) {
            Ok(others) => bundles.extend(others),
            Err(error) => unread = Err(error),
        }
    }
    for (bundle, cgroup) in bundles {
        match Member::read(&bundle) {
            Ok(Some(member)) if only.is_none_or(|only| only == member.id) => {
                members.insert(bundle, member);
            }
            Ok(None) => {
                // containerd may remove the bundle of a member before it has the sandbox cleaned
                // (version 3). In one that is there, the member itself was cleaned.
                if let Some(cgroup) = cgroup.filter(|_| !bundle.exists()) {
                    let lost = Member::of_lost(&bundle, cgroup);
                    members.insert(bundle, lost);
                }
            }
            Ok(Some(_)) => {}
            // What one file fails to say is no reason to leave the others' containers behind.
            Err(error) => unread = unread.and(Err(error)),
        }
    }
    if members.is_empty() {
        return unread.map(|()| Vec::new());
    }
    let host = Host::detect().map_err(|source| Error::Container {
        id: only.unwrap_or_default().to_owned(),
        source: duet_container::Error::Cgroup {
            step: "find the host's cgroups",
            source,
        },
    })?;
    for member in members.values() {
        condemn(&host, member);
    }
    let begun = Instant::now();
    let mut patience = Patience {
        flush: begun + FLUSH_LIMIT,
        units: UNIT_LIMIT,
    };
    let (mut over, mut stuck) = (Vec::new(), Vec::new());
    for (bundle, member) in &members {
        let emptied = emptied(&host, &member.cgroup, begun + PROMPT_LIMIT);
        if matches!(emptied, Err(duet_cgroup::Error::Timeout { .. })) {
            stuck.push((bundle, member));
        } else if member_or_warn(bundle, member, emptied, &mut patience) {
            over.push((bundle, member));
        }
    }
    let last = begun + KILL_LIMIT;
    for (bundle, member) in stuck {
        let emptied = emptied(&host, &member.cgroup, last);
        if member_or_warn(bundle, member, emptied, &mut patience) {
            over.push((bundle, member));
        }
    }
    over.retain(|(_, member)| member.init.is_some());
    let cleaned = members.values().map(Cleaned::killed).collect();
    let mut forgotten = Ok(());
    if only.is_none() {
        // The shim was one process, and so all members name the same.
        if let Some(path) = members.values().find_map(|m| m.workshop.as_ref()) {
            emptied_or_warn(path, emptied(&host, path, last));
            leave_workshops(&host, path);
        }
        let pods: Vec<&PathBuf> = members
            .values()
            .filter_map(|m| m.pod_cgroup.as_ref())
            .collect();
        // One pod has one; the members name it each.
        if let Some(path) = pods.first() {
            emptied_or_warn(path, emptied(&host, path, last));
        }
        if unread.is_ok() {
            forgotten = record::forget_list(bundle);
        }
    }
    farewells(&over);
    forgotten?;
    unread.map(|()| cleaned)
}

/// Runs the poststop hooks of those who are over. After everything that kills: containerd waits 5 s for
/// `delete`, and whoever is not dead then stays. Once: who comes after us finds no record.
fn farewells(over: &[(&PathBuf, &Member)]) {
    let deadline = Instant::now() + HOOK_LIMIT;
    for (bundle, member) in over {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            tracing::warn!(id = member.id, "no time is left for its poststop hooks");
        } else if let Err(error) = poststop(&member.id, bundle, left) {
            tracing::debug!(%error, "no hooks are known of what was cleaned");
        }
    }
}

/// Kills a member, and waits for nobody.
fn condemn(host: &Host, member: &Member) {
    // It may have come no further than a part of its cgroup, and be kept from hearing that nobody
    // waits for it.
    if let Some(init) = member.init {
        end(init, Instant::now());
    }
    let condemned = Cgroup::open(host, &member.cgroup).and_then(|cgroup| cgroup.condemn());
    if let Err(error) = condemned
        && !error.is_gone()
    {
        // It is tried again when they are waited for.
        tracing::debug!(cgroup = %member.cgroup.display(), %error, "cgroup not killed at once");
    }
}

/// Removes what a member had whose cgroup was emptied, or was not; whether nothing is left.
fn member_or_warn(
    bundle: &Path,
    member: &Member,
    emptied: Result<(), duet_cgroup::Error>,
    patience: &mut Patience,
) -> bool {
    let mut clean = emptied_or_warn(&member.cgroup, emptied);
    // A unit ends with the last of its processes: while one is stuck, waiting for systemd is in vain, too.
    if let Some(unit) = member.unit.as_ref().filter(|_| clean) {
        let begun = Instant::now();
        let stopped = systemd::stop(unit, patience.units);
        patience.units = patience.units.saturating_sub(begun.elapsed());
        if let Err(error) = stopped {
            tracing::warn!(unit, %error, "unit left behind");
            clean = false;
        }
    }
    if let Err(error) = remove_classes(&member.classes) {
        tracing::warn!(classes = ?member.classes, %error, "class of resctrl left behind");
        clean = false;
    }
    for helper in &member.helpers {
        end(*helper, patience.flush);
    }
    if let Some(rootfs) = &member.rootfs
        && let Err(error) = unmount_all(rootfs)
    {
        tracing::warn!(path = %rootfs.display(), %error, "mount left behind");
        clean = false;
    }
    if clean && let Err(error) = record::forget(bundle) {
        tracing::warn!(%error, "record left behind");
    }
    clean
}

/// Kills whatever lives in a cgroup, waits until it has left, but not after `deadline`, and removes the cgroup.
fn emptied(host: &Host, path: &Path, deadline: Instant) -> Result<(), duet_cgroup::Error> {
    let removed = Cgroup::open(host, path).and_then(|cgroup| {
        cgroup.kill_within(deadline.saturating_duration_since(Instant::now()))?;
        cgroup.remove()
    });
    match removed {
        Err(error) if error.is_gone() => Ok(()),
        removed => removed,
    }
}

/// Whether a cgroup was emptied and removed.
fn emptied_or_warn(path: &Path, emptied: Result<(), duet_cgroup::Error>) -> bool {
    if let Err(error) = &emptied {
        tracing::warn!(cgroup = %path.display(), %error, "cgroup left behind");
    }
    emptied.is_ok()
}

/// Kills a process that was recorded, if it is still that one and has not ended by `patience`.
fn end(init: Init, patience: Instant) {
    let Ok(pidfd) = duet_linux::process::pidfd_open(init.pid) else {
        return;
    };
    // Asked after the descriptor was opened, so it is about the process that it names.
    if Init::of(init.pid) == Some(init)
        && !duet_linux::channel::readable(&pidfd, patience).unwrap_or(false)
        && let Err(error) = duet_linux::process::send_signal(&pidfd, 9)
    {
        tracing::debug!(pid = init.pid, %error, "recorded process not killed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_recorded_is_nothing_to_clean() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(clean(dir.path(), None).unwrap(), []);
        assert_eq!(clean(dir.path(), Some("web")).unwrap(), []);
        assert_eq!(clean(Path::new("/nonexistent/bundle"), None).unwrap(), []);
    }

    #[test]
    fn a_class_that_goes_with_its_container_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let class = dir.path().join("resctrl/web");
        let group = class.join("mon_groups");
        std::fs::create_dir_all(&group).unwrap();
        let bundle = dir.path().join("web");
        std::fs::create_dir(&bundle).unwrap();
        let mut member = Member::new("web".to_owned(), "/no-such-cgroup".into(), None);
        // One is gone already.
        member.classes = vec![group, class.clone(), dir.path().join("resctrl/gone")];
        member.write(&bundle).unwrap();
        assert_eq!(clean(&bundle, Some("web")).unwrap().len(), 1);
        assert!(!class.exists());
        assert_eq!(Member::read(&bundle).unwrap(), None);
    }

    #[test]
    fn a_recorded_process_is_killed_only_if_it_is_still_the_same() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let init = Init::of(pid).unwrap();
        let other = Init {
            started: init.started + 1,
            ..init
        };
        end(other, Instant::now());
        assert_eq!(
            child.try_wait().unwrap(),
            None,
            "another process of that number"
        );
        end(init, Instant::now());
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()),
            Some(9)
        );
    }
}
