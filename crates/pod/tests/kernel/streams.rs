//! Bytes by the million, through an exec and back.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::thread;

use duet_pod::Stdio;
use tokio::sync::oneshot;

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
