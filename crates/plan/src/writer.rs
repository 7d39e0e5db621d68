//! Puts steps, strings and slots into a plan's tables.

use crate::{Descriptor, Error, Plan};
use duet_spec::{IdMappings, MemoryPolicy, Processors};
use duet_step::{Insn, Program, Slot, Step, Text, Texts};
use std::{collections::HashMap, os::unix::ffi::OsStrExt, path::Path};

/// A plan that is being written.
///
/// Numbers that outgrow a table's index type are noticed once, in [`Writer::finish`]; until
/// then they saturate, and nothing looks at them.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) plan: Plan,
    /// Whether the child is in the container's cgroup.
    pub(crate) confined: bool,
    known: HashMap<Vec<u8>, Text>,
    user_namespaces: Vec<(IdMappings, Slot)>,
}

// === impl Writer ===

impl Writer {
    pub(crate) fn new() -> Self {
        let none = Texts { first: 0, len: 0 };
        let plan = Plan {
            steps: Vec::new(),
            text: Vec::new(),
            texts: Vec::new(),
            programs: Vec::new(),
            groups: Vec::new(),
            slots: Vec::new(),
            argv: none,
            envp: none,
            clone: 0,
            pid_namespace: None,
        };
        Self {
            plan,
            confined: false,
            known: HashMap::new(),
            user_namespaces: Vec::new(),
        }
    }

    pub(crate) fn step(&mut self, step: Step) {
        self.plan.steps.push(step);
    }

    /// A string; the same string always has the same place.
    pub(crate) fn text(&mut self, text: &str) -> Text {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn path(&mut self, path: &Path) -> Text {
        self.bytes(path.as_os_str().as_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Text {
        if let Some(text) = self.known.get(bytes) {
            return *text;
        }
        let text = Text(index(self.plan.text.len()));
        self.plan.text.extend_from_slice(bytes);
        self.plan.text.push(0);
        self.known.insert(bytes.to_owned(), text);
        text
    }

    pub(crate) fn texts<S: AsRef<str>>(&mut self, texts: impl IntoIterator<Item = S>) -> Texts {
        let entries: Vec<Text> = texts
            .into_iter()
            .map(|text| self.text(text.as_ref()))
            .collect();
        let range = Texts {
            first: index(self.plan.texts.len()),
            len: index(entries.len()),
        };
        self.plan.texts.extend(entries);
        range
    }

    pub(crate) fn slot(&mut self, descriptor: Descriptor) -> Slot {
        let slot = Slot(u16::try_from(self.plan.slots.len()).unwrap_or(u16::MAX));
        self.plan.slots.push(descriptor);
        slot
    }

    /// A user namespace with these ids; the same ids always have the same one.
    pub(crate) fn user_namespace(&mut self, ids: &IdMappings) -> Slot {
        let mut known = self.user_namespaces.iter();
        if let Some((_, slot)) = known.find(|(known, _)| known == ids) {
            return *slot;
        }
        let slot = self.slot(Descriptor::UserNamespace(ids.clone()));
        self.keep_user_namespace(ids, slot);
        slot
    }

    /// Remembers a user namespace that was opened.
    pub(crate) fn keep_user_namespace(&mut self, ids: &IdMappings, slot: Slot) {
        self.user_namespaces.push((ids.clone(), slot));
    }

    /// A BPF program; its length was checked when it was compiled.
    pub(crate) fn program(&mut self, program: &[Insn]) -> Program {
        let first = index(self.plan.programs.len());
        self.plan.programs.extend_from_slice(program);
        Program {
            first,
            len: u16::try_from(program.len()).unwrap_or(u16::MAX),
        }
    }

    pub(crate) fn groups(&mut self, groups: &[u32]) -> Step {
        let (first, len) = self.words(groups);
        Step::Groups { first, len }
    }

    pub(crate) fn affinity(&mut self, processors: &Processors) {
        let (first, len) = self.words(processors.words());
        self.step(Step::Affinity { first, len });
    }

    pub(crate) fn memory_policy(&mut self, policy: &MemoryPolicy) {
        let (first, len) = self.words(&policy.nodes);
        let mode = policy.mode;
        self.step(Step::MemoryPolicy { mode, first, len });
    }

    /// Where these entries of the table of groups begin, and how many they are.
    fn words(&mut self, words: &[u32]) -> (u32, u32) {
        let first = index(self.plan.groups.len());
        self.plan.groups.extend_from_slice(words);
        (first, index(words.len()))
    }

    pub(crate) fn finish(self) -> Result<Plan, Error> {
        let tables = [
            ("bytes of text", self.plan.text.len(), u32::MAX),
            ("strings", self.plan.texts.len(), u32::MAX),
            ("groups", self.plan.groups.len(), u32::MAX),
            ("mounts", self.plan.slots.len(), u32::from(u16::MAX)),
        ];
        for (what, len, limit) in tables {
            if index(len) >= limit {
                return Err(Error::TooMuch { what, limit });
            }
        }
        Ok(self.plan)
    }
}

fn index(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
