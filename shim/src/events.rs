//! Facts out: one queue in the order in which things happened, one event at a time.
//!
//! Whoever waits for events relies on their order (`start` before `exit`, init's exit
//! last), so an event that containerd does not take is tried again before the next one is
//! sent. No request ever waits for this: the queue has no end to run against, and when
//! containerd is away for long, the oldest events are given up.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use containerd_shim_protos::api::Mount;
use containerd_shim_protos::events::task as wire;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::topics;
use duet_pod::{Awaited, Exit, Fact, RootfsMount, Stdio, Told};
use protobuf::MessageFull;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use tokio::net::UnixStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::{task, time};
use tracing::{debug, warn};
use ttrpc::context;

use crate::{rest, status};

/// How long containerd may take over one event: 5 s, as containerd's own shim gives it.
const FORWARD_LIMIT: Duration = Duration::from_secs(5);

/// How long to wait before each further try: together 15 s, as the tries of containerd's own shim
/// (`pkg/shim/publisher.go`), and two early ones for a connection that has broken.
const PAUSES: [Duration; 7] = [
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(3),
    Duration::from_secs(4),
    Duration::from_secs(5),
];

/// How many events may wait before an old one gets no second try: 2048, the length of
/// containerd's own queue.
const BACKLOG: usize = 2048;

/// The way to containerd.
pub(crate) struct Publisher {
    address: PathBuf,
    namespace: String,
    client: Option<EventsClient>,
}

/// Why one event was not delivered.
#[derive(Debug, thiserror::Error)]
enum Undelivered {
    /// Nobody is there, or nobody accepts.
    #[error("connecting: {0}")]
    Unconnected(#[from] io::Error),
    /// It came to no answer.
    #[error("{0}")]
    Unanswered(ttrpc::Error),
}

// === impl Publisher ===

impl Publisher {
    /// A publisher for `address`, containerd's ttrpc socket. Nothing is connected yet.
    pub(crate) fn new(address: &str, namespace: &str) -> Self {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        Self {
            address: PathBuf::from(path),
            namespace: namespace.to_owned(),
            client: None,
        }
    }

    /// Publishes facts until nobody can state another.
    pub(crate) async fn run(mut self, mut facts: UnboundedReceiver<Told>) {
        while let Some(Told { at, fact }) = rest::until_next(&mut facts).await {
            // Whoever asked for it hears the answer first: containerd's work on an event is long, and
            // may take the processor that the caller waits for.
            task::yield_now().await;
            // Some ends are told only when this is over.
            let awaited = if let Fact::Oom { awaited, .. } = &fact {
                awaited.clone()
            } else {
                Awaited::default()
            };
            let envelope = self.envelope(at, fact);
            let mut pauses = PAUSES.iter();
            while let Err(error) = self.forward(&envelope).await {
                match pauses.next() {
                    Some(pause) if facts.len() < BACKLOG => time::sleep(*pause).await,
                    Some(_) | None => {
                        warn!(topic = envelope.topic, %error, "event given up");
                        break;
                    }
                }
            }
            drop(awaited);
        }
    }

    fn envelope(&self, at: SystemTime, fact: Fact) -> Envelope {
        let (topic, event) = event(fact);
        Envelope {
            timestamp: Some(Timestamp::from(at)).into(),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(event).into(),
            ..Envelope::default()
        }
    }

    async fn forward(&mut self, envelope: &Envelope) -> Result<(), Undelivered> {
        let client = match self.client.take() {
            Some(client) => client,
            None => {
                // Not ttrpc's own connection, which waits for a place in the queue of a containerd that accepts nobody,
                // and all of the shim with it.
                let connected = UnixStream::connect(&self.address).await?;
                EventsClient::new(Client::new(connected.into()))
            }
        };
        let request = ForwardRequest {
            envelope: Some(envelope.clone()).into(),
            ..ForwardRequest::default()
        };
        match client
            .forward(context::with_duration(FORWARD_LIMIT), &request)
            .await
        {
            Ok(_) => {
                self.client = Some(client);
                Ok(())
            }
            // containerd has read it and says no: it would say the same again.
            Err(error) if status::is_answer(&error) => {
                debug!(topic = envelope.topic, %error, "containerd refused an event");
                self.client = Some(client);
                Ok(())
            }
            // The connection is of no more use; the next try makes another.
            Err(error) => Err(Undelivered::Unanswered(error)),
        }
    }
}

/// A fact in containerd's words.
fn event(fact: Fact) -> (&'static str, Any) {
    match fact {
        Fact::Created {
            id,
            bundle,
            rootfs,
            stdio,
            pid,
        } => (
            topics::TASK_CREATE_EVENT_TOPIC,
            pack(&wire::TaskCreate {
                container_id: id,
                bundle: bundle.to_string_lossy().into_owned(),
                rootfs: rootfs.into_iter().map(mount).collect(),
                io: Some(io(stdio)).into(),
                pid: unsigned(pid),
                ..wire::TaskCreate::default()
            }),
        ),
        Fact::Started { id, pid } => (
            topics::TASK_START_EVENT_TOPIC,
            pack(&wire::TaskStart {
                container_id: id,
                pid: unsigned(pid),
                ..wire::TaskStart::default()
            }),
        ),
        Fact::ExecAdded { id, exec } => (
            topics::TASK_EXEC_ADDED_EVENT_TOPIC,
            pack(&wire::TaskExecAdded {
                container_id: id,
                exec_id: exec,
                ..wire::TaskExecAdded::default()
            }),
        ),
        Fact::ExecStarted { id, exec, pid } => (
            topics::TASK_EXEC_STARTED_EVENT_TOPIC,
            pack(&wire::TaskExecStarted {
                container_id: id,
                exec_id: exec,
                pid: unsigned(pid),
                ..wire::TaskExecStarted::default()
            }),
        ),
        Fact::Exited {
            id,
            process,
            pid,
            exit,
        } => (
            topics::TASK_EXIT_EVENT_TOPIC,
            pack(&wire::TaskExit {
                container_id: id,
                id: process,
                pid: unsigned(pid),
                exit_status: u32::from(exit.code),
                exited_at: exited_at(exit).into(),
                ..wire::TaskExit::default()
            }),
        ),
        Fact::Deleted { id, pid, exit } => (
            topics::TASK_DELETE_EVENT_TOPIC,
            pack(&wire::TaskDelete {
                container_id: id,
                pid: unsigned(pid),
                exit_status: u32::from(exit.code),
                exited_at: exited_at(exit).into(),
                ..wire::TaskDelete::default()
            }),
        ),
        Fact::Paused { id } => (
            topics::TASK_PAUSED_EVENT_TOPIC,
            pack(&wire::TaskPaused {
                container_id: id,
                ..wire::TaskPaused::default()
            }),
        ),
        Fact::Resumed { id } => (
            topics::TASK_RESUMED_EVENT_TOPIC,
            pack(&wire::TaskResumed {
                container_id: id,
                ..wire::TaskResumed::default()
            }),
        ),
        Fact::Oom { id, awaited: _ } => (
            topics::TASK_OOM_EVENT_TOPIC,
            pack(&wire::TaskOOM {
                container_id: id,
                ..wire::TaskOOM::default()
            }),
        ),
    }
}

/// Packs a message under its bare name, as containerd's `typeurl` does; `Any::pack` would
/// put a host before it, which containerd 1.6 does not take off.
pub(crate) fn pack<M: MessageFull>(message: &M) -> Any {
    Any {
        type_url: M::descriptor().full_name().to_owned(),
        // Writing into memory fails only beyond 2 GiB.
        value: message.write_to_bytes().unwrap_or_default(),
        ..Any::default()
    }
}

/// When a process ended, on the wire.
pub(crate) fn exited_at(exit: Exit) -> Option<Timestamp> {
    Some(Timestamp::from(exit.at))
}

/// A process id on the wire: 0 where there is none.
pub(crate) fn unsigned(pid: i32) -> u32 {
    u32::try_from(pid).unwrap_or(0)
}

fn mount(mount: RootfsMount) -> Mount {
    Mount {
        type_: mount.fstype,
        source: mount.source,
        target: mount.target,
        options: mount.options,
        ..Mount::default()
    }
}

fn io(stdio: Stdio) -> wire::TaskIO {
    wire::TaskIO {
        stdin: stdio.stdin,
        stdout: stdio.stdout,
        stderr: stdio.stderr,
        terminal: stdio.terminal,
        ..wire::TaskIO::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::sync::{Arc, Mutex};
    use std::thread;

    use async_trait::async_trait;
    use containerd_shim_protos::api::Empty;
    use containerd_shim_protos::shim_async::{Events, create_events};
    use nix::sys::socket::{Backlog, listen as listen_for};
    use protobuf::Message as _;
    use tokio::sync::mpsc;
    use ttrpc::asynchronous::{Server, TtrpcContext};

    /// A containerd that only listens to events.
    #[derive(Default)]
    struct Sink {
        heard: Mutex<Vec<Envelope>>,
        /// The code it answers with before it takes an event, once each.
        moods: Mutex<Vec<ttrpc::Code>>,
    }

    #[async_trait]
    impl Events for Sink {
        async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
            if let Some(code) = self.moods.lock().unwrap().pop() {
                return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(code, "not now")));
            }
            self.heard.lock().unwrap().push(request.envelope.unwrap());
            Ok(Empty::new())
        }
    }

    async fn listen(sink: &Arc<Sink>, path: &Path) -> Server {
        let mut server = Server::new()
            .bind(&format!("unix://{}", path.display()))
            .unwrap()
            .register_service(create_events(Arc::<Sink>::clone(sink) as _));
        server.start().await.unwrap();
        server
    }

    fn exit() -> Exit {
        Exit {
            code: 137,
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(5),
        }
    }

    /// A fact of long ago.
    fn told(fact: Fact) -> Told {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(9);
        Told { at, fact }
    }

    fn life(id: &str) -> Vec<Fact> {
        let id = || id.to_owned();
        vec![
            Fact::Created {
                id: id(),
                bundle: PathBuf::from("/bundle"),
                rootfs: vec![RootfsMount {
                    fstype: "overlay".to_owned(),
                    ..Default::default()
                }],
                stdio: Stdio {
                    stdout: "/out".to_owned(),
                    terminal: true,
                    ..Default::default()
                },
                pid: 7,
            },
            Fact::Started { id: id(), pid: 7 },
            Fact::ExecAdded {
                id: id(),
                exec: "e".to_owned(),
            },
            Fact::ExecStarted {
                id: id(),
                exec: "e".to_owned(),
                pid: 8,
            },
            Fact::Paused { id: id() },
            Fact::Resumed { id: id() },
            Fact::Oom {
                id: id(),
                awaited: Awaited::default(),
            },
            Fact::Exited {
                id: id(),
                process: "e".to_owned(),
                pid: 8,
                exit: exit(),
            },
            Fact::Exited {
                id: id(),
                process: id(),
                pid: 7,
                exit: exit(),
            },
            Fact::Deleted {
                id: id(),
                pid: 7,
                exit: exit(),
            },
        ]
    }

    #[tokio::test]
    async fn events_arrive_in_order_through_refusals_and_a_late_containerd() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ttrpc");
        let (facts, heard) = mpsc::unbounded_channel();
        for fact in life("web") {
            facts.send(told(fact)).unwrap();
        }
        drop(facts);
        let publisher =
            tokio::spawn(Publisher::new(&path.display().to_string(), "k8s.io").run(heard));
        // The first tries find nobody.
        time::sleep(Duration::from_millis(20)).await;
        let sink = Arc::new(Sink::default());
        sink.moods.lock().unwrap().push(ttrpc::Code::UNAVAILABLE);
        let _server = listen(&sink, &path).await;
        publisher.await.unwrap();

        let heard = sink.heard.lock().unwrap();
        let topics: Vec<&str> = heard
            .iter()
            .map(|envelope| envelope.topic.as_str())
            .collect();
        assert_eq!(
            topics,
            [
                "/tasks/create",
                "/tasks/start",
                "/tasks/exec-added",
                "/tasks/exec-started",
                "/tasks/paused",
                "/tasks/resumed",
                "/tasks/oom",
                "/tasks/exit",
                "/tasks/exit",
                "/tasks/delete",
            ]
        );
        for envelope in heard.iter() {
            assert_eq!(envelope.namespace, "k8s.io");
            assert_eq!(envelope.timestamp.seconds, 9, "when it happened");
            assert!(
                envelope
                    .event
                    .type_url
                    .starts_with("containerd.events.Task")
            );
        }
        let created = wire::TaskCreate::parse_from_bytes(&heard[0].event.value).unwrap();
        assert_eq!(created.bundle, "/bundle");
        assert_eq!(created.rootfs[0].type_, "overlay");
        assert_eq!(
            (created.io.stdout.as_str(), created.io.terminal),
            ("/out", true)
        );
        let exited = wire::TaskExit::parse_from_bytes(&heard[7].event.value).unwrap();
        assert_eq!(
            (exited.container_id.as_str(), exited.id.as_str()),
            ("web", "e")
        );
        assert_eq!((exited.exit_status, exited.exited_at.seconds), (137, 5));
    }

    #[tokio::test]
    async fn an_event_that_containerd_refuses_for_good_does_not_hold_up_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ttrpc");
        let sink = Arc::new(Sink::default());
        sink.moods
            .lock()
            .unwrap()
            .push(ttrpc::Code::INVALID_ARGUMENT);
        let _server = listen(&sink, &path).await;
        let (facts, heard) = mpsc::unbounded_channel();
        let started = Fact::Started {
            id: "a".to_owned(),
            pid: 1,
        };
        facts.send(told(started)).unwrap();
        let oom = Fact::Oom {
            id: "a".to_owned(),
            awaited: Awaited::default(),
        };
        facts.send(told(oom)).unwrap();
        drop(facts);
        let address = format!("unix://{}", path.display());
        Publisher::new(&address, "k8s.io").run(heard).await;
        let heard = sink.heard.lock().unwrap();
        assert_eq!(heard.len(), 1);
        assert_eq!(heard[0].topic, "/tasks/oom");
    }

    #[tokio::test]
    async fn what_happens_while_the_connection_is_broken_arrives_after_what_happened_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ttrpc");
        let (facts, heard) = mpsc::unbounded_channel();
        let address = path.display().to_string();
        let publisher = tokio::spawn(Publisher::new(&address, "k8s.io").run(heard));
        let sink = Arc::new(Sink::default());
        let mut life = life("web").into_iter();
        for generation in 1..=3 {
            let mut server = listen(&sink, &path).await;
            facts.send(told(life.next().unwrap())).unwrap();
            // Heard, and the connection kept for the next.
            while sink.heard.lock().unwrap().len() < generation {
                task::yield_now().await;
            }
            server.shutdown().await.unwrap();
            std::fs::remove_file(&path).unwrap();
        }
        drop(facts);
        publisher.await.unwrap();
        let heard = sink.heard.lock().unwrap();
        let topics: Vec<&str> = heard.iter().map(|one| one.topic.as_str()).collect();
        let expected = ["/tasks/create", "/tasks/start", "/tasks/exec-added"];
        assert_eq!(topics, expected);
    }

    #[test]
    fn a_containerd_that_accepts_nobody_holds_up_no_other_work() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ttrpc");
        let stopped = UnixListener::bind(&path).unwrap();
        listen_for(&stopped, Backlog::new(0).unwrap()).unwrap();
        // The one for which there is a place.
        let _waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let (other, done) = std::sync::mpsc::channel();
        // A thread of its own: one that was held up would keep the test from saying so.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (facts, heard) = mpsc::unbounded_channel();
                facts.send(told(life("a").remove(0))).unwrap();
                let publisher =
                    tokio::spawn(Publisher::new(&path.display().to_string(), "k8s.io").run(heard));
                // Past its first try.
                time::sleep(PAUSES[0] / 2).await;
                other.send(publisher.is_finished()).unwrap();
                publisher.abort();
            });
        });
        assert!(!done.recv_timeout(Duration::from_secs(60)).unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_containerd_that_never_comes_back_costs_no_more_than_the_events() {
        let (facts, heard) = mpsc::unbounded_channel();
        for fact in life("a") {
            facts.send(told(fact)).unwrap();
        }
        drop(facts);
        let begun = time::Instant::now();
        Publisher::new("/nonexistent/ttrpc", "k8s.io")
            .run(heard)
            .await;
        let each = begun.elapsed() / u32::try_from(life("a").len()).unwrap();
        assert!(each >= Duration::from_secs(15), "given up after {each:?}");
    }
}
