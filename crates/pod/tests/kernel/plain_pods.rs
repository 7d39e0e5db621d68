//! Pods of plain `ctr run`: an annotation makes them.

use duet_spec::annotations::{POD, SANDBOX_ID};

use crate::rig::with;

const ALL: [&str; 5] = ["mount", "pid", "ipc", "uts", "network"];

fn namespace(pid: i32, kind: &str) -> std::path::PathBuf {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}

#[test]
fn containers_with_one_annotation_share_network_ipc_and_host_name() {
    with(async |rig| {
        let web = rig
            .bundle("web", &["sleep", "100"])
            .namespaces(&ALL)
            .annotation(POD, "shop");
        let web = web.start().await;
        let (stdout, text) = rig.sink("out");
        let stdin = rig.fifo("in");
        let log = rig.bundle("log", &["sh", "-c", "ip addr show lo; cat"]);
        let log = log
            .namespaces(&ALL)
            .annotation(POD, "shop")
            .stdio(&stdin, &stdout)
            .start()
            .await;
        let own = i32::try_from(std::process::id()).unwrap();
        for kind in ["net", "ipc", "uts"] {
            assert_eq!(namespace(web, kind), namespace(log, kind), "{kind}");
            assert_ne!(namespace(web, kind), namespace(own, kind), "{kind}");
        }
        assert_ne!(namespace(web, "pid"), namespace(log, "pid"));
        let cgroup = std::fs::read_to_string(format!("/proc/{log}/cgroup")).unwrap();
        assert!(cgroup.contains("/pod@shop/log"), "{cgroup}");
        // It has shown what it is to show by the time it ends.
        rig.pod.close_io("log", None).await.unwrap();
        assert_eq!(rig.finish("log").await.code, 0);
        rig.pod.kill("web", None, 9, false).await.unwrap();
        rig.finish("web").await;
        let text = text.await.unwrap();
        assert!(
            text.contains("127.0.0.1/8") && text.contains("LOOPBACK,UP"),
            "{text}"
        );
    });
}

#[test]
fn without_an_annotation_and_under_cri_each_has_its_own() {
    with(async |rig| {
        let one = rig
            .bundle("one", &["sleep", "100"])
            .namespaces(&ALL)
            .start()
            .await;
        let two = rig.bundle("two", &["sleep", "100"]).namespaces(&ALL);
        let two = two.annotation(SANDBOX_ID, "shop").start().await;
        assert_ne!(namespace(one, "net"), namespace(two, "net"));
        for id in ["one", "two"] {
            rig.pod.kill(id, None, 9, false).await.unwrap();
            rig.finish(id).await;
        }
    });
}

#[test]
fn a_pod_whose_only_container_cannot_be_made_leaves_no_cgroup() {
    with(async |rig| {
        let web = rig.bundle("web", &["true"]).annotation(POD, "shop");
        web.start().await;
        let log = rig.bundle("log", &["/bin/nope"]).annotation(POD, "shop");
        log.create().await.unwrap_err();
        rig.finish("web").await;
        // The rig looks for the pod's cgroup when the test is over.
        let log = rig.bundle("log", &["/bin/nope"]).annotation(POD, "shop");
        log.create().await.unwrap_err();
        assert!(rig.pod.is_empty());
    });
}
