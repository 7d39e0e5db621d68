//! One container, from Create to Delete, with everything that can be asked in between.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use duet_pod::{ContainerError, Denied, Error, Phase, Stdio};

use crate::rig::{process, with};

fn denied(error: Error) -> Denied {
    let Error::Container {
        source: ContainerError::Denied(why),
        ..
    } = error
    else {
        panic!("not denied: {error:?}")
    };
    why
}

#[test]
fn a_program_runs_and_its_code_comes_back() {
    with(async |mut rig| {
        let (stdout, text) = rig.sink("out");
        let bundle = rig
            .bundle("web", &["sh", "-c", "echo hello; exit 7"])
            .stdio("", &stdout);
        let pid = bundle.create().await.unwrap();
        let state = rig.pod.state("web", None).await.unwrap();
        assert_eq!((state.pid, state.phase), (pid, Phase::Created));
        assert!(!rig.pod.is_empty());
        rig.pod.start("web", None).await.unwrap();
        let (one, two) = tokio::join!(rig.pod.wait("web", None), rig.pod.wait("web", None));
        assert_eq!((one.unwrap().code, two.unwrap().code), (7, 7));
        assert_eq!(text.await.unwrap(), "hello\n");
        assert_eq!(
            rig.pod.wait("web", None).await.unwrap().code,
            7,
            "after the exit too"
        );
        let state = rig.pod.state("web", None).await.unwrap();
        assert_eq!(state.phase, Phase::Stopped);
        rig.pod.stats("web").await.expect("until it is deleted");
        let gone = denied(rig.pod.kill("web", None, 9, false).await.unwrap_err());
        assert_eq!(gone, Denied::AlreadyStopped);
        let deleted = rig.pod.delete("web", None).await.unwrap();
        assert_eq!((deleted.pid, deleted.exit.code), (pid, 7));
        assert!(matches!(
            rig.pod.state("web", None).await,
            Err(Error::Unknown { .. })
        ));
        assert!(rig.pod.is_empty());
        assert_eq!(
            rig.facts(),
            ["created web", "started web", "exited web 7", "deleted web"]
        );
    });
}

#[test]
fn a_running_container_is_killed_before_it_is_deleted() {
    with(async |mut rig| {
        rig.bundle("web", &["sleep", "100"]).start().await;
        let again = rig.bundle("web", &["true"]).create().await.unwrap_err();
        assert!(matches!(again, Error::Exists { .. }));
        let why = denied(rig.pod.delete("web", None).await.unwrap_err());
        assert!(matches!(why, Denied::WrongState { .. }));
        rig.pod.kill("web", None, 9, false).await.unwrap();
        assert_eq!(rig.finish("web").await.code, 137);
        assert_eq!(
            rig.facts(),
            [
                "created web",
                "started web",
                "exited web 137",
                "deleted web"
            ]
        );
    });
}

#[test]
fn a_container_that_never_started_is_deleted() {
    with(async |mut rig| {
        rig.bundle("web", &["true"]).create().await.unwrap();
        let deleted = rig.pod.delete("web", None).await.unwrap();
        assert_eq!(deleted.exit.code, 137);
        assert_eq!(
            rig.facts(),
            ["created web", "exited web 137", "deleted web"]
        );
    });
}

#[test]
fn a_container_whose_process_is_killed_before_its_start_is_stopped() {
    with(async |mut rig| {
        let pid = rig.bundle("web", &["true"]).create().await.unwrap();
        // As the kernel does when memory is short.
        let pidfd = duet_linux::process::pidfd_open(pid).unwrap();
        duet_linux::process::send_signal(&pidfd, 9).unwrap();
        assert_eq!(rig.pod.wait("web", None).await.unwrap().code, 137);
        let state = rig.pod.state("web", None).await.unwrap();
        assert_eq!((state.pid, state.phase), (pid, Phase::Stopped));
        let why = denied(rig.pod.start("web", None).await.unwrap_err());
        assert!(matches!(why, Denied::WrongState { .. }), "{why}");
        assert_eq!(rig.pod.delete("web", None).await.unwrap().exit.code, 137);
        assert_eq!(
            rig.facts(),
            ["created web", "exited web 137", "deleted web"]
        );
    });
}

#[test]
fn a_program_that_is_missing_fails_and_leaves_nothing() {
    with(async |mut rig| {
        let error = rig
            .bundle("web", &["/bin/nope"])
            .create()
            .await
            .unwrap_err();
        let text = format!("{}", std::error::Error::source(&error).unwrap());
        assert!(text.contains("/bin/nope"), "{text}");
        assert!(rig.pod.is_empty());
        assert!(rig.facts().is_empty());
        let error = rig
            .bundle("web", &["true"])
            .stdio("", "/nonexistent")
            .create()
            .await;
        assert!(error.is_err() && rig.pod.is_empty());
    });
}

#[test]
fn execs_come_and_go_and_init_s_exit_is_the_last() {
    with(async |mut rig| {
        let init = rig.bundle("web", &["sleep", "100"]).start().await;
        let (stdout, text) = rig.sink("out");
        let stdio = Stdio {
            stdout,
            ..Stdio::default()
        };
        let say = process(&["sh", "-c", "echo exec; exit 3"], false);
        rig.pod
            .exec("web", "e1", &say, stdio.clone())
            .await
            .unwrap();
        let twice = rig.pod.exec("web", "e1", &say, stdio).await.unwrap_err();
        assert!(matches!(
            twice,
            Error::Container {
                source: ContainerError::ExecExists { .. },
                ..
            }
        ));
        let why = denied(rig.pod.kill("web", Some("e1"), 9, false).await.unwrap_err());
        assert_eq!(why, Denied::NotStarted);
        rig.pod.start("web", Some("e1")).await.unwrap();
        assert_eq!(rig.pod.wait("web", Some("e1")).await.unwrap().code, 3);
        assert_eq!(text.await.unwrap(), "exec\n");
        rig.pod.delete("web", Some("e1")).await.unwrap();
        let sleep = process(&["sleep", "100"], false);
        rig.pod
            .exec("web", "e2", &sleep, Stdio::default())
            .await
            .unwrap();
        let pid = rig.pod.start("web", Some("e2")).await.unwrap();
        let mut pids = rig.pod.pids("web").await.unwrap();
        pids.sort_unstable();
        assert_eq!(pids, [(init, None), (pid, Some("e2".to_owned()))]);
        let nope = process(&["/bin/nope"], false);
        rig.pod
            .exec("web", "e3", &nope, Stdio::default())
            .await
            .unwrap();
        rig.pod.start("web", Some("e3")).await.unwrap_err();
        rig.pod.delete("web", Some("e3")).await.unwrap();
        rig.pod.kill("web", None, 9, true).await.unwrap();
        rig.finish("web").await;
        let facts = rig.facts();
        assert_eq!(
            facts,
            [
                "created web",
                "started web",
                "added e1",
                "started e1",
                "exited e1 3",
                "added e2",
                "started e2",
                "added e3",
                "exited e2 137",
                "exited web 137",
                "deleted web",
            ]
        );
    });
}

#[test]
fn stdin_arrives_and_close_io_ends_it() {
    with(async |rig| {
        let (stdout, text) = rig.sink("out");
        let stdin = rig.fifo("in");
        rig.bundle("web", &["cat"])
            .stdio(&stdin, &stdout)
            .start()
            .await;
        let mut writer = OpenOptions::new().write(true).open(&stdin).unwrap();
        writer.write_all(b"through and back").unwrap();
        rig.pod.close_io("web", None).await.unwrap();
        drop(writer);
        assert_eq!(rig.finish("web").await.code, 0);
        assert_eq!(text.await.unwrap(), "through and back");
    });
}

#[test]
fn a_terminal_is_sized_and_its_output_complete() {
    with(async |rig| {
        let (stdout, text) = rig.sink("out");
        let stdin = rig.fifo("in");
        let script = "read line; stty size; echo $line; dd if=/dev/zero bs=1k count=300 | cat";
        let bundle = rig
            .bundle("web", &["sh", "-c", script])
            .stdio(&stdin, &stdout)
            .terminal();
        bundle.start().await;
        rig.pod.resize("web", None, 132, 43).await.unwrap();
        let mut writer = OpenOptions::new().write(true).open(&stdin).unwrap();
        writer.write_all(b"typed\n").unwrap();
        assert_eq!(rig.finish("web").await.code, 0);
        let text = text.await.unwrap();
        assert!(text.contains("43 132\r\ntyped\r\n"), "{:.100}", text);
        assert_eq!(text.matches('\0').count(), 300 * 1024);
    });
}

#[test]
fn an_exec_is_on_a_terminal_if_its_request_says_so_whatever_its_document_does() {
    with(async |rig| {
        rig.bundle("web", &["sleep", "100"]).start().await;
        for terminal in [true, false] {
            let (stdout, text) = rig.sink(if terminal { "on" } else { "off" });
            let stdio = Stdio {
                stdout,
                terminal,
                ..Stdio::default()
            };
            let asks = process(&["sh", "-c", "tty <&1"], !terminal);
            rig.pod.exec("web", "e", &asks, stdio).await.unwrap();
            rig.pod.start("web", Some("e")).await.unwrap();
            let code = rig.pod.wait("web", Some("e")).await.unwrap().code;
            assert_eq!(code, u8::from(!terminal));
            assert_eq!(text.await.unwrap().contains("/dev/pts/"), terminal);
            rig.pod.delete("web", Some("e")).await.unwrap();
        }
        rig.pod.kill("web", None, 9, true).await.unwrap();
        rig.finish("web").await;
    });
}

#[test]
fn an_exec_starts_with_the_size_that_its_terminal_was_given_before() {
    with(async |rig| {
        rig.bundle("web", &["sleep", "100"]).start().await;
        rig.pod.resize("web", None, 132, 43).await.unwrap();
        for terminal in [true, false] {
            let (stdout, text) = rig.sink(if terminal { "on" } else { "off" });
            let stdio = Stdio {
                stdout,
                terminal,
                ..Stdio::default()
            };
            let asks = process(&["sh", "-c", "stty size <&1; true"], terminal);
            rig.pod.exec("web", "e", &asks, stdio).await.unwrap();
            // Without one there is nothing to size, which is no error.
            let resize = rig.pod.resize("web", Some("e"), 132, 43);
            resize.await.unwrap();
            rig.pod.start("web", Some("e")).await.unwrap();
            rig.pod.wait("web", Some("e")).await.unwrap();
            assert_eq!(text.await.unwrap().contains("43 132"), terminal);
            rig.pod.delete("web", Some("e")).await.unwrap();
        }
        rig.pod.kill("web", None, 9, true).await.unwrap();
        rig.finish("web").await;
    });
}

#[test]
fn a_paused_container_waits_and_dies_of_sigkill() {
    with(async |mut rig| {
        rig.bundle("web", &["sleep", "100"]).start().await;
        rig.pod.pause("web").await.unwrap();
        assert_eq!(
            rig.pod.state("web", None).await.unwrap().phase,
            Phase::Paused
        );
        let why = denied(rig.pod.pause("web").await.unwrap_err());
        assert!(matches!(why, Denied::WrongState { .. }));
        rig.pod.resume("web").await.unwrap();
        rig.pod.pause("web").await.unwrap();
        rig.pod.kill("web", None, 9, false).await.unwrap();
        assert_eq!(rig.finish("web").await.code, 137);
        let facts = rig.facts();
        assert_eq!(facts[2..5], ["paused web", "resumed web", "paused web"]);
    });
}

#[test]
fn a_kill_for_want_of_memory_is_told_before_the_exit() {
    with(async |mut rig| {
        let hog = ["sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1"];
        rig.bundle("web", &hog).memory(8 << 20).start().await;
        rig.finish("web").await;
        let facts = rig.facts();
        let at = |word: &str| facts.iter().position(|fact| fact.starts_with(word));
        assert!(
            at("oom web").is_some() && at("oom web") < at("exited web"),
            "{facts:?}"
        );
    });
}

#[test]
fn kills_that_are_seen_at_once_are_told_once() {
    with(async |mut rig| {
        let hog = "dd if=/dev/zero of=/dev/null bs=64M count=1";
        let wait = "until [ -e /tmp/go ]; do sleep 0.01; done";
        let script = format!("{wait}; {hog}; {hog}; exec sleep 1000");
        let bundle = rig.bundle("web", &["sh", "-c", &script]);
        let pid = bundle.memory(8 << 20).start().await;
        let own = format!("{}/web", rig.parent());
        let v1 = format!("/sys/fs/cgroup/memory{own}/memory.oom_control");
        let v2 = format!("/sys/fs/cgroup{own}/memory.events");
        let kills = || {
            let text = std::fs::read_to_string(&v1).or_else(|_| std::fs::read_to_string(&v2));
            let text = text.unwrap();
            let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
            kills.unwrap().parse::<u32>().unwrap()
        };
        // From here on on the only thread of the runtime: the pod has no look at the count before it is two.
        std::fs::write(format!("/proc/{pid}/root/tmp/go"), "").unwrap();
        let begun = std::time::Instant::now();
        while kills() < 2 {
            let waited = begun.elapsed();
            assert!(waited < Duration::from_secs(60), "{} kills", kills());
            std::thread::yield_now();
        }
        rig.pod.kill("web", None, 9, false).await.unwrap();
        rig.finish("web").await;
        let facts = rig.facts();
        let told = facts.iter().filter(|fact| *fact == "oom web");
        assert_eq!(told.count(), 1, "{facts:?}");
    });
}

#[test]
fn limits_change_in_place() {
    with(async |rig| {
        rig.bundle("web", &["sleep", "100"])
            .memory(64 << 20)
            .start()
            .await;
        let memory = || {
            let own = format!("{}/web", rig.parent());
            let v1 = format!("/sys/fs/cgroup/memory{own}/memory.limit_in_bytes");
            let v2 = format!("/sys/fs/cgroup{own}/memory.max");
            let text = std::fs::read_to_string(v1).or_else(|_| std::fs::read_to_string(v2));
            text.unwrap().trim().to_owned()
        };
        assert_eq!(memory(), "67108864");
        rig.pod
            .update("web", br#"{"memory":{"limit":33554432}}"#)
            .await
            .unwrap();
        assert_eq!(memory(), "33554432");
        rig.pod.update("web", b"{").await.unwrap_err();
        assert_eq!(memory(), "33554432");
        rig.pod.kill("web", None, 9, true).await.unwrap();
        rig.finish("web").await;
    });
}

#[test]
fn a_life_goes_by_while_another_container_is_being_created() {
    with(async |rig| {
        let (here, go) = (rig.fifo("here"), rig.fifo("go"));
        let hook = rig.script("wait", "echo here >$DIR/here; read word <$DIR/go");
        let (arrived, waits) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || arrived.send(std::fs::read_to_string(here).unwrap()));
        let slow = rig
            .bundle("slow", &["true"])
            .hook("createRuntime", &[&hook], "")
            .create();
        let quick = async {
            assert_eq!(waits.await.unwrap(), "here\n");
            rig.bundle("quick", &["sleep", "100"]).start().await;
            let exec = process(&["true"], false);
            let stdio = Stdio::default();
            rig.pod.exec("quick", "e", &exec, stdio).await.unwrap();
            rig.pod.start("quick", Some("e")).await.unwrap();
            assert_eq!(rig.pod.wait("quick", Some("e")).await.unwrap().code, 0);
            rig.pod.stats("quick").await.unwrap();
            rig.pod.pause("quick").await.unwrap();
            rig.pod.resume("quick").await.unwrap();
            rig.pod.kill("quick", None, 9, true).await.unwrap();
            assert_eq!(rig.finish("quick").await.code, 137);
            // Only now may the other be born. Opened for both, it waits for nobody.
            let both = OpenOptions::new().read(true).write(true).open(go);
            let mut go = both.unwrap();
            go.write_all(b"go\n").unwrap();
            go
        };
        let (slow, _go) = tokio::join!(slow, quick);
        slow.unwrap();
        rig.pod.start("slow", None).await.unwrap();
        assert_eq!(rig.finish("slow").await.code, 0);
    });
}

#[test]
fn no_call_waits_for_another_container() {
    with(async |mut rig| {
        let ids: Vec<String> = (0..8).map(|number| format!("c{number}")).collect();
        for id in &ids {
            rig.bundle(id, &["true"]).create().await.unwrap();
        }
        let pod = rig.pod.clone();
        let mut tasks = tokio::task::JoinSet::new();
        for id in ids {
            let pod = pod.clone();
            tasks.spawn(async move {
                pod.start(&id, None).await.unwrap();
                assert_eq!(pod.wait(&id, None).await.unwrap().code, 0);
                pod.delete(&id, None).await.unwrap();
                id
            });
        }
        let ids = tasks.join_all().await;
        let facts = rig.facts();
        for id in ids {
            let of: Vec<_> = facts.iter().filter(|fact| fact.contains(&id)).collect();
            let expected = [
                format!("created {id}"),
                format!("started {id}"),
                format!("exited {id} 0"),
                format!("deleted {id}"),
            ];
            assert_eq!(of, expected.iter().collect::<Vec<_>>());
        }
    });
}
