//! Limits of tasks, down to none beside the first.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use duet_pod::Stdio;

use crate::rig::{Rig, process, with};

/// The namespaces with which a container is born in one step, and those with which in two.
const NAMESPACES: [&[&str]; 2] = [
    &["mount", "pid", "ipc", "uts"],
    &["mount", "pid", "ipc", "uts", "network", "user"],
];

/// How long the kernel may take to let go of a cgroup of which no process lives.
const LEAVING: Duration = Duration::from_secs(60);

/// Ends with 5 if it may fork, else with the shell's 2.
const FORKS: [&str; 3] = ["sh", "-c", "(exit 5); exit $?"];

fn limit(rig: &Rig, id: &str) -> String {
    let below = format!("{}/{id}/pids.max", rig.parent());
    let hierarchies = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];
    let files = hierarchies.map(|hierarchy| std::fs::read_to_string(hierarchy.to_owned() + &below));
    let text = files.into_iter().flatten().next().expect("it lives");
    text.trim().to_owned()
}

#[test]
fn a_limit_of_one_task_or_none_lets_init_be_born_and_nothing_beside_it() {
    with(async |rig| {
        for namespaces in NAMESPACES {
            for (version, asked, limited, code) in [
                ("1.3.0", 0, "1", 2),
                ("1.3.0", 1, "1", 2),
                ("1.2.1", 1, "1", 2),
                ("1.2.1", 2, "2", 5),
                ("1.2.1", 0, "max", 5),
            ] {
                let bundle = rig.bundle("web", &FORKS).namespaces(namespaces);
                let bundle = bundle.tasks(version, asked);
                let said = format!("{version} {asked} {namespaces:?}");
                let born = bundle.create().await;
                born.unwrap_or_else(|error| panic!("{said}: {error:?}"));
                assert_eq!(limit(&rig, "web"), limited, "{said}");
                rig.pod.start("web", None).await.unwrap();
                assert_eq!(rig.finish("web").await.code, code, "{said}");
            }
        }
    });
}

#[test]
fn an_exec_needs_room_for_one_task() {
    with(async |rig| {
        for namespaces in NAMESPACES {
            let bundle = rig.bundle("web", &["sleep", "100"]).namespaces(namespaces);
            bundle.tasks("1.2.1", 2).start().await;
            for _ in 0..3 {
                let asked = process(&["true"], false);
                let added = rig.pod.exec("web", "one", &asked, Stdio::default()).await;
                added.unwrap();
                let pid = rig.pod.start("web", Some("one")).await;
                pid.unwrap_or_else(|error| panic!("{namespaces:?}: {error:?}"));
                assert_eq!(rig.pod.wait("web", Some("one")).await.unwrap().code, 0);
                rig.pod.delete("web", Some("one")).await.unwrap();
            }
            rig.pod.kill("web", None, 9, false).await.unwrap();
            assert_eq!(rig.finish("web").await.code, 137);
        }
    });
}

#[test]
fn an_update_to_no_task_is_a_limit_since_1_3() {
    with(async |rig| {
        for (id, version, born, updated) in
            [("new", "1.3.0", "1", "1"), ("old", "1.2.1", "max", "7")]
        {
            let bundle = rig.bundle(id, &["sleep", "100"]).tasks(version, 0);
            bundle.start().await;
            assert_eq!(limit(&rig, id), born, "{version}");
            for (json, limited) in [
                (r#"{"pids":{"limit":7}}"#, "7"),
                (r#"{"pids":{}}"#, "7"),
                (r#"{"pids":{"limit":0}}"#, updated),
                (r#"{"pids":{"limit":-1}}"#, "max"),
            ] {
                rig.pod.update(id, json.as_bytes()).await.unwrap();
                assert_eq!(limit(&rig, id), limited, "{version} {json}");
            }
            rig.pod.kill(id, None, 9, true).await.unwrap();
            rig.finish(id).await;
        }
    });
}

#[test]
fn a_cgroup_that_others_live_in_is_refused_and_left_to_them() {
    with(async |rig| {
        let hierarchies = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(Path::new);
        let hierarchy = hierarchies.into_iter().find(|at| at.is_dir()).unwrap();
        let place = hierarchy
            .join(rig.parent().trim_start_matches('/'))
            .join("web");
        fs::create_dir_all(&place).unwrap();
        let mut other = Command::new("sleep").arg("100").spawn().unwrap();
        fs::write(place.join("cgroup.procs"), other.id().to_string()).unwrap();
        let error = rig.bundle("web", &["true"]).create().await.unwrap_err();
        let said = format!("{error:?}");
        assert!(said.contains("create the cgroup"), "{said}");
        assert!(said.contains("Occupied"), "{said}");
        assert!(rig.pod.is_empty());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
        let deadline = Instant::now() + LEAVING;
        // The dead leave it a moment after they are dead.
        while let Err(error) = fs::remove_dir(&place) {
            assert!(Instant::now() < deadline, "{error}");
            tokio::task::yield_now().await;
        }
    });
}
