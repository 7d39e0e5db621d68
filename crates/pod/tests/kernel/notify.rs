//! System calls that a seccomp profile leaves to somebody else.

use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;

use duet_pod::Stdio;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::rig::{Rig, process, with};

fn profile(path: &str) -> String {
    format!(
        r#"{{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"{path}","listenerMetadata":"for web",
        "syscalls":[{{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_NOTIFY"}}]}}"#
    )
}

/// An agent that takes one listener: what it was told, and the listener.
fn agent(rig: &Rig) -> (String, JoinHandle<(String, OwnedFd)>) {
    let path: PathBuf = rig.path().join("agent.sock");
    drop(std::fs::remove_file(&path));
    let socket = UnixListener::bind(&path).unwrap();
    let agent = std::thread::spawn(move || take(socket.accept().unwrap().0));
    (path.to_str().unwrap().to_owned(), agent)
}

fn take(mut stream: UnixStream) -> (String, OwnedFd) {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(&stream, &mut parts, &mut control, flags).unwrap();
    let files = control.drain().find_map(|message| {
        let RecvAncillaryMessage::ScmRights(mut files) = message else {
            return None;
        };
        files.next()
    });
    let mut told = String::from_utf8(bytes[..received.bytes].to_vec()).unwrap();
    stream.read_to_string(&mut told).unwrap();
    (told, files.expect("a descriptor comes along"))
}

fn name(listener: &OwnedFd) -> String {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", listener.as_raw_fd());
    std::fs::read_link(link)
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

#[test]
fn the_agent_gets_the_listener_and_the_state() {
    with(async |rig| {
        for privileges in [true, false] {
            the_listener_comes(&rig, privileges).await;
        }
    });
}

/// With `noNewPrivileges` the filter comes after the gate, else before it.
async fn the_listener_comes(rig: &Rig, no_new_privileges: bool) {
    let (path, agent) = self::agent(rig);
    // Nobody answers: the agent lets go of the listener, and the call fails with ENOSYS.
    let script = "mkdir /made && exit 1; exit 7";
    let bundle = rig.bundle("web", &["sh", "-c", script]);
    let bundle = bundle.seccomp(&profile(&path));
    let bundle = if no_new_privileges {
        bundle.no_new_privileges()
    } else {
        bundle
    };
    let pid = bundle.start().await;
    let (told, listener) = tokio::task::spawn_blocking(|| agent.join().unwrap())
        .await
        .unwrap();
    assert_eq!(name(&listener), "anon_inode:seccomp notify");
    for part in [
        format!("\"pid\":{pid}"),
        "\"fds\":[\"seccompFd\"]".to_owned(),
        "\"metadata\":\"for web\"".to_owned(),
        "\"id\":\"web\"".to_owned(),
        "\"status\":\"creat".to_owned(),
    ] {
        assert!(told.contains(&part), "{told}");
    }
    drop(listener);
    assert_eq!(rig.finish("web").await.code, 7);
}

#[test]
fn an_exec_has_a_listener_of_its_own() {
    with(async |rig| {
        let (path, first) = self::agent(&rig);
        let bundle = rig.bundle("web", &["sleep", "1000"]);
        let init = bundle.seccomp(&profile(&path)).start().await;
        let join = |agent: JoinHandle<_>| tokio::task::spawn_blocking(|| agent.join().unwrap());
        let (_, _kept) = join(first).await.unwrap();
        let (_, second) = self::agent(&rig);
        let exec = process(&["true"], false);
        rig.pod
            .exec("web", "e1", &exec, Stdio::default())
            .await
            .unwrap();
        let pid = rig.pod.start("web", Some("e1")).await.unwrap();
        let (told, _) = join(second).await.unwrap();
        assert!(told.contains("\"status\":\"running\""), "{told}");
        assert!(told.contains(&format!("\"pid\":{pid}")), "{told}");
        assert!(told.contains(&format!("\"pid\":{init}")), "{told}");
        rig.pod.kill("web", None, 9, false).await.unwrap();
        rig.finish("web").await;
    });
}

#[test]
fn an_agent_that_is_not_there_is_named_and_nothing_is_left() {
    with(async |rig| {
        let path = rig.path().join("nobody.sock");
        let path = path.to_str().unwrap();
        let bundle = rig.bundle("web", &["true"]).seccomp(&profile(path));
        // Without no_new_privs the filter is in force before the gate, so Create fails.
        let error = bundle.create().await.unwrap_err();
        let why = std::error::Error::source(&error).unwrap().to_string();
        let expected = format!("linux.seccomp.listenerPath {path}: hand over the listener");
        assert_eq!(why, expected);
        assert!(rig.pod.is_empty());

        let nowhere = profile("").replace(r#""listenerPath":"","#, "");
        let error = rig
            .bundle("web", &["true"])
            .seccomp(&nowhere)
            .create()
            .await;
        let error = error.unwrap_err();
        let why = std::error::Error::source(&error).unwrap().to_string();
        assert!(why.contains("linux.seccomp.listenerPath"), "{why}");
    });
}
