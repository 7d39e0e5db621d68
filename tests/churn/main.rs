//! Many containers that are over at once, several at a time, through one shim: every exit is
//! answered and told, in order, and nothing is left.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

mod scarcity;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use duet_tests::shim::{Bundle, Shim};
use duet_tests::{Node, events, image, machine, template, wait};
use serde_json::{Value, json};

/// How many containers there are.
const LIVES: u32 = 1_000;
/// How many of them at a time.
const AT_A_TIME: u32 = 8;
/// The events of a life that has no execs.
const LIFE: [&str; 4] = ["create", "start", "exit", "delete"];

#[test]
fn a_thousand_brief_lives_are_told_in_order_and_leave_nothing() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let told = events::subscribe(&node);
    let dir = node.scratch().join("churn");
    let spec = pod(&node, "churn");

    let bundle = Bundle::new(&dir.join("pod"), Some(&spec.to_string())).unwrap();
    let program = machine::binary("containerd-shim-duet-v1");
    let shim = Shim::start(node.daemon(), &program, node.namespace(), "churn", &bundle).unwrap();
    let cgroups = format!("/{}", node.namespace());
    let next = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= LIVES {
                        return;
                    }
                    live(&shim, number, &dir, &cgroups, spec.clone());
                }
            });
        }
    });

    // The container that the spec was taken from is told of, too.
    let ours = |(_, event): &(String, Value)| {
        let id = event["container_id"].as_str();
        id.is_some_and(|id| id.starts_with("brief-"))
    };
    let events = wait::until("the last event", || {
        let events: Vec<_> = events::of_tasks(&told.stdout())
            .into_iter()
            .filter(ours)
            .collect();
        let deleted = events.iter().filter(|(topic, _)| topic == "delete").count();
        (deleted >= LIVES as usize).then_some(events)
    });
    let mut lives = BTreeMap::<String, Vec<(String, Value)>>::new();
    for (topic, event) in events {
        let id = event["container_id"].as_str().unwrap().to_owned();
        lives.entry(id).or_default().push((topic, event));
    }
    assert_eq!(lives.len(), LIVES as usize);
    for (id, life) in &lives {
        let topics: Vec<_> = life.iter().map(|(topic, _)| topic.as_str()).collect();
        assert_eq!(topics, LIFE, "{id}");
        let number: u32 = id.trim_start_matches("brief-").parse().unwrap();
        // Go leaves out what is 0.
        let status = life[2].1["exit_status"].as_u64().unwrap_or(0);
        assert_eq!(status, u64::from(code(number)), "{id}");
        assert_eq!(life[0].1["pid"], life[2].1["pid"], "{id}");
    }
    // The pod itself was never a container.
    let _said = shim.shutdown();
}

/// What `ctr run` would ask for, in a pod and with one root for all.
fn pod(node: &Node, name: &str) -> Value {
    let root = node.scratch().join("churn/root");
    fs::create_dir_all(&root).unwrap();
    let images = image::all();
    let busybox = images
        .iter()
        .find(|image| image.name() == image::BUSYBOX)
        .unwrap();
    busybox.unpack(&root).unwrap();
    for made in ["proc", "sys", "dev", "run"] {
        fs::create_dir_all(root.join(made)).unwrap();
    }
    let mut spec = template::config(node);
    spec["root"] = json!({"path": root, "readonly": true});
    spec["annotations"] = json!({
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-id": name,
    });
    // A network namespace takes the kernel longer to take down than all the rest.
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "network");
    spec
}

/// The code that a container ends with.
fn code(number: u32) -> u32 {
    number % 256
}

fn live(shim: &Shim, number: u32, dir: &Path, cgroups: &str, mut spec: Value) {
    let id = format!("brief-{number}");
    spec["process"]["args"] = json!(["/bin/sh", "-c", format!("exit {}", code(number))]);
    spec["linux"]["cgroupsPath"] = json!(format!("{cgroups}/{id}"));
    let bundle = Bundle::new(&dir.join(&id), Some(&spec.to_string())).unwrap();
    let pid = shim.create(&id, &bundle.dir).unwrap();
    assert_ne!(pid, 0);
    shim.begin(&id).unwrap();
    assert_eq!(shim.wait(&id).unwrap(), code(number), "{id}");
    shim.delete(&id).unwrap();
    let left = fs::read_dir(&bundle.dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left
        .filter(|name| {
            !["config.json", "log", "rootfs"]
                .iter()
                .any(|ours| name == ours)
        })
        .collect();
    assert!(left.is_empty(), "{id}: {left:?}");
    fs::remove_dir_all(&bundle.dir).unwrap();
}
