//! The plan itself, and what the parent has to open for it.

use duet_spec::IdMappings;
use duet_step::{Insn, Slot, Step, Text, Texts};
use std::path::PathBuf;

/// Which kind of program a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// An executable of the container's own.
    Native,
    /// A wasm guest, run by the runner that the parent supplies.
    Wasm,
}

/// What runs in a container, and what is to run beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds {
    /// The container's first process.
    pub container: Program,
    /// The further one.
    pub process: Program,
}

/// A descriptor that the parent opens, one for each [`Slot`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Descriptor {
    /// A detached copy of what is mounted at a host path (`open_tree(OPEN_TREE_CLONE)`).
    Tree {
        /// The path.
        path: PathBuf,
        /// Whether what is mounted below it comes along.
        recursive: bool,
        /// The user namespace that says who owns its files.
        id_map: Option<TreeIdMap>,
    },
    /// A new user namespace, with these ids and no process in it.
    UserNamespace(IdMappings),
    /// A namespace by path.
    Namespace {
        /// The path.
        path: PathBuf,
        /// The `CLONE_NEW*` flag that it must be.
        kind: u32,
    },
    /// What the caller of launch supplies.
    Given(Given),
}

/// Who owns the files of a [`Descriptor::Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeIdMap {
    /// The user namespace; its slot comes before the tree's.
    pub namespace: Slot,
    /// Whether what is mounted below follows.
    pub recursive: bool,
}

/// A descriptor that the caller of launch supplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// The program's descriptor 0.
    Stdin,
    /// The program's descriptor 1.
    Stdout,
    /// The program's descriptor 2.
    Stderr,
    /// A detached recursive copy of the root directory's mount.
    RootTree,
    /// The pod's own namespace of this `CLONE_NEW*` flag.
    Namespace(u32),
    /// A pidfd of the container's first process.
    InitPidfd,
    /// The runner of wasm guests, opened so that nobody can write to it through `/proc`.
    Runner,
    /// The compiled guest.
    Module,
    /// What the runner has to know, in a sealed memfd.
    Handoff,
    /// The directory in which the container's memory is limited and counted.
    Memory,
    /// Where the runner tells of its guest.
    Tally,
    /// The runner's way to the listeners of its pod.
    Listeners,
    /// The n-th descriptor of a [`Helper`](crate::Helper).
    Passed(u8),
}

/// Everything a child needs, in flat tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What to do, in order.
    pub steps: Vec<Step>,
    /// NUL-terminated strings; a [`Text`] is an offset into it.
    pub text: Vec<u8>,
    /// The table behind [`Texts`].
    pub texts: Vec<Text>,
    /// The table behind `duet_step::Program`.
    pub programs: Vec<Insn>,
    /// The table behind `Step::Groups` and `Step::Affinity`.
    pub groups: Vec<u32>,
    /// What to open, by number of the [`Slot`].
    pub slots: Vec<Descriptor>,
    /// The program's arguments.
    pub argv: Texts,
    /// The program's environment.
    pub envp: Texts,
    /// `CLONE_NEW*` flags of the birth.
    pub clone: u64,
    /// A namespace or a pidfd whose PID namespace the launching thread joins (`setns` with
    /// `CLONE_NEWPID`) before the birth: the child of a `clone` is born in it, the caller of
    /// `setns` is not moved.
    pub pid_namespace: Option<Slot>,
}

// === impl Kinds ===

impl Kinds {
    /// Nothing but executables.
    pub const NATIVE: Self = Self {
        container: Program::Native,
        process: Program::Native,
    };
}

// === impl Plan ===

impl Plan {
    /// The string at `text`, for people.
    #[must_use]
    pub fn text(&self, text: Text) -> String {
        let from = usize::try_from(text.0)
            .ok()
            .and_then(|at| self.text.get(at..));
        let bytes = from.and_then(|bytes| bytes.split(|byte| *byte == 0).next());
        String::from_utf8_lossy(bytes.unwrap_or(b"?")).into_owned()
    }

    /// Whether a seccomp filter with a listener comes into force after the gate.
    #[must_use]
    pub fn listens_late(&self) -> bool {
        /// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
        const NEW_LISTENER: u32 = 8;
        let late = self
            .steps
            .iter()
            .skip_while(|step| !matches!(step, Step::Gate));
        late.into_iter()
            .any(|step| matches!(step, Step::Seccomp(_, flags) if flags & NEW_LISTENER != 0))
    }

    /// The same, but for the gate: for who has nothing to do before the program runs. A filter with
    /// a listener keeps it, whose reader must be there first.
    #[must_use]
    pub fn at_once(mut self) -> Self {
        if !self.listens_late() {
            self.steps.retain(|step| !matches!(step, Step::Gate));
        }
        self
    }

    /// Whether it waits at a gate.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Gate))
    }

    /// The strings of `texts`, for people.
    #[must_use]
    pub fn texts(&self, texts: Texts) -> Vec<String> {
        let first = usize::try_from(texts.first).unwrap_or(usize::MAX);
        let len = usize::try_from(texts.len).unwrap_or(usize::MAX);
        let entries = self.texts.iter().skip(first).take(len);
        entries.map(|text| self.text(*text)).collect()
    }
}
