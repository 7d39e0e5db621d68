//! Real FIFOs, both sides.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::time::Duration;

use rustix::fs::{CWD, FileType, mknodat};

use std::os::fd::AsRawFd;

use super::*;
use crate::drain::Drain;
use crate::outputs::Writes;

fn fifo(dir: &tempfile::TempDir, name: &str) -> String {
    let path = dir.path().join(name);
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    path.to_str().unwrap().to_owned()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn with(stdin: &str, stdout: &str, stderr: &str) -> Stdio {
    Stdio {
        stdin: stdin.to_owned(),
        stdout: stdout.to_owned(),
        stderr: stderr.to_owned(),
        terminal: false,
        given: None,
    }
}

/// What a process of `user` is given; loggers, which need root, have tests of their own.
fn opened(stdio: &Stdio, user: u32, owner: Option<IoOwner>) -> Result<Pipes, Error> {
    let household = crate::helper::tests::Household::default();
    let outputs = Outputs::open(stdio, Writes::Process, household.served())?;
    Pipes::open(stdio, outputs, Owner::of(user, owner))
}

#[test]
fn opening_does_not_depend_on_the_other_side() {
    let dir = tempfile::tempdir().unwrap();
    let stdio = with(&fifo(&dir, "in"), &fifo(&dir, "out"), &fifo(&dir, "err"));
    let pipes = opened(&stdio, 0, None).unwrap();
    assert!(pipes.ends.stdin.is_some());
    assert!(pipes.ends.stdout.is_some());
    assert!(pipes.ends.stderr.is_some());
    assert_eq!(pipes.holds.len(), 2);
}

#[test]
fn a_reader_that_comes_late_misses_nothing_of_a_process_that_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(&dir, "out");
    let (told, heard) = std::sync::mpsc::channel();
    let late = path.clone();
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(30));
        told.send(std::fs::read_to_string(late).unwrap())
            .unwrap_or(());
    });
    let pipes = opened(&with("", &path, ""), 0, None).unwrap();
    rustix::io::write(pipes.ends.stdout.as_ref().unwrap(), b"all of it").unwrap();
    drop(pipes.ends);
    let text = runtime().block_on(async {
        let drain = Drain {
            copied: Vec::new(),
            holds: pipes.holds,
        };
        drain.done().await;
        // A reader that missed its writer waits for ever, so the test does not. One that is very late still has one.
        let heard = move || heard.recv_timeout(Duration::from_secs(60));
        tokio::task::spawn_blocking(heard).await.unwrap()
    });
    assert_eq!(text.unwrap(), "all of it");
}

#[test]
fn nothing_is_opened_for_empty_fields() {
    let pipes = opened(&Stdio::default(), 0, None).unwrap();
    assert!(pipes.ends.stdin.is_none() && pipes.ends.stdout.is_none());
    assert!(pipes.holds.is_empty() && pipes.input.is_none());
}

#[test]
fn the_reader_sees_the_end_only_after_the_hold_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(&dir, "out");
    let pipes = opened(&with("", &path, ""), 0, None).unwrap();
    let mut reader = OpenOptions::new()
        .read(true)
        .custom_flags(libc_nonblock())
        .open(&path)
        .unwrap();
    let mut out = File::from(pipes.ends.stdout.unwrap());
    out.write_all(b"last words").unwrap();
    drop(out);
    let mut text = [0; 64];
    assert_eq!(reader.read(&mut text).unwrap(), 10);
    let waits = reader.read(&mut text).unwrap_err();
    assert_eq!(waits.kind(), io::ErrorKind::WouldBlock);
    drop(pipes.holds);
    // Who was forked by another test meanwhile has a copy of it until it executes its program.
    rustix::fs::fcntl_setfl(&reader, OFlags::empty()).unwrap();
    assert_eq!(reader.read(&mut text).unwrap(), 0);
}

#[test]
fn a_reader_may_leave_and_another_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(&dir, "out");
    let pipes = opened(&with("", &path, ""), 0, None).unwrap();
    let mut out = File::from(pipes.ends.stdout.unwrap());
    let first = OpenOptions::new()
        .read(true)
        .custom_flags(libc_nonblock())
        .open(&path)
        .unwrap();
    drop(first);
    out.write_all(b"kept").unwrap();
    let mut second = OpenOptions::new()
        .read(true)
        .custom_flags(libc_nonblock())
        .open(&path)
        .unwrap();
    let mut text = [0; 64];
    assert_eq!(second.read(&mut text).unwrap(), 4);
}

#[test]
fn a_missing_fifo_is_named_with_the_step() {
    let error = opened(&with("", "/nonexistent/out", ""), 0, None).unwrap_err();
    assert_eq!(error.to_string(), "open stdout /nonexistent/out");
    let error = opened(&with("/nonexistent/in", "", ""), 0, None).unwrap_err();
    assert_eq!(error.to_string(), "open stdin /nonexistent/in");
}

#[test]
fn what_is_not_offered_is_refused_by_name() {
    let value = "ttrpc+unix:///s?streaming_id=1";
    let error = opened(&with("", value, ""), 0, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("stdout {value:?} is not supported")
    );
    let error = opened(&with("file:///tmp/x", "", ""), 0, None).unwrap_err();
    assert!(matches!(error, Error::Unsupported { field: "stdin", .. }));
    let error = opened(&with("", "out", ""), 0, None).unwrap_err();
    assert_eq!(error.to_string(), "stdout \"out\": is not an absolute path");
}

/// What a process does with its outputs, and all of it passed on.
fn written(pipes: Pipes, write: impl FnOnce(File, Option<File>)) {
    let Pipes { ends, relays, .. } = pipes;
    drop(ends.complaints);
    write(ends.stdout.unwrap().into(), ends.stderr.map(File::from));
    runtime().block_on(async {
        for Relay { from, to } in relays {
            copy(from, to, &copying(None).0).await.unwrap();
        }
    });
}

#[test]
fn a_file_is_made_and_appended_to_and_nobody_s_but_ours() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("logs/web.log");
    let uri = format!("file://{}", path.display());
    for line in ["one", "two"] {
        let pipes = opened(&with("", &uri, ""), 0, None).unwrap();
        written(pipes, |mut stdout, stderr| {
            let mut stderr = stderr.expect("a URI means both outputs");
            // In the order in which they were written; and by the name of its descriptor it is no other's to cut off.
            writeln!(stdout, "{line}").unwrap();
            let name = format!("/proc/self/fd/{}", stdout.as_raw_fd());
            let mut again = File::create(name).unwrap();
            writeln!(stderr, "{line}: an error").unwrap();
            writeln!(again, "{line} again").unwrap();
        });
    }
    let text = "one\none: an error\none again\ntwo\ntwo: an error\ntwo again\n";
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn what_a_file_has_no_room_for_ends_nobody() {
    let pipes = opened(&with("", "file:///dev/full", ""), 0, None).unwrap();
    written(pipes, |mut stdout, _| {
        for _ in 0..3 {
            writeln!(stdout, "unheard").unwrap();
        }
    });
}

#[test]
fn a_fifo_that_is_said_to_be_a_file_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(&dir, "out");
    let stdio = with("", &format!("file://{path}"), "");
    // Nobody reads yet.
    let error = opened(&stdio, 0, None).unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("No such device or address"), "{error}: {why}");
    let mut reader = OpenOptions::new();
    let reader = reader.read(true).custom_flags(libc_nonblock()).open(&path);
    let pipes = opened(&stdio, 0, None).unwrap();
    // Nobody reads any more: all of it is taken from the program.
    drop(reader);
    let Pipes { ends, relays, .. } = pipes;
    drop(ends.complaints);
    drop(ends.stderr);
    let mut stdout = File::from(ends.stdout.unwrap());
    runtime().block_on(async {
        let mut copies = tokio::task::JoinSet::new();
        let _copied: Vec<_> = relays
            .into_iter()
            .map(|relay| crate::plumbing::pass_on(relay, &mut copies))
            .collect();
        let writing = tokio::task::spawn_blocking(move || stdout.write_all(&[b'x'; 1 << 18]));
        writing.await.unwrap().unwrap();
        copies.join_all().await;
    });
}

#[test]
fn who_is_confined_has_a_pipe_and_the_fifo_gets_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(&dir, "out");
    let household = crate::helper::tests::Household::default();
    let stdio = with("", &path, "");
    let outputs = Outputs::open(&stdio, Writes::Confined, household.served()).unwrap();
    let pipes = Pipes::open(&stdio, outputs, Owner::of(0, None)).unwrap();
    let mut reader = OpenOptions::new()
        .read(true)
        .custom_flags(libc_nonblock())
        .open(&path)
        .unwrap();
    let stdout = pipes.ends.stdout.as_ref().unwrap();
    let name = fs::read_link(format!("/proc/self/fd/{}", stdout.as_raw_fd())).unwrap();
    assert!(name.to_str().unwrap().starts_with("pipe:"), "{name:?}");
    assert_eq!(
        pipes.holds.len(),
        1,
        "a containerd that restarts loses nothing"
    );
    written(pipes, |mut stdout, _| writeln!(stdout, "said").unwrap());
    rustix::fs::fcntl_setfl(&reader, OFlags::empty()).unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "said\n");
}

#[test]
fn who_may_open_every_file_is_not_confined() {
    let of = |label: &str| {
        let json = format!(r#"{{"args":["a"],"cwd":"/","user":{{"uid":0,"gid":0}}{label}}}"#);
        Writes::of(&[&duet_spec::Process::parse(json.as_bytes()).unwrap()])
    };
    for label in [
        "",
        r#","apparmorProfile":"unconfined""#,
        r#","apparmorProfile":"cri-containerd.apparmor.d""#,
    ] {
        assert_eq!(of(label), Writes::Process, "{label}");
    }
    for label in [
        r#","apparmorProfile":"k8s-apparmor-example-deny-write""#,
        r#","selinuxLabel":"system_u:system_r:container_t:s0""#,
    ] {
        assert_eq!(of(label), Writes::Confined, "{label}");
    }
}

#[test]
fn the_process_s_user_owns_the_fifo() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root to change an owner");
        assert!(
            std::env::var_os("DUET_TEST_REQUIRE").is_none(),
            "DUET_TEST_REQUIRE is set: nothing may be skipped"
        );

        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(&dir, "out");
    let _pipes = opened(&with("", &path, ""), 1234, None).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().uid(), 1234);
    let _pipes = opened(
        &with("", &path, ""),
        1234,
        Some(IoOwner { uid: 77, gid: 78 }),
    )
    .unwrap();
    assert_eq!(fs::metadata(&path).unwrap().uid(), 77);
    assert_eq!(fs::metadata(&path).unwrap().gid(), 78);
}

#[test]
fn input_ends_after_close_io_and_the_last_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(&dir, "in");
    let pipes = opened(&with(&path, "", ""), 0, None).unwrap();
    let Input { source, pipe } = pipes.input.unwrap();
    let mut stdin = File::from(pipes.ends.stdin.unwrap());
    runtime().block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(Input::copy(source.fifo, pipe));
        // No writer was ever there: not the end.
        assert!(
            tokio::time::timeout(Duration::from_millis(50), tasks.join_next())
                .await
                .is_err()
        );
        let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all(b"hello").unwrap();
        drop(writer);
        // The client went away, as a restarting containerd does: not the end either.
        assert!(
            tokio::time::timeout(Duration::from_millis(50), tasks.join_next())
                .await
                .is_err()
        );
        let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
        drop(source.hold);
        writer.write_all(b" again").unwrap();
        assert!(
            tokio::time::timeout(Duration::from_millis(50), tasks.join_next())
                .await
                .is_err()
        );
        drop(writer);
        tasks.join_next().await.unwrap().unwrap().unwrap();
    });
    let mut text = String::new();
    stdin.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello again");
}

#[test]
fn close_io_without_any_client_ends_the_input() {
    let dir = tempfile::tempdir().unwrap();
    let pipes = opened(&with(&fifo(&dir, "in"), "", ""), 0, None).unwrap();
    let Input { source, pipe } = pipes.input.unwrap();
    drop(source.hold);
    runtime().block_on(async {
        let done = tokio::time::timeout(Duration::from_secs(60), Input::copy(source.fifo, pipe));
        done.await.unwrap().unwrap();
    });
}

#[test]
fn a_gibibyte_arrives_whole_at_its_reader_s_pace() {
    const TOTAL: usize = 1 << 30;
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(&dir, "in");
    let pipes = opened(&with(&path, "", ""), 0, None).unwrap();
    let Input { source, pipe } = pipes.input.unwrap();
    let mut stdin = File::from(pipes.ends.stdin.unwrap());
    let writer = std::thread::spawn(move || {
        let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
        let chunk: Vec<u8> = (0..1 << 20).map(|i: u32| i.to_le_bytes()[1]).collect();
        for _ in 0..TOTAL / chunk.len() {
            writer.write_all(&chunk).unwrap();
        }
    });
    let reader = std::thread::spawn(move || {
        let chunk: Vec<u8> = (0..1 << 20).map(|i: u32| i.to_le_bytes()[1]).collect();
        let (mut total, mut wrong) = (0, 0);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = stdin.read(&mut buffer).unwrap();
            if count == 0 {
                return (total, wrong);
            }
            let mut read = &buffer[..count];
            while !read.is_empty() {
                let expected = &chunk[total % chunk.len()..];
                let length = read.len().min(expected.len());
                wrong += usize::from(read[..length] != expected[..length]);
                read = &read[length..];
                total += length;
            }
        }
    });
    runtime().block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(Input::copy(source.fifo, pipe));
        while !writer.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(source.hold);
        tasks.join_next().await.unwrap().unwrap().unwrap();
    });
    assert_eq!(reader.join().unwrap(), (TOTAL, 0));
}

#[test]
fn a_process_that_stops_reading_ends_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(&dir, "in");
    let pipes = opened(&with(&path, "", ""), 0, None).unwrap();
    let Input { source, pipe } = pipes.input.unwrap();
    drop(pipes.ends);
    runtime().block_on(async {
        let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
        // Once is not enough: what another test's thread forks has a copy of the end that was closed.
        let writing = async {
            loop {
                drop(writer.write_all(b"unheard"));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let copying = tokio::time::timeout(Duration::from_secs(60), Input::copy(source.fifo, pipe));
        tokio::select! {
            done = copying => done.unwrap().unwrap(),
            () = writing => {}
        }
    });
}

fn libc_nonblock() -> i32 {
    i32::try_from(OFlags::NONBLOCK.bits()).unwrap()
}
