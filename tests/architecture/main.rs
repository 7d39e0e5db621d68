//! The shape of the workspace, checked: who may use whom, who may be unsafe, how long a
//! file may be, and which licences come along.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use duet_tests::machine::workspace;
use duet_tests::{command, guests};
use serde_json::Value;

/// The arrows of the design, downwards only: a package and what it may use of ours.
const ARROWS: [(&str, &[&str]); 18] = [
    (
        "containerd-shim-duet-v1",
        &[
            "duet-cgroup",
            "duet-launch",
            "duet-linux",
            "duet-plan",
            "duet-pod",
            "duet-spec",
            "duet-wasm",
        ],
    ),
    ("duet", &[]),
    ("duet-compiler", &["duet-linux", "duet-wasm"]),
    ("duet-holder", &["duet-linux"]),
    ("duet-oci", &["duet-linux", "duet-pod"]),
    ("duet-runner", &["duet-linux", "duet-wasm"]),
    (
        "duet-pod",
        &["duet-cgroup", "duet-container", "duet-linux", "duet-spec"],
    ),
    (
        "duet-container",
        &[
            "duet-cgroup",
            "duet-launch",
            "duet-linux",
            "duet-plan",
            "duet-spec",
            "duet-wasm",
        ],
    ),
    (
        "duet-launch",
        &[
            "duet-child",
            "duet-linux",
            "duet-plan",
            "duet-spec",
            "duet-step",
        ],
    ),
    ("duet-child", &["duet-step"]),
    ("duet-plan", &["duet-seccomp", "duet-spec", "duet-step"]),
    ("duet-seccomp", &["duet-step"]),
    ("duet-spec", &[]),
    ("duet-step", &[]),
    ("duet-cgroup", &["duet-linux"]),
    ("duet-wasm", &["duet-linux"]),
    ("duet-linux", &["duet-step"]),
    ("duet-tests", &[]),
];

/// The packages that may use tokio: those that serve many at once.
const ASYNC: [&str; 7] = [
    "containerd-shim-duet-v1",
    "duet",
    "duet-container",
    "duet-oci",
    "duet-pod",
    "duet-runner",
    "duet-tests",
];

/// The packages that may say `unsafe`, and why.
const UNSAFE: [(&str, &str); 4] = [
    ("duet-linux", "the inventory of system calls"),
    (
        "duet-child",
        "runs between clone and exec, by raw system calls",
    ),
    ("duet-launch", "makes the child"),
    (
        "duet-wasm",
        "maps compiled code, and what loading it fills, from the cache",
    ),
];

/// Licences that code of ours may be linked with.
const LICENCES: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// The longest file, in lines.
const LONGEST_FILE: usize = 600;

/// What `cargo metadata` knows, with dependencies (`deep`) or without.
fn metadata(deep: bool) -> Value {
    let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
    cargo
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(workspace());
    if !deep {
        cargo.arg("--no-deps");
    }
    serde_json::from_str(&command::run(&mut cargo).ok().stdout).expect("cargo writes JSON")
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// What `package` depends on when it is used, that is without what its own tests need.
fn uses(package: &Value) -> BTreeSet<&str> {
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    dependencies
        .filter(|used| used["kind"] != "dev")
        .map(|used| text(used, "name"))
        .collect()
}

/// Every file of the repository that git knows or would take, with one of these endings.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(workspace());
    let list = command::run(&mut git).ok().stdout;
    let ours = |name: &&str| endings.iter().any(|ending| name.ends_with(ending));
    let files = list.lines().filter(ours).map(|name| workspace().join(name));
    files.filter(|file| file.is_file()).collect()
}

#[test]
fn arrows_between_crates_go_downwards_only() {
    let metadata = metadata(false);
    let allowed: BTreeMap<_, _> = ARROWS.into_iter().collect();
    let ours: BTreeSet<_> = packages(&metadata)
        .map(|package| text(package, "name"))
        .collect();
    assert_eq!(
        ours,
        allowed.keys().copied().collect(),
        "the list above names every package"
    );
    let mut wrong = Vec::new();
    for package in packages(&metadata) {
        let name = text(package, "name");
        for used in uses(package) {
            if ours.contains(used) && !allowed[name].contains(&used) {
                wrong.push(format!("{name} -> {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "not an arrow of the design: {wrong:?}");
    let mut unused = Vec::new();
    for package in packages(&metadata) {
        let (name, uses) = (text(package, "name"), uses(package));
        for allowed in allowed[name] {
            if !uses.contains(allowed) {
                unused.push(format!("{name} -> {allowed}"));
            }
        }
    }
    assert!(unused.is_empty(), "an arrow that nobody needs: {unused:?}");
}

#[test]
fn the_rows_of_the_architecture_page_are_above_what_they_use() {
    let page = fs::read_to_string(workspace().join("ARCHITECTURE.md")).expect("ours");
    let (_, rows) = page
        .split_once("```text\nshim, oci")
        .expect("the page has rows");
    let (rows, _) = rows.split_once("```").expect("they end");
    let mut rank = BTreeMap::new();
    for (row, line) in format!("shim, oci{rows}").lines().enumerate() {
        // What stands further to the right is a remark.
        let names = line.split("   ").next().unwrap_or_default();
        for name in names.split(", ") {
            let name = match name {
                "shim" => "containerd-shim-duet-v1".to_owned(),
                name => format!("duet-{name}"),
            };
            assert_eq!(rank.insert(name, row), None, "{line}");
        }
    }
    let row = |name: &str| {
        *rank
            .get(name)
            .unwrap_or_else(|| panic!("{name} is in no row"))
    };
    for (name, uses) in ARROWS {
        if ["duet", "duet-tests"].contains(&name) {
            continue;
        }
        assert!(
            uses.iter().all(|used| row(name) < row(used)),
            "{name} uses {uses:?}"
        );
    }
    assert_eq!(rank.len(), ARROWS.len() - 2, "{rank:?}");
}

#[test]
fn only_those_who_serve_many_at_once_use_tokio() {
    let metadata = metadata(false);
    for package in packages(&metadata) {
        let name = text(package, "name");
        if uses(package).contains("tokio") {
            assert!(ASYNC.contains(&name), "{name} uses tokio");
        }
    }
}

#[test]
fn unsafe_code_is_forbidden_outside_of_the_inventory() {
    let metadata = metadata(false);
    let may: BTreeMap<_, _> = UNSAFE.into_iter().collect();
    for package in packages(&metadata) {
        let name = text(package, "name");
        for target in package["targets"].as_array().into_iter().flatten() {
            let root = text(target, "src_path");
            let is_program = target["kind"].as_array().is_some_and(|kinds| {
                kinds
                    .iter()
                    .any(|kind| ["lib", "bin"].iter().any(|wanted| kind == wanted))
            });
            if !is_program || may.contains_key(name) {
                continue;
            }
            let source = fs::read_to_string(root).expect("cargo names files that exist");
            assert!(
                source.contains("#![forbid(unsafe_code)]"),
                "{root} does not forbid unsafe"
            );
        }
    }
}

#[test]
fn every_file_says_what_it_is_for_and_stays_short() {
    let mut wrong = Vec::new();
    for file in files(&[".rs"]) {
        let source = fs::read_to_string(&file).expect("a source file is text");
        let name = file.strip_prefix(workspace()).unwrap_or(&file).display();
        if !source.starts_with("//! ") {
            wrong.push(format!("{name}: does not begin with //!"));
        }
        let lines = source.lines().count();
        if lines > LONGEST_FILE {
            wrong.push(format!("{name}: {lines} lines"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The lines of a page that are prose, with what stands between backticks left out.
fn prose(page: &str) -> Vec<String> {
    let mut code = false;
    let lines = page.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !fence && !code
    });
    let spoken = |line: &str| line.split('`').step_by(2).collect::<String>();
    lines.map(spoken).collect()
}

/// The names by which a page's headings can be linked to, as GitHub and others make them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut code = false;
    let headings = page.lines().filter(|line| {
        code ^= line.trim_start().starts_with("```");
        !code && line.starts_with('#')
    });
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
        text.chars()
            .filter(kept)
            .collect::<String>()
            .replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn links_between_pages_lead_somewhere() {
    let read = |file: &Path| fs::read_to_string(file).expect("a page is text");
    let mut wrong = Vec::new();
    let mut links = 0;
    for page in files(&[".md"]) {
        for line in prose(&read(&page)) {
            let targets = line.split("](").skip(1);
            let targets = targets.filter_map(|rest| rest.split(')').next());
            for target in targets.filter(|target| !target.contains("://")) {
                links += 1;
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let there = if file.is_empty() {
                    page.clone()
                } else {
                    page.with_file_name(file)
                };
                let found = there.exists()
                    && (anchor.is_empty() || anchors(&read(&there)).contains(anchor));
                if !found {
                    let page = page.strip_prefix(workspace()).unwrap_or(&page);
                    wrong.push(format!("{}: {target}", page.display()));
                }
            }
        }
    }
    assert!(links > 50, "only {links} links were seen");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn everything_that_is_linked_has_a_licence_we_may_use() {
    let metadata = metadata(true);
    let allowed = |licence: &str| LICENCES.contains(&licence.trim());
    let mut wrong = Vec::new();
    for package in packages(&metadata) {
        // "MIT OR Apache-2.0", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0"
        let licence = text(package, "license").replace('/', " OR ");
        let fine = licence.split(" AND ").all(|part| {
            part.trim_matches(['(', ')'])
                .split(" OR ")
                .any(|one| allowed(one.trim_matches(['(', ')', ' '])))
        });
        if !fine {
            wrong.push(format!(
                "{} {}: {licence:?}",
                text(package, "name"),
                text(package, "version")
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_list_of_licences_is_that_of_deny_toml() {
    let deny =
        fs::read_to_string(workspace().join("deny.toml")).expect("it is part of the repository");
    for licence in LICENCES {
        assert!(deny.contains(&format!("\"{licence}\"")), "{licence}");
    }
}

#[test]
fn a_build_by_make_says_its_commit_to_the_programs_that_tell_it() {
    let run = |program: &str, words: &[&str]| {
        let mut command = Command::new(program);
        let command = command.args(words).current_dir(workspace());
        command::run(command.env_remove("MAKEFLAGS").env_remove("DUET_COMMIT"))
    };
    let head = run("git", &["rev-parse", "--short", "HEAD"]);
    if head.code != 0 {
        eprintln!("skipped: not in a git repository: {}", head.stderr);
        return;
    }
    let said = format!("DUET_COMMIT={}", head.stdout.trim());
    let lines = run("make", &["-n", "build"]).ok().stdout;
    let builds: Vec<&str> = lines.lines().filter(|l| l.contains(" build --")).collect();
    assert!(builds.len() > 1, "{lines}");
    for build in builds {
        let tells = build.contains(" -p containerd-shim-duet-v1 -p duet ");
        assert_eq!(build.starts_with(&said), tells, "{build}");
    }
}

#[test]
fn every_wasm_guest_is_tested_and_has_its_source_beside_it() {
    let scenarios = files(&[".rs"])
        .into_iter()
        .filter(|file| file.starts_with(workspace().join("tests")));
    let text: String = scenarios
        .map(|file| fs::read_to_string(file).expect("text"))
        .collect();
    for guest in guests::ALL {
        let used = text.matches(&format!("\"/{}\"", guest.name)).count();
        assert!(used > 0, "no test runs {}", guest.name);
        let source = workspace()
            .join("tests/guests")
            .join(guest.name)
            .with_extension("c");
        assert!(source.is_file(), "{}", source.display());
    }
    let committed = files(&[".wasm"]);
    let known = |file: &Path| guests::ALL.iter().any(|guest| file.ends_with(guest.name));
    let folder = workspace().join("tests/guests");
    for file in committed
        .iter()
        .filter(|file| file.parent() == Some(&folder))
    {
        assert!(known(file), "{} is in no list", file.display());
    }
    // Those of programs outside of containers.
    let theirs = workspace().join("crates/wasm/tests");
    let text: String = files(&[".rs"])
        .into_iter()
        .filter(|file| file.starts_with(theirs.join("programs")))
        .map(|file| fs::read_to_string(file).expect("text"))
        .collect();
    let folder = theirs.join("guests");
    for file in committed
        .iter()
        .filter(|file| file.parent() == Some(&folder))
    {
        let name = file.file_name().expect("a file").to_string_lossy();
        assert!(text.contains(&format!("\"{name}\"")), "no test runs {name}");
        let name = name.trim_end_matches(".wasm");
        if let Some(world) = name.strip_prefix("c-") {
            let source = folder.join("c").join(world).with_extension("c");
            assert!(source.is_file(), "{}", source.display());
            continue;
        }
        // One source is compiled for two previews.
        let source = name.trim_end_matches("-p1").trim_end_matches("-p2");
        assert!(folder.join(source).join("src").is_dir(), "{name}");
    }
}
