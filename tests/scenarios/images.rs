//! Images that have a wasm program for a layer, and none of it in a file.

use std::time::Duration;

use duet_tests::cri::Wish;
use duet_tests::image::{self, Image};
use duet_tests::{Node, command, guests, wait};

/// The types that such a layer has.
const LAYERS: [&str; 3] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
];

/// Brings an image into a namespace of the node. Whether it is there: this containerd may refuse it, and must if it is old.
fn import(node: &Node, namespace: &str, image: Image) -> bool {
    let archive = node.scratch().join("image.tar");
    image::write(&[image], &archive).expect("the archive can be written");
    let mut ctr = node.daemon().ctr(namespace);
    let outcome = command::run(ctr.args(["images", "import"]).arg(archive));
    let takes = takes_artifacts(node);
    if takes {
        assert_eq!(outcome.code, 0, "{outcome:?}");
    } else {
        let why = "mismatched image rootfs and manifest layers";
        assert_ne!(outcome.code, 0, "{outcome:?}");
        assert!(outcome.stderr.contains(why), "{outcome:?}");
    }
    takes
}

/// Whether this containerd takes images whose layers are no file systems: since 1.6.25, and Debian 12
/// has 1.6.20.
fn takes_artifacts(node: &Node) -> bool {
    !node.daemon().version().contains("1.6.20")
}

fn probe() -> Vec<u8> {
    let all = guests::ALL.iter();
    let mut probe = all.filter(|guest| guest.name == "probe.wasm");
    let probe = probe.next().expect("there is a guest of this name");
    probe.bytes.to_vec()
}

#[test]
fn a_guest_that_is_a_layer_runs_as_if_it_were_a_file() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    for (number, kind) in LAYERS.into_iter().enumerate() {
        let name = format!("duet.test/layer-{number}:1");
        let image = Image::new(&name)
            .artifact(kind, probe())
            .entrypoint(&["/app.wasm"]);
        if !import(&node, node.namespace(), image) {
            continue;
        }
        let run = |args: &[&str]| node.container("layer").image(&name).args(args).run();
        let outcome = run(&["/app.wasm", "exit", "7"]);
        assert_eq!(outcome.code, 7, "{kind}: {outcome:?}");
        let outcome = run(&["app", "args"]);
        assert_eq!(outcome.stdout, "app\nargs\n", "{kind}: {outcome:?}");
    }
}

#[test]
fn a_layer_that_is_compiled_code_or_one_of_two_is_refused() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let compiled = || b"\x7fELF\x02\x01\x01\xc8compiled elsewhere".to_vec();
    let table = [
        (
            "duet.test/compiled:1",
            vec![compiled()],
            "no WebAssembly, it begins with",
        ),
        (
            "duet.test/two:1",
            vec![probe(), guests::random_bytes()],
            "2 layers of WebAssembly, and a container runs one",
        ),
    ];
    for (name, layers, why) in table {
        let image = Image::new(name).entrypoint(&["/app.wasm"]);
        let image = layers
            .into_iter()
            .fold(image, |image, layer| image.artifact(LAYERS[0], layer));
        if !import(&node, node.namespace(), image) {
            continue;
        }
        let container = node.container("refused").image(name);
        let outcome = container.args(&["/app.wasm"]).run();
        assert_ne!(outcome.code, 0, "{name}");
        assert!(outcome.stderr.contains(why), "{name}: {outcome:?}");
    }
}

/// `ctr run` takes none whose config is of this type.
#[test]
fn the_cncfs_artifact_runs_in_a_pod_that_names_a_command() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let name = "duet.test/cncf:1";
    let image = Image::new(name).artifact(LAYERS[0], probe()).of_the_cncf();
    let cri = node.cri();
    if !import(&node, "k8s.io", image) {
        return;
    }
    let pod = cri.pod("artifact");
    // Any word will do for the program.
    let wish = |name: &str, args: &[&str]| {
        let command = [&["app"], args].concat();
        Wish::wasm(name, &[])
            .image("duet.test/cncf:1")
            .command(&command)
    };
    // CRI learns of an image by an event, a moment after the import.
    let member = wait::until("CRI to see the image", || {
        pod.create(&wish("exits", &["exit", "7"])).ok()
    });
    member.start().expect("the layer is found");
    assert_eq!(member.wait().0, 7);
    let member = pod.start(&wish("idle", &["idle"]));
    member.says("idle");
    // The layer is no file, and the tools are there all the same.
    assert_eq!(member.exec(&["test", "-f", "/app"]).0, 1);
    member.stop(Duration::from_secs(30));
    assert_eq!(member.wait().0, 143);
    let refused = pod.create(&Wish::wasm("silent", &[]).image(name).command(&[]));
    let why = refused.expect_err("it has no command of its own");
    assert!(why.message().contains("no command specified"), "{why}");
    pod.remove();
    let mut ctr = node.daemon().ctr("k8s.io");
    let _removed = command::run(ctr.args(["images", "rm", name])).ok();
}
