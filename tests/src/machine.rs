//! The machine the tests run on: which runtime is judged, where the programs lie, and
//! what may be skipped.

use std::env;
use std::path::{Path, PathBuf};

/// What runs the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// What is tested.
    Duet,
    /// What it is compared with.
    Runc,
}

/// Who makes CRI's pods: containerd itself around a pause container, or the shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sandboxer {
    /// `sandboxer = "podsandbox"`, the default of every containerd.
    Podsandbox,
    /// `sandboxer = "shim"`: the Sandbox service, and no pause image.
    Shim,
}

/// Who makes the containers' cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    /// The runtime.
    Cgroupfs,
    /// systemd, which has to be the machine's.
    Systemd,
}

/// Why a test cannot run here.
#[derive(Debug)]
pub struct Skip {
    /// The word for it in `DUET_TEST_REQUIRE`.
    pub what: &'static str,
    /// What is missing.
    pub why: String,
}

/// The root of the workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
}

/// The folder with the built binaries.
#[must_use]
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = env::var_os("DUET_BIN_DIR") {
        return PathBuf::from(dir);
    }
    // .../<target>/<host>/<profile>/deps/<this test>: take the release folder beside ours.
    let this = env::current_exe().expect("a running program has a path");
    let host = this.ancestors().find(|dir| dir.ends_with(host_tuple()));
    host.map_or_else(
        || {
            workspace()
                .join("target")
                .join(host_tuple())
                .join("release")
        },
        |host| host.join("release"),
    )
}

/// The path of one built binary.
///
/// # Panics
///
/// When it was not built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let path = bin_dir().join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `make build` first",
        path.display()
    );
    path
}

/// Where `name` lies in `PATH`, looked up as containerd and a shell do.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let sbin = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    env::split_paths(&path)
        .chain(sbin)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Whether a policy of SELinux is in force.
#[must_use]
pub fn enforces_selinux() -> bool {
    std::fs::read("/sys/fs/selinux/enforce").is_ok_and(|enforce| enforce == b"1")
}

/// Says that a test cannot run here, and lets it pass only if nobody requires it.
///
/// # Panics
///
/// When `DUET_TEST_REQUIRE` names `skip.what`, or everything by `all`.
pub fn skip(skip: &Skip) {
    let required = env::var("DUET_TEST_REQUIRE").unwrap_or_default();
    let required = required
        .split(',')
        .any(|word| word == "all" || word == skip.what);
    assert!(
        !required,
        "{} is required (DUET_TEST_REQUIRE), but {}",
        skip.what, skip.why
    );
    eprintln!("SKIPPED: {} ({})", skip.why, skip.what);
}

fn host_tuple() -> &'static str {
    env!("DUET_HOST_TUPLE")
}

// === impl Sandboxer ===

impl Sandboxer {
    /// The sandboxer that `DUET_TEST_SANDBOXER` chooses.
    ///
    /// # Panics
    ///
    /// When it is neither `podsandbox` nor `shim`.
    #[must_use]
    pub fn chosen() -> Self {
        match env::var("DUET_TEST_SANDBOXER").as_deref() {
            Err(_) | Ok("podsandbox") => Self::Podsandbox,
            Ok("shim") => Self::Shim,
            Ok(other) => panic!("DUET_TEST_SANDBOXER: {other:?} is neither podsandbox nor shim"),
        }
    }
}

// === impl Cgroups ===

impl Cgroups {
    /// The driver that `DUET_TEST_CGROUPS` chooses.
    ///
    /// # Panics
    ///
    /// When it is neither `cgroupfs` nor `systemd`.
    #[must_use]
    pub fn chosen() -> Self {
        match env::var("DUET_TEST_CGROUPS").as_deref() {
            Err(_) | Ok("cgroupfs") => Self::Cgroupfs,
            Ok("systemd") => Self::Systemd,
            Ok(other) => panic!("DUET_TEST_CGROUPS: {other:?} is neither cgroupfs nor systemd"),
        }
    }
}

// === impl Runtime ===

impl Runtime {
    /// The runtime that `DUET_TEST_RUNTIME` chooses.
    ///
    /// # Panics
    ///
    /// When it is neither `duet` nor `runc`.
    #[must_use]
    pub fn chosen() -> Self {
        match env::var("DUET_TEST_RUNTIME").as_deref() {
            Err(_) | Ok("duet") => Self::Duet,
            Ok("runc") => Self::Runc,
            Ok(other) => panic!("DUET_TEST_RUNTIME: {other:?} is neither duet nor runc"),
        }
    }

    /// A word for it: `duet` or `runc`.
    #[must_use]
    pub fn short(self) -> &'static str {
        match self {
            Self::Duet => "duet",
            Self::Runc => "runc",
        }
    }

    /// The name of its handler in CRI.
    ///
    /// # Panics
    ///
    /// When runc is to make pods itself, which it cannot.
    #[must_use]
    pub fn handler(self, sandboxer: Sandboxer) -> &'static str {
        match (self, sandboxer) {
            (Self::Duet, Sandboxer::Podsandbox) => "duet",
            (Self::Duet, Sandboxer::Shim) => "duet-shim",
            (Self::Runc, Sandboxer::Podsandbox) => "runc",
            (Self::Runc, Sandboxer::Shim) => panic!("runc's shim does not make pods"),
        }
    }

    /// The name containerd knows it by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Duet => "io.containerd.duet.v1",
            Self::Runc => "io.containerd.runc.v2",
        }
    }
}
