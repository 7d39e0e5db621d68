//! Programs that `config.json` wants at points of a container's life.

use std::fs;
use std::path::Path;

use duet_pod::Error;
use duet_pod::clean::clean;

use crate::rig::{Rig, with};

/// Writes to `$DIR/trace` when it is and where: `name status [inside]`.
const NOTE: &str = r#"
state=$(cat)
status=${state#*\"status\":\"}
line="$1 ${status%%\"*}"
[ "$(readlink /proc/self/ns/mnt)" = "$(cat $DIR/ns)" ] || line="$line inside"
grep -q " $DIR/bundles/web/rootfs/proc " /proc/self/mountinfo && line="$line mounts"
case $state in *\"pid\":1[,}]*) line="$line pid=1" ;; esac
case $state in *\"id\":\"web\"*) ;; *) line="$line nobody" ;; esac
[ "$PWD" = "$DIR/bundles/web" ] && line="$line bundle"
echo "$line $A" >>$DIR/trace"#;

fn note(rig: &Rig) -> String {
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    fs::write(rig.path().join("ns"), own.to_str().unwrap()).unwrap();
    rig.script("note", NOTE)
}

fn trace(rig: &Rig) -> String {
    fs::read_to_string(rig.path().join("trace")).unwrap_or_default()
}

pub(crate) fn text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        text += &format!(": {error}");
        next = error.source();
    }
    text
}

#[test]
fn six_hooks_run_in_order_and_on_their_side_of_the_pivot() {
    with(async |rig| {
        let path = note(&rig);
        let hook = path.as_str();
        let env = r#","env":["A=1"]"#;
        let bundle = rig
            .bundle("web", &["sh", "-c", "cat /made /state"])
            .hook("poststop", &[hook, "poststop"], "")
            .hook("prestart", &[hook, "prestart"], env)
            .hook("createRuntime", &[hook, "createRuntime"], "")
            .hook("poststart", &[hook, "poststart"], "");
        let made = rig.path().join("bundles/web/rootfs/made");
        let made = format!("echo made >{}; . {hook}", made.display());
        let create = ["/bin/sh", "-c", &made, "createContainer"];
        let start = [
            "/bin/sh",
            "-c",
            "cat >/state; echo $0 $PPID; [ $$ -gt 1 ]",
            "zero",
        ];
        let (stdout, read) = rig.sink("out");
        let bundle = bundle
            .hook("createContainer", &create, "")
            .hook("startContainer", &start, r#","env":["PATH=/bin"]"#)
            .stdio("", &stdout);
        bundle.start().await;
        let begun = "prestart creating bundle 1\ncreateRuntime creating bundle \n";
        let inside = " creating inside mounts pid=1 \n";
        let so_far = trace(&rig);
        let rest = so_far
            .strip_prefix(begun)
            .unwrap_or_else(|| panic!("{so_far}"));
        assert_eq!(rest, format!("{inside}poststart running bundle \n"));
        assert_eq!(rig.finish("web").await.code, 0);
        assert!(trace(&rig).ends_with("poststop stopped bundle \n"));
        let out = read.await.unwrap();
        assert!(out.starts_with("made\n"), "{out}");
        assert!(
            out.contains(r#""status":"created""#) && out.contains(r#""pid":1"#),
            "{out}"
        );
    });
}

#[test]
fn a_hook_without_an_environment_has_that_of_whoever_runs_it() {
    with(async |rig| {
        // As it was given to the shell: to `env` busybox's says a PATH that it makes up.
        let path = rig.script("env", "tr '\\0' '\\n' </proc/self/environ >$DIR/$1");
        let hook = path.as_str();
        let (empty, named) = (r#","env":[]"#, r#","env":["A=1"]"#);
        let inside = ["/bin/dd", "if=/proc/self/environ", "of=/seen"];
        let (stdout, read) = rig.sink("out");
        let bundle = rig
            .bundle("web", &["cat", "/seen"])
            .hook("prestart", &[hook, "prestart"], "")
            .hook("createRuntime", &[hook, "createRuntime"], empty)
            .hook("createContainer", &[hook, "createContainer"], "")
            .hook("startContainer", &inside, "")
            .hook("poststart", &[hook, "poststart"], named)
            .hook("poststop", &[hook, "poststop"], "");
        bundle.stdio("", &stdout).start().await;
        assert_eq!(rig.finish("web").await.code, 0);

        let own = format!("PATH={}", std::env::var("PATH").unwrap());
        let has = |moment: &str, entry: &str| {
            let seen = fs::read_to_string(rig.path().join(moment)).unwrap();
            seen.lines().any(|line| line.starts_with(entry))
        };
        assert!(has("prestart", &own) && has("poststop", &own));
        for moment in ["createRuntime", "createContainer", "poststart"] {
            assert!(!has(moment, "PATH="), "{moment}");
        }
        assert!(has("poststart", "A=1") && !has("prestart", "A=1"));
        assert_eq!(read.await.unwrap(), "PATH=/bin\0TERM=xterm\0HOME=/\0");
    });
}

#[test]
fn a_hook_that_fails_before_the_program_fails_the_call_and_leaves_nothing() {
    with(async |mut rig| {
        let hook = rig.script("fails", "echo \"$1: no luck\" >&2; exit 3");
        let stop = rig.script("stop", "echo stop >>$DIR/trace");
        for moment in ["prestart", "createRuntime", "createContainer"] {
            let bundle = rig.bundle("web", &["true"]);
            let bundle = bundle.hook(moment, &[&hook, moment], "");
            let error = bundle.hook("poststop", &[&stop], "").create().await;
            let why = format!(
                "container web: hooks.{moment}[0] {hook:?}: ended with code 3; it wrote: {moment}: no luck"
            );
            assert_eq!(text(&error.unwrap_err()), why);
            assert!(rig.pod.is_empty() && rig.facts().is_empty());
        }
        assert_eq!(trace(&rig), "stop\n".repeat(3), "each was created so far");

        let inside = ["/bin/sh", "-c", "echo inside; exit 4"];
        let bundle = rig.bundle("web", &["true"]);
        let bundle = bundle.hook("startContainer", &inside, "");
        bundle
            .hook("poststop", &[&stop], "")
            .create()
            .await
            .unwrap();
        let error = rig.pod.start("web", None).await.unwrap_err();
        let why = "container web: hooks.startContainer[0] \"/bin/sh\": ended with code 4; it wrote: inside";
        assert_eq!(text(&error), why);
        rig.finish("web").await;
        assert_eq!(trace(&rig), "stop\n".repeat(4));

        let missing = rig.bundle("web", &["true"]);
        let missing = missing.hook("createRuntime", &["/bin/nope"], "");
        let error = text(&missing.create().await.unwrap_err());
        let why = "container web: hooks.createRuntime[0] \"/bin/nope\": exec: \"/bin/nope\": no such file";
        assert!(error.starts_with(why), "{error}");
    });
}

#[test]
fn a_hook_that_hangs_is_killed_with_what_it_started() {
    with(async |rig| {
        let hangs = "echo waiting; sleep 1000 & echo $! >$DIR/$1; wait";
        let hook = rig.script("hangs", hangs);
        let fails = async |id: &str, moment: &str| {
            let bundle = rig.bundle(id, &["true"]);
            let bundle = bundle.hook(moment, &[&hook, id], r#","timeout":5"#);
            let error = text(&bundle.create().await.unwrap_err());
            let why = "did not end in 5 s and was killed; it wrote: waiting";
            assert!(error.ends_with(why), "{error}");
            let pid = fs::read_to_string(rig.path().join(id)).unwrap();
            assert!(!pid.trim().is_empty());
            loop {
                // Killed with the hook; the reaper may need a moment.
                if !Path::new("/proc").join(pid.trim()).exists() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(fails("one", "createRuntime"), fails("two", "prestart"));
    });
}

#[test]
fn a_hook_that_never_stops_writing_is_killed_too() {
    with(async |rig| {
        let bundle = rig.bundle("web", &["true"]);
        let hook = ["/bin/sh", "-c", "exec yes"];
        let bundle = bundle.hook("createRuntime", &hook, r#","timeout":5"#);
        let error = text(&bundle.create().await.unwrap_err());
        let why = "did not end in 5 s and was killed; it wrote: ";
        assert!(error.contains(why) && error.ends_with("y\ny"), "{error}");
        assert!(rig.pod.is_empty());
    });
}

#[test]
fn a_program_whose_poststart_hook_fails_is_ended_and_the_hook_named() {
    with(async |rig| {
        let bundle = rig.bundle("web", &["sleep", "1000"]);
        let bundle = bundle.hook("poststart", &["/bin/false"], "");
        bundle.create().await.unwrap();
        let error = text(&rig.pod.start("web", None).await.unwrap_err());
        assert!(error.contains("hooks.poststart[0]"), "{error}");
        assert_eq!(rig.finish("web").await.code, 137);
    });
}

#[test]
fn a_poststop_hook_that_fails_changes_nothing() {
    with(async |rig| {
        let bundle = rig.bundle("web", &["sleep", "1000"]);
        bundle.hook("poststop", &["/bin/false"], "").start().await;
        rig.pod.kill("web", None, 9, false).await.unwrap();
        assert_eq!(rig.finish("web").await.code, 137);
    });
}

#[test]
fn the_poststop_hooks_of_a_killed_shim_s_container_run_once() {
    with(async |rig| {
        let stop = rig.script("stop", "echo stop >>$DIR/trace");
        let bundle = rig.bundle("web", &["sleep", "1000"]);
        bundle.hook("poststop", &[&stop], "").start().await;
        for cleaned in [1, 0] {
            let shim = rig.shim();
            let found = tokio::task::spawn_blocking(move || clean(&shim, None)).await;
            assert_eq!(found.unwrap().unwrap().len(), cleaned);
        }
        assert_eq!(trace(&rig), "stop\n");
        // The pod itself is still there in this test, and knows that they were run.
        rig.finish("web").await;
        assert_eq!(trace(&rig), "stop\n");
    });
}
