//! The `config.json` files of the measurements: what containerd writes, seccomp included,
//! with a pod's namespaces by path as its CRI plugin has them.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{env, fs};

use duet_tests::{Node, guests, image, template};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A wasm container that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idle {
    /// A WASI preview 1 module.
    Preview1,
    /// A WASI preview 2 command.
    Preview2,
    /// A `wasi:http` server.
    Server,
    /// A preview 1 module with as much code as a program of middling size.
    Middling,
    /// A preview 1 module of several megabytes.
    Large,
    /// A preview 1 module as large as a Python with its library.
    Huge,
    /// Such a Python, which others have built.
    Python,
}

/// A container that is told to stop by TERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// A `wasi:http` server.
    Server,
    /// A guest that computes.
    Spinning,
    /// A shell that waits for TERM.
    Native,
}

/// A module that is made for the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Module {
    /// 800 kB.
    Middling,
    /// 8 MiB.
    Large,
    /// 26 MB.
    Huge,
}

const GROWS: &str = r#"(module (memory (export "memory") 16)
    (func (export "_start") (local $from i32)
        (loop $next
            (local.set $from (i32.mul (memory.grow (i32.const 16)) (i32.const 65536)))
            (memory.fill (local.get $from) (i32.const 1) (i32.const 0x100000))
            (br_if $next (i32.lt_u (local.get $from) (i32.const 0x3ff00000))))
        (loop $for_ever
            (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x40000000))
            (br $for_ever))))"#;

/// A template and what varies.
pub(crate) struct Specs {
    template: Value,
    native_root: PathBuf,
    wasm_root: PathBuf,
    cgroup: String,
    _roots: TempDir,
}

impl Specs {
    /// Takes the template from a container that containerd really makes, and unpacks the
    /// root filesystems where programs are built: on a disk, as on a node, whatever the state is on.
    /// The pod's namespaces are those of process `holder`.
    pub(crate) fn new(node: &Node, pod: &str, holder: u32) -> Self {
        let mut template = template::config(node);
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
        let own = env::current_exe().expect("procfs is mounted");
        let roots = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(own.parent().expect("a program is in a folder"))
            .expect("the folder of our own program is writable");
        let unpack = |name: &str| {
            let root = roots.path().join(name.replace([':', '/'], "-"));
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
            _roots: roots,
        }
    }

    /// A native container that ends at once.
    pub(crate) fn native(&self, id: &str) -> String {
        self.with(id, &self.native_root, &["/bin/true"])
    }

    /// A native container that waits for its execs.
    pub(crate) fn idle_native(&self, id: &str) -> String {
        self.with(id, &self.native_root, &["/bin/sleep", "1000000"])
    }

    /// A process that ends at once, in a container that runs.
    pub(crate) fn further(&self) -> String {
        let mut process = self.template["process"].clone();
        process["args"] = json!(["/bin/true"]);
        process.to_string()
    }

    /// A native container that waits, in the namespaces that process `holder` keeps.
    pub(crate) fn idle_native_of(&self, id: &str, holder: u32) -> String {
        let mut spec = self.spec(id, &self.native_root, &["/bin/sleep", "1000000"], &[]);
        for namespace in namespaces(&mut spec) {
            let path = namespace["path"]
                .as_str()
                .and_then(|path| path.rsplit_once('/'));
            let path = path.map(|(_, file)| format!("/proc/{holder}/ns/{file}"));
            if let Some(path) = path {
                namespace["path"] = json!(path);
            }
        }
        spec.to_string()
    }

    /// A pause container: the network is given, the rest of the pod's namespaces are its own.
    pub(crate) fn pause(&self, id: &str) -> String {
        let mut spec = self.spec(id, &self.native_root, &["/bin/sleep", "2147483647"], &[]);
        for namespace in namespaces(&mut spec) {
            if namespace["type"] != "network" {
                namespace["path"] = json!("");
            }
        }
        spec["annotations"] = json!({
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": id,
        });
        spec.to_string()
    }

    /// A wasm container that ends at once.
    pub(crate) fn wasm(&self, id: &str) -> String {
        self.with(id, &self.wasm_root, &["/probe.wasm"])
    }

    /// A wasm container that waits, as number `number` of its pod.
    pub(crate) fn idle_wasm(&self, id: &str, kind: Idle, number: u32) -> String {
        let address = format!("DUET_HTTP_ADDR=127.0.0.1:{}", 20_000 + number);
        let (args, env): (&[&str], &[&str]) = match kind {
            Idle::Preview1 => (&["/probe.wasm", "idle"], &[]),
            Idle::Preview2 => (&["/probe-p2.wasm", "sleep", "100000000"], &[]),
            Idle::Server => (&["/ambassador.wasm"], &["TOKEN=t", &address]),
            Idle::Middling => return self.made(id, Module::Middling, true),
            Idle::Large => return self.made(id, Module::Large, true),
            Idle::Huge => return self.made(id, Module::Huge, true),
            Idle::Python => {
                let path = self.python().expect("only asked for if it is there");
                let sleep = "import time; time.sleep(100000000)";
                return self.with(id, &self.wasm_root, &[&path, "-c", sleep]);
            }
        };
        self.with_env(id, &self.wasm_root, args, env)
    }

    /// A container that waits for TERM.
    pub(crate) fn to_be_stopped(&self, id: &str, stop: Stop) -> String {
        let shell = "trap 'exit 143' TERM; sleep 1000000 & wait";
        match stop {
            Stop::Server => self.with(id, &self.wasm_root, &["/server.wasm"]),
            Stop::Spinning => self.with(id, &self.wasm_root, &["/probe.wasm", "spin"]),
            Stop::Native => self.with(id, &self.native_root, &["/bin/sh", "-c", shell]),
        }
    }

    /// A native server of a small file, at port 8081 of its pod.
    pub(crate) fn native_server(&self, id: &str) -> String {
        let server = ["/bin/httpd", "-f", "-p", "127.0.0.1:8081", "-h", "/etc"];
        self.with(id, &self.native_root, &server)
    }

    /// A wasm container whose module of 800 kB is another one each time.
    pub(crate) fn never_compiled(&self, id: &str) -> String {
        let mut module = Module::Middling.bytes(true);
        // A section of its own name and nobody's use, different in each run as well.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let only = format!("{id}-{:?}", now.expect("it is later").as_nanos());
        let length = u8::try_from(only.len()).expect("a short name");
        module.extend([0, length + 1, length]);
        module.extend(only.as_bytes());
        let name = format!("{id}.wasm");
        unpacked(&self.wasm_root.join(&name), &module).expect("our own folder");
        self.with(id, &self.wasm_root, &[&format!("/{name}")])
    }

    /// A wasm container that grows by a MiB and writes to it, again and again, to a GiB; and writes to all of it then.
    pub(crate) fn that_grows(&self, id: &str) -> String {
        let path = self.wasm_root.join("grows.wasm");
        if !path.exists() {
            let module = wat::parse_str(GROWS).expect("a module");
            unpacked(&path, &module).expect("our own folder");
        }
        let mut spec = self.spec(id, &self.wasm_root, &["/grows.wasm"], &[]);
        spec["linux"]["resources"]["memory"] = json!({ "limit": 2_u64 << 30 });
        spec.to_string()
    }

    /// A server that can have so many connections, and lets their requests wait.
    pub(crate) fn of_many_requests(&self, id: &str, requests: usize) -> String {
        let mut spec = self.spec(id, &self.wasm_root, &["/server.wasm"], &[]);
        let files = requests + 100;
        spec["process"]["rlimits"] =
            json!([{ "type": "RLIMIT_NOFILE", "soft": files, "hard": files }]);
        for (name, value) in [("concurrency", "256"), ("queue", "10000"), ("drain", "10m")] {
            spec["annotations"][format!("io.containerd.duet.v1.http.{name}")] = json!(value);
        }
        spec.to_string()
    }

    /// A wasm container that ends at once, in 32 MiB of memory.
    pub(crate) fn made_and_over(&self, id: &str, module: Module) -> String {
        self.made(id, module, false)
    }

    /// A CPython that says its version and ends, before it has begun to work.
    pub(crate) fn python_version(&self, id: &str) -> String {
        let path = self.python().expect("only asked for if it is there");
        self.with(id, &self.wasm_root, &[&path, "--version"])
    }

    /// The path in the root file system of the CPython that `make others` has fetched.
    fn python(&self) -> Option<String> {
        let source = python()?;
        let path = self.wasm_root.join("cpython.wasm");
        if !path.exists() {
            let bytes = fs::read(&source).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
            unpacked(&path, &bytes).expect("our own folder");
        }
        Some("/cpython.wasm".to_owned())
    }

    fn made(&self, id: &str, module: Module, waits: bool) -> String {
        let name = format!("{module:?}-{waits}.wasm").to_lowercase();
        let path = self.wasm_root.join(&name);
        if !path.exists() {
            unpacked(&path, &module.bytes(waits)).expect("our own folder");
        }
        let mut spec = self.spec(id, &self.wasm_root, &[&format!("/{name}")], &[]);
        if !waits {
            spec["linux"]["resources"]["memory"] = json!({ "limit": 32 << 20 });
        }
        spec.to_string()
    }

    fn with(&self, id: &str, root: &Path, args: &[&str]) -> String {
        self.with_env(id, root, args, &[])
    }

    fn with_env(&self, id: &str, root: &Path, args: &[&str], env: &[&str]) -> String {
        self.spec(id, root, args, env).to_string()
    }

    fn spec(&self, id: &str, root: &Path, args: &[&str], env: &[&str]) -> Value {
        let mut spec = self.template.clone();
        for variable in env {
            spec["process"]["env"]
                .as_array_mut()
                .expect("containerd writes an environment")
                .push(json!(variable));
        }
        spec["root"] = json!({ "path": root, "readonly": true });
        spec["process"]["args"] = json!(args);
        spec["linux"]["cgroupsPath"] = json!(format!("{}/{id}", self.cgroup));
        spec
    }
}

/// The CPython of others, if `DUET_TEST_OTHERS` names the folder with it.
pub(crate) fn python() -> Option<PathBuf> {
    let folder = PathBuf::from(env::var_os("DUET_TEST_OTHERS")?);
    Some(folder.join("cpython.wasm"))
}

/// Writes a file as an image is unpacked: with the time of its making, which was earlier.
fn unpacked(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.set_modified(SystemTime::UNIX_EPOCH)
}

fn namespaces(spec: &mut Value) -> impl Iterator<Item = &mut Value> {
    let list = spec["linux"]["namespaces"].as_array_mut();
    list.into_iter().flatten()
}

// === impl Stop ===

impl Stop {
    /// Its code then.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Server => 0,
            Self::Spinning | Self::Native => 143,
        }
    }
}

// === impl Idle ===

impl Idle {
    /// Every kind that is always there.
    pub(crate) const ALL: [Self; 6] = [
        Self::Preview1,
        Self::Preview2,
        Self::Server,
        Self::Middling,
        Self::Large,
        Self::Huge,
    ];

    /// How many of them share a pod.
    pub(crate) fn containers(self) -> u32 {
        match self {
            Self::Preview1 | Self::Preview2 | Self::Server | Self::Large => 25,
            Self::Middling | Self::Huge | Self::Python => 50,
        }
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Preview1 => "preview 1",
            Self::Preview2 => "preview 2 command",
            Self::Server => "wasi:http server",
            Self::Middling => "preview 1, 800 kB of module",
            Self::Large => "preview 1, 8 MiB of module",
            Self::Huge => "preview 1, 26 MB of module",
            Self::Python => "CPython that sleeps",
        })
    }
}

// === impl Module ===

impl Module {
    fn bytes(self, waits: bool) -> Vec<u8> {
        match self {
            Self::Middling => guests::made(1_000, 300 << 10, waits),
            Self::Large => guests::made(8_000, 4 << 20, waits),
            Self::Huge => guests::made(30_000, 11 << 20, waits),
        }
    }
}
