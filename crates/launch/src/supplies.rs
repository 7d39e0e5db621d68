//! The descriptors that a plan names: opened here, or given by the caller.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use duet_child::Code;
use duet_linux::{file, mount, namespace};
use duet_plan::{Descriptor, Given, Plan};
use duet_step::Slot;

use crate::{Error, Sources, user_namespace};

/// What the caller has open for a plan. A plan needs what its slots name, no more.
#[derive(Debug, Clone, Copy, Default)]
pub struct Supplies<'a> {
    /// The program's standard input.
    pub stdin: Option<BorrowedFd<'a>>,
    /// The program's standard output.
    pub stdout: Option<BorrowedFd<'a>>,
    /// The program's standard error.
    pub stderr: Option<BorrowedFd<'a>>,
    /// The sources of bind mounts that were looked at for the plan; others are opened by their paths.
    pub sources: Option<&'a Sources>,
    /// The container's root directory as a detached tree ([`root_tree`]); good for one birth.
    pub root: Option<BorrowedFd<'a>>,
    /// The directory in the cgroup v2 tree that the child is born in; else it is in the caller's.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The namespaces that the pod holds, each with its `CLONE_NEW*` flag.
    pub namespaces: &'a [(u32, BorrowedFd<'a>)],
    /// A pidfd of the container's first process, for an exec.
    pub init: Option<BorrowedFd<'a>>,
    /// The program that runs wasm.
    pub runner: Option<BorrowedFd<'a>>,
    /// Compiled code for the runner.
    pub module: Option<BorrowedFd<'a>>,
    /// The runner's orders.
    pub handoff: Option<BorrowedFd<'a>>,
    /// For a wasm guest, the directory in which its memory is limited and counted.
    pub memory: Option<BorrowedFd<'a>>,
    /// For a wasm guest, where its runner tells of it.
    pub tally: Option<BorrowedFd<'a>>,
    /// For a wasm guest that has one, its runner's way to the listeners of its pod.
    pub listeners: Option<BorrowedFd<'a>>,
    /// What a helper is passed, in the order of its descriptors.
    pub passed: &'a [BorrowedFd<'a>],
}

/// The open slots of a plan, all numbers above the program's own.
pub(crate) struct Slots<'a>(Vec<Open<'a>>);

/// A slot's descriptor.
enum Open<'a> {
    /// Opened or copied here.
    Own(OwnedFd),
    /// The caller's.
    Given(BorrowedFd<'a>),
}

/// Makes a detached copy of a root directory with everything mounted below it.
///
/// # Errors
///
/// [`Error::Open`], naming the path.
pub fn root_tree(path: &Path) -> Result<OwnedFd, Error> {
    mount::clone_tree(path, true).map_err(Error::open("root", path))
}

/// Copies a descriptor to a number that the program has no use for, if it is not there already.
pub(crate) fn lift(file: OwnedFd) -> io::Result<OwnedFd> {
    if file.as_raw_fd() >= Code::FIRST_OWN {
        Ok(file)
    } else {
        file::dup_above(&file, Code::FIRST_OWN)
    }
}

// === impl Slots ===

impl<'a> Slots<'a> {
    pub(crate) fn open(plan: &Plan, supplies: Supplies<'a>) -> Result<Self, Error> {
        let mut slots: Vec<Open<'a>> = Vec::with_capacity(plan.slots.len());
        for descriptor in &plan.slots {
            let open = Open::new(descriptor, supplies, &slots)?;
            slots.push(open);
        }
        Ok(Self(slots))
    }

    /// The number of each slot.
    pub(crate) fn numbers(&self) -> Vec<RawFd> {
        self.0.iter().map(|open| open.as_fd().as_raw_fd()).collect()
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<BorrowedFd<'_>> {
        self.0.get(usize::from(slot.0)).map(AsFd::as_fd)
    }
}

// === impl Open ===

impl<'a> Open<'a> {
    fn new(
        descriptor: &Descriptor,
        supplies: Supplies<'a>,
        before: &[Self],
    ) -> Result<Self, Error> {
        let missing = || Error::Missing(format!("{descriptor:?}"));
        let opened = match descriptor {
            Descriptor::Tree {
                path,
                recursive,
                id_map,
            } => {
                let tree = match supplies.sources.and_then(|sources| sources.at(path)) {
                    Some(place) => mount::clone_open(place, *recursive),
                    None => mount::clone_tree(path, *recursive),
                };
                let tree = tree.map_err(Error::open("mount source", path))?;
                if let Some(map) = id_map {
                    let place = usize::from(map.namespace.0);
                    let namespace = before.get(place).ok_or_else(missing)?;
                    let mapped = mount::id_map(&tree, namespace, map.recursive);
                    mapped.map_err(Error::open("id-mapped mount source", path))?;
                }
                tree
            }
            Descriptor::UserNamespace(ids) => user_namespace(ids)?,
            Descriptor::Namespace { path, .. } => {
                namespace::open(path).map_err(Error::open("namespace", path))?
            }
            Descriptor::Given(given) => {
                let given = supplies.find(*given).ok_or_else(missing)?;
                if given.as_raw_fd() >= Code::FIRST_OWN {
                    return Ok(Self::Given(given));
                }
                let copy = file::dup_above(given, Code::FIRST_OWN);
                copy.map_err(Error::call("fcntl"))?
            }
        };
        lift(opened).map(Self::Own).map_err(Error::call("fcntl"))
    }
}

impl AsFd for Open<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(file) => file.as_fd(),
            Self::Given(file) => *file,
        }
    }
}

// === impl Supplies ===

impl<'a> Supplies<'a> {
    fn find(&self, given: Given) -> Option<BorrowedFd<'a>> {
        match given {
            Given::Stdin => self.stdin,
            Given::Stdout => self.stdout,
            Given::Stderr => self.stderr,
            Given::RootTree => self.root,
            Given::Namespace(kind) => {
                let mut held = self.namespaces.iter();
                held.find(|(held, _)| *held == kind).map(|(_, file)| *file)
            }
            Given::InitPidfd => self.init,
            Given::Runner => self.runner,
            Given::Module => self.module,
            Given::Handoff => self.handoff,
            Given::Memory => self.memory,
            Given::Tally => self.tally,
            Given::Listeners => self.listeners,
            Given::Passed(index) => self.passed.get(usize::from(index)).copied(),
        }
    }
}
