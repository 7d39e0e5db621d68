//! `linux.intelRdt`: which part of the caches and of the memory's bandwidth a container may use.

use crate::{Error, document::Document};
use serde::Deserialize;
use serde_json::Value;

/// A class of service of resctrl.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntelRdt {
    /// Its name; none is the container's id, and `/` the class of everybody who has no other.
    pub class: Option<String>,
    /// Lines of its `schemata`, in the order in which they are written.
    pub schemata: Vec<Schema>,
    /// The field that asks for a monitoring group of the container's own.
    pub monitoring: Option<&'static str>,
}

/// A line of `schemata`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// The field that has it.
    pub field: &'static str,
    /// What it says: `L3:0=ff;1=c0`.
    pub line: String,
}

/// Taken out of the document before `oci-spec` sees it, whose names of two fields are not those of the
/// specification.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(rename = "closID")]
    clos_id: Option<String>,
    schemata: Option<Vec<String>>,
    l3_cache_schema: Option<String>,
    mem_bw_schema: Option<String>,
    enable_monitoring: Option<bool>,
    #[serde(rename = "enableCMT")]
    enable_cmt: Option<bool>,
    #[serde(rename = "enableMBM")]
    enable_mbm: Option<bool>,
}

const CLASS: &str = "linux.intelRdt.closID";
const L3: &str = "linux.intelRdt.l3CacheSchema";
const BANDWIDTH: &str = "linux.intelRdt.memBwSchema";
const SCHEMATA: &str = "linux.intelRdt.schemata";

/// What resctrl itself has beside the classes.
const RESERVED: [&str; 3] = ["info", "mon_data", "mon_groups"];

// === impl IntelRdt ===

impl IntelRdt {
    /// Takes `intelRdt` out of `linux`.
    pub(crate) fn lift(
        document: Document<'_>,
        linux: Option<&mut Value>,
    ) -> Result<Option<Self>, Error> {
        let Some(written) = document.lift::<Written>("linux", "intelRdt", linux)? else {
            return Ok(None);
        };
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        let class = some(written.clos_id);
        if let Some(class) = class.as_deref().filter(|class| *class != "/")
            && (class.contains('/') || [".", ".."].contains(&class) || RESERVED.contains(&class))
        {
            return Err(document.value(CLASS, class, "is not a valid class name"));
        }
        let mut schemata = Vec::new();
        for (field, begins, line) in [
            (L3, "L3", some(written.l3_cache_schema)),
            (BANDWIDTH, "MB:", some(written.mem_bw_schema)),
        ] {
            let Some(line) = line else { continue };
            if !line.starts_with(begins) {
                let why = "is of another resource";
                return Err(document.value(field, &line, why));
            }
            schemata.push(Schema { field, line });
        }
        let others = written.schemata.into_iter().flatten();
        schemata.extend(others.filter(|line| !line.is_empty()).map(|line| Schema {
            field: SCHEMATA,
            line,
        }));
        if let Some(schema) = schemata.iter().find(|schema| schema.line.contains('\n')) {
            return Err(document.value(schema.field, &schema.line, "is more than a line"));
        }
        let asked = [
            ("linux.intelRdt.enableMonitoring", written.enable_monitoring),
            // Of releases 1.1 and 1.2, which mean a group of the container's own too.
            ("linux.intelRdt.enableCMT", written.enable_cmt),
            ("linux.intelRdt.enableMBM", written.enable_mbm),
        ];
        let mut asked = asked.into_iter();
        Ok(Some(Self {
            class,
            schemata,
            monitoring: asked
                .find(|(_, asked)| *asked == Some(true))
                .map(|(field, _)| field),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lift(rdt: Value) -> Result<Option<IntelRdt>, String> {
        let mut linux = json!({ "intelRdt": rdt });
        let lifted = IntelRdt::lift(Document { name: "d" }, Some(&mut linux));
        assert_eq!(linux, json!({}));
        lifted.map_err(|error| error.to_string())
    }

    #[test]
    fn schemata_are_written_in_the_order_of_the_specification() {
        let read = lift(json!({
            "closID": "gold", "schemata": ["L2:0=f", "MB:1=7"], "memBwSchema": "MB:0=20",
            "l3CacheSchema": "L3:0=7f0", "enableMonitoring": true,
        }));
        let read = read.unwrap().unwrap();
        let lines: Vec<_> = read.schemata.iter().map(|schema| &*schema.line).collect();
        assert_eq!(lines, ["L3:0=7f0", "MB:0=20", "L2:0=f", "MB:1=7"]);
        assert_eq!(read.class.as_deref(), Some("gold"));
        assert_eq!(read.monitoring, Some("linux.intelRdt.enableMonitoring"));
        for old in ["enableCMT", "enableMBM"] {
            let read = lift(json!({ "closID": "/", old: true })).unwrap().unwrap();
            assert_eq!(read.class.as_deref(), Some("/"));
            assert!(read.monitoring.unwrap().ends_with(old));
        }
        for nothing in [
            json!({}),
            json!({ "closID": "", "schemata": [""], "enableCMT": false }),
        ] {
            assert_eq!(lift(nothing), Ok(None));
        }
    }

    #[test]
    fn a_class_that_cannot_be_is_named() {
        for (rdt, why) in [
            (
                json!({ "closID": "a/b" }),
                "closID: a/b: is not a valid class name",
            ),
            (
                json!({ "closID": ".." }),
                "closID: ..: is not a valid class name",
            ),
            (
                json!({ "closID": "info" }),
                "closID: info: is not a valid class name",
            ),
            (
                json!({ "memBwSchema": "L3:0=f" }),
                "memBwSchema: L3:0=f: is of another resource",
            ),
            (
                json!({ "l3CacheSchema": "MB:0=10" }),
                "l3CacheSchema: MB:0=10: is of another resource",
            ),
            (
                json!({ "schemata": ["L3:0=f\nMB:0=10"] }),
                "schemata: L3:0=f\nMB:0=10: is more than a line",
            ),
        ] {
            assert_eq!(lift(rdt), Err(format!("d: linux.intelRdt.{why}")));
        }
    }
}
