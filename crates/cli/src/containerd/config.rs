//! The configuration of Duet's own containerd, in the words of its version.

use crate::error::Error;
use crate::manifest::Refused;
use crate::program;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::Path;

/// A containerd's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    major: u32,
    minor: u32,
}

/// What goes into the configuration.
#[derive(Debug)]
pub(super) struct Settings<'a> {
    pub(super) root: &'a Path,
    pub(super) state: &'a Path,
    pub(super) socket: &'a Path,
    pub(super) pause_image: &'a str,
    pub(super) snapshotter: &'a str,
    /// The directory of the CNI configuration.
    pub(super) networks: &'a Path,
    /// The directory of the CNI programs.
    pub(super) plugins: &'a Path,
    pub(super) restrict_oom_score: bool,
    /// The runtime that is taken by default.
    pub(super) runtime: &'a str,
}

/// The runtime handlers Duet configures: name, type.
const RUNTIMES: [(&str, &str); 2] = [
    ("duet", "io.containerd.duet.v1"),
    ("runc", "io.containerd.runc.v2"),
];

/// Annotations of a pod that reach the shim.
const ANNOTATIONS: &str = "[\"io.containerd.duet.v1.*\", \"module.wasm.image/*\", \
                           \"run.oci.handler\"]";

/// The oldest version that Duet is made for.
pub(crate) const OLDEST: Version = Version { major: 1, minor: 6 };

// === impl Version ===

impl Version {
    /// Asks the program at `containerd`.
    pub(super) fn of(containerd: &Path) -> Result<Self, Error> {
        let text = program::output(&containerd.display().to_string(), ["--version"])?;
        let version = Self::parse(&text).ok_or_else(|| {
            Error::Missing(format!(
                "{} --version says no version: {:?}",
                containerd.display(),
                text.trim()
            ))
        })?;
        if version < OLDEST {
            return Err(Error::Missing(format!(
                "{} is version {version}; {} or newer is needed",
                containerd.display(),
                OLDEST
            )));
        }
        Ok(version)
    }

    /// Reads `containerd github.com/containerd/containerd 1.6.20~ds1 …`.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        words.find_map(|word| {
            let mut numbers = word.trim_start_matches('v').split('.');
            Some(Self {
                major: numbers.next()?.parse().ok()?,
                minor: numbers.next()?.parse().ok()?,
            })
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.major, self.minor)
    }
}

// === impl Settings ===

impl Settings<'_> {
    /// The file's text: version 3 for containerd 2, else version 2.
    pub(super) fn text(&self, version: Version) -> String {
        let (root, state, socket) = (quoted(self.root), quoted(self.state), quoted(self.socket));
        let (format, runtime) = if version.major >= 2 {
            (3, "io.containerd.cri.v1.runtime")
        } else {
            (2, "io.containerd.grpc.v1.cri")
        };
        let mut text = format!(
            "version = {format}\nroot = {root}\nstate = {state}\n\n[grpc]\naddress = {socket}\n"
        );
        let (pause, snapshotter) = (quoted_text(self.pause_image), quoted_text(self.snapshotter));
        let own = format!("plugins.\"{runtime}\"");
        if version.major >= 2 {
            text.push_str(&format!(
                "\n[plugins.\"io.containerd.cri.v1.images\"]\nsnapshotter = {snapshotter}\n\
                 [plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = {pause}\n\
                 \n[{own}]\n"
            ));
        } else {
            text.push_str(&format!("\n[{own}]\nsandbox_image = {pause}\n"));
        }
        text.push_str(&format!(
            "restrict_oom_score_adj = {}\n\n[{own}.containerd]\n",
            self.restrict_oom_score
        ));
        if version.major < 2 {
            text.push_str(&format!("snapshotter = {snapshotter}\n"));
        }
        text.push_str(&format!(
            "default_runtime_name = {}\n",
            quoted_text(self.runtime)
        ));
        for (name, kind) in RUNTIMES {
            text.push_str(&format!(
                "\n[{own}.containerd.runtimes.{name}]\nruntime_type = \"{kind}\"\n\
                 pod_annotations = {ANNOTATIONS}\ncontainer_annotations = {ANNOTATIONS}\n"
            ));
        }
        text.push_str(&format!(
            "\n[{own}.cni]\nconf_dir = {}\n",
            quoted(self.networks)
        ));
        let plugins = quoted(self.plugins);
        // containerd 2.1 renamed it, and warns of the old name.
        text.push_str(&if version < (Version { major: 2, minor: 1 }) {
            format!("bin_dir = {plugins}\n")
        } else {
            format!("bin_dirs = [{plugins}]\n")
        });
        text
    }
}

/// A TOML string; JSON's rules are a part of TOML's.
fn quoted_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn quoted(path: &Path) -> String {
    quoted_text(&path.display().to_string())
}

/// The path to programs with the directory of `duet` itself in front: the shim lies beside it.
pub(super) fn search_path() -> Result<OsString, Error> {
    let failed = |source| Error::System {
        action: "could not find this program's own directory",
        source,
    };
    let own = std::env::current_exe().map_err(failed)?;
    let rest = program::path();
    let directories = own.parent().map(Path::to_owned);
    let directories = directories.into_iter().chain(std::env::split_paths(&rest));
    std::env::join_paths(directories).map_err(|error| failed(std::io::Error::other(error)))
}

/// Refuses a `runtimeClassName` that Duet's containerd does not know.
pub(crate) fn check_class(name: &str) -> Result<(), Refused> {
    if RUNTIMES.iter().any(|(known, _)| *known == name) {
        return Ok(());
    }
    Err(Refused::field(
        "spec.runtimeClassName",
        format!(
            "Duet's own containerd knows duet and runc, not {name:?}; name another containerd \
             with --address"
        ),
    ))
}

/// Refuses a runtime that Duet's containerd does not know or whose shim is not installed.
pub(super) fn runtime_exists(name: &str, path: &OsString) -> Result<(), Error> {
    let Some((_, kind)) = RUNTIMES.iter().find(|(known, _)| *known == name) else {
        return Err(Error::Argument(format!(
            "--runtime {name}: Duet's own containerd knows duet and runc; name another \
             containerd with --address"
        )));
    };
    // containerd's rule: the last two parts of the type make the file's name.
    let parts: Vec<&str> = kind.rsplitn(3, '.').collect();
    let shim = match parts.as_slice() {
        [version, name, ..] => format!("containerd-shim-{name}-{version}"),
        _ => return Ok(()),
    };
    if std::env::split_paths(path).any(|directory| directory.join(&shim).is_file()) {
        return Ok(());
    }
    Err(Error::Missing(format!(
        "{shim} is neither beside `duet` nor in PATH"
    )))
}

/// Whether this process may not lower an `oom_score_adj`: it lacks `CAP_SYS_RESOURCE` (24).
pub(super) fn oom_score_is_restricted() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_none_or(|mask| mask & (1 << 24) == 0)
}

#[cfg(test)]
mod tests {
    use super::{Settings, Version};
    use std::path::Path;

    fn text(version: Version) -> String {
        Settings {
            root: Path::new("/r"),
            state: Path::new("/s"),
            socket: Path::new("/s/c.sock"),
            pause_image: "localhost/duet/pause:1",
            snapshotter: "overlayfs",
            networks: Path::new("/s/cni"),
            plugins: Path::new("/usr/lib/cni"),
            restrict_oom_score: true,
            runtime: "duet",
        }
        .text(version)
    }

    #[test]
    fn versions_are_read() {
        for (text, version) in [
            (
                "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3",
                (1, 6),
            ),
            (
                "containerd github.com/containerd/containerd/v2 2.1.4 abc",
                (2, 1),
            ),
            ("containerd containerd.io v1.7.27 05044ec", (1, 7)),
        ] {
            let (major, minor) = version;
            assert_eq!(Version::parse(text), Some(Version { major, minor }));
        }
        assert_eq!(Version::parse("containerd"), None);
    }

    #[test]
    fn each_generation_gets_its_own_tables() {
        let old = text(Version { major: 1, minor: 6 });
        assert!(old.starts_with("version = 2\n"));
        assert!(old.contains("\nsandbox_image = \"localhost/duet/pause:1\"\n"));
        assert!(old.contains("[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.duet]"));
        let new = text(Version { major: 2, minor: 1 });
        assert!(new.starts_with("version = 3\n"));
        assert!(new.contains("pinned_images]\nsandbox = \"localhost/duet/pause:1\"\n"));
        assert!(
            new.contains("[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.duet]")
        );
        assert!(!new.contains("grpc.v1.cri"));
        assert!(old.contains("bin_dir = \"/usr/lib/cni\""));
        assert!(new.contains("bin_dirs = [\"/usr/lib/cni\"]"));
    }
}
