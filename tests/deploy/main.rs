//! The files of `deploy/`, read by those they are for.
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use duet_tests::command::Outcome;
use duet_tests::machine::workspace;
use duet_tests::{Node, command};

/// What a node has said itself, and must still have when Duet's handler is there.
const OWN: [&str; 3] = ["our.own/pause:1", "/our/own/cni", "SystemdCgroup = true"];

/// A `config.toml` of version 2 with [`OWN`], as a node has that was set up under containerd 1.
const VERSION_2: &str = r#"version = 2

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "our.own/pause:1"
[plugins."io.containerd.grpc.v1.cri".cni]
  conf_dir = "/our/own/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = true
"#;

/// The same of version 3.
const VERSION_3: &str = r#"version = 3

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "our.own/pause:1"
[plugins.'io.containerd.cri.v1.runtime'.cni]
  conf_dir = "/our/own/cni"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = true
"#;

/// A line of the table in `deploy/README.md`: which file is whose, and where it goes.
#[derive(Debug)]
struct Advice {
    /// "2.x", "1.6".
    releases: Vec<String>,
    /// Begins with `version = 2`.
    config: String,
    /// Below `deploy/`.
    file: PathBuf,
    /// Imported by `config.toml`; its lines go into that otherwise.
    imported: bool,
}

impl Advice {
    fn is_for(&self, node: &Node) -> bool {
        let version = node.daemon().version();
        let fits = |release: &String| version.starts_with(release.trim_end_matches('x'));
        self.releases.iter().any(fits)
    }

    /// The node's own settings that this line of the table is for.
    fn main(&self) -> &'static str {
        match self.config.as_str() {
            "`version = 2`" => VERSION_2,
            "`version = 3` or later" => VERSION_3,
            other => panic!("deploy/README.md: no test has a config.toml of {other}"),
        }
    }

    /// What containerd makes of [`Advice::main`] when this is followed, for the handler `duet` or `duet-shim`.
    fn followed(&self, node: &Node, handler: &str) -> Outcome {
        let name = self.file.file_name().expect("a file").to_string_lossy();
        let file = self
            .file
            .with_file_name(name.replacen("duet", handler, 1).as_str());
        let main = self.main();
        if self.imported {
            imported(node, main, &file)
        } else {
            let lines = fs::read_to_string(workspace().join("deploy").join(file)).expect("ours");
            let table = lines.lines().filter(|line| !line.starts_with("version"));
            dump(node, &format!("{main}\n{}\n", join(table)))
        }
    }
}

fn join<'t>(lines: impl Iterator<Item = &'t str>) -> String {
    lines.collect::<Vec<_>>().join("\n")
}

/// The table of `deploy/README.md`.
fn advice() -> Vec<Advice> {
    let page = fs::read_to_string(workspace().join("deploy/README.md")).expect("ours");
    let rows = page
        .lines()
        .skip_while(|line| !line.starts_with("| containerd | `config.toml` says |"))
        .skip(2)
        .take_while(|line| line.starts_with("| "));
    let rows: Vec<_> = rows
        .map(|row| {
            let cells: Vec<_> = row.trim_matches(['|', ' ']).split(" | ").collect();
            let [releases, config, file, place] = cells[..] else {
                panic!("not four cells: {row}");
            };
            let (_, file) = file.split_once("](").expect("a link");
            let (file, _) = file.split_once(')').expect("a link");
            Advice {
                releases: releases.split(", ").map(str::to_owned).collect(),
                config: config.to_owned(),
                file: file.into(),
                imported: place.contains("conf.d/"),
            }
        })
        .collect();
    assert!(!rows.is_empty(), "deploy/README.md has no such table");
    rows
}

/// The lines of it for this containerd.
fn advice_for(node: &Node) -> Vec<Advice> {
    let rows = advice();
    let ours: Vec<_> = rows.into_iter().filter(|row| row.is_for(node)).collect();
    assert!(!ours.is_empty(), "{}", node.daemon().version());
    ours
}

/// What a daemon makes of `config`.
fn dump(node: &Node, config: &str) -> Outcome {
    let file = node.scratch().join("config.toml");
    fs::write(&file, config).expect("our own folder");
    let mut dump = Command::new(node.daemon().program());
    dump.arg("--config").arg(&file).args(["config", "dump"]);
    command::run(&mut dump)
}

/// What a daemon makes of `main` with `file` of `deploy/` imported.
fn imported(node: &Node, main: &str, file: impl Into<PathBuf>) -> Outcome {
    let file = workspace().join("deploy").join(file.into());
    let imports = format!("\nimports = [{:?}]\n\n", file.display().to_string());
    dump(node, &main.replacen("\n\n", &imports, 1))
}

/// The table of a handler in a configuration.
fn handler<'c>(config: &'c str, name: &str) -> &'c str {
    let table = config.split(&format!("runtimes.{name}]")).nth(1);
    table.unwrap_or_else(|| panic!("no runtime {name} in\n{config}"))
}

/// Sees that the first `key` of a table has a value with `value` in it.
fn has(table: &str, key: &str, value: &str) {
    let line = table.lines().find(|line| line.trim().starts_with(key));
    assert!(
        line.is_some_and(|line| line.contains(value)),
        "{key} in {table}"
    );
}

fn keeps_its_own(config: &str) -> bool {
    OWN.iter().all(|setting| config.contains(setting))
}

#[test]
fn the_file_that_the_page_names_makes_the_handler_known_and_leaves_the_nodes_settings_alone() {
    let Some(node) = Node::enter() else { return };
    for row in advice_for(&node) {
        let config = row.followed(&node, "duet").ok().stdout;
        has(
            handler(&config, "duet"),
            "runtime_type",
            "io.containerd.duet.v1",
        );
        assert!(keeps_its_own(&config), "{row:?} loses {OWN:?}:\n{config}");
    }
}

#[test]
fn the_file_for_the_shims_own_pods_makes_a_handler_beside_the_other() {
    let Some(node) = Node::enter() else { return };
    if !node.daemon().is_2() {
        // containerd 1 has no such setting.
        return;
    }
    for row in advice_for(&node) {
        let config = row.followed(&node, "duet-shim").ok().stdout;
        let table = handler(&config, "duet-shim");
        has(table, "runtime_type", "io.containerd.duet.v1");
        has(table, "sandboxer", "shim");
        assert!(keeps_its_own(&config), "{row:?} loses {OWN:?}:\n{config}");
    }
}

// Why the page says so. Should one of these fail with a containerd to come, the page can say less.

#[test]
fn a_file_of_version_3_takes_the_settings_of_a_version_2_file_away_or_keeps_containerd_from_starting()
 {
    let Some(node) = Node::enter() else { return };
    if !node.daemon().is_2() {
        // containerd 1 knows no version 3.
        return;
    }
    let outcome = imported(&node, VERSION_2, "containerd/duet-v3.toml");
    if outcome.code == 0 {
        assert!(!keeps_its_own(&outcome.stdout), "{outcome:?}");
    } else {
        let why = "drop-in config version 3 higher than root config version 2";
        assert!(outcome.stderr.contains(why), "{outcome:?}");
    }
}

#[test]
fn an_imported_file_takes_settings_away_in_containerd_1_alone() {
    let Some(node) = Node::enter() else { return };
    let config = imported(&node, VERSION_2, "containerd/duet-v2.toml")
        .ok()
        .stdout;
    has(
        handler(&config, "duet"),
        "runtime_type",
        "io.containerd.duet.v1",
    );
    assert_eq!(keeps_its_own(&config), node.daemon().is_2(), "{config}");
}

#[test]
fn the_drop_ins_of_k3s_are_read_by_its_containerd() {
    let Some(node) = Node::enter() else { return };
    if !node.daemon().is_2() {
        // k3s with containerd 1.7 uses the file of version 2, which is tested above.
        return;
    }
    for (name, file) in [
        ("duet", "k3s/duet.toml"),
        ("duet-shim", "k3s/duet-shim.toml"),
    ] {
        let config = imported(&node, VERSION_3, file).ok().stdout;
        let program = "/usr/local/bin/containerd-shim-duet-v1";
        has(handler(&config, name), "runtime_type", program);
        assert!(keeps_its_own(&config), "{config}");
    }
}

#[test]
fn the_runtime_classes_name_the_handlers_of_the_drop_ins() {
    let read = |file: &str| {
        fs::read_to_string(workspace().join("deploy").join(file)).expect("part of the repository")
    };
    for (handler, class, drop_ins) in [
        (
            "duet",
            "kubernetes/runtimeclass.yaml",
            [
                "containerd/duet-v2.toml",
                "containerd/duet-v3.toml",
                "k3s/duet.toml",
            ],
        ),
        (
            "duet-shim",
            "kubernetes/runtimeclass-shim.yaml",
            [
                "containerd/duet-shim-v2.toml",
                "containerd/duet-shim-v3.toml",
                "k3s/duet-shim.toml",
            ],
        ),
    ] {
        let yaml = read(class);
        assert!(yaml.contains(&format!("\nhandler: {handler}\n")), "{yaml}");
        for drop_in in drop_ins {
            let table = format!(".containerd.runtimes.{handler}]");
            assert!(read(drop_in).contains(&table), "{drop_in}");
        }
    }
}

#[test]
fn a_running_cri_runs_a_pod_by_the_handler() {
    let Some(node) = Node::enter() else { return };
    // The node's own configuration has the same table as the drop-in; this is its proof.
    let cri = node.cri();
    let pod = cri.pod("handled");
    pod.remove();
}
