//! Containers that outlive their containerd, and what must be true of them afterwards.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::cri::{Cri, Member, Pod, Wish};
use crate::node::Node;
use crate::{command, wait};

/// How a daemon goes, and which one comes.
#[derive(Debug, Clone)]
pub struct Restart {
    /// What ends it.
    pub signal: Signal,
    /// The folder of its successor's programs; `None` means its own.
    pub programs: Option<PathBuf>,
}

/// Says that it is ready, then more than a pipe holds as soon as `down` is there, then one line more
/// as soon as `up` is.
const TALKER: &str = "echo ready; until [ -e /data/down ]; do sleep 0.02; done; \
    i=0; while [ $i -lt 4000 ]; do echo line $i of what nobody hears at once; i=$((i+1)); done; \
    until [ -e /data/up ]; do sleep 0.02; done; echo after; exec sleep 1000";

/// Ends with 7 as soon as `down` is there.
const MORTAL: &str = "echo ready; until [ -e /data/down ]; do sleep 0.02; done; exit 7";

/// How many lines [`TALKER`] says while nobody listens.
const LINES: usize = 4000;

/// Members that live as long as the pod, and what is known of them.
struct Constant<'p> {
    members: Vec<(Member<'p>, i32)>,
    loner: i32,
}

/// Restarts the daemon of `node` under a pod of native and wasm containers and one that `ctr` has
/// made: nothing may stop, no line be lost, and every end that came meanwhile must be told.
///
/// # Panics
///
/// When a promise is not kept.
pub fn outlive(node: &Node, restarts: &[Restart]) {
    let cri = node.cri();
    let pod = cri.pod("survivors");
    let forever = pod.start(&Wish::native("native", "echo ready; exec sleep 1000"));
    forever.says("ready");
    let guest = pod.start(&Wish::wasm("wasm", &["idle"]));
    guest.says("idle");
    let constant = Constant {
        loner: start_loner(node, "loner"),
        members: [forever, guest]
            .map(|member| {
                let pid = member.pid();
                (member, pid)
            })
            .into(),
    };
    for (round, restart) in restarts.iter().enumerate() {
        eprintln!("{restart:?} of containerd {}", node.daemon().version());
        survive(node, &cri, &pod, round, restart);
        constant.stand(node);
    }
    assert_eq!(end_loner(node, "loner"), 137);
    pod.remove();
}

fn survive(node: &Node, cri: &Cri<'_>, pod: &Pod<'_>, round: usize, restart: &Restart) {
    let volume = node.scratch().join(format!("round-{round}"));
    fs::create_dir(&volume).expect("our own folder");
    let native = |what: &str, script| {
        let wish = Wish::native(&format!("{what}-{round}"), script).volume(&volume, "/data");
        let member = pod.start(&wish);
        member.says("ready");
        member
    };
    let (talker, mortal) = (native("talker", TALKER), native("mortal", MORTAL));
    let guest = pod.start(&Wish::wasm(&format!("guest-{round}"), &["idle"]));
    guest.says("idle");
    let loner = format!("loner-{round}");
    let pids = [mortal.pid(), guest.pid(), start_loner(node, &loner)];

    node.daemon().end(restart.signal);
    let gone = SystemTime::now();
    let touch = |name: &str| drop(File::create(volume.join(name)).expect("our own folder"));
    touch("down");
    send(pids[1], Signal::SIGTERM);
    send(pids[2], Signal::SIGKILL);
    wait::until("three containers to end", || {
        pids.iter().all(|pid| !lives(*pid)).then_some(())
    });
    // The shim reads the clock a moment after it has reaped.
    let back = SystemTime::now() + Duration::from_secs(1);
    match &restart.programs {
        Some(programs) => node.daemon().start_again_from(Some(programs.clone())),
        None => node.daemon().start_again(),
    }
    cri.reconnect();

    assert_eq!(mortal.wait(), (7, "Error".to_owned()));
    assert_eq!(guest.wait(), (143, "Error".to_owned()));
    for member in [&mortal, &guest] {
        let finished = u64::try_from(member.status().finished_at).expect("after 1970");
        let finished = SystemTime::UNIX_EPOCH + Duration::from_nanos(finished);
        assert!(
            gone <= finished && finished <= back,
            "{finished:?} is not between {gone:?} and {back:?}"
        );
    }
    assert_eq!(end_loner(node, &loner), 137);

    touch("up");
    talker.says("after");
    let said: Vec<_> = talker.log().into_iter().map(|(_, text)| text).collect();
    let expected = ["ready".to_owned()]
        .into_iter()
        .chain((0..LINES).map(|line| format!("line {line} of what nobody hears at once")))
        .chain(["after".to_owned()]);
    assert!(
        said.iter().cloned().eq(expected),
        "{} lines, from {:?} to {:?}",
        said.len(),
        said.first(),
        said.last()
    );
}

// === impl Constant ===

impl Constant<'_> {
    /// Checks that nobody has moved, and that a program can be run beside each.
    fn stand(&self, node: &Node) {
        for (member, pid) in &self.members {
            assert_eq!(member.pid(), *pid);
        }
        for pid in self.pids() {
            assert!(lives(pid), "process {pid} is gone");
        }
        let (native, _) = &self.members[0];
        let answer = native.exec(&["/bin/sh", "-c", "echo still; exit 9"]);
        assert_eq!(answer, (9, "still\n".to_owned(), String::new()));
        let script = ["/bin/sh", "-c", "exit 9"];
        let words = [&["task", "exec", "--exec-id", "x", "loner"], &script[..]].concat();
        assert_eq!(node.ctr(&words).code, 9);
    }

    fn pids(&self) -> impl Iterator<Item = i32> {
        let members = self.members.iter().map(|(_, pid)| *pid);
        members.chain([self.loner])
    }
}

/// Starts a container that needs no client: its process id.
fn start_loner(node: &Node, id: &str) -> i32 {
    let log = log_of(node, id);
    let container = node
        .container(id)
        .with(&["--log-uri", &format!("file://{}", log.display())])
        .script("echo ready; exec sleep 1000");
    let _started = command::run(&mut container.command("-d")).ok();
    wait::until(&format!("{id} to say that it is ready"), || {
        fs::read_to_string(&log)
            .is_ok_and(|said| said == "ready\n")
            .then_some(())
    });
    let pid = task_of(node, id).map(|(pid, _)| pid);
    pid.unwrap_or_else(|| panic!("{id} is not listed"))
}

/// Ends and removes it: its code.
fn end_loner(node: &Node, id: &str) -> i32 {
    // One that has ended already is nothing to kill.
    let _sent = node.ctr(&["task", "kill", "--signal", "SIGKILL", id]);
    wait::until(&format!("{id} to be listed as stopped"), || {
        (task_of(node, id)?.1 == "STOPPED").then_some(())
    });
    // 1.6 tells the code only as a warning.
    let deleted = node.ctr(&["task", "delete", id]);
    let _gone = node.ctr(&["container", "delete", id]).ok();
    if deleted.code != 0 {
        return deleted.code;
    }
    let told = deleted.stderr.split("exit code ").nth(1);
    let told: String = told
        .unwrap_or_default()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    told.parse().unwrap_or(0)
}

/// Its process id and state in `ctr`'s list.
fn task_of(node: &Node, id: &str) -> Option<(i32, String)> {
    let list = node.ctr(&["task", "ls"]).ok().stdout;
    list.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(id)).then_some(())?;
        Some((words.next()?.parse().ok()?, words.next()?.to_owned()))
    })
}

fn log_of(node: &Node, id: &str) -> PathBuf {
    node.scratch().join(format!("{id}.log"))
}

fn send(pid: i32, signal: Signal) {
    signal::kill(Pid::from_raw(pid), signal).unwrap_or_else(|error| panic!("{pid}: {error}"));
}

/// Whether the process is there; one that has ended is until its shim has reaped it.
fn lives(pid: i32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}
