//! The harness of Duet's top-level tests: a private containerd, images made on the
//! spot, clients that read like stories, and a leak check after every test.
//!
//! A test enters a [`Node`], tells its story, and leaves. Entering starts the private
//! containerd of this test program (once) and notes what exists on the machine;
//! leaving compares, and fails the test if a process, mount, cgroup, network
//! namespace, socket, state file, interface or lease is left.
//!
//! | Variable | Meaning |
//! | --- | --- |
//! | `DUET_BIN_DIR` | where the shim, runner, compiler and `duet` lie; default `<target>/<host>/release` |
//! | `DUET_TEST_RUNTIME` | `duet` (default), or `runc`: the oracle, for the tests that are not about wasm |
//! | `DUET_TEST_CGROUPS` | `cgroupfs` (default), or `systemd` on a machine that it runs |
//! | `DUET_TEST_SLOWNESS` | how many times longer everything may take, in an emulated machine; default 1 |
//! | `DUET_TEST_IMAGES` | a folder in which the archives of the images lie already; default: they are made |
//! | `DUET_TEST_CONTAINERD` | a folder with another `containerd` and `ctr`; default: those in `PATH` |
//! | `DUET_TEST_UPGRADE` | folders with later releases of it, in order, for the test of upgrades |
//! | `DUET_TEST_OTHERS` | a folder with what `tests/others/make.sh` brings: programs of others |
//! | `DUET_TEST_CASES` | `all` (default) of the oracle's cases, or `cgroups`: those in which the version of cgroups shows |
//! | `DUET_TEST_VM` | what is to run in the emulated machines instead of what always does; see `tests/vm` |
//! | `DUET_TEST_REQUIRE` | what must not be skipped: `root`, `containerd`, ... or `all` |
#![forbid(unsafe_code)]

pub mod bench;
pub mod cni;
pub mod command;
pub mod containerd;
pub mod cri;
pub mod ctr;
pub mod events;
pub mod guests;
pub mod image;
pub mod leaks;
pub mod machine;
pub mod memory;
pub mod node;
pub mod shim;
pub mod stream;
pub mod survivors;
pub mod template;
pub mod wait;

pub use node::Node;
