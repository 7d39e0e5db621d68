//! `duet run` by itself: what it refuses, how it ends, and that nothing stays behind.
#![forbid(unsafe_code)]

use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use duet_tests::command::{self, Outcome, Running};
use duet_tests::machine::{binary, program};
use duet_tests::{Node, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The image of every container here: one static busybox.
const IMAGE: &str = "localhost/duet-run:1";

/// What `duet` ends with when it is itself that failed.
const FAILED: i32 = 125;

/// A port of the host's that nobody else here has.
const HOST_PORT: u16 = 18099;

/// Runs for ever and ends with 4 on TERM.
const POLITE: &str = "trap 'echo bye; exit 4' TERM; echo here; while :; do sleep 0.05; done";

/// Runs for ever and ends on KILL only.
const DEAF: &str = "trap '' TERM; echo here; while :; do sleep 0.05; done";

/// A pod of this name; `spec` is YAML in flow style, without its braces.
fn pod(name: &str, spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n")
}

/// A container that runs a line of shell; `more` are further fields.
fn shell(name: &str, line: &str, more: &str) -> String {
    // JSON's strings are YAML's.
    let line = serde_json::Value::from(line);
    format!(
        "{{name: {name}, image: {IMAGE}, imagePullPolicy: Never, \
         command: [/bin/busybox, sh, -c, {line}]{more}}}"
    )
}

/// Where `duet run` keeps its things in a test.
fn root(node: &Node) -> PathBuf {
    node.scratch().join("duet")
}

/// Makes the image.
fn image(node: &Node) -> PathBuf {
    let file = node.scratch().join("image.tar");
    if !file.exists() {
        let busybox = program("busybox").expect("busybox-static is installed");
        let mut build = Command::new(binary("duet"));
        build.args(["image", "build", "--name", IMAGE, "--env", "PATH=/bin"]);
        for name in ["sh", "sleep", "wc"] {
            build.arg("--link").arg(format!("/bin/{name}=busybox"));
        }
        build
            .arg("--file")
            .arg(format!("{}:/bin/busybox:755", busybox.display()));
        let _built = command::run(build.arg("--output").arg(&file)).ok();
    }
    file
}

/// `duet run` of a manifest.
fn duet(node: &Node, name: &str, manifest: &str) -> Command {
    let file = node.scratch().join(format!("{name}.yaml"));
    fs::write(&file, manifest).expect("our own folder");
    // Whoever runs the tests under nohup ignores HUP, and so would everybody below.
    let mut duet = Command::new("env");
    duet.arg("--default-signal=HUP")
        .arg(binary("duet"))
        .arg("run")
        // So that the leak check knows the processes of the containerd that duet starts.
        .env("DUET_TEST_RUN", &node.daemon().dir)
        .args(["--restart-base", "20", "--root"])
        .arg(root(node))
        .arg("--image")
        .arg(image(node))
        .arg(file);
    duet
}

/// `duet run` of a pod on the test's own containerd.
fn attached(node: &Node, name: &str, spec: &str) -> Command {
    let mut duet = duet(node, name, &pod(name, spec));
    duet.arg("--address").arg(node.daemon().socket());
    duet
}

/// The slices of such pods and the one they lie in, where systemd makes the cgroups, with what systemd
/// calls their state.
fn slices() -> Vec<(String, String)> {
    let mut list = Command::new("systemctl");
    list.args(["list-units", "--all", "--full", "--plain", "--no-legend"]);
    let listed = command::run(list.args(["duet.slice", "duet-*.slice"])).ok();
    let words = listed.stdout.lines().map(|line| line.split_whitespace());
    words
        .map(|mut words| {
            let (name, state) = (words.next(), words.nth(1));
            let word = |word: Option<&str>| word.expect("systemctl has four columns").to_owned();
            (word(name), word(state))
        })
        .collect()
}

/// Runs a pod to its end.
fn run(node: &Node, spec: &str) -> Outcome {
    let outcome = command::run(&mut duet(node, "pod", &pod("pod", spec)));
    assert!(!outcome.stderr.contains("left behind"), "{outcome:#?}");
    outcome
}

/// Waits until `needle` stands among the steps.
fn steps(running: &mut Running, needle: &str) {
    let seen = wait::within(wait::patience(), || {
        let seen = running.stderr().contains(needle);
        (seen || running.has_ended()).then_some(seen)
    });
    assert_eq!(
        seen,
        Some(true),
        "no {needle:?} among the steps: {}",
        running.stderr()
    );
}

fn send(running: &Running, signal: Signal) {
    let pid = i32::try_from(running.pid()).expect("a pid is small");
    kill(Pid::from_raw(pid), signal).expect("it runs");
}

#[test]
fn a_bad_manifest_is_refused_by_file_field_and_value_before_anything_starts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let good = pod("pod", "containers: [{name: a, image: x}]");
    for (manifest, sentence) in [
        (
            pod("pod", "containers: [{name: a, image: x, ports: http}]"),
            "spec.containers[0].ports: expected a list, found the string \"http\"",
        ),
        (
            pod("pod", "containers: [{name: a, imagee: x}]"),
            "spec.containers[0].imagee: unknown field, found the string \"x\"",
        ),
        (
            pod("pod", "containers: [{name: a}]"),
            "spec.containers[0].image: this field is required",
        ),
        (
            pod("pod", "nodeName: n, containers: [{name: a, image: x}]"),
            "spec.nodeName: not supported by `duet run`, see docs/run.md; found the string \"n\"",
        ),
        (
            pod(
                "pod",
                "restartPolicy: Now, containers: [{name: a, image: x}]",
            ),
            "spec.restartPolicy: \"Now\" is not supported",
        ),
        (
            pod(
                "pod",
                "containers: [{name: a, image: x}], volumes: [{name: v, hostPath: {path: /missing/x}}]",
            ),
            "spec.volumes[0].hostPath.path: \"/missing/x\": No such file",
        ),
        (
            pod(
                "pod",
                "runtimeClassName: other, containers: [{name: a, image: x}]",
            ),
            "spec.runtimeClassName: Duet's own containerd knows duet and runc, not \"other\"",
        ),
        (
            format!("{good}---\n{good}"),
            "expected exactly one document of kind Pod, found Pod, Pod",
        ),
        (String::new(), "the file is empty"),
        ("a: [\n".to_owned(), "not YAML: "),
    ] {
        let file = folder.path().join("pod.yaml");
        fs::write(&file, &manifest).expect("our own folder");
        let root = folder.path().join("duet");
        let mut duet = Command::new(binary("duet"));
        let outcome = command::run(duet.arg("run").arg("--root").arg(&root).arg(&file));
        assert_eq!(outcome.code, FAILED, "{manifest}");
        let expected = format!("duet: {}: {sentence}", file.display());
        assert!(
            outcome.stderr.starts_with(&expected),
            "{}\nexpected: {expected}",
            outcome.stderr
        );
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
        assert!(!root.exists(), "something was started for {manifest}");
    }
}

#[test]
fn what_shows_only_later_is_named_too() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let missing = "containers: [{name: a, image: 'localhost/missing:1', imagePullPolicy: Never}]";
    let program = format!(
        "containers: [{{name: a, image: '{IMAGE}', imagePullPolicy: Never, command: [/bin/nope]}}]"
    );
    let root = shell("a", "true", ", securityContext: {runAsNonRoot: true}");
    for (spec, sentence) in [
        (
            missing.to_owned(),
            "pod.yaml: spec.containers[0].image: \"localhost/missing:1\" is not present",
        ),
        (program, "exec: \"/bin/nope\": no such file or directory"),
        (
            format!("containers: [{root}]"),
            "container a: runAsNonRoot is true and image localhost/duet-run:1 runs as root",
        ),
    ] {
        let outcome = run(&node, &spec);
        assert_eq!(outcome.code, FAILED, "{outcome:#?}");
        assert!(outcome.stderr.contains(sentence), "{outcome:#?}");
    }
}

/// A container that greets who connects to its port, which is that of the host, too.
fn greeter() -> String {
    let line = "echo here; while :; do echo hello | /bin/busybox nc -l -p 8080; done";
    let port = format!(", ports: [{{containerPort: 8080, hostPort: {HOST_PORT}}}]");
    shell("main", line, &port)
}

#[test]
fn a_port_of_the_host_is_mapped_though_the_path_leaves_iptables_out() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    // A shell that is process 1 does not hear TERM.
    let spec = format!(
        "terminationGracePeriodSeconds: 1, containers: [{}]",
        greeter()
    );
    let mut command = duet(&node, "pod", &pod("pod", &spec));
    // As Debian's plain `su` leaves it.
    let mut running = command::start(command.env("PATH", "/usr/local/bin:/usr/bin:/bin"));
    running.says("main | here");
    wait::until("the port to be answered", || {
        let mut greeting = String::new();
        let mut stream = TcpStream::connect(("127.0.0.1", HOST_PORT)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.read_to_string(&mut greeting).ok()?;
        (greeting == "hello\n").then_some(())
    });
    running.terminate();
    let outcome = running.wait();
    assert_eq!(outcome.code, 143, "{outcome:#?}");
}

#[test]
fn without_iptables_a_port_of_the_host_is_refused_and_what_else_is_lacking_said() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let without = |spec: &str| {
        let command = duet(&node, "pod", &pod("pod", spec));
        let mut hidden = Command::new("unshare");
        let hide = "for dir in /usr/local/sbin /usr/sbin /sbin; do \
                        [ -L $dir ] || [ ! -d $dir ] || mount -t tmpfs none $dir || exit; \
                    done; exec \"$@\"";
        hidden
            .args(["--mount", "sh", "-c", hide, "sh", "env"])
            .args(command.get_args())
            .env("DUET_TEST_RUN", &node.daemon().dir)
            .env("PATH", "/usr/bin:/bin");
        command::run(&mut hidden)
    };
    let outcome = without(&format!("containers: [{}]", greeter()));
    assert_eq!(outcome.code, FAILED, "{outcome:#?}");
    let why = format!("spec.containers[0].ports[0].hostPort: {HOST_PORT} needs iptables");
    assert!(outcome.stderr.contains(&why), "{outcome:#?}");
    assert!(!root(&node).exists(), "something was started");

    let main = shell("main", "exit 3", "");
    let outcome = without(&format!("restartPolicy: Never, containers: [{main}]"));
    assert_eq!(outcome.code, 3, "{outcome:#?}");
    let said = "network: without iptables pods reach this machine";
    assert!(outcome.stderr.contains(said), "{outcome:#?}");
}

#[test]
fn the_status_is_that_of_the_first_container_that_failed() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let (fine, seven, eight) = (
        shell("fine", "exit 0", ""),
        shell("seven", "sleep 0.3; exit 7", ""),
        shell("eight", "exit 8", ""),
    );
    let never = "restartPolicy: Never, containers:";
    let outcome = run(&node, &format!("{never} [{fine}, {seven}, {eight}]"));
    assert_eq!(outcome.code, 7, "first as declared: {outcome:#?}");
    let outcome = run(&node, &format!("{never} [{fine}]"));
    assert_eq!(outcome.code, 0, "{outcome:#?}");
    let outcome = run(
        &node,
        &format!("{never} [{fine}], initContainers: [{eight}]"),
    );
    assert_eq!(outcome.code, 8, "{outcome:#?}");
    assert!(!outcome.stderr.contains("container fine"), "{outcome:#?}");
}

#[test]
fn a_container_comes_back_as_the_policy_says() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let line = "echo x >> /v/runs; runs=$(wc -l < /v/runs); echo run $runs; [ $runs -ge 4 ]";
    let counter = shell("a", line, ", volumeMounts: [{name: v, mountPath: /v}]");
    let volumes = "volumes: [{name: v, emptyDir: {}}]";
    let outcome = run(
        &node,
        &format!("restartPolicy: OnFailure, {volumes}, containers: [{counter}]"),
    );
    assert_eq!(outcome.code, 0, "{outcome:#?}");
    assert_eq!(
        outcome.stdout,
        "a | run 1\na | run 2\na | run 3\na | run 4\n"
    );
    // The first comes back at once, then each waits twice as long as the one before.
    for step in [
        "exited with 1; it is restarted\n",
        "restarted in 20ms\n",
        "restarted in 40ms\n",
    ] {
        assert!(outcome.stderr.contains(step), "{outcome:#?}");
    }

    let ends = shell("a", "exit 0", "");
    let always = pod("pod", &format!("containers: [{ends}]"));
    let mut running = command::start(&mut duet(&node, "pod", &always));
    steps(&mut running, "exited with 0; it is restarted in 40ms");
    running.terminate();
    assert_eq!(running.wait().code, 143);
}

#[test]
fn a_signal_stops_the_pod_wherever_it_stands() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let (init, main) = (shell("init", POLITE, ""), shell("main", POLITE, ""));
    let in_init = format!("initContainers: [{init}], containers: [{main}]");
    let in_main = format!("containers: [{main}]");
    for (spec, stage, signal, code) in [
        (&in_main, "started, log in", Signal::SIGINT, 130),
        (&in_main, ": sandbox created", Signal::SIGTERM, 143),
        (&in_init, "container init: started", Signal::SIGINT, 130),
        (&in_main, "container main: started", Signal::SIGHUP, 129),
    ] {
        let mut running = command::start(&mut duet(&node, "pod", &pod("pod", spec)));
        steps(&mut running, stage);
        send(&running, signal);
        let outcome = running.wait();
        assert_eq!(outcome.code, code, "{stage}: {outcome:#?}");
        assert!(!outcome.stderr.contains("left behind"), "{outcome:#?}");
        assert!(!root(&node).join("run").exists(), "{stage}: state is left");
        let pods = fs::read_dir(root(&node).join("pods"));
        assert_eq!(
            pods.map_or(0, Iterator::count),
            0,
            "{stage}: files are left"
        );
    }
}

#[test]
fn the_second_signal_waits_for_nobody() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let (polite, deaf) = (shell("polite", POLITE, ""), shell("deaf", DEAF, ""));
    // Longer than the test would wait.
    let spec = format!("terminationGracePeriodSeconds: 3600, containers: [{polite}, {deaf}]");
    let mut running = command::start(&mut duet(&node, "pod", &pod("pod", &spec)));
    running.says("deaf   | here");
    running.says("polite | here");
    send(&running, Signal::SIGINT);
    running.says("polite | bye");
    send(&running, Signal::SIGINT);
    let outcome = running.wait();
    assert_eq!(outcome.code, 130, "{outcome:#?}");
    let said = |step: &str| outcome.stderr.contains(step);
    // The second signal may meet it before it has done what it said.
    let polite = [4, 137].map(|code| said(&format!("polite: stopped, exited with {code}")));
    assert!(polite.contains(&true), "{outcome:#?}");
    assert!(said("deaf: stopped, exited with 137"), "{outcome:#?}");
}

#[test]
fn under_nohup_a_terminal_may_hang_up() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let spec = format!("containers: [{}]", shell("main", POLITE, ""));
    let command = duet(&node, "pod", &pod("pod", &spec));
    let mut nohup = Command::new("sh");
    nohup
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
        .args(command.get_args().skip(1))
        .env("DUET_TEST_RUN", &node.daemon().dir);
    let mut running = command::start(&mut nohup);
    running.says("main | here");
    send(&running, Signal::SIGHUP);
    send(&running, Signal::SIGTERM);
    // A HUP that counted would have come first.
    assert_eq!(running.wait().code, 143);
}

#[test]
fn two_pods_share_a_containerd_and_the_last_one_ends_it_even_if_it_died() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let start = |name: &str| {
        let spec = format!("containers: [{}]", shell("main", POLITE, ""));
        let mut running = command::start(&mut duet(&node, name, &pod(name, &spec)));
        running.says("main | here");
        running
    };
    let daemon = root(&node).join("run/containerd.pid");
    let pid = |file: &Path| -> i32 {
        let text = fs::read_to_string(file).expect("containerd runs");
        text.parse().expect("a number")
    };

    let first = start("first");
    let own = pid(&daemon);
    let second = start("second");
    assert_eq!(pid(&daemon), own, "one containerd");
    first.terminate();
    let outcome = first.wait();
    assert_eq!(outcome.code, 143);
    assert!(
        outcome.stderr.contains("left running for another"),
        "{outcome:#?}"
    );

    kill(Pid::from_raw(own), Signal::SIGKILL).expect("the containerd of this test");
    let outcome = second.wait();
    assert_eq!(outcome.code, FAILED, "{outcome:#?}");
    assert!(
        outcome
            .stderr
            .contains("has ended; started again to clean up"),
        "{outcome:#?}"
    );
    assert!(!root(&node).join("run").exists(), "state is left");
}

#[test]
fn the_pod_of_one_that_was_killed_is_removed_by_the_next() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    // Its namespace has the images that the leak check knows of.
    drop(node.cri());
    let attached = |name: &str, line: &str| {
        let main = shell("main", line, "");
        let spec = format!("restartPolicy: Never, containers: [{main}]");
        attached(&node, name, &spec)
    };
    let mut first = command::start(&mut attached("first", POLITE));
    first.says("main | here");
    let mut beside = command::start(&mut attached("beside", POLITE));
    beside.says("main | here");
    send(&first, Signal::SIGKILL);
    assert_eq!(first.wait().code, 137);
    let pods = || {
        let pods = fs::read_dir(root(&node).join("attached"));
        pods.map_or(0, Iterator::count)
    };
    assert_eq!(pods(), 2, "what was killed cleans nothing up");

    let outcome = command::run(&mut attached("next", "exit 3"));
    assert_eq!(outcome.code, 3, "{outcome:#?}");
    assert!(!outcome.stderr.contains("left behind"), "{outcome:#?}");
    let removed = outcome.stderr.matches("removes the left-over pod").count();
    assert_eq!(removed, 1, "{outcome:#?}");
    assert_eq!(pods(), 1, "who lives keeps its pod");
    assert!(!beside.has_ended());
    beside.terminate();
    assert_eq!(beside.wait().code, 143);
}

#[test]
fn a_pod_is_in_a_slice_of_systemds_that_goes_with_it() {
    let Some(node) = Node::enter_with_systemd() else {
        return;
    };
    // Its namespace has the images that the leak check knows of.
    drop(node.cri());
    let main = shell("main", POLITE, "");
    let spec = format!("containers: [{main}]");
    let mut running = command::start(&mut attached(&node, "pod", &spec));
    running.says("main | here");
    let made = slices();
    let [(slice, _), (parent, _)] = &made[..] else {
        panic!("{made:?}");
    };
    assert!(made.iter().all(|(_, state)| state == "active"), "{made:?}");
    assert_eq!(parent, "duet.slice");
    // The pause container's and main's.
    let mut list = Command::new("systemctl");
    list.args([
        "show",
        "--property=Slice",
        "--value",
        "cri-containerd-*.scope",
    ]);
    let scopes = command::run(&mut list).ok().stdout;
    let within = scopes.lines().filter(|line| line == slice).count();
    assert_eq!(within, 2, "{scopes}");

    // One that nothing was ever made in is not stopped, nor what a neighbour's lies in.
    let nobody = "runtimeClassName: nobody, containers: [{name: a, image: 'localhost/duet-run:1'}]";
    let outcome = command::run(&mut attached(&node, "none", nobody));
    assert_eq!(outcome.code, FAILED, "{outcome:#?}");
    assert!(!outcome.stderr.contains("left behind"), "{outcome:#?}");
    assert_eq!(slices(), made);

    running.terminate();
    let outcome = running.wait();
    assert_eq!(outcome.code, 143, "{outcome:#?}");
    assert!(!outcome.stderr.contains("left behind"), "{outcome:#?}");
    wait::until(&format!("{slice} and {parent} to be forgotten"), || {
        slices().is_empty().then_some(())
    });
}
