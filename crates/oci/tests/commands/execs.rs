//! Further processes.

use std::fs;
use std::os::unix::net::UnixListener;

use serde_json::json;

use crate::rig::with;

#[test]
fn an_exec_is_like_the_container_but_for_what_is_said() {
    with(|rig| {
        rig.ok(&["create", "web"]);
        rig.ok(&["start", "web"]);
        let script = "id -u; id -g; echo $ADDED in $PWD; exit 3";
        let options = [
            "exec",
            "--user",
            "7:8",
            "--env",
            "ADDED=yes",
            "--cwd",
            "/tmp",
            "web",
        ];
        let said = rig.say(&[&options[..], &["sh", "-c", script]].concat());
        assert_eq!(said.code, Some(3), "{said:?}");
        assert_eq!(said.stdout, "7\n8\nyes in /tmp\n");
        rig.ok(&["delete", "--force", "web"]);
    });
}

#[test]
fn an_exec_is_what_its_file_says() {
    with(|rig| {
        rig.ok(&["create", "web"]);
        rig.ok(&["start", "web"]);
        let file = rig.path().join("process.json");
        let process = json!({
            "args": ["sh", "-c", "echo $A; id -u; exit 5"], "cwd": "/tmp",
            "env": ["PATH=/bin", "A=b"], "user": {"uid": 9, "gid": 9},
        });
        fs::write(&file, process.to_string()).unwrap();
        let said = rig.say(&["exec", "--process", file.to_str().unwrap(), "web"]);
        assert_eq!(
            (said.code, said.stdout.as_str()),
            (Some(5), "b\n9\n"),
            "{said:?}"
        );

        let pid_file = rig.path().join("pid");
        let path = rig.path().join("console");
        let listener = UnixListener::bind(&path).unwrap();
        let (socket, pid) = (path.to_str().unwrap(), pid_file.to_str().unwrap());
        let options = [
            "exec",
            "--detach",
            "--tty",
            "--console-socket",
            socket,
            "--pid-file",
            pid,
        ];
        rig.ok(&[&options[..], &["web", "sleep", "1000"]].concat());
        let (socket, _) = listener.accept().unwrap();
        let (_, files) = duet_linux::channel::take(&socket, 4096).unwrap();
        assert_eq!(files.len(), 1);
        let pid = fs::read_to_string(&pid_file).unwrap();
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        assert_eq!(line, b"sleep\x001000\0");
        rig.ok(&["delete", "--force", "web"]);
    });
}

#[test]
fn an_exec_that_cannot_be_is_refused_and_leaves_the_container() {
    with(|rig| {
        rig.ok(&["create", "web"]);
        rig.ok(&["start", "web"]);
        let why = rig.say(&["exec", "web", "missing"]);
        assert_eq!(why.code, Some(255), "{why:?}");
        assert!(why.stderr.contains("missing"), "{why:?}");
        assert_eq!(rig.state("web")["status"], "running");
        rig.ok(&["delete", "--force", "web"]);
        assert_eq!(rig.say(&["exec", "web", "true"]).code, Some(255));
    });
}
