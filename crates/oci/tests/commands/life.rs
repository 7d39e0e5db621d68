//! create, start, state, kill, delete, run, and the hooks in between.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use serde_json::json;

use crate::rig::{await_end, said, with};

#[test]
fn a_container_goes_through_every_state_of_the_specification() {
    with(|rig| {
        let pid_file = rig.path().join("pid");
        let file = pid_file.to_str().unwrap();
        rig.ok(&["create", "--pid-file", file, "web"]);
        let pid: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
        let pidfd = duet_linux::process::pidfd_open(pid).unwrap();
        let created = rig.state("web");
        let bundle = fs::canonicalize(rig.bundle()).unwrap();
        for (field, value) in [
            ("id", json!("web")),
            ("status", json!("created")),
            ("pid", json!(pid)),
            ("bundle", json!(bundle)),
            ("annotations", json!({"org.example.key": "value"})),
        ] {
            assert_eq!(created[field], value, "{field}");
        }
        assert!(created["ociVersion"].is_string());

        rig.ok(&["start", "web"]);
        assert_eq!(rig.state("web")["status"], "running");
        let environ = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        assert_eq!(environ, b"sleep\x001000\0");

        // Process 1 of a PID namespace without a handler is not moved by SIGTERM.
        rig.ok(&["kill", "web", "KILL"]);
        await_end(&pidfd);
        rig.await_status("web", "stopped");
        rig.refused(&["kill", "web", "KILL"]);
        rig.ok(&["delete", "web"]);
        rig.refused(&["state", "web"]);
    });
}

#[test]
fn run_gives_its_streams_and_returns_the_code() {
    with(|rig| {
        rig.args(&["sh", "-c", "cat; echo wrong >&2; exit 7"]);
        let mut command = rig.command(&["run", "job"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut running = command.spawn().unwrap();
        let mut stdin = running.stdin.take().unwrap();
        stdin.write_all(b"through").unwrap();
        drop(stdin);
        // All three end: whoever reads the output sees that.
        let said = said(&running.wait_with_output().unwrap());
        assert_eq!(said.code, Some(7), "{said:?}");
        assert_eq!(
            (said.stdout.as_str(), said.stderr.as_str()),
            ("through", "wrong\n")
        );
    });
}

#[test]
fn what_asks_run_to_end_asks_the_container() {
    with(|rig| {
        rig.args(&[
            "sh",
            "-c",
            "trap 'exit 9' TERM; echo ready; while :; do sleep 1; done",
        ]);
        let mut command = rig.command(&["run", "job"]);
        let mut running = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let stdout = running.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let pid = i32::try_from(running.id()).unwrap();
        let pidfd = duet_linux::process::pidfd_open(pid).unwrap();
        duet_linux::process::send_signal(&pidfd, 15).unwrap();
        assert_eq!(running.wait().unwrap().code(), Some(9));
    });
}

#[test]
fn the_master_of_the_terminal_goes_to_the_console_socket() {
    with(|rig| {
        rig.config["process"]["terminal"] = true.into();
        rig.args(&["sh", "-c", "stty size; cat"]);
        rig.config["process"]["consoleSize"] = json!({"height": 24, "width": 80});
        let path = rig.path().join("console");
        let listener = UnixListener::bind(&path).unwrap();
        rig.ok(&["create", "--console-socket", path.to_str().unwrap(), "tty"]);
        let (socket, _) = listener.accept().unwrap();
        let (name, mut files) = duet_linux::channel::take(&socket, 4096).unwrap();
        assert_eq!(name, b"/dev/ptmx");
        let mut master = fs::File::from(files.pop().unwrap());
        assert!(files.is_empty());
        rig.ok(&["start", "tty"]);
        master.write_all(b"typed\n\x04").unwrap();
        // The end of a terminal is EIO, which BufRead reports when nothing is left.
        let lines: Vec<_> = BufReader::new(master)
            .lines()
            .map_while(Result::ok)
            .collect();
        for line in ["24 80", "typed"] {
            assert!(lines.iter().any(|said| said.trim() == line), "{lines:?}");
        }
        rig.await_status("tty", "stopped");
        rig.ok(&["delete", "tty"]);
    });
}

#[test]
fn hooks_run_at_their_moments_and_are_told_the_state() {
    with(|rig| {
        let hook = rig.script(
            "hook",
            r#"tell() { value=${state#*'"'$1'":"'}; echo "${value%%'"'*}"; }
            state=$(cat); echo "$1 $WHICH $(tell status) $(tell ociVersion)" >>$DIR/hooks"#,
        );
        for moment in [
            "prestart",
            "createRuntime",
            "createContainer",
            "poststart",
            "poststop",
        ] {
            let env = [
                format!("WHICH=at-{moment}"),
                "PATH=/bin:/usr/bin".to_owned(),
            ];
            let args = ["hook", moment];
            rig.config["hooks"][moment] = json!([{"path": hook, "args": args, "env": env}]);
        }
        let ran = |rig: &crate::rig::Rig| {
            let text = fs::read_to_string(rig.path().join("hooks")).unwrap_or_default();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let told = |moment, status| {
            // runc tells of its own version.
            let version = if rig.is_duet() { "1.0.2" } else { "1.0.2-dev" };
            format!("{moment} at-{moment} {status} {version}")
        };
        rig.ok(&["create", "hooked"]);
        let moments = ["prestart", "createRuntime", "createContainer"];
        assert_eq!(
            ran(rig)[..3],
            moments.map(|moment| told(moment, "creating"))
        );
        rig.ok(&["start", "hooked"]);
        // Debian 12's runc runs these hooks in `create` already.
        if rig.is_duet() {
            assert_eq!(ran(rig)[3..], [told("poststart", "running")]);
        }
        rig.ok(&["kill", "hooked", "9"]);
        rig.await_status("hooked", "stopped");
        rig.ok(&["delete", "hooked"]);
        assert_eq!(ran(rig)[4..], [told("poststop", "stopped")]);
    });
}

/// A hook that takes too long, of which nobody waits for the end.
fn slow(path: &str) -> serde_json::Value {
    json!([{"path": path, "args": ["sleep", "100"], "timeout": 1}])
}

#[test]
fn hooks_before_the_program_are_killed_at_their_time() {
    with(|rig| {
        if !rig.is_duet() {
            return;
        }
        for moment in ["prestart", "createRuntime", "createContainer"] {
            rig.config["hooks"] = json!({moment: slow("/bin/sleep")});
            let why = rig.refused(&["create", "hooked"]);
            assert!(why.contains(&format!("hooks.{moment}[0]")), "{why}");
            assert!(why.contains("did not end in 1 s"), "{why}");
        }
    });
}

#[test]
fn hooks_of_start_and_after_are_killed_at_their_time() {
    with(|rig| {
        if !rig.is_duet() {
            return;
        }
        // The container's own program.
        rig.config["hooks"] = json!({"startContainer": slow("/bin/sleep")});
        rig.ok(&["create", "hooked"]);
        let why = rig.refused(&["start", "hooked"]);
        assert!(why.contains("hooks.startContainer[0]"), "{why}");
        assert!(why.contains("did not end in 1 s"), "{why}");
        rig.ok(&["delete", "--force", "hooked"]);

        let late = slow("/bin/sleep");
        rig.config["hooks"] = json!({"poststart": late});
        rig.ok(&["create", "hooked"]);
        let why = rig.refused(&["start", "hooked"]);
        assert!(why.contains("hooks.poststart[0]"), "{why}");
        assert!(why.contains("did not end in 1 s"), "{why}");
        rig.ok(&["delete", "--force", "hooked"]);

        rig.config["hooks"] = json!({"poststop": late});
        let log = rig.path().join("log");
        rig.ok(&["--log", log.to_str().unwrap(), "create", "hooked"]);
        rig.ok(&["start", "hooked"]);
        rig.ok(&["delete", "--force", "hooked"]);
        let log = fs::read_to_string(log).unwrap();
        let line = log.lines().find(|line| line.contains("hooks.poststop[0]"));
        assert!(
            line.is_some_and(|line| line.contains("did not end in 1 s")),
            "{log}"
        );
    });
}
