//! `mounts`: what is mounted where, with every option turned into bits.

use crate::{Error, IdMappings, document::Document};
use oci_spec::runtime::Mount as Written;
use std::path::{Path, PathBuf};

/// `MOUNT_ATTR_*` of `linux/mount.h`, as `mount_setattr(2)` takes them.
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// Set-user-id bits do nothing.
    pub const NOSUID: u64 = 0x2;
    /// Device nodes cannot be opened.
    pub const NODEV: u64 = 0x4;
    /// Nothing can be executed.
    pub const NOEXEC: u64 = 0x8;
    /// The field of access-time modes; must be cleared as a whole to change the mode.
    pub const ATIME: u64 = 0x70;
    /// Access times are not kept.
    pub const NOATIME: u64 = 0x10;
    /// Access times are always kept.
    pub const STRICTATIME: u64 = 0x20;
    /// Access times of directories are not kept.
    pub const NODIRATIME: u64 = 0x80;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = 0x0020_0000;
}

/// How mount events travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropagationKind {
    /// Not at all.
    Private,
    /// From the source to the copy.
    Slave,
    /// Both ways.
    Shared,
    /// Not at all, and no copy can be made.
    Unbindable,
}

/// How mount events travel, for one mount or everything below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    /// How.
    pub kind: PropagationKind,
    /// Whether what is mounted below follows.
    pub recursive: bool,
}

/// Bits of [`attr`] to set and clear; clearing comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Bits to set on the mount itself.
    pub set: u64,
    /// Bits to clear on the mount itself.
    pub clear: u64,
    /// Bits to set on the mount and everything below it.
    pub set_recursive: u64,
    /// Bits to clear on the mount and everything below it.
    pub clear_recursive: u64,
}

/// Other owners for what a bind mount shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    /// The ids; empty for those of the container's user namespace.
    pub mappings: IdMappings,
    /// Whether what is mounted below it follows.
    pub recursive: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A file or directory of the host.
    Bind {
        /// Its absolute path on the host.
        source: PathBuf,
        /// Whether what is mounted below it comes along.
        recursive: bool,
    },
    /// The container's view of the cgroup hierarchies, whatever their version.
    Cgroup {
        /// Options for the file system.
        options: Vec<String>,
    },
    /// A new file system.
    Filesystem {
        /// The kernel's name of it.
        fstype: String,
        /// What it is made from, or what `/proc/mounts` shows as its source.
        source: String,
        /// Options for the file system: `key` or `key=value`.
        options: Vec<String>,
    },
}

/// One entry of `mounts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Which entry of `mounts` it is; errors name it.
    pub index: usize,
    /// Where in the container: absolute, without `.`, `..` and repeated slashes, never `/`.
    pub destination: String,
    /// What.
    pub kind: MountKind,
    /// Attributes of the mount. Of a bind only what was asked for: the source's own
    /// attributes stay, so that `rw` never makes a read-only source writable.
    pub attributes: Attributes,
    /// Propagation, where an option asks for one.
    pub propagation: Option<Propagation>,
    /// Of a bind mount: whether the files have other owners in it.
    pub id_map: Option<IdMap>,
    /// Of a tmpfs: whether it begins with what the directory has that it covers.
    pub copy_up: bool,
}

/// What one option does.
enum Meaning {
    /// Sets these bits after clearing those.
    Attributes {
        set: u64,
        clear: u64,
        recursive: bool,
    },
    /// `bind` or `rbind`.
    Bind {
        recursive: bool,
    },
    Propagation(Propagation),
    /// `idmap` or `ridmap`.
    IdMap {
        recursive: bool,
    },
    /// `tmpcopyup`, which is runc's.
    CopyUp,
    /// A flag of the superblock that `fsconfig` takes by this name.
    Superblock,
    /// What a mount does anyway.
    Default,
    /// Known, and not offered.
    Refused,
    /// Not one of the generic options: meant for the file system.
    Data,
}

// === impl Mount ===

impl Mount {
    pub(crate) fn read(
        document: Document<'_>,
        bundle: &Path,
        index: usize,
        mount: &Written,
    ) -> Result<Self, Error> {
        let field = |name: &str| format!("mounts[{index}].{name}");
        let text = |name: &str, path: &Path| match path.to_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(document.value(&field(name), &path.display().to_string(), "is not UTF-8")),
        };
        let written = text("destination", mount.destination())?;
        if written.is_empty() {
            return Err(document.missing(&field("destination")));
        }
        let destination = clean(&written);
        if destination == "/" {
            return Err(document.value(&field("destination"), &written, "is the root itself"));
        }
        let source = match mount.source() {
            Some(source) => text("source", source)?,
            None => String::new(),
        };
        let fstype = mount.typ().clone().unwrap_or_default();
        let written = mount.options().as_deref().unwrap_or_default();
        let options = Options::read(document, index, written)?;
        let (attributes, propagation) = (options.attributes, options.propagation);
        let id_map = options.id_map(document, index, mount)?;
        let bind = options.bind.or((fstype == "bind").then_some(false));
        let copy_up = options.copy_up.is_some();
        if let Some(number) = options.copy_up
            && (bind.is_some() || fstype != "tmpfs")
        {
            let field = format!("mounts[{index}].options[{number}]");
            return Err(document.value(&field, "tmpcopyup", "is for a tmpfs alone"));
        }
        let kind = match (bind, fstype.as_str()) {
            (None, _) if id_map.is_some() => {
                let field = field("type");
                return Err(document.value(&field, &fstype, "only a bind mount can be id-mapped"));
            }
            (Some(_), _) if source.is_empty() => return Err(document.missing(&field("source"))),
            (Some(recursive), _) => {
                options.refuse_the_rest(document, index)?;
                // A relative source is relative to the bundle, says the specification.
                let source = bundle.join(source);
                MountKind::Bind { source, recursive }
            }
            (None, "" | "none") => return Err(document.missing(&field("type"))),
            (None, "cgroup") => MountKind::Cgroup {
                options: options.rest(),
            },
            (None, _) => {
                let mut options = options.rest();
                if attributes.set & attr::RDONLY != 0 && has_medium(&fstype) {
                    options.push("ro".to_owned());
                }
                let source = if source.is_empty() {
                    fstype.clone()
                } else {
                    source
                };
                MountKind::Filesystem {
                    fstype,
                    source,
                    options,
                }
            }
        };
        Ok(Self {
            index,
            destination,
            kind,
            attributes,
            propagation,
            id_map,
            copy_up,
        })
    }
}

/// The options of one mount, sorted by what they are about.
#[derive(Default)]
struct Options {
    attributes: Attributes,
    propagation: Option<Propagation>,
    /// Whether a bind is asked for, and whether a recursive one.
    bind: Option<bool>,
    /// Whether an id-mapped mount is asked for, and whether a recursive one.
    idmap: Option<bool>,
    /// Where `tmpcopyup` is in the list.
    copy_up: Option<usize>,
    /// For the file system: the place in the list, and the option.
    rest: Vec<(usize, String)>,
}

// === impl Options ===

impl Options {
    fn read(document: Document<'_>, index: usize, written: &[String]) -> Result<Self, Error> {
        let mut options = Self::default();
        let attributes = &mut options.attributes;
        for (number, option) in written.iter().enumerate() {
            let field = || format!("mounts[{index}].options[{number}]");
            match meaning(option) {
                Meaning::Attributes {
                    set,
                    clear,
                    recursive: false,
                } => {
                    attributes.set = (attributes.set & !clear) | set;
                    // Attributes that an option only takes away were never set on a new
                    // file system, and a bind keeps those of its source (see `attributes`);
                    // the access-time mode is a choice, not a bit, and must be cleared.
                    attributes.clear |= clear & attr::ATIME;
                }
                Meaning::Attributes {
                    set,
                    clear,
                    recursive: true,
                } => {
                    attributes.set_recursive = (attributes.set_recursive & !clear) | set;
                    attributes.clear_recursive &= !set;
                    attributes.clear_recursive |= clear & (attr::ATIME | !set);
                }
                Meaning::Bind { recursive } => {
                    options.bind = Some(options.bind == Some(true) || recursive);
                }
                Meaning::Propagation(asked) => {
                    if options.propagation.is_some_and(|before| before != asked) {
                        let why = "contradicts another propagation option";
                        return Err(document.value(&field(), option, why));
                    }
                    options.propagation = Some(asked);
                }
                Meaning::IdMap { recursive } => {
                    options.idmap = Some(options.idmap == Some(true) || recursive);
                }
                Meaning::CopyUp => options.copy_up = Some(number),
                Meaning::Data if option.is_empty() => {}
                Meaning::Superblock | Meaning::Data => options.rest.push((number, option.clone())),
                Meaning::Default => {}
                Meaning::Refused => return Err(document.not_offered(&field(), option)),
            }
        }
        Ok(options)
    }

    /// The mapping that an option or the two lists ask for; lists alone mean `idmap`, as under
    /// runc.
    fn id_map(
        &self,
        document: Document<'_>,
        index: usize,
        mount: &Written,
    ) -> Result<Option<IdMap>, Error> {
        let uids = mount.uid_mappings().as_deref().unwrap_or_default();
        let gids = mount.gid_mappings().as_deref().unwrap_or_default();
        let mappings = IdMappings::read(document, &format!("mounts[{index}]."), uids, gids)?;
        let asked = self.idmap.or((!mappings.is_empty()).then_some(false));
        Ok(asked.map(|recursive| IdMap {
            mappings,
            recursive,
        }))
    }

    /// Refuses what cannot take effect on a bind: the superblock is the host's.
    fn refuse_the_rest(&self, document: Document<'_>, index: usize) -> Result<(), Error> {
        match self.rest.first() {
            None => Ok(()),
            Some((number, option)) => {
                let field = format!("mounts[{index}].options[{number}]");
                Err(document.value(&field, option, "has no meaning on a bind mount"))
            }
        }
    }

    fn rest(self) -> Vec<String> {
        self.rest.into_iter().map(|(_, option)| option).collect()
    }
}

// === impl Propagation ===

impl Propagation {
    /// The propagation that a word of `rootfsPropagation` or a mount option stands for.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        let (kind, recursive) = match word {
            "private" => (PropagationKind::Private, false),
            "rprivate" => (PropagationKind::Private, true),
            "slave" => (PropagationKind::Slave, false),
            "rslave" => (PropagationKind::Slave, true),
            "shared" => (PropagationKind::Shared, false),
            "rshared" => (PropagationKind::Shared, true),
            "unbindable" => (PropagationKind::Unbindable, false),
            "runbindable" => (PropagationKind::Unbindable, true),
            _ => return None,
        };
        Some(Self { kind, recursive })
    }

    /// The word that stands for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match (self.kind, self.recursive) {
            (PropagationKind::Private, false) => "private",
            (PropagationKind::Private, true) => "rprivate",
            (PropagationKind::Slave, false) => "slave",
            (PropagationKind::Slave, true) => "rslave",
            (PropagationKind::Shared, false) => "shared",
            (PropagationKind::Shared, true) => "rshared",
            (PropagationKind::Unbindable, false) => "unbindable",
            (PropagationKind::Unbindable, true) => "runbindable",
        }
    }
}

/// The options of mount(8) and of the runtime specification.
fn meaning(option: &str) -> Meaning {
    if let Some(propagation) = Propagation::from_word(option) {
        return Meaning::Propagation(propagation);
    }
    match option {
        "bind" => Meaning::Bind { recursive: false },
        "rbind" => Meaning::Bind { recursive: true },
        "sync" | "dirsync" | "lazytime" => Meaning::Superblock,
        "defaults" | "async" | "nolazytime" | "nomand" | "noiversion" | "loud" | "silent" => {
            Meaning::Default
        }
        "idmap" => Meaning::IdMap { recursive: false },
        "ridmap" => Meaning::IdMap { recursive: true },
        "tmpcopyup" => Meaning::CopyUp,
        "remount" | "mand" | "iversion" => Meaning::Refused,
        _ => match attribute(option) {
            Some((set, clear)) => Meaning::Attributes {
                set,
                clear,
                recursive: false,
            },
            None => match option.strip_prefix('r').and_then(attribute) {
                Some((set, clear)) => Meaning::Attributes {
                    set,
                    clear,
                    recursive: true,
                },
                None => Meaning::Data,
            },
        },
    }
}

/// The bits that an option sets and clears.
fn attribute(option: &str) -> Option<(u64, u64)> {
    let one = |bit| (bit, bit);
    let none = |bit| (0, bit);
    Some(match option {
        "ro" => one(attr::RDONLY),
        "rw" => none(attr::RDONLY),
        "nosuid" => one(attr::NOSUID),
        "suid" => none(attr::NOSUID),
        "nodev" => one(attr::NODEV),
        "dev" => none(attr::NODEV),
        "noexec" => one(attr::NOEXEC),
        "exec" => none(attr::NOEXEC),
        "noatime" => (attr::NOATIME, attr::ATIME),
        "strictatime" => (attr::STRICTATIME, attr::ATIME),
        // The kernel's default mode is relatime, which is no bit at all.
        "atime" | "relatime" | "norelatime" | "nostrictatime" => none(attr::ATIME),
        "nodiratime" => one(attr::NODIRATIME),
        "diratime" => none(attr::NODIRATIME),
        "nosymfollow" => one(attr::NOSYMFOLLOW),
        "symfollow" => none(attr::NOSYMFOLLOW),
        _ => return None,
    })
}

/// Whether `ro` must reach the superblock too, because there is a medium to protect.
///
/// The kernel's own file systems share one superblock among mounts (sysfs has one per
/// network namespace): a read-only superblock would be read-only for the whole pod.
fn has_medium(fstype: &str) -> bool {
    !matches!(
        fstype,
        "proc"
            | "sysfs"
            | "tmpfs"
            | "ramfs"
            | "devpts"
            | "devtmpfs"
            | "mqueue"
            | "cgroup2"
            | "securityfs"
            | "debugfs"
            | "tracefs"
            | "configfs"
            | "bpf"
            | "hugetlbfs"
            | "pstore"
            | "efivarfs"
            | "selinuxfs"
            | "fusectl"
            | "binfmt_misc"
    )
}

/// Makes a path absolute and takes out `.`, `..` and repeated slashes without looking at
/// any file system, as Go's `path.Clean` does for runc.
pub(crate) fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
