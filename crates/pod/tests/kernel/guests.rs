//! Wasm containers, where `DUET_TEST_BINARIES` names a directory with the runner and the compiler.

use std::error::Error as _;

use crate::rig::with;

#[test]
fn a_guest_runs_and_a_broken_one_is_refused_by_name() {
    if std::env::var_os("DUET_TEST_BINARIES").is_none() {
        eprintln!("skipped: DUET_TEST_BINARIES is not set");
        assert!(
            std::env::var_os("DUET_TEST_REQUIRE").is_none(),
            "DUET_TEST_REQUIRE is set: nothing may be skipped"
        );

        return;
    }
    with(async |rig| {
        let image = rig.path().join("image");
        let probe = include_bytes!("../../../../tests/guests/probe.wasm");
        std::fs::write(image.join("probe.wasm"), probe).unwrap();
        std::fs::write(image.join("bad.wasm"), b"\0asm\x01\0\0\0garbage").unwrap();
        // What is installed under a pod that runs has nothing to do with it.
        for program in ["runner", "compiler"] {
            std::fs::remove_file(rig.path().join(program)).unwrap();
            rig.script(program, "echo this is another build >&2; exit 1");
        }
        for id in ["cold", "warm"] {
            let (stdout, text) = rig.sink(id);
            rig.bundle(id, &["/probe.wasm", "args"])
                .stdio("", &stdout)
                .start()
                .await;
            assert_eq!(rig.finish(id).await.code, 0);
            assert_eq!(text.await.unwrap(), "/probe.wasm\nargs\n");
        }
        let hook = rig.script(
            "hook",
            "grep -c \" $DIR/bundles/hooked/rootfs \" /proc/self/mountinfo >$DIR/hook",
        );
        let inside = ["/bin/sh", "-c", "echo started >/started"];
        let bundle = rig.bundle("hooked", &["/probe.wasm", "args"]);
        let bundle = bundle.hook("createContainer", &[&hook], "");
        bundle.hook("startContainer", &inside, "").start().await;
        assert_eq!(rig.finish("hooked").await.code, 0);
        let seen = std::fs::read_to_string(rig.path().join("hook")).unwrap();
        assert_eq!(
            seen, "2\n",
            "the host's mount of the root, and the container's on it"
        );
        let started = rig.path().join("work/hooked/upper/started");
        assert_eq!(std::fs::read_to_string(started).unwrap(), "started\n");
        let error = rig
            .bundle("bad", &["/bad.wasm"])
            .create()
            .await
            .unwrap_err();
        let why = error.source().unwrap().to_string();
        assert!(why.starts_with("/bad.wasm: "), "{why}");
        assert!(rig.pod.is_empty());
    });
}
