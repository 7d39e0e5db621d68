//! The `config.json` files of the measurements: what containerd writes, seccomp included,
//! with a pod's namespaces by path as its CRI plugin has them.

use std::fs;
use std::path::{Path, PathBuf};

use duet_tests::machine::Runtime;
use duet_tests::{Node, image};
use serde_json::{Value, json};

/// A template and what varies.
pub(crate) struct Specs {
    template: Value,
    native_root: PathBuf,
    wasm_root: PathBuf,
    cgroup: String,
}

impl Specs {
    /// Takes the template from a container that containerd really makes, and unpacks the
    /// root filesystems below `dir`. The pod's namespaces are those of process `holder`.
    pub(crate) fn new(node: &Node, dir: &Path, pod: &str, holder: u32) -> Self {
        let mut template = captured(node);
        for namespace in template["linux"]["namespaces"]
            .as_array_mut()
            .into_iter()
            .flatten()
        {
            let file = match namespace["type"].as_str() {
                Some("network") => "net",
                Some("ipc") => "ipc",
                Some("uts") => "uts",
                Some(_) | None => continue,
            };
            namespace["path"] = json!(format!("/proc/{holder}/ns/{file}"));
        }
        template["annotations"] = json!({
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": pod,
        });
        template["process"]["terminal"] = json!(false);
        let unpack = |name: &str| {
            let root = dir.join(name.replace([':', '/'], "-"));
            fs::create_dir(&root).expect("our own folder");
            let images = image::all();
            let image = images
                .iter()
                .find(|image| image.name() == name)
                .expect("a known image");
            image.unpack(&root).expect("our own folder");
            root
        };
        let cgroup = format!("/{}", node.namespace());
        let (native_root, wasm_root) = (unpack(image::BUSYBOX), unpack(image::GUESTS));
        Self {
            template,
            native_root,
            wasm_root,
            cgroup,
        }
    }

    /// A native container that ends at once.
    pub(crate) fn native(&self, id: &str) -> String {
        self.with(id, &self.native_root, &["/bin/true"])
    }

    /// A wasm container that ends at once.
    pub(crate) fn wasm(&self, id: &str) -> String {
        self.with(id, &self.wasm_root, &["/probe.wasm"])
    }

    /// A wasm container that waits.
    pub(crate) fn idle_wasm(&self, id: &str) -> String {
        self.with(id, &self.wasm_root, &["/probe.wasm", "idle"])
    }

    fn with(&self, id: &str, root: &Path, args: &[&str]) -> String {
        let mut spec = self.template.clone();
        spec["root"] = json!({ "path": root, "readonly": true });
        spec["process"]["args"] = json!(args);
        spec["linux"]["cgroupsPath"] = json!(format!("{}/{id}", self.cgroup));
        spec.to_string()
    }
}

/// The `config.json` of a container with the default seccomp profile.
fn captured(node: &Node) -> Value {
    let container = node
        .container("template")
        .runtime(Runtime::Runc)
        .with(&["--seccomp"]);
    let mut task = container.script("echo ready; exec sleep 1000").start();
    task.says("ready");
    let [state, _] = node.daemon().task_dirs(node.namespace());
    let config = fs::read(state.join("template/config.json")).expect("a task has a bundle");
    task.end();
    serde_json::from_slice(&config).expect("containerd writes JSON")
}
