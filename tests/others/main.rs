//! Programs that others wrote or built, and components in languages that Duet is not written in: each
//! runs as it is, in a pod as a kubelet makes it.
//!
//! `make others` brings them (`make.sh`), so these tests are none of `make test`'s: they need the registries
//! of Python and npm, and minutes of building. Without the folder they fail.
#![forbid(unsafe_code)]

mod components;
mod cpython;
mod resvg;
mod services;
mod sqlite;

use std::fs;
use std::path::{Path, PathBuf};

use duet_tests::cri::{Member, Pod, Wish};
use duet_tests::image::{self, Image};
use duet_tests::{Node, command};

/// The image that has them all.
const IMAGE: &str = "duet.test/others:1";

/// The programs, by the names that `make.sh` gives them.
const PROGRAMS: [&str; 7] = [
    "cpython.wasm",
    "javascript-command.wasm",
    "javascript-service.wasm",
    "python-command.wasm",
    "python-service.wasm",
    "resvg.wasm",
    "sqlite.wasm",
];

/// A native container that waits for its execs.
const FOREVER: &str = "echo ready; exec sleep 100000";

/// The folder that `make.sh` has filled.
fn folder() -> PathBuf {
    std::env::var_os("DUET_TEST_OTHERS")
        .map(PathBuf::from)
        .expect("DUET_TEST_OTHERS names no folder: run `make others`")
}

/// A node whose CRI has the image.
fn enter() -> Option<Node> {
    let node = Node::enter_with_duet()?;
    let ctr = || node.daemon().ctr("k8s.io");
    let there = command::run(ctr().args(["images", "ls", "-q"])).ok();
    if !there.stdout.contains(IMAGE) {
        let read = |name| fs::read(folder().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let image = PROGRAMS.into_iter().fold(Image::new(IMAGE), |image, name| {
            image.file(&format!("/{name}"), read(name), 0o755)
        });
        let archive = node.scratch().join("others.tar");
        image::write(&[image.directory("/data", 0o777)], &archive).expect("our own folder");
        // Before the others: when CRI has heard of those, it has heard of this one.
        let _imported = command::run(ctr().args(["images", "import"]).arg(&archive)).ok();
    }
    Some(node)
}

/// A folder on the node that is `/data` in containers.
fn volume(node: &Node) -> PathBuf {
    let volume = node.scratch().join("volume");
    fs::create_dir(&volume).expect("our own folder");
    volume
}

/// A container of the image with the volume.
fn wish(name: &str, volume: &Path, command: &[&str]) -> Wish {
    Wish::wasm(name, &[])
        .image(IMAGE)
        .command(command)
        .volume(volume, "/data")
}

/// Runs it to its end: its code, and its lines of stdout and of stderr.
fn run(pod: &Pod<'_>, wish: &Wish) -> (i32, Vec<String>, Vec<String>) {
    let member = pod.start(wish);
    let (code, _reason) = member.wait();
    (code, lines(&member, "stdout"), lines(&member, "stderr"))
}

/// What it has said so far on one of its streams.
fn lines(member: &Member<'_>, stream: &str) -> Vec<String> {
    let log = member.log().into_iter();
    log.filter(|(its, _)| its == stream)
        .map(|(_, line)| line)
        .collect()
}
