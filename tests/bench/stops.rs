//! How long it is from TERM to a container's end, and what becomes of requests that are in flight then.

use std::fs;
use std::time::Duration;

use duet_tests::bench::{self, Subject, Table};
use duet_tests::{Node, command, machine, wait};

use crate::Stage;
use crate::serving::{inside, lost};
use crate::specs::{Specs, Stop};

const TERM: u32 = 15;

/// Requests that are in flight at TERM, all accepted: of a container that may have so many files.
const FLIGHT: usize = 10_000;

/// TERM to the answer of Wait, of containers that have come to what they do.
pub(crate) fn measure(node: &Node, rounds: usize) -> Table {
    let duet = Stage::new(
        node,
        "duet-stop",
        &machine::binary("containerd-shim-duet-v1"),
    );
    let program = machine::program("containerd-shim-runc-v2").expect("containerd brings it");
    let runc = Stage::new(node, "runc-stop", &program);
    let subjects: Vec<Subject<'_>> = vec![
        ("an idle server", Box::new(|| stop(&duet, Stop::Server))),
        (
            "a command that spins",
            Box::new(|| stop(&duet, Stop::Spinning)),
        ),
        ("Duet, native", Box::new(|| stop(&duet, Stop::Native))),
        ("runc, native", Box::new(|| stop(&runc, Stop::Native))),
    ];
    let table = bench::interleaved("Task API: TERM to the end of wait", rounds, subjects);
    duet.close();
    runc.close();
    table
}

fn stop(stage: &Stage, stop: Stop) -> Duration {
    let (id, bundle) = stage.bundle(|specs, id| specs.to_be_stopped(id, stop));
    let pid = stage.shim.create(&id, &bundle.dir).expect("Create");
    stage.shim.begin(&id).expect("Start");
    wait::until("the program to come to what it does", || {
        is_there(pid, stop).then_some(())
    });
    let time = bench::timed(|| {
        stage.shim.signal(&id, TERM).expect("Kill");
        let code = stage.shim.wait(&id).expect("Wait");
        assert_eq!(code, stop.code(), "{stop:?}");
    });
    stage.shim.delete(&id).expect("Delete");
    fs::remove_dir_all(&bundle.dir).expect("our own folder");
    time
}

pub(crate) fn is_there(pid: u32, stop: Stop) -> bool {
    let read = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    match stop {
        // At port 8080.
        Stop::Server => {
            let listens = |line: &str| line.contains(":1F90 ") && line.contains(" 0A ");
            (read("net/tcp6") + &read("net/tcp")).lines().any(listens)
        }
        // It has used three ticks by itself.
        Stop::Spinning => {
            let stat = read("stat");
            let ticks = stat.split(' ').nth(13).and_then(|ticks| ticks.parse().ok());
            ticks.is_some_and(|ticks: u64| ticks >= 3)
        }
        // The shell, not what runc is before it, has a handler for 15.
        Stop::Native => {
            let status = read("status");
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            read("comm").trim() == "sh" && caught.is_some_and(|mask| mask & 1 << 14 != 0)
        }
    }
}

/// Tells a server to stop while requests are in flight, and counts those that get no answer.
pub(crate) fn flight(node: &Node) -> (usize, usize) {
    let program = machine::binary("containerd-shim-duet-v1");
    let stage = Stage::new(node, "duet-flight", &program);
    let (id, bundle) = stage.bundle(|specs: &Specs, id| specs.of_many_requests(id, FLIGHT));
    let pid = stage.shim.create(&id, &bundle.dir).expect("Create");
    stage.shim.begin(&id).expect("Start");
    wait::until("the server to listen", || {
        is_there(pid, Stop::Server).then_some(())
    });
    // Nobody else has made the pod a network.
    let mut up = inside(pid.cast_signed(), "ip");
    let _said = command::run(up.args(["link", "set", "lo", "up"])).ok();
    let lost = lost(pid.cast_signed(), FLIGHT, 250, || {
        stage.shim.signal(&id, TERM).expect("Kill");
    });
    assert_eq!(stage.shim.wait(&id).expect("Wait"), 0, "{lost}");
    stage.shim.delete(&id).expect("Delete");
    fs::remove_dir_all(&bundle.dir).expect("our own folder");
    stage.close();
    (lost, FLIGHT)
}
