//! What an idle guest adds to its pod: a promise that needs neither a clock nor a quiet machine.

use duet_tests::cri::Wish;
use duet_tests::memory::{is_asleep, pss};
use duet_tests::{Node, wait};

/// Guests of a kind in one pod.
const GUESTS: u16 = 25;

/// What each may add to it, in KiB: 0.6 MiB.
const MOST: u64 = 614;

#[test]
fn an_idle_guest_of_each_kind_takes_less_than_614_kib() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    if !node.daemon().is_2() {
        eprintln!("asked once, under containerd 2");
        return;
    }
    let cri = node.cri();
    for kind in ["preview-1", "preview-2", "server"] {
        let pod = cri.pod(kind);
        let wish = |number: u16| {
            let wish = Wish::wasm(&format!("{kind}-{number}"), &["idle"]);
            match kind {
                "preview-1" => wish,
                "preview-2" => wish.command(&["/probe-p2.wasm", "sleep", "100000000"]),
                _ => {
                    let address = format!("127.0.0.1:{}", 20_000 + number);
                    let wish = Wish::ambassador(&format!("{kind}-{number}"), "t", 1);
                    wish.env("DUET_HTTP_ADDR", &address)
                }
            }
        };
        let members: Vec<_> = (0..GUESTS).map(|number| pod.start(&wish(number))).collect();
        let pid = |pid: i32| u32::try_from(pid).expect("a pid is above 0");
        let pids: Vec<_> = members.iter().map(|member| pid(member.pid())).collect();
        // A guest that has reached its wait sleeps in poll, a server in accept.
        wait::until("the guests to be idle", || {
            pids.iter().all(|pid| is_asleep(*pid)).then_some(())
        });
        let each = pids.iter().map(|pid| pss(*pid)).sum::<u64>() / u64::from(GUESTS);
        eprintln!("{kind}: {each} KiB");
        assert!(each < MOST, "{kind}: {each} KiB");
        pod.remove();
    }
}
