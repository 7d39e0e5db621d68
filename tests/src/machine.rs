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

    /// The name of its handler in CRI.
    #[must_use]
    pub fn short(self) -> &'static str {
        match self {
            Self::Duet => "duet",
            Self::Runc => "runc",
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
