//! Where wasm is compiled: outside of the pod, with limits of its own, and only as long as it takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use duet_pod::clean::clean;

use crate::rig::{Rig, with};

/// What a compiler does first: it enters its cgroup in every hierarchy.
const ENTER: &str = "for tasks in $DUET_TASKS; do echo 0 >$tasks; done";

impl Rig {
    /// Has a script for a compiler from now on, and a module to compile in the image.
    fn compile_with(&self, body: &str) {
        self.script("compiler", &format!("{ENTER}\n{body}"));
        fs::write(self.path().join("image/app.wasm"), b"\0asm\x01\0\0\0").unwrap();
    }
}

/// The directories of the workshop of this process, which is the shim of these pods.
fn places() -> Vec<PathBuf> {
    let name = format!("duet-compilers/{}", std::process::id());
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).unwrap().filter_map(Result::ok);
    hierarchies
        .map(|hierarchy| hierarchy.path())
        .chain([root.to_owned()])
        .map(|hierarchy| hierarchy.join(&name))
        .filter(|place| place.exists())
        .collect()
}

#[test]
fn the_compiler_works_in_a_cgroup_of_its_own_that_is_limited_and_goes_with_it() {
    with(async |rig| {
        let limits = "memory.limit_in_bytes memory.max pids.max cpu.shares cpu.weight";
        rig.compile_with(&format!(
            "cat /proc/self/cgroup >$DIR/seen
             for tasks in $DUET_TASKS; do own=${{tasks%/*}}; for limit in {limits}; do
                 test ! -e $own/$limit || echo $limit $(cat $own/$limit) >>$DIR/limits
                 test ! -e $own/../$limit || echo all $limit $(cat $own/../$limit) >>$DIR/limits
             done; done
             echo process $$ refuses >&2; exit 1"
        ));
        let error = rig.bundle("web", &["/app.wasm"]).create().await;
        let why = std::error::Error::source(&error.unwrap_err())
            .unwrap()
            .to_string();
        assert_eq!(why, "/app.wasm: process 1 refuses");
        let seen = fs::read_to_string(rig.path().join("seen")).unwrap();
        let own = format!("/duet-compilers/{}", std::process::id());
        for controller in ["memory", "cpu", "pids"] {
            let line = seen.lines().find(|line| {
                let names = line.split(':').nth(1).unwrap_or_default();
                names.is_empty() || names.split(',').any(|name| name == controller)
            });
            assert!(line.unwrap().ends_with(&own), "{controller} in {seen}");
        }
        let limits = fs::read_to_string(rig.path().join("limits")).unwrap();
        let has = |one: &str, other: &str| limits.lines().any(|l| l == one || l == other);
        let memory = 3_u64 << 30;
        for (v1, v2) in [
            (
                format!("memory.limit_in_bytes {memory}"),
                format!("memory.max {memory}"),
            ),
            ("pids.max 64".to_owned(), String::new()),
            (
                "all cpu.shares 512".to_owned(),
                "all cpu.weight 59".to_owned(),
            ),
        ] {
            assert!(has(&v1, &v2), "{v1} or {v2} in {limits}");
        }
        assert_eq!(places(), Vec::<PathBuf>::new());
    });
}

#[test]
fn whoever_cleans_up_after_a_killed_shim_finds_its_compiler() {
    with(async |rig| {
        rig.compile_with("echo >$DIR/begun; sleep 1000");
        let bundle = rig.bundle("web", &["/app.wasm"]);
        let cleaned = async {
            while !rig.path().join("begun").exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_ne!(places(), Vec::<PathBuf>::new());
            let shim = rig.shim();
            let cleaned = tokio::task::spawn_blocking(move || clean(&shim, None)).await;
            let places = places();
            assert_eq!(cleaned.unwrap().unwrap().len(), 1);
            places
        };
        let (error, places) = tokio::join!(bundle.create(), cleaned);
        // Somebody else has ended what this shim, which is not dead, waits for.
        assert!(error.is_err());
        assert_eq!(places, Vec::<PathBuf>::new());
    });
}
