//! User namespaces without a process in them.
//!
//! Only a process without threads can make one or join one, so a child does it, and waits at the
//! gate while the parent looks at it. The namespace then lives by its descriptor.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use duet_linux::{namespace, process};
use duet_plan::{Descriptor, Plan};
use duet_spec::{IdMappings, IdRange};
use duet_step::{Slot, Step, Texts};

use crate::{Error, Newborn, Supplies, spawn};

/// Makes a user namespace with these ids.
///
/// # Errors
///
/// [`Error::Call`] at a limit of processes or namespaces, [`Error::Open`] for ids that the kernel
/// does not take.
pub fn user_namespace(ids: &IdMappings) -> Result<OwnedFd, Error> {
    let plan = waiting(u64::from(namespace::USER), Vec::new(), Vec::new());
    watch(&plan, |pid| {
        // By the parent, who may map any id; the child is not dumpable, so these are root's.
        for (list, file) in [(&ids.uids, "uid_map"), (&ids.gids, "gid_map")] {
            let path = proc(pid, file);
            // In one call: the kernel takes no second one.
            fs::write(&path, text(list)).map_err(Error::open("id mapping", &path))?;
        }
        let path = proc(pid, "ns/user");
        namespace::open(&path).map_err(Error::open("namespace", &path))
    })
}

/// The ids of a user namespace that somebody else has made.
pub(crate) fn ids(path: &Path) -> Result<IdMappings, Error> {
    let slot = Descriptor::Namespace {
        path: path.to_owned(),
        kind: namespace::USER,
    };
    let join = Step::Setns(Slot(0), namespace::USER);
    let plan = waiting(0, vec![slot], vec![join]);
    watch(&plan, |pid| {
        let read = |file| {
            let path = proc(pid, file);
            let text = fs::read_to_string(&path).and_then(|text| ranges(&text));
            text.map_err(Error::open("id mapping", &path))
        };
        Ok(IdMappings {
            uids: read("uid_map")?,
            gids: read("gid_map")?,
        })
    })
}

/// A plan that ends at the gate.
fn waiting(clone: u64, slots: Vec<Descriptor>, mut steps: Vec<Step>) -> Plan {
    let none = Texts { first: 0, len: 0 };
    steps.extend([Step::Ready, Step::Gate]);
    Plan {
        steps,
        text: vec![0],
        texts: Vec::new(),
        programs: Vec::new(),
        groups: Vec::new(),
        slots,
        argv: none,
        envp: none,
        clone,
        pid_namespace: None,
    }
}

/// Looks at a process that waits at its gate, and lets it end.
fn watch<T>(plan: &Plan, look: impl FnOnce(i32) -> Result<T, Error>) -> Result<T, Error> {
    let Newborn {
        pid, pidfd, gate, ..
    } = spawn(plan, Supplies::default())?;
    let seen = look(pid);
    drop(gate);
    process::wait(&pidfd).map_err(Error::call("waitid"))?;
    seen
}

fn proc(pid: i32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

fn text(ranges: &[IdRange]) -> String {
    let line = |range: &IdRange| format!("{} {} {}\n", range.container, range.host, range.size);
    ranges.iter().map(line).collect()
}

/// `first first-of-host size`, a line a range.
fn ranges(text: &str) -> io::Result<Vec<IdRange>> {
    let range = |line: &str| {
        let mut numbers = line.split_whitespace().map(|word| word.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(IdRange {
            container: next()?,
            host: next()?,
            size: next()?,
        })
    };
    let ranges = text.lines().map(range).collect::<Option<_>>();
    ranges.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
