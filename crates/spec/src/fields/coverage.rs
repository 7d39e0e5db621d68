//! `docs/spec-coverage.md` has every field of the specification, and says what is true.

use super::{
    CONFIG, Objection,
    Shape::{self, Any, List, Map, Object},
    check,
    types::{Place, field, member},
};
use oci_spec::runtime::Spec;
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// What is for other platforms has one line each: Duet offers nothing of it.
const OTHER_PLATFORMS: [&str; 4] = ["solaris", "vm", "windows", "zos"];

/// What the table says of one field.
struct Row {
    field: String,
    honoured: bool,
    /// The files that honour it.
    files: Vec<String>,
    /// The tests that hold it; none if it says so.
    tests: Vec<String>,
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page() -> String {
    fs::read_to_string(workspace().join("docs/spec-coverage.md")).unwrap()
}

/// What stands between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

fn rows() -> Vec<Row> {
    let page = page();
    let lines = page.lines().filter(|line| line.starts_with("| `"));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches(['|', ' ']).split(" | ").collect();
            let [name, place, tests] = cells[..] else {
                panic!("not three cells: {line}");
            };
            let honoured = place.starts_with("honoured: ");
            assert!(honoured || place == "refused by name", "{line}");
            let untested = tests.starts_with("no test");
            let tests: Vec<_> = quoted(tests).collect();
            assert_eq!(tests.is_empty(), untested, "tests or `no test`: {line}");
            Row {
                field: quoted(name).next().unwrap(),
                honoured,
                files: quoted(place).filter(|word| word.contains('/')).collect(),
                tests,
            }
        })
        .collect()
}

/// Every field that the types of the specification have.
fn specified() -> BTreeSet<String> {
    let mut leaves = BTreeSet::new();
    let place = Place {
        path: String::new(),
        leaves: &mut leaves,
    };
    Spec::deserialize(place).unwrap();
    leaves
        .into_iter()
        .map(|leaf| {
            let top = leaf.split('.').next().unwrap_or_default();
            if OTHER_PLATFORMS.contains(&top) {
                top.to_owned()
            } else {
                leaf
            }
        })
        .collect()
}

/// Every field that Duet offers.
fn offered(shape: &Shape, path: &str, leaves: &mut BTreeSet<String>) {
    match shape {
        Any => drop(leaves.insert(field(path))),
        List(inner) => offered(inner, &format!("{path}[]"), leaves),
        Map(inner) => offered(inner, &member(path, "*"), leaves),
        Object(members) => {
            for (name, inner) in *members {
                offered(inner, &member(path, name), leaves);
            }
        }
    }
}

#[test]
fn the_table_has_every_field_once_and_calls_it_what_it_is() {
    let mut ours = BTreeSet::new();
    offered(&CONFIG, "", &mut ours);
    let specified = specified();
    // The walk is no empty one: a leaf of each depth and kind.
    for known in [
        "ociVersion",
        "annotations",
        "mounts[].uidMappings[].hostID",
        "linux.resources.rdma.*.hcaHandles",
        "linux.seccomp.syscalls[].args[].valueTwo",
        "linux.intelRdt.closID",
    ] {
        assert!(specified.contains(known), "{known}");
    }
    let truth: BTreeMap<&str, bool> = specified
        .union(&ours)
        .map(|name| (name.as_str(), ours.contains(name)))
        .collect();
    let rows = rows();
    let table: BTreeMap<&str, bool> = rows
        .iter()
        .map(|row| (row.field.as_str(), row.honoured))
        .collect();
    assert_eq!(table.len(), rows.len(), "a field has two lines");
    let missing: Vec<_> = truth.keys().filter(|n| !table.contains_key(*n)).collect();
    assert!(missing.is_empty(), "not in the table: {missing:#?}");
    let unknown: Vec<_> = table.keys().filter(|n| !truth.contains_key(*n)).collect();
    assert!(unknown.is_empty(), "no field: {unknown:#?}");
    for (name, honoured) in table {
        assert_eq!(honoured, truth[name], "whether {name} is offered");
    }
}

#[test]
fn what_the_table_calls_refused_is_refused_by_its_path() {
    for row in rows().iter().filter(|row| !row.honoured) {
        let path = row.field.replace("[]", "[0]").replace('*', "any");
        let mut value = json!(1);
        for name in row.field.rsplit('.') {
            let name = name.replace('*', "any");
            value = match name.strip_suffix("[]") {
                Some(name) => json!({ name: [value] }),
                None => json!({ name: value }),
            };
        }
        match check(&value, &CONFIG) {
            Err(Objection::NotOffered { field, .. }) => assert!(path.starts_with(&field), "{path}"),
            other => panic!("{path}: {other:?}"),
        }
    }
}

/// The text of every Rust source below a folder.
fn sources(folder: &Path, texts: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, texts);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            texts.push(fs::read_to_string(path).unwrap());
        }
    }
}

/// Whether one of the texts has a test of this name.
fn has_test(texts: &[String], name: &str) -> bool {
    let head = format!("fn {name}(");
    texts.iter().any(|text| {
        text.match_indices(&head).any(|(at, _)| {
            let before = text[..at].rsplit("\n\n").next();
            before.is_some_and(|before| before.contains("#[test]"))
        })
    })
}

#[test]
fn every_file_and_test_that_the_table_names_is_there() {
    let mut texts = Vec::new();
    for folder in ["crates", "shim", "tests"] {
        sources(&workspace().join(folder), &mut texts);
    }
    let mut cases = Vec::new();
    sources(&workspace().join("tests/oracle/cases"), &mut cases);
    let mut wrong = Vec::new();
    for row in rows() {
        for file in &row.files {
            if !workspace().join(file).is_file() {
                wrong.push(format!("{}: no file {file}", row.field));
            }
        }
        if row.honoured && row.files.is_empty() {
            wrong.push(format!("{}: honoured nowhere", row.field));
        }
        for test in &row.tests {
            let found = match test.strip_prefix("oracle: ") {
                Some(case) => cases
                    .iter()
                    .any(|text| text.contains(&format!("\"{case}\""))),
                None => has_test(&texts, test),
            };
            if !found {
                wrong.push(format!("{}: no test {test}", row.field));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_page_counts_its_fields_and_those_without_a_test() {
    let rows = rows();
    let honoured = rows.iter().filter(|row| row.honoured).count();
    let untested = rows.iter().filter(|row| row.tests.is_empty()).count();
    let sentence = format!(
        "{} fields: {honoured} are honoured, {} refused by name; {untested} have no test.",
        rows.len(),
        rows.len() - honoured,
    );
    assert!(
        page().contains(&sentence),
        "the page should say: {sentence}"
    );
}
