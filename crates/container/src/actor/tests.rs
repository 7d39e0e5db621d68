//! The actor with real processes and no kernel half: any order of requests keeps the order of
//! the facts.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio as Null};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use duet_cgroup::{OomWatch, Stats};
use proptest::prelude::*;
use tokio::sync::mpsc::unbounded_channel;

use super::*;
use crate::body::{Born, Gate};
use crate::children::Children;
use crate::handle::{Container, Label, owner};
use crate::plumbing::Plumbing;
use crate::stdio::Pipes;

/// Processes that sleep behind a gate of the test's own.
#[derive(Default)]
struct Sleepers {
    children: Arc<Children>,
    pidfds: Mutex<Vec<OwnedFd>>,
    frozen: AtomicBool,
    /// One for each removal to come: it waits for a word, and fails if there will be none. Further ones succeed.
    removals: Mutex<VecDeque<Receiver<()>>>,
}

impl Sleepers {
    #[expect(
        clippy::zombie_processes,
        reason = "the actor under test reaps it by its pidfd"
    )]
    fn process(&self, seconds: &str) -> Born {
        let mut command = Command::new("sleep");
        let child = command.arg(seconds).stdin(Null::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let pidfd = duet_linux::process::pidfd_open(pid).unwrap();
        self.pidfds.lock().unwrap().push(pidfd.try_clone().unwrap());
        Born {
            pid,
            pidfd: self.children.own(pid, pidfd),
            console: None,
            plumbing: Plumbing::Pipes(Pipes::default()),
            gate: Gate::Attended(Box::new(|| Ok(()))),
        }
    }
}

impl Body for Sleepers {
    fn pid_namespace(&self) -> PidNamespace {
        PidNamespace::Shared
    }

    fn bear(&self, _: &str, asked: &duet_spec::Process, _: &Stdio) -> Result<Born, Error> {
        match asked.args.first().map(String::as_str) {
            Some("fail") => Err(Error::Gone),
            Some(seconds) => Ok(self.process(seconds)),
            None => Err(Error::Gone),
        }
    }

    fn signal_all(&self, _: i32) -> Result<(), Error> {
        for pidfd in self.pidfds.lock().unwrap().iter() {
            drop(signal::send(pidfd, signal::KILL));
        }
        Ok(())
    }

    fn freeze(&self) -> Result<(), Error> {
        std::thread::sleep(Duration::from_millis(5));
        self.frozen.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn thaw(&self) -> Result<(), Error> {
        self.frozen.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn update(&self, _: &LinuxResources) -> Result<(), Error> {
        Ok(())
    }

    fn pids(&self) -> Result<Vec<i32>, Error> {
        Ok(Vec::new())
    }

    fn stats(&self) -> Result<Stats, Error> {
        Err(Error::Gone)
    }

    fn oom(&self) -> Option<Arc<OomWatch>> {
        None
    }

    fn destroy(&self) -> Result<(), Error> {
        let removal = self.removals.lock().unwrap().pop_front();
        removal.map_or(Ok(()), |word| word.recv().map_err(|_| Error::NoTerminal))
    }
}

#[derive(Debug, Clone)]
enum Ask {
    Start,
    Kill,
    KillAll,
    Pause,
    Resume,
    Delete,
    Add(u8),
    StartExec(u8),
    KillExec(u8),
    DeleteExec(u8),
    Breathe,
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        3 => Just(Ask::Start),
        1 => Just(Ask::Kill),
        1 => Just(Ask::KillAll),
        2 => Just(Ask::Pause),
        2 => Just(Ask::Resume),
        1 => Just(Ask::Delete),
        3 => (0..3_u8).prop_map(Ask::Add),
        3 => (0..3_u8).prop_map(Ask::StartExec),
        1 => (0..3_u8).prop_map(Ask::KillExec),
        1 => (0..3_u8).prop_map(Ask::DeleteExec),
        2 => Just(Ask::Breathe),
    ]
}

fn process(seconds: &str) -> duet_spec::Process {
    let json = format!(r#"{{"args":["{seconds}"],"cwd":"/","user":{{"uid":0,"gid":0}}}}"#);
    duet_spec::Process::parse(json.as_bytes()).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// A container without anything.
fn web() -> Label {
    Label {
        id: "web".to_owned(),
        bundle: PathBuf::new(),
        rootfs: Vec::new(),
        stdio: Stdio::default(),
    }
}

/// Asks everything without waiting in between, ends the container, and returns the facts.
fn play(asks: Vec<Ask>, init: &str, exec: &str) -> Vec<Fact> {
    let runtime = runtime();
    let (sender, mut facts) = unbounded_channel();
    let story = async {
        let body = Arc::new(Sleepers::default());
        let born = body.process(init);
        let label = web();
        let (container, owner) = Container::begin(label, body, born, sender).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(owner);
        let mut calls = JoinSet::new();
        for ask in asks {
            let container = container.clone();
            if matches!(ask, Ask::Breathe) {
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            }
            let process = process(exec);
            calls.spawn(async move {
                let name = |number: u8| format!("e{number}");
                // Refusals are part of the game.
                match ask {
                    Ask::Start => drop(container.start(None).await),
                    Ask::Kill => drop(container.kill(None, 9).await),
                    Ask::KillAll => drop(container.kill_all(9).await),
                    Ask::Pause => drop(container.pause().await),
                    Ask::Resume => drop(container.resume().await),
                    Ask::Delete => drop(container.delete(None).await),
                    Ask::Add(n) => {
                        drop(container.exec(&name(n), process, Stdio::default()).await);
                    }
                    Ask::StartExec(n) => drop(container.start(Some(&name(n))).await),
                    Ask::KillExec(n) => drop(container.kill(Some(&name(n)), 9).await),
                    Ask::DeleteExec(n) => drop(container.delete(Some(&name(n))).await),
                    Ask::Breathe => {}
                }
            });
            tokio::task::yield_now().await;
        }
        // However it stands, it comes to its end.
        while !matches!(container.delete(None).await, Ok(_) | Err(Error::Gone)) {
            drop(container.kill(None, 9).await);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        while calls.join_next().await.is_some() {}
        tasks.join_next().await.unwrap().unwrap();
    };
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), story)
            .await
            .expect("every call is answered");
    });
    std::iter::from_fn(|| facts.try_recv().ok())
        .map(|told| told.fact)
        .collect()
}

fn check(facts: &[Fact]) {
    let at = |wanted: &dyn Fn(&Fact) -> bool| facts.iter().position(wanted);
    let count = |wanted: &dyn Fn(&Fact) -> bool| facts.iter().filter(|f| wanted(f)).count();
    let init_exit = |fact: &Fact| matches!(fact, Fact::Exited { process, .. } if process == "web");
    assert!(
        matches!(facts.first(), Some(Fact::Created { .. })),
        "{facts:#?}"
    );
    assert!(
        matches!(facts.last(), Some(Fact::Deleted { .. })),
        "{facts:#?}"
    );
    assert_eq!(count(&init_exit), 1, "{facts:#?}");
    if let Some(started) = at(&|fact| matches!(fact, Fact::Started { .. })) {
        assert!(Some(started) < at(&init_exit), "{facts:#?}");
    }
    let last_exit = facts
        .iter()
        .rposition(|fact| matches!(fact, Fact::Exited { .. }));
    assert_eq!(
        last_exit,
        at(&init_exit),
        "init's exit is the last: {facts:#?}"
    );
    // Each start of an exec is followed by exactly one exit of that process.
    for (index, fact) in facts.iter().enumerate() {
        if let Fact::ExecStarted { pid, .. } = fact {
            let exits = facts[index..]
                .iter()
                .filter(|later| matches!(later, Fact::Exited { pid: ended, .. } if ended == pid));
            assert_eq!(exits.count(), 1, "{facts:#?}");
        }
    }
}

#[test]
fn started_comes_before_exited_even_if_the_process_ends_at_once() {
    for _ in 0..20 {
        let facts = play(vec![Ask::Breathe, Ask::Start], "0", "0");
        check(&facts);
        assert!(
            matches!(facts[1], Fact::Started { .. } | Fact::Exited { .. }),
            "{facts:#?}"
        );
    }
}

#[test]
fn an_exec_that_cannot_be_born_leaves_a_container_that_works() {
    let asks = vec![
        Ask::Start,
        Ask::Add(0),
        Ask::StartExec(0),
        Ask::Breathe,
        Ask::DeleteExec(0),
    ];
    let facts = play(asks, "100", "fail");
    check(&facts);
    assert!(
        !facts
            .iter()
            .any(|fact| matches!(fact, Fact::ExecStarted { .. })),
        "{facts:#?}"
    );
}

#[test]
fn a_slow_gate_keeps_nobody_else_waiting() {
    let runtime = runtime();
    runtime.block_on(async {
        let (sender, mut facts) = unbounded_channel();
        let body = Arc::new(Sleepers::default());
        let (open, opened) = channel::<()>();
        let mut born = body.process("100");
        born.gate = Gate::Attended(Box::new(move || {
            opened.recv().unwrap_or(());
            Ok(())
        }));
        let label = web();
        let (container, owner) = Container::begin(label, body, born, sender).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(owner);
        let starting = container.clone();
        let mut calls = JoinSet::new();
        calls.spawn(async move { starting.start(None).await });
        tokio::task::yield_now().await;
        container.state(None).await.unwrap();
        // A hook after the start may be what asks for it.
        let exec = container.exec("e", process("0"), Stdio::default());
        exec.await.unwrap();
        container.start(Some("e")).await.unwrap();
        assert_eq!(container.wait(Some("e")).await.unwrap().code, 0);
        container.kill(None, 9).await.unwrap();
        // It is dead, and nobody may know before the start is answered.
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(container.state(None).await.unwrap().exit, None);
        drop(open);
        calls.join_next().await.unwrap().unwrap().unwrap();
        assert_eq!(container.wait(None).await.unwrap().code, 137);
        container.delete(None).await.unwrap();
        let told = std::iter::from_fn(|| facts.try_recv().ok());
        check(&told.map(|told| told.fact).collect::<Vec<_>>());
    });
}

#[test]
fn what_is_killed_while_it_freezes_does_not_stay_frozen() {
    let runtime = runtime();
    runtime.block_on(async {
        let (sender, _facts) = unbounded_channel();
        let body = Arc::new(Sleepers::default());
        let born = body.process("100");
        let label = web();
        let kernel: Arc<Sleepers> = Arc::clone(&body);
        let (container, owner) = Container::begin(label, body, born, sender).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(owner);
        container.start(None).await.unwrap();
        let (paused, killed) = tokio::join!(container.pause(), container.kill(None, 9));
        killed.unwrap();
        drop(paused);
        assert_eq!(container.wait(None).await.unwrap().code, 137);
        container.delete(None).await.unwrap();
        for _ in 0..60_000 {
            if !kernel.frozen.load(Ordering::SeqCst) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("it stays frozen");
    });
}

#[test]
fn whoever_asks_while_it_is_being_removed_hears_what_comes_of_it() {
    let runtime = runtime();
    runtime.block_on(async {
        let (sender, mut facts) = unbounded_channel();
        let body = Arc::new(Sleepers::default());
        let ((fail, failed), (go, gone)) = (channel::<()>(), channel());
        body.removals.lock().unwrap().extend([failed, gone]);
        let born = body.process("100");
        let label = web();
        let kernel = Arc::clone(&body);
        let (container, owner) = Container::begin(label, body, born, sender).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(owner);
        let removals_begun = || 2 - kernel.removals.lock().unwrap().len();
        // Two ask while it stands at its gate, one when the second removal has begun.
        let late = async {
            container.wait(None).await.unwrap();
            drop(fail);
            // The second is tried when the first has failed.
            while removals_begun() < 2 {
                tokio::task::yield_now().await;
            }
            let (deleted, ()) = tokio::join!(container.delete(None), async {
                container.state(None).await.unwrap();
                go.send(()).unwrap();
            });
            deleted
        };
        let all = async { tokio::join!(container.delete(None), container.delete(None), late) };
        let (first, second, late) = tokio::time::timeout(Duration::from_secs(60), all)
            .await
            .expect("the removal that fails is tried again");
        assert!(matches!(first, Err(Error::NoTerminal)), "{first:?}");
        assert_eq!(second.unwrap().exit.code, 137);
        assert_eq!(late.unwrap().exit.code, 137);
        assert!(matches!(container.delete(None).await, Err(Error::Gone)));
        let told = std::iter::from_fn(|| facts.try_recv().ok());
        let deleted = told.filter(|told| matches!(told.fact, Fact::Deleted { .. }));
        assert_eq!(deleted.count(), 1);
    });
}

#[test]
fn an_end_waits_for_a_kill_that_the_sweep_brings_to_light() {
    let runtime = runtime();
    runtime.block_on(async {
        let (sender, mut facts) = unbounded_channel();
        let body = Arc::new(Sleepers::default());
        let born = body.process("0");
        let label = web();
        let mut actor = owner(&label, body, born, sender).unwrap();
        let (who, exit) = actor.exits.join_next().await.unwrap().unwrap();
        actor.ended(who, exit);
        let swept = actor.jobs.join_next().await.unwrap().unwrap();
        assert!(matches!(swept, Done::Swept(Ok(()))));
        // One of those that init has left behind.
        let kill = actor.ooms.pass();
        assert!(actor.finish(swept).is_continue());
        assert!(facts.try_recv().is_err(), "the kill is on its way");
        assert_eq!(actor.init.exit(), None);
        drop(kill);
        let passed = actor.jobs.join_next().await.unwrap().unwrap();
        assert!(actor.finish(passed).is_continue());
        let told = facts.try_recv().unwrap();
        assert!(matches!(told.fact, Fact::Exited { .. }));
        assert_eq!(actor.init.exit(), Some(exit));
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_order_of_requests_keeps_the_order_of_the_facts(
        asks in prop::collection::vec(ask(), 0..24),
        init in prop::sample::select(vec!["0", "0.01", "100"]),
        exec in prop::sample::select(vec!["0", "0.01", "100", "fail"]),
    ) {
        check(&play(asks, init, exec));
    }
}
