//! Pods as a kubelet makes them: containerd's CRI plugin, a CNI bridge, and both halves.

use std::fs;
use std::time::Duration;

use duet_tests::cri::{Member, Wish};
use duet_tests::{Node, wait};
use k8s_cri::v1::LinuxContainerResources;

const FOREVER: &str = "echo ready; exec sleep 1000";

#[test]
fn a_pod_lives_from_run_to_remove_and_leaves_nothing() {
    let Some(node) = Node::enter() else { return };
    let cri = node.cri();
    let pod = cri.pod("plain");
    let member = pod.start(&Wish::native("main", "echo out; echo err >&2; exit 3"));
    assert_eq!(member.wait(), (3, "Error".to_owned()));
    member.says("err");
    let mut log = member.log();
    log.sort();
    let line = |stream: &str, text: &str| (stream.to_owned(), text.to_owned());
    assert_eq!(log, [line("stderr", "err"), line("stdout", "out")]);
    pod.remove();
}

#[test]
fn exec_answers_with_output_and_code() {
    let Some(node) = Node::enter() else { return };
    let cri = node.cri();
    let pod = cri.pod("exec");
    let member = pod.start(&Wish::native("main", FOREVER).env("WHOSE", "container"));
    member.says("ready");
    let answer = member.exec(&["/bin/sh", "-c", "echo $WHOSE; echo err >&2; exit 9"]);
    assert_eq!(answer, (9, "container\n".to_owned(), "err\n".to_owned()));
    pod.remove();
}

#[test]
fn exec_streams_with_and_without_a_terminal() {
    let Some(node) = Node::enter() else { return };
    let cri = node.cri();
    let pod = cri.pod("stream");
    let member = pod.start(&Wish::native("main", FOREVER));
    member.says("ready");
    let script = [
        "/bin/sh",
        "-c",
        "read line; echo \"<$line>\"; echo err >&2; exit 4",
    ];
    let ended = member.exec_streaming(&script, "typed\n", false);
    assert_eq!(
        (ended.stdout.as_str(), ended.stderr.as_str(), ended.code),
        ("<typed>\n", "err\n", 4)
    );

    let script = ["/bin/sh", "-c", "tty; read line; echo \"<$line>\"; exit 5"];
    let ended = member.exec_streaming(&script, "typed\n", true);
    // The echo of what is typed may come before the end of a line.
    assert!(ended.stdout.contains("/dev/pts/0"), "{ended:?}");
    assert!(ended.stdout.contains("<typed>\r\n"), "{ended:?}");
    assert_eq!(ended.code, 5);
    pod.remove();
}

#[test]
fn members_of_a_pod_share_its_network_name_and_memory_but_not_their_processes() {
    let Some(node) = Node::enter() else { return };
    let cri = node.cri();
    let pod = cri.pod("shared");
    let serve = "mkdir /www; echo hi > /www/index.html; echo ready; exec httpd -f -p 8080 -h /www";
    let server = pod.start(&Wish::native("server", serve));
    let client = pod.start(&Wish::native("client", FOREVER));
    server.says("ready");
    client.says("ready");
    let get = |url: &str| {
        wait::until(url, || {
            let (code, stdout, _) = client.exec(&["/bin/wget", "-q", "-O", "-", url]);
            (code == 0).then_some(stdout)
        })
    };
    assert_eq!(get("http://127.0.0.1:8080/"), "hi\n");
    // The address that the CNI plugin gave is the pod's.
    assert_eq!(get(&format!("http://{}:8080/", pod.ip())), "hi\n");
    assert_eq!(client.exec(&["/bin/hostname"]).1, "shared\n");
    let script = [
        "/bin/sh",
        "-c",
        "echo x > /dev/shm/x; ls /proc | grep -c '^[0-9]'",
    ];
    assert!(
        client
            .exec(&script)
            .1
            .trim()
            .parse::<u32>()
            .expect("a count")
            <= 4
    );
    assert_eq!(server.exec(&["/bin/cat", "/dev/shm/x"]).1, "x\n");
    pod.remove();
}

#[test]
fn stop_asks_first_and_insists_after_the_grace_period() {
    let Some(node) = Node::enter() else { return };
    let cri = node.cri();
    let pod = cri.pod("stop");
    let polite = "trap 'exit 3' TERM; echo ready; while :; do sleep 1 & wait $!; done";
    let polite = pod.start(&Wish::native("polite", polite));
    polite.says("ready");
    polite.stop(Duration::from_secs(30));
    assert_eq!(polite.wait().0, 3);

    let stubborn = pod.start(&Wish::native("stubborn", FOREVER));
    stubborn.says("ready");
    stubborn.stop(Duration::from_secs(1));
    assert_eq!(stubborn.wait().0, 137);
    pod.remove();
}

/// Waits for its end and CRI's word for it; its exit code. Of the two that containerd writes, end and reason, either may
/// be the first, however they are told.
fn killed_for_memory(member: &Member<'_>) -> i32 {
    wait::until("the reason to be OOMKilled", || {
        let (code, reason) = member.wait();
        (reason == "OOMKilled").then_some(code)
    })
}

#[test]
fn stats_and_the_reason_of_an_oom_kill_are_told() {
    let Some(node) = Node::enter() else { return };
    let cri = node.cri();
    let pod = cri.pod("stats");
    let member = pod.start(&Wish::native("main", FOREVER));
    member.says("ready");
    let stats = member.stats();
    let memory = stats
        .memory
        .and_then(|memory| memory.working_set_bytes)
        .expect("memory");
    assert!(memory.value > 0);
    let cpu = stats
        .cpu
        .and_then(|cpu| cpu.usage_core_nano_seconds)
        .expect("cpu");
    assert!(cpu.value > 0);

    let hungry = Wish::native("hungry", "exec tail /dev/zero").memory(32 << 20);
    assert_eq!(killed_for_memory(&pod.start(&hungry)), 137);
    pod.remove();
}

#[test]
fn a_guest_that_takes_memory_without_asking_is_killed_with_its_reason() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let cri = node.cri();
    let pod = cri.pod("greedy");
    // The pod's memory for files is no part of a guest's own, and nobody can refuse it.
    let fill = Wish::wasm("fill", &["fill", "/dev/shm/file", "48"]).memory(32 << 20);
    assert_eq!(killed_for_memory(&pod.start(&fill)), 137);

    // What one may have is what its limit is by then.
    let idle = pod.start(&Wish::wasm("idle", &["idle"]).memory(16 << 20));
    idle.says("idle");
    let grow = || idle.exec(&["/probe.wasm", "grow", "24"]);
    let (code, _, words) = grow();
    assert_eq!(code, 1, "{words}");
    let limits = LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    };
    idle.update(limits).expect("CRI takes it");
    assert_eq!(grow(), (0, "grown\n".to_owned(), String::new()));
    pod.remove();
}

#[test]
fn a_container_that_cannot_start_says_why() {
    let Some(node) = Node::enter() else { return };
    let cri = node.cri();
    let pod = cri.pod("broken");
    let member = pod.create(&Wish::native("main", "").command(&["/bin/nothing-here"]));
    let error = member
        .expect("CRI takes it")
        .start()
        .expect_err("it cannot start");
    assert!(error.message().contains("/bin/nothing-here"), "{error}");
    pod.remove();
}

#[test]
fn both_halves_of_a_mixed_pod_share_a_volume_and_tell_their_ends() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let cri = node.cri();
    let pod = cri.pod("mixed");
    let volume = node.scratch().join("volume");
    fs::create_dir(&volume).expect("our own folder");
    let native = Wish::native(
        "native",
        "echo from native > /data/native; echo ready; exec sleep 1000",
    );
    let native = pod.start(&native.volume(&volume, "/data"));
    native.says("ready");

    let reader =
        pod.start(&Wish::wasm("reader", &["cat", "/data/native"]).volume(&volume, "/data"));
    reader.says("from native");
    assert_eq!(reader.wait(), (0, "Completed".to_owned()));
    let words = ["write", "/data/wasm", "from wasm"];
    let writer = pod.start(&Wish::wasm("writer", &words).volume(&volume, "/data"));
    assert_eq!(writer.wait().0, 0);
    assert_eq!(native.exec(&["/bin/cat", "/data/wasm"]).1, "from wasm\n");

    let seven = pod.start(&Wish::wasm("seven", &["exit", "7"]));
    assert_eq!(seven.wait(), (7, "Error".to_owned()));
    let trap = pod.start(&Wish::wasm("trap", &["trap"]));
    assert_eq!(trap.wait().0, 134);
    trap.says("unreachable");
    pod.remove();
}

#[test]
fn both_halves_of_a_mixed_pod_reach_each_other_on_localhost() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let cri = node.cri();
    let pod = cri.pod("localhost");
    let serve = "mkdir /www; echo from native > /www/index.html; echo ready; \
                 exec httpd -f -p 127.0.0.1:8081 -h /www";
    let native = pod.start(&Wish::native("native", serve));
    native.says("ready");
    let _wasm = pod.start(&Wish::ambassador("wasm", "sesame", 8081));
    // From native to wasm on 8080, and from there to native on 8081.
    let token = "Authorization: Bearer sesame";
    let url = "http://127.0.0.1:8080/";
    let answer = wait::until("the component to answer", || {
        let ask = ["/bin/wget", "-q", "-O", "-", "--header", token, url];
        let (code, stdout, _) = native.exec(&ask);
        (code == 0).then_some(stdout)
    });
    assert_eq!(answer, "from native\n");
    let (code, _, stderr) = native.exec(&["/bin/wget", "-O", "-", url]);
    assert_ne!(code, 0);
    assert!(stderr.contains("401"), "{stderr}");
    pod.remove();
}

#[test]
fn a_wasm_member_is_measured_and_stopped_like_any_other() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let cri = node.cri();
    let pod = cri.pod("wasm");
    let member = pod.start(&Wish::wasm("spin", &["spin"]));
    member.says("spinning");
    let stats = member.stats();
    let memory = stats
        .memory
        .and_then(|memory| memory.working_set_bytes)
        .expect("memory");
    assert!(memory.value > 0);
    // What probes and hooks run, of an image that has none of it.
    let (code, said, errors) = member.exec(&["cat", "/motd"]);
    assert_eq!(
        (code, said.as_str()),
        (0, "a file of the image\n"),
        "{errors}"
    );
    assert_eq!(member.exec(&["test", "-f", "/nothing"]).0, 1);
    assert_eq!(member.exec(&["/probe.wasm", "exit", "9"]).0, 9);
    member.stop(Duration::from_secs(30));
    assert_eq!(member.wait().0, 143);
    pod.remove();
}

#[test]
fn a_guest_is_typed_to_and_interrupted_on_its_terminal() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let cri = node.cri();
    let pod = cri.pod_with("typed", |config| {
        let name = "io.containerd.duet.v1.preview3".to_owned();
        config.annotations.insert(name, "true".to_owned());
    });
    let member = pod.start(&Wish::wasm("idle", &["idle"]));
    member.says("idle");
    // Previews 1, 2 and 3; the end of input is typed too.
    for program in [
        &["/probe.wasm", "copy"][..],
        &["cat"],
        &["/probe-p3.wasm", "upper"],
    ] {
        let ended = member.exec_streaming(program, "A LINE\n\u{4}", true);
        // Once the terminal's echo, once the guest's.
        let lines = ended.stdout.matches("A LINE\r\n").count();
        assert_eq!((lines, ended.code), (2, 0), "{program:?}: {ended:?}");
    }
    for program in ["/probe.wasm", "/probe-p3.wasm"] {
        let ended = member.exec_streaming(&[program, "spin"], "\u{3}", true);
        assert_eq!(ended.code, 130, "{program}: {ended:?}");
    }
    pod.remove();
}

#[test]
fn why_a_guest_was_not_started_is_in_its_log() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let cri = node.cri();
    let pod = cri.pod("broken");
    for (name, program, why) in [
        (
            "lacking",
            "/missing-import.wasm",
            "imports \"nothing\" from \"nowhere\"",
        ),
        ("short", "/truncated.wasm", "/truncated.wasm: cut off after"),
        (
            "gone",
            "/gone.wasm",
            "/gone.wasm: no such file or directory, and no wasm layer was found in the image",
        ),
    ] {
        let wish = Wish::wasm(name, &[]).command(&[program]);
        let member = pod.create(&wish).expect("only its start reads the module");
        let refused = member.start().expect_err("the module is refused");
        assert!(refused.message().contains(why), "{refused}");
        member.says(why);
        assert!(member.log().iter().all(|(stream, _)| stream == "stderr"));
    }
    pod.remove();
}

/// `start` leaves its answer in the bundle that it is run in.
#[test]
fn a_container_of_a_pod_costs_no_start_of_its_own() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let cri = node.cri();
    let pod = cri.pod("cheap");
    let main = pod.start(&Wish::native("main", FOREVER));
    let [tasks, ..] = node.daemon().task_dirs("k8s.io");
    let was_started = tasks.join(main.id()).join("address").exists();
    assert_eq!(was_started, !node.daemon().is_2());
    pod.remove();
}
