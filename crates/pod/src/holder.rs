//! What the Sandbox service asks of a pod, as a container's spec and a few files.
//!
//! containerd's CRI makes a pod around a pause container; where the pod is the shim's to make, a
//! holder takes that place: Duet's own program, born like any container. Its spec is what
//! containerd would have written for the pause container, and its root file system is a tmpfs of
//! the pod's own, which also holds the files and the memory that the pod's containers share.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use duet_container::{Create, RootfsMount, Stdio};
use duet_spec::{IdMappings, PodFiles, annotations};
use serde_json::{Value, json};

use crate::error::Error;

mod selinux;
mod users;

pub use selinux::SelinuxLabel;
pub(crate) use selinux::relabel;
use users::Users;

/// Who the holder is: nobody, as in Kubernetes' pause image.
const NOBODY: u32 = 65535;

/// The size of the pod's tmpfs, most of it `/dev/shm`: containerd's default for that.
const SIZE: &str = "size=65536k";

/// The holder's weight beside its pod's containers: the least, as containerd gives a pause
/// container.
const CPU_SHARES: u64 = 2;

/// What a pod without IPC objects of its own has as its memory.
const NODES_SHM: &str = "/dev/shm";

/// Where the holder's program is in its root.
const PROGRAM: &str = "/duet-holder";

/// Network parameters that containerd 2 sets for every pod with a network of its own unless the
/// pod says otherwise (`enable_unprivileged_ports`, `enable_unprivileged_icmp`).
const NETWORK_DEFAULTS: [(&str, &str); 2] = [
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    (PING_GROUPS, "0 2147483647"),
];

/// The groups that may ping.
const PING_GROUPS: &str = "net.ipv4.ping_group_range";

/// Whose namespace a pod is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One of the pod's own.
    Pod,
    /// The node's.
    Node,
}

/// What is written into `/etc/resolv.conf`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dns {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Domains to search.
    pub searches: Vec<String>,
    /// Options of the resolver.
    pub options: Vec<String>,
}

/// A pod that the Sandbox service is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// The sandbox's name.
    pub id: String,
    /// The directory that containerd made for it.
    pub bundle: PathBuf,
    /// The network namespace that is ready for it; empty on the node's network.
    pub netns: PathBuf,
    /// Its host name; the node's if empty.
    pub hostname: String,
    /// Its resolver; the node's if there is nothing in it.
    pub dns: Dns,
    /// The cgroup that its containers' cgroups are in.
    pub cgroup_parent: String,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Whose network it has.
    pub network: Scope,
    /// Whose processes it sees.
    pub pid: Scope,
    /// Whose IPC objects it sees.
    pub ipc: Scope,
    /// The ids of its users; none if they are the node's.
    pub users: Option<IdMappings>,
    /// The label of its holder.
    pub label: SelinuxLabel,
}

/// A holder that can be born, and what it keeps.
#[derive(Debug, Clone)]
pub(crate) struct Furnished {
    /// The request that makes it.
    pub(crate) request: Create,
    /// Its spec, as a `config.json`.
    pub(crate) config: String,
    /// What its containers share.
    pub(crate) files: PodFiles,
    /// The name in `/etc/hostname`.
    hostname: String,
    dns: Dns,
    own_ipc: bool,
    users: Option<Users>,
}

// === impl Sandbox ===

impl Sandbox {
    /// Turns the wish into a holder whose program is the file at `program`.
    ///
    /// # Errors
    ///
    /// [`Error::Wish`], naming the field, if there is no such network, or none for such users.
    pub(crate) fn furnish(self, program: &Path, namespace: &str) -> Result<Furnished, Error> {
        self.check_network()?;
        let users = self.users()?;
        let label = self.label.whole()?;
        let mut config = self.config(program, namespace, users.as_ref());
        if let Some(label) = label {
            config["process"]["selinuxLabel"] = label.into();
        }
        let config = config.to_string();
        let own_ipc = self.ipc == Scope::Pod;
        let rootfs = self.bundle.join("rootfs");
        let files = PodFiles {
            hostname: rootfs.join("hostname"),
            hosts: rootfs.join("hosts"),
            resolv_conf: rootfs.join("resolv.conf"),
            shm: if own_ipc {
                rootfs.join("shm")
            } else {
                PathBuf::from(NODES_SHM)
            },
        };
        let tmpfs = RootfsMount {
            fstype: "tmpfs".to_owned(),
            source: "duet-pod".to_owned(),
            target: String::new(),
            // Not nodev: the holder's /dev/null is here.
            options: ["nosuid", "noexec", "mode=755", SIZE]
                .map(str::to_owned)
                .into_iter()
                .chain(users.iter().flat_map(Users::options))
                .collect(),
        };
        Ok(Furnished {
            request: Create {
                id: self.id,
                bundle: self.bundle,
                rootfs: vec![tmpfs],
                stdio: Stdio::default(),
                io_owner: None,
                no_new_keyring: false,
                cache_size: None,
            },
            config,
            files,
            hostname: self.hostname,
            dns: self.dns,
            own_ipc,
            users,
        })
    }

    fn check_network(&self) -> Result<(), Error> {
        let refuse = |why: String| {
            Err(Error::Wish {
                field: "netns_path",
                value: self.netns.display().to_string(),
                why,
            })
        };
        let empty = self.netns.as_os_str().is_empty();
        match self.network {
            Scope::Node => Ok(()),
            Scope::Pod if empty => refuse("a pod with a network of its own needs one".to_owned()),
            Scope::Pod => match fs::metadata(&self.netns) {
                Ok(_) => Ok(()),
                Err(error) => refuse(duet_linux::kernel::errno_words(&error)),
            },
        }
    }

    fn users(&self) -> Result<Option<Users>, Error> {
        let network = match self.network {
            Scope::Pod => Some(self.netns.as_path()),
            Scope::Node => None,
        };
        let users = self.users.clone();
        users.map(|ids| Users::new(ids, network)).transpose()
    }

    fn config(&self, program: &Path, namespace: &str, users: Option<&Users>) -> Value {
        let mut namespaces = vec![json!({ "type": "mount" })];
        let mut sysctls = self.sysctls.clone();
        if self.network == Scope::Pod {
            namespaces.push(json!({ "type": "network", "path": self.netns }));
            // As under containerd: whose network it is, its name is.
            namespaces.push(json!({ "type": "uts" }));
            for (key, value) in NETWORK_DEFAULTS {
                // Of groups that the pod does not have; containerd leaves it out, too.
                if key == PING_GROUPS && users.is_some() {
                    continue;
                }
                let given = sysctls.contains_key(key) || sysctls.contains_key(&slashed(key));
                if !given {
                    sysctls.insert(key.to_owned(), value.to_owned());
                }
            }
        }
        if self.pid == Scope::Pod {
            namespaces.push(json!({ "type": "pid" }));
        }
        if self.ipc == Scope::Pod {
            namespaces.push(json!({ "type": "ipc" }));
        }
        namespaces.extend(users.map(Users::namespace));
        let [uids, gids] = users.map_or_else(|| [json!([]), json!([])], Users::mappings);
        let (uid, gid) = users.map_or((NOBODY, NOBODY), Users::nobody);
        let hostname = match self.network {
            Scope::Pod => self.hostname.as_str(),
            Scope::Node => "",
        };
        json!({
            "ociVersion": "1.1.0",
            "root": { "path": "rootfs", "readonly": true },
            "hostname": hostname,
            "process": {
                "args": [PROGRAM],
                "cwd": "/",
                "user": { "uid": uid, "gid": gid },
                "noNewPrivileges": true,
            },
            "mounts": [{
                "destination": PROGRAM,
                "type": "bind",
                "source": program,
                "options": ["bind", "ro", "nosuid", "nodev", "private"],
            }],
            "annotations": {
                (annotations::CONTAINER_TYPE): "sandbox",
                (annotations::SANDBOX_ID): self.id,
            },
            "linux": {
                "namespaces": namespaces,
                "cgroupsPath": self.cgroups_path(namespace),
                "resources": { "cpu": { "shares": CPU_SHARES } },
                "sysctl": sysctls,
                "uidMappings": uids,
                "gidMappings": gids,
            },
        })
    }

    /// As containerd's CRI names a pause container's cgroup: below the pod's, in systemd's form if
    /// that is a slice; and below containerd's namespace if the pod names none: at the root of a hierarchy its two
    /// shares of a processor would be beside everything else of the machine.
    fn cgroups_path(&self, namespace: &str) -> String {
        let parent = match self.cgroup_parent.trim_matches('/') {
            "" => Path::new(namespace),
            _ => Path::new(&self.cgroup_parent),
        };
        match parent.file_name().and_then(|name| name.to_str()) {
            Some(slice) if slice.ends_with(".slice") => {
                format!("{slice}:cri-containerd:{}", self.id)
            }
            Some(_) | None => {
                let path = Path::new("/").join(parent).join(&self.id);
                path.display().to_string()
            }
        }
    }
}

// === impl Furnished ===

impl Furnished {
    /// The spec, as others than the one who gives birth may read it.
    pub(crate) fn told(self, holder: i32) -> String {
        match self.users {
            None => self.config,
            Some(users) => users.told(self.config, holder),
        }
    }

    /// Writes what the pod's containers share into its tmpfs, once that is mounted.
    pub(crate) fn write(&self) -> Result<(), Error> {
        let failed = |step| {
            move |source| Error::Sandbox {
                id: self.request.id.clone(),
                step,
                source,
            }
        };
        let files = &self.files;
        let hostname = match self.hostname.as_str() {
            "" => fs::read_to_string("/proc/sys/kernel/hostname")
                .map_err(failed("read the node's name"))?,
            name => format!("{name}\n"),
        };
        fs::write(&files.hostname, hostname).map_err(failed("write hostname"))?;
        // containerd copies it too; a kubelet mounts its own over it.
        let hosts = nodes("/etc/hosts").map_err(failed("read the node's /etc/hosts"))?;
        fs::write(&files.hosts, hosts).map_err(failed("write hosts"))?;
        let resolv_conf = match self.dns.text() {
            text if text.is_empty() => {
                nodes("/etc/resolv.conf").map_err(failed("read the node's /etc/resolv.conf"))?
            }
            text => text.into_bytes(),
        };
        fs::write(&files.resolv_conf, resolv_conf).map_err(failed("write resolv.conf"))?;
        // Whoever the containers run as. Not left to the umask.
        for file in [&files.hostname, &files.hosts, &files.resolv_conf] {
            let mode = fs::Permissions::from_mode(0o644);
            fs::set_permissions(file, mode).map_err(failed("open its files"))?;
        }
        if self.own_ipc {
            let open = fs::Permissions::from_mode(0o1777);
            fs::create_dir(&files.shm)
                .and_then(|()| fs::set_permissions(&files.shm, open))
                .map_err(failed("make /dev/shm"))?;
        }
        let Some(users) = &self.users else {
            return Ok(());
        };
        let shm = self.own_ipc.then_some(&files.shm);
        for file in [&files.hostname, &files.hosts, &files.resolv_conf]
            .into_iter()
            .chain(shm)
        {
            users.give(file).map_err(failed("give its files away"))?;
        }
        Ok(())
    }
}

// === impl Dns ===

impl Dns {
    fn text(&self) -> String {
        let line = |word: &str, values: &[String]| match values {
            [] => String::new(),
            values => format!("{word} {}\n", values.join(" ")),
        };
        let servers = self
            .servers
            .iter()
            .map(|server| format!("nameserver {server}\n"));
        [line("search", &self.searches)]
            .into_iter()
            .chain(servers)
            .chain([line("options", &self.options)])
            .collect()
    }
}

/// A file of the node; a node without it is no error.
fn nodes(path: &str) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

fn slashed(key: &str) -> String {
    key.replace('.', "/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use duet_spec::{CgroupsPath, Container, Namespace};

    fn sandbox() -> Sandbox {
        Sandbox {
            id: "web".to_owned(),
            bundle: PathBuf::from("/run/b"),
            netns: PathBuf::from("/proc/self/ns/net"),
            hostname: "shop".to_owned(),
            dns: Dns::default(),
            cgroup_parent: "/pods/one".to_owned(),
            sysctls: BTreeMap::new(),
            network: Scope::Pod,
            pid: Scope::Pod,
            ipc: Scope::Pod,
            users: None,
            label: SelinuxLabel::default(),
        }
    }

    fn spec(sandbox: Sandbox) -> Container {
        let furnished = sandbox
            .furnish(Path::new("/opt/duet-holder"), "test")
            .unwrap();
        Container::parse(Path::new("/run/b"), furnished.config.as_bytes()).unwrap()
    }

    #[test]
    fn a_pod_of_its_own_has_five_namespaces_and_nobody_in_them() {
        let spec = spec(sandbox());
        let namespaces = &spec.namespaces;
        assert_eq!(
            namespaces.network,
            Namespace::Path("/proc/self/ns/net".into())
        );
        for own in [
            &namespaces.mount,
            &namespaces.pid,
            &namespaces.ipc,
            &namespaces.uts,
        ] {
            assert_eq!(own, &Namespace::New);
        }
        assert_eq!(spec.hostname.as_deref(), Some("shop"));
        assert_eq!(spec.process.user.uid, NOBODY);
        assert_eq!(spec.process.capabilities, None);
        assert!(spec.root.readonly && spec.process.no_new_privileges);
        assert_eq!(
            spec.cgroups_path,
            Some(CgroupsPath::Cgroupfs("/pods/one/web".into()))
        );
        assert_eq!(spec.sysctl["net/ipv4/ip_unprivileged_port_start"], "0");
    }

    #[test]
    fn a_pod_of_the_node_is_in_the_nodes_namespaces() {
        let node = Sandbox {
            network: Scope::Node,
            pid: Scope::Node,
            ipc: Scope::Node,
            ..sandbox()
        };
        let furnished = node.clone().furnish(Path::new("/h"), "test").unwrap();
        assert_eq!(furnished.files.shm, Path::new("/dev/shm"));
        let spec = spec(node);
        for nodes in [
            &spec.namespaces.network,
            &spec.namespaces.pid,
            &spec.namespaces.ipc,
            &spec.namespaces.uts,
        ] {
            assert_eq!(nodes, &Namespace::Host);
        }
        assert_eq!(spec.hostname, None);
        assert!(spec.sysctl.is_empty());
    }

    #[test]
    fn what_the_pod_says_of_a_parameter_holds() {
        for key in ["net.ipv4.ping_group_range", "net/ipv4/ping_group_range"] {
            let sysctls = BTreeMap::from([(key.to_owned(), "1 0".to_owned())]);
            let spec = spec(Sandbox {
                sysctls,
                ..sandbox()
            });
            assert_eq!(spec.sysctl["net/ipv4/ping_group_range"], "1 0");
        }
    }

    #[test]
    fn the_cgroup_is_below_the_pods_in_the_form_of_its_driver() {
        for (parent, path) in [
            ("", "/k8s.io/web"),
            ("/", "/k8s.io/web"),
            ("pods", "/pods/web"),
            ("/kubepods/pod1", "/kubepods/pod1/web"),
            (
                "/kubepods.slice/kubepods-pod1.slice",
                "kubepods-pod1.slice:cri-containerd:web",
            ),
        ] {
            let cgroup_parent = parent.to_owned();
            let sandbox = Sandbox {
                cgroup_parent,
                ..sandbox()
            };
            assert_eq!(sandbox.cgroups_path("k8s.io"), path);
        }
    }

    #[test]
    fn a_network_that_is_not_there_is_named() {
        for (netns, text) in [
            (
                "",
                "netns_path \"\": a pod with a network of its own needs one",
            ),
            (
                "/run/netns/none",
                "netns_path \"/run/netns/none\": no such file or directory (ENOENT)",
            ),
        ] {
            let netns = PathBuf::from(netns);
            let error = Sandbox { netns, ..sandbox() }.furnish(Path::new("/h"), "test");
            assert_eq!(error.unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn a_resolver_is_written_as_resolv_conf_has_it() {
        let list = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let dns = Dns {
            servers: list(&["10.0.0.1", "10.0.0.2"]),
            searches: list(&["a.test", "b.test"]),
            options: list(&["ndots:5"]),
        };
        assert_eq!(
            dns.text(),
            "search a.test b.test\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:5\n"
        );
        assert_eq!(Dns::default().text(), "");
    }
}
