//! What the kernel tests share: a cgroup that is gone afterwards, and processes inside it.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use duet_cgroup::{Cgroup, Host, Mode};

/// A cgroup of the test's own; whatever happens it is emptied and removed.
pub(crate) struct Own {
    host: Host,
    parent: PathBuf,
    pub(crate) cgroup: Cgroup,
}

/// Whether the test can run: as root, with the hierarchies it needs. `DUET_TEST_REQUIRE=root` turns
/// the skip into a failure.
pub(crate) fn can_run(host: Option<&Host>) -> bool {
    let root = rustix::process::geteuid().is_root();
    if root && host.is_some() {
        return true;
    }
    let required = std::env::var("DUET_TEST_REQUIRE").is_ok_and(|what| what.contains("root"));
    // Which hierarchies there are is the machine's business, not the caller's.
    assert!(root || !required, "root is required and this is not root");
    eprintln!("skipped: needs root and such a hierarchy");
    false
}

/// The v1 hierarchies of this machine.
pub(crate) fn v1() -> Option<Host> {
    Host::detect().ok().filter(|host| host.mode() != Mode::V2)
}

/// The v2 tree of this machine, also if a hybrid host has it beside v1, without controllers.
pub(crate) fn v2() -> Option<Host> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    Host::parse(&mounts, "0::/\n").ok()
}

impl Own {
    pub(crate) fn new(host: Host, name: &str) -> Self {
        let parent = PathBuf::from(format!("/duet-test-{}-{name}", std::process::id()));
        let cgroup = Cgroup::create(&host, &parent.join("one")).unwrap();
        Self {
            host,
            parent,
            cgroup,
        }
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    pub(crate) fn parent(&self) -> &Path {
        &self.parent
    }

    /// The text of a control file of the hierarchy of `controller`.
    pub(crate) fn file(&self, controller: &str, name: &str) -> String {
        let dir = self.dir(controller);
        let text = std::fs::read_to_string(dir.join(name)).unwrap();
        text.trim().to_owned()
    }

    pub(crate) fn dir(&self, controller: &str) -> PathBuf {
        let own = |dir: &&duet_cgroup::OwnDir| {
            self.host.mode() == Mode::V2 || dir.name.split(',').any(|name| name == controller)
        };
        self.cgroup
            .own_dirs()
            .iter()
            .find(own)
            .unwrap()
            .path
            .clone()
    }

    /// Runs `script` in a shell that has entered the cgroup, as a container's child does on v1.
    pub(crate) fn spawn(&self, script: &str) -> Child {
        let file = if self.host.mode() == Mode::V2 {
            "cgroup.procs"
        } else {
            "tasks"
        };
        let dirs = self.cgroup.own_dirs();
        let enter = dirs
            .iter()
            .map(|dir| format!("echo 0 > {}/{file}; ", dir.path.display()));
        Command::new("/bin/sh")
            .arg("-ec")
            .arg(format!("{}{script}", enter.collect::<String>()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Waits until `condition` holds; a minute is a failure.
    pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !condition() {
            assert!(Instant::now() < deadline, "not within a minute: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Ok(parent) = Cgroup::open(&self.host, &self.parent) {
            let killed = parent.kill();
            let removed = parent.remove();
            if !std::thread::panicking() {
                killed.unwrap();
                removed.unwrap();
            }
        }
    }
}

/// Reaps `child` and returns the signal that ended it.
pub(crate) fn signal(mut child: Child) -> Option<i32> {
    child.wait().unwrap().signal()
}

/// The error and its causes, joined as the shim's edge joins them.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// Limits from the JSON that containerd writes.
pub(crate) fn resources(json: &str) -> oci_spec::runtime::LinuxResources {
    serde_json::from_str(json).unwrap()
}
