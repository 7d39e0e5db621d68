//! One container's life at the Task API, watched.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

use containerd_shim_protos::api;
use duet_tests::machine::Runtime;
use duet_tests::shim::{Bundle, Shim};
use duet_tests::{Node, image, template, wait};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use serde_json::{Value, json};

use crate::cases::{Case, Place};
use crate::probe::{self, Names, SCRIPT, Seen};

/// What both runtimes' containers are made of.
pub(crate) struct Volumes {
    dir: PathBuf,
    holder: Child,
}

/// One runtime's pod.
pub(crate) struct Stage {
    runtime: Runtime,
    shim: Shim,
    dir: PathBuf,
    template: Value,
    namespace: String,
}

// === impl Volumes ===

impl Volumes {
    pub(crate) fn new(node: &Node) -> Self {
        let dir = node.scratch().join("volumes");
        for made in ["dir/below", "shared", "readonly", "image"] {
            fs::create_dir_all(dir.join(made)).unwrap();
        }
        fs::write(dir.join("file"), "a file of the host\n").unwrap();
        fs::write(dir.join("dir/inside"), "").unwrap();
        fs::write(
            dir.join("passwd"),
            "somebody:x:4242:0::/from/the/volume:/bin/sh\n",
        )
        .unwrap();
        let none = None::<&str>;
        let tmpfs =
            |at: &str, flags| mount(Some(at), &dir.join(at), Some("tmpfs"), flags, none).unwrap();
        tmpfs("dir/below", MsFlags::empty());
        tmpfs("shared", MsFlags::empty());
        tmpfs("readonly", MsFlags::MS_RDONLY | MsFlags::MS_NOSUID);
        mount(none, &dir.join("shared"), none, MsFlags::MS_SHARED, none).unwrap();
        let images = image::all();
        let busybox = images
            .iter()
            .find(|image| image.name() == image::BUSYBOX)
            .unwrap();
        let root = dir.join("image");
        busybox.unpack(&root).unwrap();
        for folder in [
            "proc", "sys", "dev", "run", "mnt", "srv", "links", "var/run",
        ] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for (link, target) in [
            ("absolute", "/srv"),
            ("dangling", "../made/for/it"),
            ("out", "../../../../srv"),
        ] {
            std::os::unix::fs::symlink(target, root.join("links").join(link)).unwrap();
        }
        let holder = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--net",
                "--ipc",
                "--uts",
                "--pid",
                "--cgroup",
            ])
            .args(["--fork", "--kill-child", "sleep", "infinity"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("unshare of util-linux starts");
        Self { dir, holder }
    }

    /// What the cases refer to.
    pub(crate) fn place(&self, node: &Node) -> Place {
        let children = format!("/proc/{0}/task/{0}/children", self.holder.id());
        let holder = wait::until("the pod's namespaces", || {
            let pid = fs::read_to_string(&children).ok()?.trim().parse().ok()?;
            let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            command.starts_with(b"sleep").then_some(pid)
        });
        Place {
            volumes: self.dir.clone(),
            holder,
            seccomp: template::config(node)["linux"]["seccomp"].clone(),
            capabilities: held(),
        }
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        self.holder.kill().expect("our own child");
        self.holder.wait().expect("our own child");
        for at in ["dir/below", "shared", "readonly"] {
            umount2(&self.dir.join(at), MntFlags::MNT_DETACH).expect("our own mount");
        }
    }
}

// === impl Stage ===

impl Stage {
    /// Starts the shim `program`.
    pub(crate) fn new(node: &Node, runtime: Runtime, program: &Path) -> Self {
        let name = runtime.short();
        let dir = node.scratch().join(name);
        let mut template = template::config(node);
        template["linux"].as_object_mut().unwrap().remove("seccomp");
        template["annotations"] = json!({
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": name,
        });
        template["process"]["terminal"] = json!(false);
        let bundle = Bundle::new(&dir.join("pod"), Some(&template.to_string())).unwrap();
        let shim = Shim::start(node.daemon(), program, node.namespace(), name, &bundle)
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let namespace = node.namespace().to_owned();
        Self {
            runtime,
            shim,
            dir,
            template,
            namespace,
        }
    }

    /// Ends the pod.
    pub(crate) fn close(self) {
        // runc's `delete` complains that the pod itself was never a container.
        let _said = self.shim.shutdown();
    }

    /// A container's life, from Create to Delete: what it said and what was seen of it.
    pub(crate) fn live(&self, case: &Case, place: &Place) -> Seen {
        eprintln!("{}: {}", self.runtime.short(), case.name);
        let number = crate::cases::all()
            .position(|other| other.name == case.name)
            .unwrap();
        let id = format!("oracle-{}-{number}", self.runtime.short());
        let cgroup = format!("/{}/{id}", self.namespace);
        let probe = json!(["/bin/sh", "-c", SCRIPT.replace("$ORACLE", &id)]);
        let mut spec = self.template.clone();
        spec["root"] = json!({"path": "rootfs"});
        spec["linux"]["cgroupsPath"] = json!(cgroup);
        spec["process"]["args"] = probe.clone();
        (case.change)(&mut spec, place);
        let cgroup = spec["linux"]["cgroupsPath"].as_str().unwrap().to_owned();
        let further = case.exec.map(|change| {
            let mut process = spec["process"].clone();
            change(&mut process);
            spec["process"]["args"] = json!(["/bin/sleep", "1000"]);
            process
        });

        let bundle = Bundle::new(&self.dir.join(&id), Some(&spec.to_string())).unwrap();
        let path = bundle.dir.join("said");
        let said = Listener::new(&path);
        let terminal = spec["process"]["terminal"] == true;
        let mut outside = Seen::new();
        let mut note =
            |section: &str, line: String| outside.entry(section.to_owned()).or_default().push(line);
        let outcome = self.shim.call(
            "Create",
            &self.creation(
                &id,
                &bundle.dir,
                place,
                terminal,
                further.is_none().then_some(&path),
            ),
        );
        match outcome.map(|created: api::CreateTaskResponse| created.pid) {
            Err(error) => {
                note("outcome", "Create is refused".to_owned());
                eprintln!("{} / {}: {error}", case.name, self.runtime.short());
            }
            Ok(_) => {
                for line in probe::settings(&cgroup) {
                    note("settings", line);
                }
                let ended = self.shim.begin(&id).and_then(|()| match &further {
                    None => self.shim.wait(&id),
                    Some(process) => self.exec(&id, process, &path),
                });
                match ended {
                    Ok(code) => note("outcome", format!("code {code}")),
                    Err(error) => {
                        note("outcome", "Start is refused".to_owned());
                        eprintln!("{} / {}: {error}", case.name, self.runtime.short());
                    }
                }
                // It may have ended by itself.
                let _killed = self.shim.kill(&id);
                if further.is_some() {
                    self.shim.wait(&id).expect("it was killed");
                }
                self.shim
                    .delete(&id)
                    .unwrap_or_else(|error| panic!("{}: {error}", case.name));
            }
        }
        for hierarchy in probe::hierarchies() {
            // What is above a container's cgroup is left by both: it may be another's. The
            // folder of all of them is not empty, and stays.
            let parent = Path::new(&cgroup).parent().unwrap_or(Path::new("/"));
            if parent
                .file_name()
                .is_some_and(|name| name != self.namespace.as_str())
            {
                fs::remove_dir(hierarchy.join(parent.strip_prefix("/").unwrap())).unwrap();
            }
        }
        let text = said.end();
        fs::remove_dir_all(&bundle.dir).expect("nothing of it is in use");
        let names = Names {
            bundle: &bundle.dir,
            paths: &[
                (place.volumes.clone(), "VOLUMES"),
                (self.dir.clone(), "HERE"),
                (PathBuf::from(&self.namespace), "NAMESPACE"),
                (PathBuf::from(&id), "ID"),
            ],
            namespaces: &namespaces(place.holder),
        };
        let mut seen = probe::read(&String::from_utf8_lossy(&text), &names);
        for (section, lines) in outside {
            let text = format!("== {section}\n{}", lines.join("\n"));
            seen.extend(probe::read(&text, &names));
        }
        seen
    }

    fn creation(
        &self,
        id: &str,
        bundle: &Path,
        place: &Place,
        terminal: bool,
        stdout: Option<&PathBuf>,
    ) -> api::CreateTaskRequest {
        for layer in ["upper", "work"] {
            fs::create_dir(bundle.join(layer)).unwrap();
        }
        let mut root = api::Mount::new();
        root.type_ = "overlay".to_owned();
        root.source = "overlay".to_owned();
        root.options = vec![
            format!("workdir={}", bundle.join("work").display()),
            format!("upperdir={}", bundle.join("upper").display()),
            format!("lowerdir={}", place.volumes.join("image").display()),
        ];
        let mut request = api::CreateTaskRequest::new();
        request.id = id.to_owned();
        request.bundle = bundle.display().to_string();
        request.rootfs = vec![root];
        request.terminal = terminal;
        request.stdout = stdout
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        if !terminal {
            // Both or none, says runc's shim.
            request.stderr = request.stdout.clone();
        }
        request
    }

    /// A further process, from Exec to its Delete: its code.
    fn exec(&self, id: &str, process: &Value, stdout: &Path) -> Result<u32, String> {
        const NAME: &str = "further";
        let mut request = api::ExecProcessRequest::new();
        request.id = id.to_owned();
        request.exec_id = NAME.to_owned();
        request.stdout = stdout.display().to_string();
        request.stderr = request.stdout.clone();
        request.spec = MessageField::some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
            value: process.to_string().into_bytes(),
            ..Any::default()
        });
        self.shim.call::<api::Empty>("Exec", &request)?;
        let mut request = api::StartRequest::new();
        request.id = id.to_owned();
        request.exec_id = NAME.to_owned();
        let started = self.shim.call::<api::StartResponse>("Start", &request);
        let mut wait = api::WaitRequest::new();
        wait.id = id.to_owned();
        wait.exec_id = NAME.to_owned();
        let ended = started.and_then(|_| self.shim.call::<api::WaitResponse>("Wait", &wait));
        let mut delete = api::DeleteRequest::new();
        delete.id = id.to_owned();
        delete.exec_id = NAME.to_owned();
        self.shim.call::<api::DeleteResponse>("Delete", &delete)?;
        ended.map(|answer| answer.exit_status)
    }
}

/// A FIFO that we keep open at both ends, as containerd does, and read at once, as it does.
struct Listener {
    fifo: File,
    reader: JoinHandle<Vec<u8>>,
}

impl Listener {
    /// What we write after all that others have.
    const LAST: &[u8] = b"\0that is all\0";

    fn new(path: &Path) -> Self {
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let fifo = File::options().read(true).write(true).open(path).unwrap();
        let mut from = fifo.try_clone().unwrap();
        let reader = thread::spawn(move || {
            let mut text = Vec::new();
            let mut piece = [0; 4096];
            while !text.ends_with(Self::LAST) {
                let count = from.read(&mut piece).expect("our own pipe");
                text.extend_from_slice(&piece[..count]);
            }
            text.truncate(text.len() - Self::LAST.len());
            text
        });
        Self { fifo, reader }
    }

    /// All that was said.
    fn end(mut self) -> Vec<u8> {
        self.fifo.write_all(Self::LAST).expect("our own pipe");
        self.reader.join().expect("our own pipe")
    }
}

/// The names of the namespaces that are not a container's own.
fn namespaces(holder: u32) -> Vec<(String, &'static str)> {
    let links = |process: &str, word| {
        let entries = fs::read_dir(format!("/proc/{process}/ns"))
            .unwrap()
            .flatten();
        let link = |entry: fs::DirEntry| fs::read_link(entry.path()).unwrap().display().to_string();
        entries.map(|entry| (link(entry), word)).collect::<Vec<_>>()
    };
    // The host's first: what the holder shares with it is the host's.
    [
        links("thread-self", "host"),
        links(&holder.to_string(), "pod"),
    ]
    .concat()
}

/// The capabilities of this process, as containerd hands on its own to a privileged container.
fn held() -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapPrm:"))
        .unwrap();
    let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
    let known = probe::CAPABILITIES.iter().enumerate();
    known
        .filter(|(number, _)| mask & (1 << number) != 0)
        .map(|(_, name)| format!("CAP_{name}"))
        .collect()
}
