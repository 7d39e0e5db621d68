//! Bytes by the million, through an exec and back.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::thread;

use duet_pod::Stdio;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::rig::{process, with};

/// How many blocks are sent: 1 GiB in all, sixteen thousand times what a pipe holds.
const BLOCKS: u32 = 16384;

/// A block that no other is like: 64 KiB.
fn block(number: u32) -> Vec<u8> {
    number
        .wrapping_mul(2_654_435_761)
        .to_ne_bytes()
        .repeat(16 * 1024)
}

#[test]
fn what_goes_through_an_exec_comes_back_whole() {
    with(async |rig| {
        rig.bundle("web", &["sleep", "1000"]).start().await;
        let stdio = Stdio {
            stdin: rig.fifo("in"),
            stdout: rig.fifo("out"),
            ..Stdio::default()
        };
        let (stdin, stdout) = (stdio.stdin.clone(), stdio.stdout.clone());
        let (sent, all_sent) = oneshot::channel();
        thread::spawn(move || {
            let mut stdin = OpenOptions::new().write(true).open(stdin).unwrap();
            for number in 0..BLOCKS {
                stdin.write_all(&block(number)).unwrap();
            }
            sent.send(()).unwrap();
        });
        let (received, all_received) = oneshot::channel();
        thread::spawn(move || {
            let mut stdout = File::open(stdout).unwrap();
            let mut found = vec![0; 64 * 1024];
            for number in 0..BLOCKS {
                stdout.read_exact(&mut found).unwrap();
                assert!(found == block(number), "block {number}");
            }
            assert_eq!(stdout.read(&mut found).unwrap(), 0, "nothing is added");
            received.send(()).unwrap();
        });
        let exec = process(&["cat"], false);
        rig.pod.exec("web", "e1", &exec, stdio).await.unwrap();
        rig.pod.start("web", Some("e1")).await.unwrap();
        // The end comes when the client has closed its side too: nothing is cut off.
        rig.pod.close_io("web", Some("e1")).await.unwrap();
        assert_eq!(rig.pod.wait("web", Some("e1")).await.unwrap().code, 0);
        rig.pod.delete("web", Some("e1")).await.unwrap();
        // Neither is joined: the runtime, and with it the time that the test has, would wait for one that hangs.
        all_sent.await.unwrap();
        all_received.await.unwrap();
        rig.pod.kill("web", None, 9, false).await.unwrap();
        rig.finish("web").await;
    });
}

#[test]
fn a_reader_of_a_terminal_that_stands_still_gets_all_of_it_all_the_same() {
    /// How long a line is, with the CR that the terminal adds, and how many there are: 4 MiB.
    const LINE: usize = 64;
    const LINES: usize = 1 << 16;
    with(async |rig| {
        rig.bundle("web", &["sleep", "1000"]).start().await;
        let stdio = Stdio {
            stdout: rig.fifo("out"),
            terminal: true,
            ..Stdio::default()
        };
        let path = stdio.stdout.clone();
        let (go_on, ended) = std::sync::mpsc::channel::<()>();
        let (received, all_received) = oneshot::channel();
        thread::spawn(move || {
            let mut stdout = File::open(path).unwrap();
            // It leaves more than a FIFO holds (64 KiB), and no more than the copy and the terminal can hold beside: then
            // the program can end.
            let mut found = vec![0; LINE * LINES - (68 << 10)];
            stdout.read_exact(&mut found).unwrap();
            ended.recv().unwrap();
            stdout.read_to_end(&mut found).unwrap();
            received.send(found).unwrap();
        });
        let line = "x".repeat(LINE - 2);
        let script = format!("i=0; while [ $i -lt {LINES} ]; do echo {line}; i=$((i+1)); done");
        let exec = process(&["sh", "-c", &script], true);
        rig.pod.exec("web", "e1", &exec, stdio).await.unwrap();
        rig.pod.start("web", Some("e1")).await.unwrap();
        // Its end is told although the reader stands still.
        assert_eq!(rig.pod.wait("web", Some("e1")).await.unwrap().code, 0);
        // Containerd deletes it then, and reads to the end.
        let deleting = rig.pod.clone();
        let deleted = tokio::spawn(async move { deleting.delete("web", Some("e1")).await });
        while rig.pod.state("web", Some("e1")).await.is_ok() {
            yield_now().await;
        }
        assert!(!deleted.is_finished(), "it waits for the reader");
        go_on.send(()).unwrap();
        let found = all_received.await.unwrap();
        let whole = format!("{line}\r\n").repeat(LINES);
        assert!(found == whole.as_bytes(), "{} bytes", found.len());
        deleted.await.unwrap().unwrap();
        rig.pod.kill("web", None, 9, false).await.unwrap();
        rig.finish("web").await;
    });
}
