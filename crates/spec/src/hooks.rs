//! `hooks` of `config.json`: programs that run at points of a container's life.

use crate::{Error, document::Document};
use oci_spec::runtime::{Hook as Written, Hooks as Lists};
use std::{collections::BTreeMap, time::Duration};

/// A point of a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Moment {
    /// Before the pivot, in the runtime's namespaces; the deprecated name of the next.
    Prestart,
    /// Before the pivot, in the runtime's namespaces.
    CreateRuntime,
    /// Before the pivot, in the container's namespaces.
    CreateContainer,
    /// Before the program, in the container.
    StartContainer,
    /// After the program began, in the runtime's namespaces.
    Poststart,
    /// After the container is deleted, in the runtime's namespaces.
    Poststop,
}

/// A program that runs at one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Absolute, where it runs.
    pub path: String,
    /// Its arguments, the first is its name.
    pub args: Vec<String>,
    /// Its environment, the whole of it, if there is one.
    pub env: Option<Vec<String>>,
    /// How long it may take.
    pub timeout: Option<Duration>,
}

/// All hooks of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hooks(BTreeMap<Moment, Vec<Hook>>);

// === impl Moment ===

impl Moment {
    /// Those while the host's tree is still there beside the container's.
    pub const BEFORE_THE_PIVOT: [Moment; 3] = [
        Moment::Prestart,
        Moment::CreateRuntime,
        Moment::CreateContainer,
    ];

    /// All of them, in the order of a life.
    pub const ALL: [Moment; 6] = [
        Moment::Prestart,
        Moment::CreateRuntime,
        Moment::CreateContainer,
        Moment::StartContainer,
        Moment::Poststart,
        Moment::Poststop,
    ];

    /// The field's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Moment::Prestart => "prestart",
            Moment::CreateRuntime => "createRuntime",
            Moment::CreateContainer => "createContainer",
            Moment::StartContainer => "startContainer",
            Moment::Poststart => "poststart",
            Moment::Poststop => "poststop",
        }
    }

    fn list(self, lists: &Lists) -> &[Written] {
        let list = match self {
            Moment::Prestart => lists.prestart(),
            Moment::CreateRuntime => lists.create_runtime(),
            Moment::CreateContainer => lists.create_container(),
            Moment::StartContainer => lists.start_container(),
            Moment::Poststart => lists.poststart(),
            Moment::Poststop => lists.poststop(),
        };
        list.as_deref().unwrap_or_default()
    }
}

// === impl Hooks ===

impl Hooks {
    /// Those of one moment, in order.
    #[must_use]
    pub fn at(&self, moment: Moment) -> &[Hook] {
        self.0.get(&moment).map_or(&[], Vec::as_slice)
    }

    /// Whether there is one at any of these moments.
    #[must_use]
    pub fn any(&self, moments: &[Moment]) -> bool {
        moments.iter().any(|moment| !self.at(*moment).is_empty())
    }

    pub(crate) fn read(document: Document<'_>, lists: Option<&Lists>) -> Result<Self, Error> {
        let mut hooks = BTreeMap::new();
        for moment in Moment::ALL {
            let list = lists.map_or(&[] as &[_], |lists| moment.list(lists));
            let read = list.iter().enumerate().map(|(index, hook)| {
                let field = format!("hooks.{}[{index}]", moment.name());
                Hook::read(document, &field, hook)
            });
            hooks.insert(moment, read.collect::<Result<Vec<_>, _>>()?);
        }
        hooks.retain(|_, list| !list.is_empty());
        Ok(Hooks(hooks))
    }
}

// === impl Hook ===

impl Hook {
    fn read(document: Document<'_>, field: &str, written: &Written) -> Result<Self, Error> {
        let path = written.path().display().to_string();
        if !path.starts_with('/') {
            return Err(document.value(&format!("{field}.path"), &path, "is not absolute"));
        }
        let timeout = match written.timeout() {
            None => None,
            Some(seconds) => match u64::try_from(seconds) {
                Ok(seconds @ 1..) => Some(Duration::from_secs(seconds)),
                Ok(0) | Err(_) => {
                    let field = format!("{field}.timeout");
                    return Err(document.value(&field, &seconds.to_string(), "is not above 0"));
                }
            },
        };
        let args = written.args().clone().filter(|args| !args.is_empty());
        Ok(Hook {
            args: args.unwrap_or_else(|| vec![path.clone()]),
            path,
            env: written.env().clone(),
            timeout,
        })
    }
}
