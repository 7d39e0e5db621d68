//! The whole of a `config.json`.

use crate::{
    CgroupsPath, Device, Error, Hooks, IdMappings, IntelRdt, MemoryPolicy, Mount, MountKind,
    Namespace, Namespaces, NetDevice, Personality, Process, Propagation, TimeOffsets,
    annotations::{self, Options},
    attr,
    document::Document,
    fields,
    process::Lifted,
    seccomp::{self, LAST},
    tasks,
};
use oci_spec::runtime::{Linux, LinuxResources, LinuxSeccomp, Spec};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The root directory of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Absolute path on the host.
    pub path: PathBuf,
    /// Whether its mount is made read-only.
    pub readonly: bool,
    /// Propagation of its mount, where asked for.
    pub propagation: Option<Propagation>,
}

/// What a bundle asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The bundle's absolute path.
    pub bundle: PathBuf,
    /// The version of the specification that it is written in.
    pub oci_version: String,
    /// Its root directory.
    pub root: Root,
    /// Its host name.
    pub hostname: Option<String>,
    /// Its NIS domain name.
    pub domainname: Option<String>,
    /// Its mounts, in the order in which they are made.
    pub mounts: Vec<Mount>,
    /// Its first process.
    pub process: Process,
    /// Its namespaces.
    pub namespaces: Namespaces,
    /// How far the clocks of its time namespace are off.
    pub time_offsets: TimeOffsets,
    /// The machine that its processes see.
    pub personality: Option<Personality>,
    /// From which NUMA nodes they have their memory.
    pub memory_policy: Option<MemoryPolicy>,
    /// Network devices of the host's that it gets.
    pub net_devices: Vec<NetDevice>,
    /// Its class of resctrl.
    pub intel_rdt: Option<IntelRdt>,
    /// The SELinux label of the files of its file systems.
    pub mount_label: Option<String>,
    /// The ids of its user namespace; empty when it has none, or when that is joined and only
    /// the kernel knows.
    pub id_mappings: IdMappings,
    /// Its cgroup.
    pub cgroups_path: Option<CgroupsPath>,
    /// Its limits.
    pub resources: Option<LinuxResources>,
    /// Device nodes beyond the usual ones.
    pub devices: Vec<Device>,
    /// Its system call filter.
    pub seccomp: Option<Arc<LinuxSeccomp>>,
    /// Paths that are hidden.
    pub masked_paths: Vec<String>,
    /// Paths that are made read-only.
    pub readonly_paths: Vec<String>,
    /// Kernel parameters: the path below `/proc/sys` and the value.
    pub sysctl: BTreeMap<String, String>,
    /// All annotations.
    pub annotations: BTreeMap<String, String>,
    /// What the annotations that Duet reads ask for.
    pub options: Options,
    /// Programs that run at points of its life.
    pub hooks: Hooks,
}

// === impl Container ===

impl Container {
    /// Reads the `config.json` of a bundle.
    ///
    /// # Errors
    ///
    /// [`Error`], naming the file and the field.
    pub fn load(bundle: &Path) -> Result<Self, Error> {
        let file = bundle.join("config.json");
        match std::fs::read(&file) {
            Ok(json) => Self::parse(bundle, &json),
            Err(source) => Err(Error::Read { file, source }),
        }
    }

    /// Reads the text of a `config.json` that belongs to a bundle.
    ///
    /// # Errors
    ///
    /// [`Error`], naming the file and the field.
    pub fn parse(bundle: &Path, json: &[u8]) -> Result<Self, Error> {
        let file = bundle.join("config.json").display().to_string();
        let document = Document { name: &file };
        let split = seccomp::split(json);
        let text = split.as_ref().and_then(|split| split.profile);
        let known = text.and_then(|text| LAST.find(text));
        let value = match split {
            Some(split) if text.is_none() || known.is_some() => split.rest,
            Some(_) | None => document.syntax(json)?,
        };
        let mut container = Self::read(document, bundle, value)?;
        if known.is_some() {
            container.seccomp = known;
        } else if let Some((text, profile)) = text.zip(container.seccomp.as_ref()) {
            LAST.keep(text, profile);
        }
        Ok(container)
    }

    /// The limits of an update of this container, read as its own are: by the release of the specification
    /// that it names.
    #[must_use]
    pub fn reread(&self, resources: LinuxResources) -> LinuxResources {
        tasks::read(&self.oci_version, resources)
    }

    /// The number by which the host knows the user of one of the container's processes.
    #[must_use]
    pub fn host_uid(&self, process: &Process) -> u32 {
        let uid = process.user.uid;
        self.id_mappings.host_uid(uid).unwrap_or(uid)
    }

    /// To whom the host is to give the container's cgroup: the user of its process, if it has a cgroup
    /// namespace of its own and may write to the cgroups that it sees. So does runc with systemd
    /// (`CreateLibcontainerConfig`), for a systemd in the container or a runtime.
    #[must_use]
    pub fn cgroup_owner(&self) -> Option<u32> {
        let writable = self.mounts.iter().any(|mount| {
            let attributes = mount.attributes;
            matches!(mount.kind, MountKind::Cgroup { .. })
                && mount.destination == "/sys/fs/cgroup"
                && (attributes.set | attributes.set_recursive) & attr::RDONLY == 0
        });
        if self.namespaces.cgroup != Namespace::New || !writable {
            return None;
        }
        let uid = self.process.user.uid;
        match self.namespaces.user {
            Namespace::Host => Some(uid),
            // Nobody owns anything whom the namespace does not know.
            Namespace::New | Namespace::Path(_) => self.id_mappings.host_uid(uid),
        }
    }

    fn read(document: Document<'_>, bundle: &Path, mut value: Value) -> Result<Self, Error> {
        document.offered(&value, &fields::CONFIG)?;
        let lifted = Lifted::lift(document, "process.", value.get_mut("process"))?;
        let personality = Personality::lift(document, value.get_mut("linux"))?;
        let memory_policy = MemoryPolicy::lift(document, value.get_mut("linux"))?;
        let intel_rdt = IntelRdt::lift(document, value.get_mut("linux"))?;
        tasks::lift_unset(value.pointer_mut("/linux/resources"));
        let spec: Spec = document.typed(value)?;
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| document.missing("process"))?;
        let process = Process::read(document, "process.", process, lifted)?;
        let linux = spec
            .linux()
            .as_ref()
            .ok_or_else(|| document.missing("linux"))?;
        let annotations: BTreeMap<String, String> = spec
            .annotations()
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let mut mounts = Vec::new();
        for (index, mount) in spec.mounts().iter().flatten().enumerate() {
            mounts.push(Mount::read(document, bundle, index, mount)?);
        }
        let mut devices = Vec::new();
        for (index, device) in linux.devices().iter().flatten().enumerate() {
            devices.push(Device::read(document, index, device)?);
        }
        let paths = |name: &str, list: &Option<Vec<String>>| {
            let list = list.clone().unwrap_or_default();
            match list.iter().position(|path| !path.starts_with('/')) {
                None => Ok(list),
                Some(bad) => {
                    let field = format!("linux.{name}[{bad}]");
                    Err(document.value(&field, &list[bad], "is not absolute"))
                }
            }
        };
        let namespaces =
            Namespaces::read(document, linux.namespaces().as_deref().unwrap_or_default())?;
        let id_mappings = id_mappings(document, linux, &namespaces, &process, &mounts)?;
        let resources = linux.resources().clone();
        Ok(Self {
            bundle: bundle.to_owned(),
            oci_version: spec.version().clone(),
            root: root(document, bundle, &spec)?,
            mounts,
            process,
            hostname: name(document, "hostname", spec.hostname())?,
            domainname: name(document, "domainname", spec.domainname())?,
            time_offsets: TimeOffsets::read(
                document,
                linux.time_offsets().as_ref(),
                &namespaces.time,
            )?,
            personality,
            memory_policy,
            intel_rdt,
            mount_label: linux
                .mount_label()
                .clone()
                .filter(|label| !label.is_empty()),
            net_devices: NetDevice::read(
                document,
                linux.net_devices().as_ref(),
                &namespaces.network,
            )?,
            namespaces,
            id_mappings,
            cgroups_path: match linux.cgroups_path() {
                Some(path) => CgroupsPath::read(document, path)?,
                None => None,
            },
            resources: resources.map(|resources| tasks::read(spec.version(), resources)),
            devices,
            seccomp: linux.seccomp().clone().map(Arc::new),
            masked_paths: paths("maskedPaths", linux.masked_paths())?,
            readonly_paths: paths("readonlyPaths", linux.readonly_paths())?,
            sysctl: sysctl(document, linux.sysctl().iter().flatten())?,
            options: annotations::read(document, &annotations)?,
            annotations,
            hooks: Hooks::read(document, spec.hooks().as_ref())?,
        })
    }
}

/// The ids of the user namespace, for all that needs one.
fn id_mappings(
    document: Document<'_>,
    linux: &Linux,
    namespaces: &Namespaces,
    process: &Process,
    mounts: &[Mount],
) -> Result<IdMappings, Error> {
    const UIDS: &str = "linux.uidMappings";
    let uids = linux.uid_mappings().as_deref().unwrap_or_default();
    let gids = linux.gid_mappings().as_deref().unwrap_or_default();
    let mappings = IdMappings::read(document, "linux.", uids, gids)?;
    match (&namespaces.user, uids.first()) {
        (Namespace::Host, Some(first)) => {
            let value = format!(
                "{}:{}:{}",
                first.container_id(),
                first.host_id(),
                first.size()
            );
            return Err(document.value(UIDS, &value, "the container has no user namespace"));
        }
        (Namespace::New, None) => return Err(document.missing(UIDS)),
        (Namespace::Host | Namespace::Path(_), None) => {}
        (Namespace::New | Namespace::Path(_), Some(_)) => mappings.check(document, process)?,
    }
    let theirs = mounts.iter().find(|mount| {
        let map = mount.id_map.as_ref();
        map.is_some_and(|map| map.mappings.is_empty()) && namespaces.user == Namespace::Host
    });
    match theirs {
        None => Ok(mappings),
        Some(mount) => {
            let field = format!("mounts[{}].uidMappings", mount.index);
            Err(document.missing(&field))
        }
    }
}

fn root(document: Document<'_>, bundle: &Path, spec: &Spec) -> Result<Root, Error> {
    let root = spec
        .root()
        .as_ref()
        .ok_or_else(|| document.missing("root"))?;
    if root.path().as_os_str().is_empty() {
        return Err(document.missing("root.path"));
    }
    let word = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.rootfs_propagation().as_deref());
    let propagation = match word {
        None | Some("") => None,
        Some(word) => match Propagation::from_word(word) {
            Some(propagation) => Some(propagation),
            None => {
                let why = "is not a mount propagation";
                return Err(document.value("linux.rootfsPropagation", word, why));
            }
        },
    };
    Ok(Root {
        path: bundle.join(root.path()),
        readonly: root.readonly().unwrap_or(false),
        propagation,
    })
}

/// A host or domain name; `__NEW_UTS_LEN` of `linux/utsname.h` is the kernel's limit.
fn name(
    document: Document<'_>,
    field: &str,
    name: &Option<String>,
) -> Result<Option<String>, Error> {
    match name {
        None => Ok(None),
        Some(name) if name.is_empty() => Ok(None),
        Some(name) if name.len() > 64 => {
            Err(document.value(field, name, "is longer than 64 bytes"))
        }
        Some(name) => Ok(Some(name.clone())),
    }
}

/// Turns `net.ipv4.ip_forward` and `net/ipv4/ip_forward` into the path below `/proc/sys`.
///
/// As sysctl(8) does: the first separator decides, and in the dotted form a slash stands
/// for a dot of a name (`net.ipv4.conf.eth0/100.rp_filter`).
fn sysctl<'a>(
    document: Document<'_>,
    entries: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<BTreeMap<String, String>, Error> {
    let mut parameters = BTreeMap::new();
    for (key, value) in entries {
        let slashed = key
            .find(['.', '/'])
            .is_some_and(|at| key.as_bytes()[at] == b'/');
        let path: String = if slashed {
            key.clone()
        } else {
            let swap = |c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            };
            key.chars().map(swap).collect()
        };
        let field = format!("linux.sysctl.{key}");
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(document.value(&field, value, "is not a name of a kernel parameter"));
        }
        if parameters.insert(path, value.clone()).is_some() {
            return Err(document.value(&field, value, "is given in two spellings"));
        }
    }
    Ok(parameters)
}
