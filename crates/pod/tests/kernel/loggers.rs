//! Programs of the host's that read what a container writes.

use std::fs;
use std::path::Path;

use duet_pod::Stdio;
use duet_pod::clean::clean;

use crate::rig::{process, with};

/// Says that it is ready, and writes both outputs to `$DIR/log`.
const KEEPS: &str = r#"
exec >$DIR/log
echo "$CONTAINER_NAMESPACE/$CONTAINER_ID $*"
echo $$ >$DIR/pid
exec 5>&-
cat <&3 3<&- 4<&- &
cat <&4 3<&- 4<&-
wait"#;

fn runs(pid: &str) -> bool {
    Path::new("/proc").join(pid.trim()).exists()
}

#[test]
fn one_logger_reads_both_outputs_and_is_gone_after_delete() {
    with(async |rig| {
        let uri = format!("binary://{}?--level=7", rig.script("logger", KEEPS));
        let script = "echo out; echo err >&2; sleep 0.1; echo last";
        let bundle = rig.bundle("web", &["sh", "-c", script]);
        bundle.stdio("", &uri).start().await;
        assert_eq!(rig.finish("web").await.code, 0);
        let log = fs::read_to_string(rig.path().join("log")).unwrap();
        assert!(log.starts_with("test/web --level 7\n"), "{log}");
        for line in ["out", "err", "last"] {
            assert!(log.lines().any(|found| found == line), "{log}");
        }
        let pid = fs::read_to_string(rig.path().join("pid")).unwrap();
        assert!(!runs(&pid), "the logger is left");
    });
}

#[test]
fn a_terminal_and_an_exec_have_loggers_too() {
    with(async |rig| {
        let logger = rig.script("logger", KEEPS);
        let uri = format!("binary://{logger}");
        let bundle = rig.bundle("web", &["sh", "-c", "tty; sleep 1000"]);
        bundle.terminal().stdio("", &uri).start().await;
        let log = async || {
            loop {
                let log = fs::read_to_string(rig.path().join("log")).unwrap_or_default();
                // The terminal's driver writes the end of a line by itself.
                if log.lines().count() > 1 && log.ends_with('\n') {
                    return log;
                }
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(log().await, "test/web \n/dev/pts/0\r\n");
        let first = fs::read_to_string(rig.path().join("pid")).unwrap();

        let stdio = Stdio {
            stdout: uri.clone(),
            ..Stdio::default()
        };
        let exec = process(&["echo", "hello"], false);
        rig.pod.exec("web", "e1", &exec, stdio).await.unwrap();
        rig.pod.start("web", Some("e1")).await.unwrap();
        rig.pod.wait("web", Some("e1")).await.unwrap();
        rig.pod.delete("web", Some("e1")).await.unwrap();
        assert_eq!(log().await, "test/e1 \nhello\n");
        let second = fs::read_to_string(rig.path().join("pid")).unwrap();
        assert!(runs(&first) && !runs(&second));

        rig.pod.kill("web", None, 9, false).await.unwrap();
        rig.finish("web").await;
        assert!(!runs(&first));
    });
}

#[test]
fn a_container_s_delete_waits_for_what_an_exec_s_delete_waits_for() {
    with(async |rig| {
        // Takes longer for its last line than the removal of a container does.
        let slow = "exec 5>&-; cat <&3 >/dev/null; until [ -e $DIR/go ]; do sleep 0.01; done; \
                    sleep 0.3; echo last >$DIR/log";
        let stdout = format!("binary://{}", rig.script("logger", slow));
        rig.bundle("web", &["sleep", "1000"]).start().await;
        let stdio = Stdio {
            stdout,
            ..Stdio::default()
        };
        let exec = process(&["true"], false);
        rig.pod.exec("web", "e1", &exec, stdio).await.unwrap();
        rig.pod.start("web", Some("e1")).await.unwrap();
        rig.pod.wait("web", Some("e1")).await.unwrap();
        let after = async {
            rig.pod.kill("web", None, 9, false).await.unwrap();
            rig.pod.wait("web", None).await.unwrap();
            let (deleted, ()) = tokio::join!(rig.pod.delete("web", None), async {
                // Answered after the Delete was heard.
                rig.pod.state("web", None).await.unwrap();
                fs::write(rig.path().join("go"), "").unwrap();
            });
            deleted
        };
        let (exec, container) = tokio::join!(rig.pod.delete("web", Some("e1")), after);
        assert_eq!(exec.unwrap().exit.code, 0);
        assert_eq!(container.unwrap().exit.code, 137);
        let log = fs::read_to_string(rig.path().join("log")).unwrap();
        assert_eq!(log, "last\n");
    });
}

#[test]
fn a_logger_that_dies_takes_no_container_along() {
    with(async |rig| {
        let dies = "printf x >&5; read line <&3; exit 1";
        let uri = format!("binary-v2://{}", rig.script("logger", dies));
        let script = "echo go; dd if=/dev/zero bs=64k count=16 2>/dev/null && exit 9";
        let bundle = rig.bundle("web", &["sh", "-c", script]);
        bundle.stdio("", &uri).start().await;
        assert_eq!(
            rig.finish("web").await.code,
            9,
            "neither SIGPIPE nor a wait"
        );
    });
}

#[test]
fn a_logger_that_does_not_see_the_end_is_told_to_end() {
    with(async |rig| {
        let waits = "trap 'echo told >$DIR/log; exit' TERM\nexec 5>&-\nwhile :; do sleep 0.1; done";
        let uri = format!("binary://{}", rig.script("logger", waits));
        rig.bundle("web", &["true"]).stdio("", &uri).start().await;
        rig.finish("web").await;
        assert_eq!(
            fs::read_to_string(rig.path().join("log")).unwrap(),
            "told\n"
        );
    });
}

#[test]
fn a_logger_that_is_not_ready_is_named_and_nothing_is_left() {
    with(async |mut rig| {
        let fails = async |id: &str, uri: String| {
            let bundle = rig.bundle(id, &["true"]).stdio("", &uri);
            let error = bundle.create().await.unwrap_err();
            let mut text = String::new();
            let mut next: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = next {
                text += &format!("{error}: ");
                next = error.source();
            }
            let named = format!("container {id}: stdout {uri:?}: the logger: ");
            text.strip_prefix(&named).unwrap_or(&text).to_owned()
        };
        let silent = rig.script("silent", "echo $$ >$DIR/pid; exec sleep 1000");
        let dead = rig.script("dead", "exit 3");
        let mute = rig.script("mute", "exec 5>&-; sleep 1000");
        let (silent, dead, mute, missing) = tokio::join!(
            fails("silent", format!("binary://{silent}")),
            fails("dead", format!("binary://{dead}")),
            fails("mute", format!("binary-v2://{mute}")),
            fails("missing", "binary:///bin/nope".to_owned()),
        );
        assert_eq!(silent, "was not ready in 10 s: ");
        assert_eq!(dead, "ended with code 3 before it was ready: ");
        let why = "closed descriptor 5 without writing the byte that says it is ready: ";
        assert_eq!(mute, why);
        let why = "exec: \"/bin/nope\": no such file or directory (ENOENT";
        assert!(missing.starts_with(why), "{missing}");
        let pid = fs::read_to_string(rig.path().join("pid")).unwrap();
        assert!(!runs(&pid) && rig.pod.is_empty() && rig.facts().is_empty());
    });
}

#[test]
fn a_killed_shim_s_loggers_are_cleaned_up_after() {
    with(async |rig| {
        let stubborn = "trap '' TERM; echo $$ >$DIR/pid; exec 5>&-; while :; do sleep 1; done";
        let uri = format!("binary://{}", rig.script("logger", stubborn));
        rig.bundle("web", &["sleep", "1000"])
            .stdio("", &uri)
            .start()
            .await;
        let pid = fs::read_to_string(rig.path().join("pid")).unwrap();
        assert!(runs(&pid));
        let shim = rig.shim();
        let cleaned = tokio::task::spawn_blocking(move || clean(&shim, None)).await;
        assert_eq!(cleaned.unwrap().unwrap().len(), 1);
        // The pod itself is still there in this test, and reaps what was killed.
        assert_eq!(rig.finish("web").await.code, 137);
        assert!(!runs(&pid));
    });
}
