//! `linux.memoryPolicy`: from which NUMA nodes the container's processes have their memory.

use crate::{Error, document::Document, list};
use serde::Deserialize;
use serde_json::Value;

/// A policy as `set_mempolicy(2)` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPolicy {
    /// `MPOL_*` with `MPOL_F_*`.
    pub mode: u32,
    /// The nodes: bit n of the words is node n. Always an even number of words.
    pub nodes: Vec<u32>,
}

#[derive(Debug, Deserialize)]
struct Written {
    mode: String,
    nodes: Option<String>,
    flags: Option<Vec<String>>,
}

/// The highest number of a node: 1023, the most that Linux can be built for.
const LAST: u32 = 1023;

/// Whether a mode is about nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nodes {
    None,
    Some,
    Any,
}

// === impl MemoryPolicy ===

impl MemoryPolicy {
    /// The modes by their numbers, those of `linux/mempolicy.h`.
    const MODES: [(&'static str, Nodes); 7] = [
        ("MPOL_DEFAULT", Nodes::None),
        ("MPOL_PREFERRED", Nodes::Any),
        ("MPOL_BIND", Nodes::Some),
        ("MPOL_INTERLEAVE", Nodes::Some),
        ("MPOL_LOCAL", Nodes::None),
        ("MPOL_PREFERRED_MANY", Nodes::Some),
        ("MPOL_WEIGHTED_INTERLEAVE", Nodes::Some),
    ];

    /// The flags with their bits, likewise.
    const FLAGS: [(&'static str, u32); 3] = [
        ("MPOL_F_NUMA_BALANCING", 1 << 13),
        ("MPOL_F_RELATIVE_NODES", 1 << 14),
        ("MPOL_F_STATIC_NODES", 1 << 15),
    ];

    /// The names of the modes that there are, whatever the kernel has of them.
    pub fn modes() -> impl Iterator<Item = &'static str> {
        Self::MODES.iter().map(|(name, _)| *name)
    }

    /// The names of the flags that there are, likewise.
    pub fn flags() -> impl Iterator<Item = &'static str> {
        Self::FLAGS.iter().map(|(name, _)| *name)
    }

    /// The names of a mode with its flags: `MPOL_BIND|MPOL_F_STATIC_NODES`.
    #[must_use]
    pub fn name(mode: u32) -> String {
        let bits = Self::FLAGS.iter().fold(0, |bits, (_, bit)| bits | bit);
        let number = usize::try_from(mode & !bits).unwrap_or(usize::MAX);
        let mut name = match Self::MODES.get(number) {
            Some((name, _)) => (*name).to_owned(),
            None => number.to_string(),
        };
        for (flag, bit) in Self::FLAGS {
            if mode & bit != 0 {
                name.push('|');
                name.push_str(flag);
            }
        }
        name
    }

    /// Takes `memoryPolicy` out of `linux`.
    pub(crate) fn lift(
        document: Document<'_>,
        linux: Option<&mut Value>,
    ) -> Result<Option<Self>, Error> {
        const FIELD: &str = "linux.memoryPolicy";
        let Some(written) = document.lift::<Written>("linux", "memoryPolicy", linux)? else {
            return Ok(None);
        };
        let mode = written.mode;
        let mut numbers = (0..).zip(Self::MODES);
        let Some((number, (_, takes))) = numbers.find(|(_, (name, _))| *name == mode) else {
            let field = format!("{FIELD}.mode");
            return Err(document.value(&field, &mode, "is not a memory policy"));
        };
        let list = written.nodes.unwrap_or_default();
        let field = format!("{FIELD}.nodes");
        let nodes = match list.as_str() {
            "" => Vec::new(),
            list => match list::bits(list, LAST) {
                Some(nodes) => nodes,
                None => {
                    return Err(document.value(
                        &field,
                        list,
                        "is not a list of nodes, such as 0-3,7",
                    ));
                }
            },
        };
        let value = format!("{list:?} with {mode}");
        match takes {
            Nodes::None if !nodes.is_empty() => {
                return Err(document.value(&field, &value, "the mode has no nodes"));
            }
            Nodes::Some if nodes.is_empty() => {
                return Err(document.value(&field, &value, "the mode needs a node"));
            }
            Nodes::None | Nodes::Some | Nodes::Any => {}
        }
        let mut bits = 0;
        for (index, flag) in written.flags.iter().flatten().enumerate() {
            match Self::FLAGS.iter().find(|(name, _)| name == flag) {
                Some((_, bit)) => bits |= bit,
                None => {
                    let field = format!("{FIELD}.flags[{index}]");
                    return Err(document.value(&field, flag, "is not a flag of a memory policy"));
                }
            }
        }
        Ok(Some(Self {
            mode: number | bits,
            nodes,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lift(policy: Value) -> Result<Option<MemoryPolicy>, String> {
        let mut linux = json!({ "memoryPolicy": policy });
        let lifted = MemoryPolicy::lift(Document { name: "d" }, Some(&mut linux));
        assert_eq!(linux, json!({}));
        lifted.map_err(|error| error.to_string())
    }

    #[test]
    fn a_memory_policy_is_what_the_kernel_takes() {
        let flags = ["MPOL_F_STATIC_NODES", "MPOL_F_NUMA_BALANCING"];
        for (policy, mode, nodes, name) in [
            (json!({ "mode": "MPOL_DEFAULT" }), 0, vec![], "MPOL_DEFAULT"),
            (
                json!({ "mode": "MPOL_PREFERRED", "nodes": "" }),
                1,
                vec![],
                "MPOL_PREFERRED",
            ),
            (
                json!({ "mode": "MPOL_BIND", "nodes": "0-1,33", "flags": flags }),
                0xa002,
                vec![3, 2],
                "MPOL_BIND|MPOL_F_NUMA_BALANCING|MPOL_F_STATIC_NODES",
            ),
            (
                json!({ "mode": "MPOL_WEIGHTED_INTERLEAVE", "nodes": "1", "flags": ["MPOL_F_RELATIVE_NODES"] }),
                0x4006,
                vec![2, 0],
                "MPOL_WEIGHTED_INTERLEAVE|MPOL_F_RELATIVE_NODES",
            ),
        ] {
            assert_eq!(lift(policy), Ok(Some(MemoryPolicy { mode, nodes })));
            assert_eq!(MemoryPolicy::name(mode), name);
        }
        assert_eq!(
            lift(json!({ "mode": "", "nodes": "", "flags": null })),
            Ok(None)
        );
        assert_eq!(lift(Value::Null), Ok(None));
        // In the order of `linux/mempolicy.h`, whose enumeration begins at 0.
        let names: Vec<_> = MemoryPolicy::modes().map(|name| &name[5..]).collect();
        assert_eq!(
            names.join(" "),
            "DEFAULT PREFERRED BIND INTERLEAVE LOCAL PREFERRED_MANY WEIGHTED_INTERLEAVE"
        );
    }

    #[test]
    fn a_memory_policy_of_nonsense_is_named() {
        for (policy, why) in [
            (
                json!({ "mode": "MPOL_NEW" }),
                "mode: MPOL_NEW: is not a memory policy",
            ),
            (json!({ "nodes": "0" }), ": missing field `mode`"),
            (
                json!({ "mode": "MPOL_BIND" }),
                "nodes: \"\" with MPOL_BIND: the mode needs a node",
            ),
            (
                json!({ "mode": "MPOL_LOCAL", "nodes": "0" }),
                "nodes: \"0\" with MPOL_LOCAL: the mode has no nodes",
            ),
            (
                json!({ "mode": "MPOL_BIND", "nodes": "0,x" }),
                "nodes: 0,x: is not a list of nodes, such as 0-3,7",
            ),
            (
                json!({ "mode": "MPOL_BIND", "nodes": "1024" }),
                "nodes: 1024: is not a list of nodes, such as 0-3,7",
            ),
            (
                json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "X"] }),
                "flags[1]: X: is not a flag of a memory policy",
            ),
        ] {
            let error = lift(policy).unwrap_err();
            assert!(error.starts_with("d: linux.memoryPolicy"), "{error}");
            assert!(error.ends_with(why) || why.contains("missing"), "{error}");
        }
    }
}
