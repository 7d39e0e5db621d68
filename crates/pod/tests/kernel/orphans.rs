//! What containers leave behind, and what a killed shim does.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use duet_cgroup::{Cgroup, Host, Mode};
use duet_pod::clean::clean;

use crate::rig::{Rig, process, with};

#[test]
fn what_init_leaves_in_a_shared_pid_namespace_is_killed_and_reaped() {
    with(async |mut rig| {
        let shared = ["mount", "ipc", "uts"];
        let script = "sleep 1000 & until [ -e /tmp/go ]; do sleep 0.01; done; exit 5";
        let bundle = rig.bundle("web", &["sh", "-c", script]);
        let pid = bundle.namespaces(&shared).start().await;
        let exec = process(&["sleep", "1000"], false);
        rig.pod
            .exec("web", "e1", &exec, Default::default())
            .await
            .unwrap();
        rig.pod.start("web", Some("e1")).await.unwrap();
        std::fs::write(format!("/proc/{pid}/root/tmp/go"), "").unwrap();
        assert_eq!(rig.finish("web").await.code, 5);
        let facts = rig.facts();
        let last = facts[facts.len() - 3..].to_vec();
        assert_eq!(last, ["exited e1 137", "exited web 5", "deleted web"]);
        // Strangers are reaped, in the time that the whole test has.
        while zombies() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

/// A cgroup that stands still; it is thawed with this, or a test that fails would wait for it for ever.
struct Frozen<'a>(&'a Cgroup);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.thaw().unwrap();
    }
}

#[test]
fn a_birth_that_hangs_in_the_kernel_keeps_no_stranger() {
    with(async |rig| {
        let host = Host::detect().unwrap();
        // Whoever enters a frozen cgroup stands still, as at a dead server's door.
        let parent = Cgroup::create(&host, Path::new(rig.parent())).unwrap();
        parent.freeze().unwrap();
        let frozen = Frozen(&parent);
        let record = rig.path().join("bundles/web/duet.json");
        let beside = async {
            let born = || std::fs::read_to_string(&record).is_ok_and(|it| it.contains("\"pid\""));
            while !born() {
                tokio::task::yield_now().await;
            }
            // Left to this process, which is the subreaper; the shell itself is not, nobody else runs meanwhile.
            let mut shell = Command::new("sh");
            let left = shell.args(["-c", "sleep 0.05 >&- & echo $!"]).output();
            let stranger = String::from_utf8(left.unwrap().stdout).unwrap();
            let stranger = Path::new("/proc").join(stranger.trim());
            while stranger.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            drop(frozen);
        };
        let bundle = rig.bundle("web", &["true"]);
        let (born, ()) = tokio::join!(bundle.create(), beside);
        born.unwrap();
        rig.pod.start("web", None).await.unwrap();
        assert_eq!(rig.finish("web").await.code, 0);
        // It was there before the pod.
        drop(parent.remove());
    });
}

#[test]
fn a_killed_shim_is_cleaned_up_after_from_its_record() {
    with(async |rig| {
        rig.bundle("one", &["sleep", "1000"]).start().await;
        rig.bundle("two", &["sleep", "1000"])
            .create()
            .await
            .unwrap();
        let cleaned = {
            let shim = rig.shim();
            let cleaned = tokio::task::spawn_blocking(move || clean(&shim, None)).await;
            cleaned.unwrap().unwrap()
        };
        let mut ids: Vec<_> = cleaned.iter().map(|cleaned| cleaned.id.as_str()).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["one", "two"]);
        assert!(
            cleaned
                .iter()
                .all(|cleaned| cleaned.exit.code == 137 && cleaned.pid > 0)
        );
        assert_eq!(clean(&rig.shim(), None).unwrap(), [], "it may run twice");
        all_are_over(&rig).await;
    });
}

/// On v1 a frozen process does not die before it is thawed, like one that sleeps in the kernel; on v2 it does.
#[test]
fn who_cannot_die_keeps_nobody_alive() {
    with(async |rig| {
        let host = Host::detect().unwrap();
        if host.mode() == Mode::V2 {
            eprintln!("a question for cgroup v1: on v2 the frozen die");
            return;
        }
        let script = "sleep 1000 & exec sleep 1000";
        let init = rig.bundle("one", &["sh", "-c", script]).start().await;
        rig.bundle("two", &["sleep", "1000"]).start().await;
        let child = loop {
            let pids = rig.pod.pids("one").await.unwrap();
            if let Some((child, _)) = pids.iter().find(|(pid, _)| *pid != init) {
                break *child;
            }
            tokio::task::yield_now().await;
        };
        let path = std::path::Path::new(rig.parent()).join("one/held");
        let held = Cgroup::create(&host, &path).unwrap();
        for dir in held.own_dirs() {
            std::fs::write(dir.path.join("cgroup.procs"), child.to_string()).unwrap();
        }
        held.freeze().unwrap();
        let shim = rig.shim();
        let cleaning = tokio::task::spawn_blocking(move || clean(&shim, None));
        // The first of the two is not over yet, and is waited for.
        assert_eq!(rig.pod.wait("two", None).await.unwrap().code, 137);
        held.thaw().unwrap();
        assert_eq!(cleaning.await.unwrap().unwrap().len(), 2);
        for id in ["one", "two"] {
            let record = rig.path().join("bundles").join(id).join("duet.json");
            assert!(!record.exists(), "something of {id} is left");
        }
        all_are_over(&rig).await;
    });
}

/// Under version 3 containerd may remove a member's bundle before it has the sandbox cleaned.
#[test]
fn a_member_whose_bundle_is_gone_is_cleaned_from_the_list() {
    with(async |rig| {
        rig.bundle("one", &["sleep", "1000"]).start().await;
        rig.bundle("two", &["sleep", "1000"]).start().await;
        let (bundles, aside) = (rig.path().join("bundles"), rig.path().join("aside"));
        std::fs::rename(bundles.join("two"), &aside).unwrap();
        let shim = rig.shim();
        let cleaned = tokio::task::spawn_blocking(move || clean(&shim, None)).await;
        let cleaned = cleaned.unwrap().unwrap();
        let ids: Vec<_> = cleaned.iter().map(|cleaned| cleaned.id.as_str()).collect();
        assert_eq!(ids, ["one", "two"]);
        std::fs::rename(&aside, bundles.join("two")).unwrap();
        // Its file is back, too: nobody lets go of it unasked.
        for id in ["one", "two"] {
            assert_eq!(rig.finish(id).await.code, 137);
        }
    });
}

/// containerd has forgotten it, and nobody will ask for its removal.
#[test]
fn a_single_member_is_cleaned_by_its_own_bundle_and_let_go() {
    with(async |mut rig| {
        let stop = rig.script("stop", "echo stop >>$DIR/trace");
        let one = rig.bundle("one", &["sleep", "1000"]);
        one.hook("poststop", &[&stop], "").start().await;
        rig.bundle("two", &["sleep", "1000"]).start().await;
        let bundle = rig.path().join("bundles/one");
        let cleaned = tokio::task::spawn_blocking(move || clean(&bundle, Some("one"))).await;
        assert_eq!(cleaned.unwrap().unwrap().len(), 1);
        assert_eq!(rig.pod.wait("one", None).await.unwrap().code, 137);
        rig.pod.kill("two", None, 9, false).await.unwrap();
        rig.finish("two").await;
        rig.pod.has_let_go().await;
        assert!(rig.pod.is_empty());
        let facts = rig.facts();
        let told = facts.iter().filter(|fact| *fact == "deleted one");
        assert_eq!(told.count(), 1, "{facts:?}");
        let trace = std::fs::read_to_string(rig.path().join("trace"));
        assert_eq!(trace.unwrap(), "stop\n", "whoever cleaned it ran its hooks");
    });
}

/// The pod itself is still there in these tests. It sees both ends, and lets go of what it is not asked to delete.
async fn all_are_over(rig: &Rig) {
    for id in ["one", "two"] {
        assert_eq!(rig.pod.wait(id, None).await.unwrap().code, 137);
    }
    rig.pod.delete("one", None).await.unwrap();
    rig.pod.has_let_go().await;
    assert!(rig.pod.is_empty());
}

#[test]
fn a_member_whose_record_is_unreadable_does_not_save_the_others() {
    with(async |rig| {
        rig.bundle("one", &["sleep", "1000"]).start().await;
        rig.bundle("two", &["sleep", "1000"]).start().await;
        let broken = rig.path().join("bundles/one/duet.json");
        let whole = std::fs::read(&broken).unwrap();
        std::fs::write(&broken, "{").unwrap();
        let clean_all = async || {
            let shim = rig.shim();
            let cleaned = tokio::task::spawn_blocking(move || clean(&shim, None)).await;
            cleaned.unwrap()
        };
        let error = clean_all().await.unwrap_err();
        assert!(error.to_string().contains("bundles/one"), "{error}");
        assert_eq!(rig.finish("two").await.code, 137);
        std::fs::write(&broken, whole).unwrap();
        assert_eq!(clean_all().await.unwrap().len(), 1);
        assert_eq!(rig.finish("one").await.code, 137);
    });
}

/// How many children of this process wait to be reaped.
fn zombies() -> usize {
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok())
        .filter_map(|stat| {
            let (_, rest) = stat.rsplit_once(')')?;
            let mut fields = rest.split_whitespace();
            Some((fields.next()? == "Z") && fields.next()? == own)
        })
        .filter(|zombie| *zombie)
        .count()
}
