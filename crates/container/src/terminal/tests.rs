//! A real pseudo-terminal between real FIFOs.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::*;
use crate::outputs::Writes;

fn opened(stdio: &Stdio) -> Result<Ends, Error> {
    let household = crate::helper::tests::Household::default();
    let outputs = Outputs::open(stdio, Writes::Copy, household.served())?;
    Ends::open(stdio, outputs)
}

struct Rig {
    _dir: tempfile::TempDir,
    stdin: PathBuf,
    stdout: PathBuf,
    master: OwnedFd,
    user: File,
}

fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| {
        let path = dir.path().join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        path
    };
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let user = OpenOptions::new()
        .read(true)
        .write(true)
        .open(name)
        .unwrap();
    Rig {
        stdin: path("in"),
        stdout: path("out"),
        _dir: dir,
        master,
        user,
    }
}

impl Rig {
    fn stdio(&self) -> Stdio {
        Stdio {
            stdin: self.stdin.to_str().unwrap().to_owned(),
            stdout: self.stdout.to_str().unwrap().to_owned(),
            stderr: String::new(),
            terminal: true,
            given: None,
        }
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            tokio::time::timeout(Duration::from_secs(60), future)
                .await
                .expect("in time")
        })
}

#[test]
fn output_is_complete_when_the_last_user_has_closed() {
    let rig = rig();
    let stdio = rig.stdio();
    let reader = std::thread::spawn({
        let path = rig.stdout.clone();
        move || {
            let mut text = String::new();
            File::open(path).unwrap().read_to_string(&mut text).unwrap();
            text
        }
    });
    run(async move {
        let mut tasks = JoinSet::new();
        let ends = opened(&stdio).unwrap();
        let Connected {
            input: _hold,
            drain,
            ..
        } = ends.connect(rig.master, &mut tasks).unwrap();
        let mut user = rig.user;
        let writer = tokio::task::spawn_blocking(move || {
            for _ in 0..20_000 {
                user.write_all(b"a line of twenty-two.\n").unwrap();
            }
        });
        writer.await.unwrap();
        drain.done().await;
        // A reader that takes nothing for long is not waited for; the copy goes on.
        tasks.join_next().await.unwrap().unwrap();
    });
    let text = reader.join().unwrap();
    assert_eq!(
        text.len(),
        20_000 * 23,
        "every newline became CR LF, and nothing is missing"
    );
}

#[test]
fn input_arrives_and_its_end_is_typed() {
    let rig = rig();
    let stdio = rig.stdio();
    run(async move {
        let mut tasks = JoinSet::new();
        let connected = opened(&stdio)
            .unwrap()
            .connect(rig.master, &mut tasks)
            .unwrap();
        let mut client = OpenOptions::new().write(true).open(&rig.stdin).unwrap();
        client.write_all(b"typed\n").unwrap();
        drop(client);
        drop(connected.input);
        let mut user = rig.user;
        let text = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            user.read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!(text.await.unwrap(), "typed\n");
    });
}

#[test]
fn the_size_is_seen_by_the_user() {
    let rig = rig();
    let stdio = rig.stdio();
    run(async move {
        let mut tasks = JoinSet::new();
        let connected = opened(&stdio)
            .unwrap()
            .connect(rig.master, &mut tasks)
            .unwrap();
        connected.terminal.resize(132, 43).unwrap();
        let size = rustix::termios::tcgetwinsize(&rig.user).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (132, 43));
    });
}
