//! Loggers: programs of the host's that read a process's output (`binary://`).
//!
//! ```text
//!   process --1--> pipe --3--> logger        the shim holds the pipes' reading ends too:
//!           --2--> pipe --4-->               a logger that dies costs the lines that nobody
//!   shim   <------ pipe <--5-- "ready"       reads, never the process
//! ```
//!
//! Under runc's shim a process gets SIGPIPE when its logger dies. A log is not worth that.

use std::io::{self, PipeReader, PipeWriter, Read, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use duet_launch::Supplies;
use duet_linux::channel;
use duet_plan::Helper as HelperPlan;
use rustix::fs::OFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::children::Child;
use crate::copy;
use crate::error::{Error, LoggerError};
use crate::helper::{Helper, Served};
use crate::polled::polled;
use crate::target::{Program, Ready};

/// How long a logger may take until it is ready: 10 s. runc's shim waits for ever.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// How long a logger that is on its way out may take until it is dead: 10 s.
const DEATH_LIMIT: Duration = Duration::from_secs(10);

/// How long a logger may take to write what it has read, when all has been written: 2 s.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// How long it may take after SIGTERM: 10 s, so that both are the 12 s of runc's shim.
const TERM_LIMIT: Duration = Duration::from_secs(10);

/// A logger that is ready.
#[derive(Debug)]
pub(crate) struct Logger {
    helper: Helper,
    path: String,
    readers: [OwnedFd; 2],
}

/// A logger in use. Dropping this kills it.
#[derive(Debug)]
pub(crate) struct Attended {
    end: oneshot::Sender<()>,
    over: JoinHandle<()>,
}

/// The process's ends of the two pipes.
#[derive(Debug)]
pub(crate) struct Writers {
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

// === impl Logger ===

impl Logger {
    /// Starts a logger and waits until it is ready. On an error nothing of it is left.
    pub(crate) fn start(
        stream: &'static str,
        uri: &str,
        program: &Program,
        served: Served<'_>,
    ) -> Result<(Self, Writers), Error> {
        raise(program, served).map_err(|source| Error::Logger {
            stream,
            uri: uri.to_owned(),
            source: Box::new(source),
        })
    }

    /// Looks after it until it has ended; needs the runtime.
    pub(crate) fn attend(self) -> Result<Attended, Error> {
        let process = Arc::clone(self.helper.process());
        let process = polled(process, Interest::READABLE).map_err(|source| Error::Host {
            step: "watch a logger",
            source,
        })?;
        let (end, asked) = oneshot::channel();
        let over = tokio::spawn(self.watch(process, asked));
        Ok(Attended { end, over })
    }

    async fn watch(self, process: AsyncFd<Arc<Child>>, mut asked: oneshot::Receiver<()>) {
        let Logger {
            mut helper,
            path,
            readers: [out, err],
        } = self;
        let asked = tokio::select! {
            () = ended(&mut helper, &process) => {
                // After the last of its output a logger ends by itself, and that is well.
                tracing::info!(logger = path, end = ?helper.ended(), "logger ended");
                let unread = async { tokio::join!(discard(&path, out), discard(&path, err)) };
                tokio::select! {
                    _ = unread => {}
                    _ = asked => {}
                }
                return;
            }
            asked = &mut asked => asked,
        };
        if asked.is_err() {
            // Nobody waits for what it has to say.
            return;
        }
        // Only the logger itself reads now.
        drop((out, err));
        let patience = ended(&mut helper, &process);
        if tokio::time::timeout(FLUSH_LIMIT, patience).await.is_ok() {
            return;
        }
        helper.terminate();
        let patience = ended(&mut helper, &process);
        if tokio::time::timeout(TERM_LIMIT, patience).await.is_err() {
            tracing::warn!(logger = path, "logger killed: SIGTERM did not end it");
        }
    }
}

// === impl Attended ===

impl Attended {
    /// Lets the logger finish, and makes sure that it does.
    pub(crate) async fn end(self) {
        // It may be over already.
        self.end.send(()).unwrap_or(());
        if let Err(error) = self.over.await {
            tracing::error!(%error, "a logger's end is lost");
        }
    }
}

fn raise(program: &Program, served: Served<'_>) -> Result<(Logger, Writers), LoggerError> {
    let failed = |step| move |source| LoggerError::Pipe { step, source };
    let (stdout, out) = pipe().map_err(failed("make a pipe"))?;
    let (stderr, err) = pipe().map_err(failed("make a pipe"))?;
    let (ready, word) = pipe().map_err(failed("make a pipe"))?;
    let args: Vec<String> = [program.path.clone()]
        .into_iter()
        .chain(program.args.iter().cloned())
        .collect();
    let plan = HelperPlan {
        path: &program.path,
        args: &args,
        env: &environment(program, served),
        cwd: "/",
        descriptors: &[3, 4, 5],
    };
    let plan = plan.plan().map_err(Error::from)?;
    let supplies = Supplies {
        passed: &[stdout.as_fd(), stderr.as_fd(), word.as_fd()],
        ..Supplies::default()
    };
    let mut helper = Helper::start(served, &plan, supplies)?;
    drop(word);
    await_ready(&mut helper, program.ready, ready)?;
    let logger = Logger {
        helper,
        path: program.path.clone(),
        readers: [stdout.into(), stderr.into()],
    };
    Ok((logger, Writers::from([out, err])))
}

/// What containerd tells a logger, and what its URI adds.
fn environment(program: &Program, served: Served<'_>) -> Vec<String> {
    let told = [
        ("CONTAINER_ID", served.name),
        ("CONTAINER_NAMESPACE", served.namespace),
    ];
    let more = program.env.iter().filter(|(name, _)| {
        let taken = told.iter().any(|(told, _)| told == name);
        !taken && !name.is_empty() && !name.contains('=')
    });
    let more = more.map(|(name, value)| (name.as_str(), value.as_str()));
    told.into_iter()
        .chain(more)
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

fn await_ready(helper: &mut Helper, how: Ready, mut ready: PipeReader) -> Result<(), LoggerError> {
    let failed = |source| LoggerError::Pipe {
        step: "wait for it",
        source,
    };
    if !channel::readable(&ready, Instant::now() + READY_LIMIT).map_err(failed)? {
        return Err(LoggerError::Silent(READY_LIMIT));
    }
    if ready.read(&mut [0]).map_err(failed)? == 1 {
        return Ok(());
    }
    // It is dying if that is why descriptor 5 was closed, however long it takes until it is dead.
    let death = match helper.is_exiting() {
        true => helper.ended_by(Instant::now() + DEATH_LIMIT),
        false => None,
    };
    match (death, how) {
        (Some(exit), _) => Err(LoggerError::Ended(exit.code)),
        (None, Ready::Writes) => Err(LoggerError::Mute),
        (None, Ready::Closes) => Ok(()),
    }
}

async fn ended(helper: &mut Helper, process: &AsyncFd<Arc<Child>>) {
    while helper.ended().is_none() {
        match process.readable().await {
            Ok(mut ready) if helper.ended().is_none() => ready.clear_ready(),
            Ok(_) => return,
            Err(error) => {
                tracing::error!(%error, "end of a logger cannot be seen");
                return;
            }
        }
    }
}

/// Reads what a dead logger does not, until nobody writes any more.
async fn discard(path: &str, reader: OwnedFd) {
    let discarded = async {
        // Of the description, which the logger has no more use for.
        rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK)?;
        copy::discard(reader).await
    };
    let discarded: io::Result<bool> = discarded.await;
    match discarded {
        Ok(false) => {}
        Ok(true) => tracing::warn!(logger = path, "output is lost: its logger has ended"),
        Err(error) => tracing::warn!(logger = path, %error, "output waits: its logger has ended"),
    }
}

// === impl Writers ===

impl From<[PipeWriter; 2]> for Writers {
    fn from([stdout, stderr]: [PipeWriter; 2]) -> Self {
        Writers {
            stdout: stdout.into(),
            stderr: stderr.into(),
        }
    }
}
