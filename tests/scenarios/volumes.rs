//! A guest's files: each kind of mount is what it is for a native program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::slice::from_ref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use duet_tests::command::Outcome;
use duet_tests::{Node, guests, image, wait};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::serving::Ended;

/// What a guest is told of `EROFS`.
const READ_ONLY: &str = "Read-only file system";

/// What it is told of a link that leads out of its root.
const LEADS_OUT: &str = "Operation not permitted";

/// A `--mount` of `source` at `destination`.
fn bind(source: &Path, destination: &str, options: &str) -> String {
    let source = source.display();
    format!("type=bind,src={source},dst={destination},options={options}")
}

/// Runs a job of the guest with these mounts and further options.
fn probe(node: &Node, mounts: &[String], options: &[&str], job: &[&str]) -> Outcome {
    let mounts = mounts.iter().flat_map(|mount| ["--mount", mount]);
    let options: Vec<_> = mounts.chain(options.iter().copied()).collect();
    node.container("files").with(&options).probe(job).run()
}

/// A file with a line that says where it is.
fn file(path: &Path) {
    let line = format!("{}\n", path.file_name().unwrap_or_default().display());
    fs::write(path, line).expect("our own folder");
}

fn folder(node: &Node, name: &str) -> std::path::PathBuf {
    let path = node.scratch().join(name);
    fs::create_dir(&path).expect("our own folder");
    path
}

fn refused(outcome: &Outcome, why: &str) {
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.stderr.contains(why), "{outcome:?}");
}

#[test]
fn a_token_is_where_kubernetes_mounts_it_whatever_the_images_links_are() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let secret = folder(&node, "secret");
    fs::create_dir(secret.join("..2026")).expect("our own folder");
    file(&secret.join("..2026/token"));
    symlink("..2026/token", secret.join("token")).expect("our own folder");
    let place = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mounts = [bind(&secret, place, "rbind:ro")];
    let token = format!("{place}/token");
    // In C and in Rust, of two previews.
    for guest in ["/probe.wasm", "/probe-p2.wasm"] {
        let options = ["--mount", &mounts[0]];
        let container = node.container("token").image(image::GUESTS).with(&options);
        let outcome = container.args(&[guest, "cat", &token]).run().ok();
        assert_eq!(outcome.stdout, "token\n", "{guest}");
    }
    let written = probe(&node, &mounts, &[], &["write", &token, "mine"]);
    refused(&written, READ_ONLY);
    let memory = ["type=tmpfs,src=tmpfs,dst=/var/run/scratch,options=size=64k".to_owned()];
    let job = ["write", "/var/run/scratch/new", "text"];
    let _written = probe(&node, &memory, &[], &job).ok();
}

#[test]
fn a_volume_in_a_volume_and_one_in_memory_are_what_they_are() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let (outer, inner) = (folder(&node, "outer"), folder(&node, "inner"));
    fs::create_dir(outer.join("below")).expect("our own folder");
    file(&outer.join("of-outer"));
    file(&inner.join("of-inner"));
    let mounts = [
        bind(&outer, "/data", "rbind:rw"),
        bind(&inner, "/data/below", "rbind:ro"),
        "type=tmpfs,src=tmpfs,dst=/scratch,options=size=64k:mode=1777".to_owned(),
    ];
    let run = |job: &[&str]| probe(&node, &mounts, &[], job);
    assert_eq!(run(&["cat", "/data/of-outer"]).ok().stdout, "of-outer\n");
    assert_eq!(
        run(&["cat", "/data/below/of-inner"]).ok().stdout,
        "of-inner\n"
    );
    let _written = run(&["write", "/data/new", "text"]).ok();
    assert_eq!(fs::read(outer.join("new")).expect("written"), b"text\n");
    refused(&run(&["write", "/data/below/new", "text"]), READ_ONLY);
    let _written = run(&["write", "/scratch/new", "text"]).ok();
    refused(
        &run(&["fill", "/scratch/new", "1"]),
        "No space left on device",
    );
}

#[test]
fn what_kubernetes_writes_is_read_through_its_links() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    // A ConfigMap, a Secret, a service account's token: folders that are swapped by one link.
    let config = folder(&node, "config");
    let version = |name: &str, text: &str| {
        let version = config.join(name);
        fs::create_dir(&version).expect("our own folder");
        fs::write(version.join("token"), text).expect("our own folder");
        symlink(name, config.join("..new")).expect("our own folder");
        fs::rename(config.join("..new"), config.join("..data")).expect("our own folder");
    };
    version("..2026_01", "first\n");
    symlink("..data/token", config.join("token")).expect("our own folder");
    let at = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mounts = [
        bind(&config, at, "rbind:ro"),
        // A subPath is the file itself.
        bind(&config.join("..2026_01/token"), "/single", "bind:ro"),
    ];
    let token = format!("{at}/token");
    let run = |job: &[&str]| probe(&node, &mounts, &[], job);
    assert_eq!(run(&["cat", &token]).ok().stdout, "first\n");
    version("..2026_02", "second\n");
    assert_eq!(run(&["cat", &token]).ok().stdout, "second\n");
    assert_eq!(run(&["cat", "/single"]).ok().stdout, "first\n");
    refused(&run(&["write", &token, "mine"]), READ_ONLY);
    refused(&run(&["write", "/single", "mine"]), READ_ONLY);
}

#[test]
fn a_read_only_root_is_read_only_but_for_what_is_mounted_in_it() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let volume = folder(&node, "volume");
    let mounts = [bind(&volume, "/data", "rbind:rw")];
    let run = |job: &[&str]| probe(&node, &mounts, &["--read-only"], job);
    refused(&run(&["write", "/tmp/new", "text"]), READ_ONLY);
    let _written = run(&["write", "/data/new", "text"]).ok();
    assert_eq!(run(&["cat", "/motd"]).ok().stdout, "a file of the image\n");
}

#[test]
fn user_and_group_decide_what_a_guest_may_open() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let volume = folder(&node, "volume");
    for (name, mode, group) in [
        ("roots", 0o600, 0),
        ("groups", 0o640, 1000),
        ("seconds", 0o640, 2000),
    ] {
        let path = volume.join(name);
        file(&path);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("our own file");
        chown(&path, Some(0), Some(group)).expect("we are root");
    }
    let mount = bind(&volume, "/data", "rbind:rw");
    let run = |job: &[&str]| {
        let container = node.container("files").with(&["--mount", &mount]);
        let args = [&["/probe.wasm"], job].concat();
        container.image(image::GUESTS_AS_USER).args(&args).run()
    };
    refused(&run(&["cat", "/data/roots"]), "Permission denied");
    // Its own group's, and that of one of which /etc/group of its image has it a member.
    for name in ["groups", "seconds"] {
        let outcome = run(&["cat", &format!("/data/{name}")]).ok();
        assert_eq!(outcome.stdout, format!("{name}\n"));
    }
    refused(
        &run(&["write", "/data/groups", "mine"]),
        "Permission denied",
    );
    refused(&run(&["write", "/data/new", "mine"]), "Permission denied");
}

#[test]
fn what_a_neighbour_swaps_never_leads_a_guest_out_of_its_mounts() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let volume = folder(&node, "volume");
    // The file outside has the name of the one inside, wherever the links lead.
    file(&node.scratch().join("secret"));
    for place in ["inside", "outside"] {
        fs::create_dir(volume.join(place)).expect("our own folder");
    }
    fs::write(volume.join("inside/secret"), "inside\n").expect("our own folder");
    fs::remove_dir(volume.join("outside")).expect("our own folder");
    symlink("../../../../../../..", volume.join("outside")).expect("our own folder");
    let mount = bind(&volume, "/data", "rbind:rw");
    let swap = "cd /data; cp -a inside now; echo ready; \
                while :; do rm -rf now; ln -s outside now; rm now; cp -a inside now; done";
    let mut native = node
        .container("native")
        .with(&["--mount", &mount])
        .script(swap)
        .start();
    native.says("ready");
    let mut seen = BTreeSet::new();
    // On a busy machine all of a guest's looks may fall into one moment of its neighbour's.
    wait::until("the file and the link to be met", || {
        let looks = ["look", "/data/now/secret", "3000"];
        let outcome = probe(&node, from_ref(&mount), &[], &looks).ok();
        // What it saw, each once: the file, or that there is none, or that the link leads out.
        for line in outcome.stdout.lines() {
            let fine = ["inside", "", "No such file or directory", LEADS_OUT];
            assert!(fine.contains(&line), "{outcome:?}");
            seen.insert(line.to_owned());
        }
        let both = seen.contains("inside") && seen.contains(LEADS_OUT);
        both.then_some(())
    });
    native.end();
}

#[test]
fn what_a_neighbour_renames_never_leads_a_guest_out_of_its_mounts() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let outside = node.scratch().join("file");
    fs::write(&outside, "outside").expect("our own folder");
    for guest in [guests::PROBE_P1, guests::PROBE_P2] {
        let volume = folder(&node, guest.name);
        let program = node.scratch().join("guest.wasm");
        fs::write(&program, guest.bytes).expect("our own file");
        // Each is by turns the folder and the link: `here` is what a guest is told.
        let (here, there) = (volume.join("here"), volume.join("there"));
        fs::create_dir(&here).expect("our own folder");
        fs::write(here.join("file"), "inside").expect("our own folder");
        symlink("../../../../../../..", &there).expect("our own folder");
        let options = [
            bind(&volume, "/data", "rbind:rw"),
            bind(&outside, "/file", "rbind:ro"),
            bind(&program, "/guest.wasm", "rbind:ro"),
        ];
        let options: Vec<_> = options.iter().flat_map(|it| ["--mount", it]).collect();
        let over = AtomicBool::new(false);
        let mut met = BTreeMap::new();
        thread::scope(|scope| {
            let _ended = Ended(&over);
            // A neighbour is whoever has the volume, too. There is always something of the name.
            scope.spawn(|| {
                let exchange = RenameFlags::RENAME_EXCHANGE;
                while !over.load(Ordering::Relaxed) {
                    renameat2(AT_FDCWD, &here, AT_FDCWD, &there, exchange).expect("our own folder");
                }
            });
            let mut run = 0;
            wait::until("the folder and the link to be met by all", || {
                run += 1;
                let mark = format!("-of-{run}");
                let job = ["/guest.wasm", "race", "/data/here", "5000", &mark];
                let container = node.container("race").image(image::GUESTS).with(&options);
                let outcome = container.args(&job).run().ok();
                for line in outcome.stdout.lines() {
                    let (what, count) = line.rsplit_once(' ').expect("what and a count");
                    let count: usize = count.parse().expect("a count");
                    *met.entry(what.to_owned()).or_insert(0) += count;
                }
                let all = [
                    ["read inside", "read PermissionDenied"],
                    ["create done", "create PermissionDenied"],
                    ["rename done", "rename PermissionDenied"],
                ];
                let all = all.concat();
                all.iter().all(|what| met.contains_key(*what)).then_some(())
            });
        });
        assert!(!met.contains_key("read outside"), "{met:?}");
        // All that it says it has made is in the one folder, and nothing else.
        let is_link = fs::symlink_metadata(&here)
            .expect("it is there")
            .is_symlink();
        let real = if is_link { &there } else { &here };
        let names: Vec<_> = fs::read_dir(real)
            .expect("our own folder")
            .map(|entry| entry.expect("our own folder").file_name())
            .collect();
        let of = |start: &str| {
            names
                .iter()
                .filter(|name| name.to_string_lossy().starts_with(start))
                .count()
        };
        assert_eq!(of("renamed-"), met["rename done"], "{met:?}");
        assert_eq!(of("renamed-") + of("new-"), met["create done"], "{met:?}");
        assert_eq!(
            fs::read_to_string(&outside).expect("our own file"),
            "outside"
        );
    }
}
