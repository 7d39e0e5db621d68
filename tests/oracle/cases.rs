//! The specs: one change each to what containerd writes for `ctr run`.

mod filesystem;
mod further;
mod kernel;
mod process;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// What a case may refer to, the same for both runtimes.
pub(crate) struct Place {
    /// A folder of the host: `file`, `dir/inside`, a tmpfs at `dir/below`, and a shared tmpfs at `shared`.
    pub(crate) volumes: PathBuf,
    /// A process that keeps network, IPC, UTS, PID and cgroup namespaces, as a pause container does.
    pub(crate) holder: u32,
    /// containerd's default seccomp profile.
    pub(crate) seccomp: Value,
    /// The names of the capabilities that a shim has.
    pub(crate) capabilities: Vec<String>,
}

/// One spec.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) change: fn(&mut Value, &Place),
    /// A further process, whose view is compared instead of the first one's.
    pub(crate) exec: Option<fn(&mut Value)>,
}

const fn case(name: &'static str, change: fn(&mut Value, &Place)) -> Case {
    Case {
        name,
        change,
        exec: None,
    }
}

const fn exec(name: &'static str, change: fn(&mut Value, &Place), process: fn(&mut Value)) -> Case {
    Case {
        name,
        change,
        exec: Some(process),
    }
}

fn nothing(_: &mut Value, _: &Place) {}

fn push(list: &mut Value, entry: Value) {
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().expect("it is a list").push(entry);
}

fn volume(place: &Place, name: &str) -> PathBuf {
    place.volumes.join(name)
}

fn mount(spec: &mut Value, kind: &str, source: &Path, destination: &str, options: &[&str]) {
    let mount =
        json!({"type": kind, "source": source, "destination": destination, "options": options});
    push(&mut spec["mounts"], mount);
}

fn tmpfs(spec: &mut Value, destination: &str, options: &[&str]) {
    mount(spec, "tmpfs", Path::new("tmpfs"), destination, options);
}

fn bind(spec: &mut Value, place: &Place, name: &str, destination: &str, options: &[&str]) {
    mount(spec, "bind", &volume(place, name), destination, options);
}

fn namespace(spec: &mut Value, kind: &str, path: Option<String>) {
    let list = spec["linux"]["namespaces"]
        .as_array_mut()
        .expect("there are namespaces");
    list.retain(|namespace| namespace["type"] != kind);
    if let Some(path) = path {
        list.push(if path.is_empty() {
            json!({"type": kind})
        } else {
            json!({"type": kind, "path": path})
        });
    }
}

fn held(place: &Place, file: &str) -> Option<String> {
    Some(format!("/proc/{}/ns/{file}", place.holder))
}

fn device(spec: &mut Value, device: Value) {
    push(&mut spec["linux"]["devices"], device);
}

fn allow(spec: &mut Value, rule: Value) {
    push(&mut spec["linux"]["resources"]["devices"], rule);
}

fn capabilities(spec: &mut Value, names: &[&str], sets: &[&str]) {
    spec["process"]["capabilities"] = json!({});
    for set in sets {
        spec["process"]["capabilities"][*set] = json!(names);
    }
}

fn filter(spec: &mut Value, profile: Value) {
    spec["linux"]["seccomp"] = profile;
    spec["linux"]["seccomp"]["architectures"] =
        json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
}

const ALL_SETS: [&str; 5] = [
    "bounding",
    "effective",
    "permitted",
    "inheritable",
    "ambient",
];
const USUAL_SETS: [&str; 3] = ["bounding", "effective", "permitted"];
const CRI_BIND: [&str; 3] = ["rbind", "rprivate", "rw"];

/// Those in which the version of cgroups shows: what `DUET_TEST_CASES=cgroups` chooses, for a machine that is
/// slow.
pub(crate) const OF_CGROUPS: [&str; 20] = [
    "as containerd writes it",
    "cgroup mount read-only",
    "cgroup mount that can be written",
    "cgroup mount in a cgroup namespace",
    "a cgroup namespace",
    "devices",
    "device rules",
    "every device, as for a privileged container",
    "memory",
    "memory with what v2 has",
    "processor time",
    "processor time without limit",
    "number of processes",
    "any number of processes",
    "block I/O",
    "huge pages",
    "limits as kubelet sends them",
    "limits by file",
    "a cgroup further down",
    "exec in a cgroup namespace",
];

/// Every case.
pub(crate) fn every() -> impl Iterator<Item = &'static Case> {
    let groups = [
        process::CASES,
        filesystem::CASES,
        kernel::CASES,
        further::CASES,
    ];
    groups.into_iter().flatten()
}

/// Every case that is chosen: all, unless `DUET_TEST_CASES` says otherwise.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    let few = match std::env::var("DUET_TEST_CASES").as_deref() {
        Err(_) | Ok("all") => false,
        Ok("cgroups") => true,
        Ok(other) => panic!("DUET_TEST_CASES: {other:?} is neither all nor cgroups"),
    };
    every().filter(move |case| !few || OF_CGROUPS.contains(&case.name))
}
