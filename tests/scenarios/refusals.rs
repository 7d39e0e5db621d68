//! Bad input: the error names what is wrong, and nothing is left.

use duet_tests::command::Outcome;
use duet_tests::shim::{Bundle, Shim};
use duet_tests::{Node, image, machine};

/// Checks that `outcome` is a failure that says each of `words`.
fn says(outcome: &Outcome, words: &[&str]) {
    assert_ne!(outcome.code, 0, "{outcome:?}");
    for word in words {
        assert!(outcome.stderr.contains(word), "no {word:?} in {outcome:?}");
    }
}

#[test]
fn a_program_that_does_not_exist_is_named() {
    let Some(node) = Node::enter() else { return };
    says(
        &node.container("nothing").args(&["/bin/nothing-here"]).run(),
        &["/bin/nothing-here"],
    );
    says(
        &node.container("nothing").args(&["nothing-in-path"]).run(),
        &["nothing-in-path"],
    );
}

#[test]
fn a_program_that_may_not_be_executed_is_named() {
    let Some(node) = Node::enter() else { return };
    let outcome = node.container("text").args(&["/not-executable"]).run();
    says(&outcome, &["/not-executable"]);
    let outcome = node.container("dir").args(&["/etc"]).run();
    says(&outcome, &["/etc"]);
}

#[test]
fn a_mount_without_a_source_is_named() {
    let Some(node) = Node::enter() else { return };
    let mount = "type=bind,src=/no/such/folder,dst=/data,options=rbind:rw";
    let outcome = node
        .container("unmounted")
        .with(&["--mount", mount])
        .args(&["/bin/true"])
        .run();
    says(&outcome, &["/no/such/folder"]);
}

#[test]
fn an_annotation_nobody_knows_is_named_with_its_value() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let unknown = ["--annotation", "io.containerd.duet.v1.no-such-thing=x1"];
    let outcome = node
        .container("annotated")
        .with(&unknown)
        .args(&["/bin/true"])
        .run();
    says(&outcome, &["io.containerd.duet.v1.no-such-thing"]);

    let value = ["--annotation", "io.containerd.duet.v1.handler=steam"];
    let outcome = node
        .container("valued")
        .with(&value)
        .args(&["/bin/true"])
        .run();
    says(
        &outcome,
        &[
            "io.containerd.duet.v1.handler",
            "steam",
            "neither native nor wasm",
        ],
    );
}

#[test]
fn a_wasm_file_that_does_not_exist_is_named() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let outcome = node
        .container("nowasm")
        .image(image::GUESTS)
        .args(&["/gone.wasm"])
        .run();
    says(&outcome, &["/gone.wasm"]);
}

#[test]
fn options_that_are_not_toml_or_unknown_are_named() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let file = node.scratch().join("duet.toml");
    let path = file.display().to_string();
    for (text, word) in [("SystemdCgroup = [", "duet.toml"), ("Speed = 9", "Speed")] {
        std::fs::write(&file, text).expect("our own folder");
        let outcome = node
            .container("optional")
            .with(&["--runtime-config-path", &path])
            .args(&["/bin/true"])
            .run();
        says(&outcome, &[word]);
    }
}

#[test]
fn a_bundle_without_a_readable_config_is_refused_with_the_files_name() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let program = machine::binary("containerd-shim-duet-v1");
    let daemon = node.daemon();
    let cases = [
        ("missing", None),
        ("empty", Some("")),
        ("garbage", Some("{ this is no JSON")),
        ("number", Some("42")),
        (
            "type",
            Some(r#"{"ociVersion":"1.0.2","process":"a string"}"#),
        ),
    ];
    for (name, config) in cases {
        let dir = node.scratch().join(name);
        let bundle = Bundle::new(&dir, config).expect("our own folder");
        let error = match Shim::start(daemon, &program, node.namespace(), name, &bundle) {
            // `start` may look into the config for the pod's name, or leave it to Create.
            Err(error) => error,
            Ok(shim) => {
                let error = shim
                    .create(name, &bundle.dir)
                    .expect_err("it is not a container");
                let _deleted = shim.shutdown().ok();
                error
            }
        };
        assert!(error.contains("config.json"), "{name}: {error}");
    }
}

#[test]
fn a_field_that_is_not_offered_is_refused_by_its_path() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let config = r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"},
        "process":{"args":["/bin/true"],"cwd":"/","user":{"uid":0,"gid":0}},
        "linux":{"namespaces":[{"type":"mount"},{"type":"pid"}],"intelRdt":{"closID":"gold"}}}"#;
    let bundle = Bundle::new(&node.scratch().join("rdt"), Some(config)).expect("our own folder");
    let program = machine::binary("containerd-shim-duet-v1");
    let shim = Shim::start(node.daemon(), &program, node.namespace(), "rdt", &bundle);
    let shim = shim.unwrap_or_else(|error| panic!("{error}"));
    let error = shim
        .create("rdt", &bundle.dir)
        .expect_err("it is not offered");
    let _deleted = shim.shutdown().ok();
    // Also where resctrl is mounted nobody has made it.
    for part in ["linux.intelRdt.closID", "gold"] {
        assert!(error.contains(part), "{error}");
    }
}
