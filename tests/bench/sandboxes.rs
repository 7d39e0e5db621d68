//! Pods made by the shim itself beside pods around a pause container: what each asks of the shim
//! to begin, and how much memory each takes with one idle container.

use std::cell::Cell;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_shim_protos::sandbox_api as api;
use duet_tests::bench::{self, Subject, Table};
use duet_tests::memory::{is_asleep, pss, rss};
use duet_tests::shim::{Bundle, Shim};
use duet_tests::{Node, machine};
use k8s_cri::v1 as cri;
use prost::Message as _;
use serde_json::{Value, json};

use crate::specs::Specs;
use crate::{Network, holder};

/// How many pods are there when memory is measured.
const PODS: u32 = 25;

/// Who makes a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The shim, around its holder.
    Shim,
    /// containerd, around a pause container (here busybox's `sleep`, which is what the tests'
    /// pause image has).
    Podsandbox,
}

/// Where the pods are made.
struct Place<'n> {
    node: &'n Node,
    dir: PathBuf,
    network: Network,
    specs: Specs,
    count: Cell<u32>,
}

/// A pod that is ready for containers.
struct Pod {
    id: String,
    shim: Shim,
    mode: Mode,
    /// What keeps its namespaces.
    keeper: u32,
    bundle: Bundle,
}

/// Proportional set sizes of a pod, in KiB, averaged over all pods.
pub(crate) struct Cost {
    mode: Mode,
    shim: u64,
    keeper: u64,
    container: u64,
    /// The largest resident set of a shim that has just made its pod.
    busy_rss: u64,
    /// The largest resident set of a shim at rest.
    shim_rss: u64,
}

/// What the shim has to do for RunPodSandbox, from its start to a pod that is ready.
pub(crate) fn begin(node: &Node, rounds: usize) -> Table {
    let place = Place::new(node, "sandboxes");
    let run = |mode| {
        let (pod, time) = place.pod(mode);
        pod.end();
        time
    };
    let subjects: Vec<Subject<'_>> = vec![
        ("pod of the shim's own", Box::new(|| run(Mode::Shim))),
        (
            "around a pause container",
            Box::new(|| run(Mode::Podsandbox)),
        ),
    ];
    let table = bench::interleaved("the shim's share of RunPodSandbox", rounds, subjects);
    place.close();
    table
}

/// What pods cost with one idle native container each.
pub(crate) fn memory(node: &Node) -> Vec<Cost> {
    [Mode::Shim, Mode::Podsandbox]
        .map(|mode| {
            let place = Place::new(node, &format!("memory-{mode:?}").to_lowercase());
            let cost = place.cost(mode);
            place.close();
            cost
        })
        .into()
}

// === impl Place ===

impl<'n> Place<'n> {
    fn new(node: &'n Node, name: &str) -> Self {
        let dir = node.scratch().join(name);
        fs::create_dir(&dir).expect("our own folder");
        let network = holder();
        let specs = Specs::new(node, name, network.id());
        Self {
            node,
            dir,
            network,
            specs,
            count: Cell::new(0),
        }
    }

    /// Makes a pod; how long the shim's part took.
    fn pod(&self, mode: Mode) -> (Pod, Duration) {
        let number = self.count.replace(self.count.get() + 1);
        let id = format!("pod{number}");
        let config = match mode {
            Mode::Shim => None,
            Mode::Podsandbox => Some(self.specs.pause(&id)),
        };
        let bundle = Bundle::new(&self.dir.join(&id), config.as_deref()).expect("our own folder");
        let program = machine::binary("containerd-shim-duet-v1");
        let mut begun = None;
        let time = bench::timed(|| {
            let shim = Shim::start(
                self.node.daemon(),
                &program,
                self.node.namespace(),
                &id,
                &bundle,
            );
            let shim = shim.expect("the shim starts");
            let keeper = match mode {
                Mode::Shim => self.sandbox(&shim, &id, &bundle),
                Mode::Podsandbox => {
                    let pid = shim.create(&id, &bundle.dir).expect("Create");
                    shim.begin(&id).expect("Start");
                    pid
                }
            };
            begun = Some((shim, keeper));
        });
        let (shim, keeper) = begun.expect("it was made");
        let pod = Pod {
            id,
            shim,
            mode,
            keeper,
            bundle,
        };
        (pod, time)
    }

    fn sandbox(&self, shim: &Shim, id: &str, bundle: &Bundle) -> u32 {
        let config = cri::PodSandboxConfig {
            hostname: id.to_owned(),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}", self.node.namespace()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut request = api::CreateSandboxRequest::new();
        id.clone_into(&mut request.sandbox_id);
        request.bundle_path = bundle.dir.display().to_string();
        request.netns_path = format!("/proc/{}/ns/net", self.network.id());
        let options = request.options.mut_or_insert_default();
        "runtime.v1.PodSandboxConfig".clone_into(&mut options.type_url);
        options.value = config.encode_to_vec();
        let _: api::CreateSandboxResponse = shim
            .sandbox("CreateSandbox", &request)
            .expect("CreateSandbox");
        let mut request = api::StartSandboxRequest::new();
        id.clone_into(&mut request.sandbox_id);
        let started: api::StartSandboxResponse = shim
            .sandbox("StartSandbox", &request)
            .expect("StartSandbox");
        started.pid
    }

    fn cost(&self, mode: Mode) -> Cost {
        let mut pods = Vec::new();
        for _ in 0..PODS {
            let (pod, _) = self.pod(mode);
            let id = format!("{}-main", pod.id);
            let spec = self.specs.idle_native_of(&id, pod.keeper);
            let bundle = Bundle::new(&self.dir.join(&id), Some(&spec)).expect("our own folder");
            let pid = pod.shim.create(&id, &bundle.dir).expect("Create");
            pod.shim.begin(&id).expect("Start");
            pods.push((pod, id, pid));
        }
        duet_tests::wait::until("the containers to be idle", || {
            let mut all = pods.iter().flat_map(|(pod, _, pid)| [pod.keeper, *pid]);
            all.all(is_asleep).then_some(())
        });
        let shims: Vec<u32> = pods
            .iter()
            .map(|(pod, ..)| pod.shim.pid(&pod.id).expect("Connect"))
            .collect();
        let largest = || shims.iter().map(|pid| rss(*pid)).max().unwrap_or_default();
        let busy_rss = largest();
        duet_tests::wait::until("the shims to rest", || {
            (largest() < busy_rss / 2).then_some(())
        });
        let average =
            |pids: &[u32]| pids.iter().map(|pid| pss(*pid)).sum::<u64>() / u64::from(PODS);
        let keepers: Vec<u32> = pods.iter().map(|(pod, ..)| pod.keeper).collect();
        let containers: Vec<u32> = pods.iter().map(|(_, _, pid)| *pid).collect();
        let cost = Cost {
            mode,
            shim: average(&shims),
            keeper: average(&keepers),
            container: average(&containers),
            busy_rss,
            shim_rss: largest(),
        };
        for (pod, id, _) in pods {
            pod.shim.kill(&id).expect("Kill");
            assert_eq!(pod.shim.wait(&id).expect("Wait"), 137);
            pod.shim.delete(&id).expect("Delete");
            pod.end();
        }
        cost
    }

    fn close(self) {
        self.network.close();
    }
}

// === impl Pod ===

impl Pod {
    fn end(self) {
        match self.mode {
            Mode::Shim => {
                let _said = self.shim.shutdown_sandbox(&self.id);
            }
            Mode::Podsandbox => {
                self.shim.kill(&self.id).expect("Kill");
                assert_eq!(self.shim.wait(&self.id).expect("Wait"), 137);
                self.shim.delete(&self.id).expect("Delete");
                let _said = self.shim.shutdown();
            }
        }
        remove(&self.bundle.dir);
    }
}

fn remove(dir: &Path) {
    fs::remove_dir_all(dir).expect("our own folder");
}

// === impl Cost ===

impl Cost {
    /// The numbers as JSON.
    pub(crate) fn json(&self) -> Value {
        json!({
            "mode": self.mode.to_string(),
            "pods": PODS,
            "shim_pss_kib": self.shim,
            "keeper_pss_kib": self.keeper,
            "container_pss_kib": self.container,
            "busy_shim_rss_kib": self.busy_rss,
            "shim_rss_kib": self.shim_rss,
        })
    }

    /// The heading of the table whose lines the costs are.
    pub(crate) fn heading() -> String {
        format!(
            "A pod with one idle native container, {PODS} such pods, PSS in KiB\n  {:<28}{:>8}{:>8}{:>11}{:>8}{:>12}{:>16}",
            "", "shim", "keeper", "container", "all", "shim's RSS", "before its rest"
        )
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.shim + self.keeper + self.container;
        write!(
            f,
            "  {:<28}{:>8}{:>8}{:>11}{all:>8}{:>12}{:>16}",
            self.mode.to_string(),
            self.shim,
            self.keeper,
            self.container,
            self.shim_rss,
            self.busy_rss
        )
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shim => "pod of the shim's own",
            Self::Podsandbox => "around a pause container",
        })
    }
}
