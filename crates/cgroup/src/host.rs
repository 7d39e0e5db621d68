//! Which cgroup file systems this host has, and where: v1, hybrid or v2.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;

/// How the host keeps its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One hierarchy for each controller, or for a few of them.
    V1,
    /// As [`Mode::V1`], with a v2 tree without controllers beside them.
    Hybrid,
    /// One tree for everything.
    V2,
}

/// One mounted cgroup file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// The name that `/proc/<pid>/cgroup` gives it: `memory`, `cpu,cpuacct`, `name=systemd`; empty
    /// for v2.
    pub name: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Which of its cgroups the mount point shows: `/`, unless Duet itself runs in a container.
    pub root: PathBuf,
    /// The cgroup of the calling process in it, below the hierarchy's real root.
    pub own: PathBuf,
}

/// The host's cgroup file systems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    mode: Mode,
    hierarchies: Vec<Hierarchy>,
    unified: Option<Hierarchy>,
}

// === impl Hierarchy ===

impl Hierarchy {
    /// Whether it manages `controller` (`"memory"`, `"name=systemd"`).
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.name.split(',').any(|name| name == controller)
    }

    /// The directory of the cgroup `path` in it.
    ///
    /// An absolute path starts at the mount point, whatever cgroup the caller is in: the rule of
    /// runc, on which kubelet relies when it runs in a cgroup of its own.
    #[must_use]
    pub fn dir(&self, path: &Path) -> PathBuf {
        self.mountpoint.join(path.strip_prefix("/").unwrap_or(path))
    }
}

// === impl Host ===

impl Host {
    /// Reads `/proc/self/mountinfo` and `/proc/self/cgroup`.
    ///
    /// # Errors
    ///
    /// [`Error::NoHierarchy`] if no cgroup file system is mounted, [`Error::Call`] if the files
    /// cannot be read.
    pub fn detect() -> Result<Self, Error> {
        let read = |path: &str| {
            fs::read_to_string(path).map_err(|error| Error::on("read", Path::new(path), &error))
        };
        Self::parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)
    }

    /// Finds the hierarchies in the texts of the two files; [`Host::detect`] reads them.
    ///
    /// # Errors
    ///
    /// [`Error::NoHierarchy`] if there is none.
    ///
    /// # References
    ///
    /// [proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html),
    /// [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html).
    pub fn parse(mountinfo: &str, cgroup: &str) -> Result<Self, Error> {
        let mut mounts: Vec<Mount> = mountinfo.lines().filter_map(Mount::parse).collect();
        // Where a file system is mounted twice the place under /sys/fs/cgroup is meant, then the
        // first: the sort is stable.
        mounts.sort_by_key(|mount| !mount.mountpoint.starts_with("/sys/fs/cgroup"));
        let mut hierarchies = Vec::new();
        let mut unified = None;
        // /proc/self/cgroup counts down; the table of mounts is in the order of mounting.
        for line in cgroup.lines().rev() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(name), Some(own)) = (fields.next(), fields.next()) else {
                continue;
            };
            let found = mounts.iter().find(|mount| mount.serves(name));
            let Some(mount) = found else { continue };
            let hierarchy = Hierarchy {
                name: name.to_owned(),
                mountpoint: mount.mountpoint.clone(),
                root: mount.root.clone(),
                own: PathBuf::from(own),
            };
            if name.is_empty() {
                unified = Some(hierarchy);
            } else {
                hierarchies.push(hierarchy);
            }
        }
        match (hierarchies.is_empty(), unified) {
            (true, None) => Err(Error::NoHierarchy),
            (true, Some(tree)) => Ok(Self {
                mode: Mode::V2,
                hierarchies: vec![tree],
                unified: None,
            }),
            (false, None) => Ok(Self {
                mode: Mode::V1,
                hierarchies,
                unified: None,
            }),
            (false, unified) => Ok(Self {
                mode: Mode::Hybrid,
                hierarchies,
                unified,
            }),
        }
    }

    /// How the host keeps its cgroups.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The hierarchies that control something: all of v1, or the one tree of v2.
    #[must_use]
    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    /// On a hybrid host, the v2 tree beside the v1 hierarchies.
    #[must_use]
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.unified.as_ref()
    }

    /// The hierarchy that manages `controller`; on v2 always the one tree.
    #[must_use]
    pub fn hierarchy(&self, controller: &str) -> Option<&Hierarchy> {
        match self.mode {
            Mode::V2 => self.hierarchies.first(),
            Mode::V1 | Mode::Hybrid => self.hierarchies.iter().find(|one| one.has(controller)),
        }
    }
}

/// A line of mountinfo that is about cgroups.
struct Mount {
    v2: bool,
    root: PathBuf,
    mountpoint: PathBuf,
    options: String,
}

impl Mount {
    /// Parses `36 35 98:0 /root /mountpoint rw shared:1 - cgroup cgroup rw,memory`.
    fn parse(line: &str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mut system = system.split(' ');
        let v2 = match system.next()? {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        let options = system.nth(1)?.to_owned();
        let mut mount = mount.split(' ').skip(3);
        let root = PathBuf::from(unescape(mount.next()?));
        let mountpoint = PathBuf::from(unescape(mount.next()?));
        Some(Self {
            v2,
            root,
            mountpoint,
            options,
        })
    }

    /// Whether this is the hierarchy that `/proc/self/cgroup` calls `name`.
    fn serves(&self, name: &str) -> bool {
        if self.v2 || name.is_empty() {
            return self.v2 && name.is_empty();
        }
        // The kernel lists co-mounted controllers in an order of its own in either file.
        name.split(',')
            .all(|one| self.options.split(',').any(|option| option == one))
    }
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn unescape(field: &str) -> String {
    let mut plain = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        let (before, after) = rest.split_at(at);
        plain.push_str(before);
        match after
            .get(1..4)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok())
        {
            Some(byte) => {
                plain.push(char::from(byte));
                rest = &after[4..];
            }
            None => {
                plain.push('\\');
                rest = &after[1..];
            }
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST_MACHINE: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_host_has_its_v1_hierarchies_in_order_and_the_tree_apart() {
        let cgroup = "9:name=systemd:/\n4:memory:/process_api/ff78\n2:cpuacct:/\n1:cpu:/\n0::/\n";
        let host = Host::parse(TEST_MACHINE, cgroup).unwrap();
        assert_eq!(host.mode(), Mode::Hybrid);
        let names: Vec<_> = host
            .hierarchies()
            .iter()
            .map(|one| one.name.as_str())
            .collect();
        assert_eq!(names, ["cpu", "cpuacct", "memory", "name=systemd"]);
        assert_eq!(
            host.unified().unwrap().mountpoint,
            Path::new("/sys/fs/cgroup/unified")
        );
        let memory = host.hierarchy("memory").unwrap();
        assert_eq!(memory.own, Path::new("/process_api/ff78"));
        // A caller's own cgroup does not move what it makes.
        assert_eq!(
            memory.dir(Path::new("/pod/a")),
            Path::new("/sys/fs/cgroup/memory/pod/a")
        );
        assert!(host.hierarchy("hugetlb").is_none());
    }

    #[test]
    fn co_mounted_controllers_are_one_hierarchy() {
        let mounts = "\
30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
31 25 0:27 / /sys/fs/cgroup/net_cls,net_prio rw,nosuid shared:10 - cgroup cgroup rw,net_cls,net_prio
";
        let host = Host::parse(mounts, "3:net_prio,net_cls:/\n2:cpu,cpuacct:/a:b\n").unwrap();
        assert_eq!(host.mode(), Mode::V1);
        assert_eq!(host.hierarchies().len(), 2);
        let cpu = host.hierarchy("cpuacct").unwrap();
        assert_eq!(cpu.mountpoint, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(cpu.own, Path::new("/a:b"));
        assert!(host.hierarchy("net_prio").unwrap().has("net_cls"));
    }

    #[test]
    fn a_v2_host_has_one_tree() {
        let mounts =
            "29 22 0:25 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let host = Host::parse(mounts, "0::/system.slice/containerd.service\n").unwrap();
        assert_eq!(host.mode(), Mode::V2);
        assert_eq!(host.hierarchies().len(), 1);
        assert!(host.unified().is_none());
        assert_eq!(
            host.hierarchy("memory").unwrap().mountpoint,
            Path::new("/sys/fs/cgroup")
        );
    }

    #[test]
    fn the_mount_under_sys_wins_over_a_second_one() {
        let mounts = "\
50 25 0:26 / /mnt/my\\040cgroup rw - cgroup2 cgroup2 rw
51 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
";
        let host = Host::parse(mounts, "0::/\n").unwrap();
        assert_eq!(
            host.hierarchies()[0].mountpoint,
            Path::new("/sys/fs/cgroup")
        );
        let alone = Host::parse(mounts.lines().next().unwrap(), "0::/\n").unwrap();
        assert_eq!(
            alone.hierarchies()[0].mountpoint,
            Path::new("/mnt/my cgroup")
        );
    }

    #[test]
    fn a_host_without_cgroups_is_refused() {
        let error = Host::parse("22 1 8:1 / / rw - ext4 /dev/sda rw\n", "0::/\n").unwrap_err();
        assert_eq!(error.to_string(), "no cgroup hierarchy is mounted");
    }
}
