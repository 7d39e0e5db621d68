//! The process that has a container, from its creation to its deletion: a pod with one member.
//!
//! `create` hands over the listening socket as standard input, as `start` does to the shim's
//! server, and asks like every other command.

use std::env;
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use duet_linux::process;
use duet_pod::{Config, Create, Given, Phase, Pod, Programs, Stdio};
use nix::errno::Errno;
use nix::unistd;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::{runtime, task, time};
use tracing::level_filters::LevelFilter;

use crate::arguments::{Global, LogFormat};
use crate::error::{Error, chain};
use crate::message::{Answer, Request, hear, say};
use crate::place::{About, Place};

/// How soon to look again when there was nothing left to accept a caller with: 100 ms.
const AGAIN: Duration = Duration::from_millis(100);

/// The keeper of one container.
#[derive(Debug)]
struct Keeper {
    place: Place,
    pod: Pod,
    /// How many execs there were.
    execs: AtomicU32,
}

/// Plays the role; returns when the container is deleted.
pub(crate) fn run(global: &Global, id: &str) -> Result<(), Error> {
    log(global)?;
    let place = Place::find(&global.root, id)?;
    let listener = prepare()?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Error::host("start the runtime"))?;
    // Held until this process has ended: that is what the last caller waits for.
    let _last = runtime.block_on(keep(place, listener))?;
    drop(runtime);
    Ok(())
}

/// Sends warnings to the log, if there is one.
fn log(global: &Global) -> Result<(), Error> {
    let Some(path) = &global.log else {
        return Ok(());
    };
    let mut options = fs::OpenOptions::new();
    let file = options.append(true).create(true).open(path);
    let file = Arc::new(file.map_err(Error::file("open the log", path))?);
    let level = if global.debug {
        LevelFilter::DEBUG
    } else {
        LevelFilter::WARN
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(file);
    // Only a second call could fail, and a program that logs already is what was wanted.
    match global.log_format {
        LogFormat::Text => drop(tracing::subscriber::set_global_default(subscriber.finish())),
        LogFormat::Json => drop(tracing::subscriber::set_global_default(
            subscriber.json().flatten_event(true).finish(),
        )),
    }
    Ok(())
}

/// Turns the process that `create` started into one of its own, as the shim's server is.
fn prepare() -> Result<UnixListener, Error> {
    let stdin = io::stdin().as_fd().try_clone_to_owned();
    let listener = UnixListener::from(stdin.map_err(Error::host("take the socket"))?);
    let null = File::open("/dev/null").map_err(Error::host("open /dev/null"))?;
    unistd::dup2_stdin(&null).map_err(|errno| Error::host("close standard input")(errno.into()))?;
    unistd::setsid().map_err(|errno| Error::host("leave the session")(errno.into()))?;
    process::subreaper().map_err(Error::host("become the subreaper"))?;
    process::hide().map_err(Error::host("hide from tracers"))?;
    env::set_current_dir("/").map_err(Error::host("leave the folder"))?;
    let ready = listener.set_nonblocking(true);
    ready.map_err(Error::host("set O_NONBLOCK on the socket"))?;
    Ok(listener)
}

/// Answers until the container is deleted; returns the socket of who asked for that.
async fn keep(place: Place, listener: UnixListener) -> Result<Option<UnixStream>, Error> {
    let listener = tokio::net::UnixListener::from_std(listener);
    let listener = listener.map_err(Error::host("listen"))?;
    // Nobody wants to hear what happens.
    let (facts, _) = mpsc::unbounded_channel();
    let program = env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let config = Config {
        id: place.id.clone(),
        namespace: "duet-oci".to_owned(),
        bundle: place.dir.clone(),
        holder: program.with_file_name("duet-holder"),
        // There is no containerd to ask for a guest that is in no file.
        programs: Programs::beside(&program, String::new()),
    };
    let keeper = Arc::new(Keeper {
        pod: Pod::new(config, facts)?,
        place,
        execs: AtomicU32::new(0),
    });
    let mut callers = task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                match accepted {
                    Ok((stream, _)) => {
                        callers.spawn(Arc::clone(&keeper).serve(stream));
                    }
                    // Whoever connects waits meanwhile: the container must not end for it.
                    Err(error) if is_scarcity(&error) => time::sleep(AGAIN).await,
                    Err(error) => return Err(Error::host("accept")(error)),
                }
            }
            Some(served) = callers.join_next() => {
                if let Ok(ControlFlow::Break(last)) = served {
                    return Ok(last);
                }
            }
        }
    }
}

/// Whether something is used up that others will give back: descriptors, memory, or a caller's patience.
fn is_scarcity(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw);
    matches!(
        number,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS | Errno::ECONNABORTED)
    )
}

// === impl Keeper ===

impl Keeper {
    /// Answers one question; breaks with the socket when there is nothing to keep any more.
    /// A question that cannot be heard is the first one or nobody's.
    async fn serve(
        self: Arc<Self>,
        stream: tokio::net::UnixStream,
    ) -> ControlFlow<Option<UnixStream>> {
        let opened = task::spawn_blocking(|| {
            let socket = stream.into_std()?;
            socket.set_nonblocking(false)?;
            let heard = hear(&socket);
            io::Result::Ok((socket, heard))
        });
        let Ok((socket, heard)) = opened.await.map_err(io::Error::from).flatten() else {
            return ControlFlow::Continue(());
        };
        let (answer, last) = match heard {
            Ok((request, files)) => {
                let last = matches!(request, Request::Create { .. } | Request::Delete { .. });
                (self.answer(request, files).await, last)
            }
            Err(error) => (Err(Error::host("hear the question")(error)), true),
        };
        let answer = answer.unwrap_or_else(|error| Answer::Failed(chain(&error)));
        // It was never created, or it is deleted.
        let over = last && self.pod.is_empty();
        if over && let Err(error) = self.place.remove() {
            tracing::warn!(error = chain(&error), "left behind");
        }
        let said = task::spawn_blocking(move || say(&socket, &answer).map(|()| socket)).await;
        if !over {
            return ControlFlow::Continue(());
        }
        // Who asked may have left.
        ControlFlow::Break(said.map_err(io::Error::from).flatten().ok())
    }

    async fn answer(&self, request: Request, files: Vec<OwnedFd>) -> Result<Answer, Error> {
        let (id, pod) = (self.place.id.as_str(), &self.pod);
        match request {
            Request::Create { bundle, terminal } => {
                let request = Create {
                    id: id.to_owned(),
                    bundle,
                    rootfs: Vec::new(),
                    stdio: given(terminal, files)?,
                    io_owner: None,
                    no_new_keyring: false,
                    cache_size: None,
                };
                Ok(Answer::Pid(pod.create(request).await?))
            }
            Request::Start => pod
                .start(id, None)
                .await
                .map(Answer::Pid)
                .map_err(Into::into),
            Request::State => self.state().await.map(Answer::State),
            Request::Kill { exec, signal, all } => {
                pod.kill(id, exec.as_deref(), signal, all).await?;
                Ok(Answer::Done)
            }
            Request::Delete { force } => self.delete(force).await,
            Request::Exec { process, terminal } => {
                let number = self.execs.fetch_add(1, Ordering::Relaxed);
                let exec = format!("exec-{number}");
                let process = process.to_string();
                let stdio = given(terminal, files)?;
                pod.exec(id, &exec, process.as_bytes(), stdio).await?;
                match pod.start(id, Some(&exec)).await {
                    Ok(pid) => Ok(Answer::Running { exec, pid }),
                    Err(error) => {
                        pod.delete(id, Some(&exec)).await?;
                        Err(error.into())
                    }
                }
            }
            Request::Wait { exec } => {
                let exit = pod.wait(id, exec.as_deref()).await?;
                if exec.is_some() {
                    pod.delete(id, exec.as_deref()).await?;
                }
                Ok(Answer::Ended(exit.code))
            }
        }
    }

    /// `State` of the runtime specification.
    async fn state(&self) -> Result<Value, Error> {
        let About {
            bundle,
            oci_version,
            annotations,
        } = self.place.read()?;
        let (status, pid) = match self.pod.state(&self.place.id, None).await {
            Ok(status) => match status.phase {
                Phase::Created => ("created", Some(status.pid)),
                Phase::Running | Phase::Pausing | Phase::Paused => ("running", Some(status.pid)),
                Phase::Stopped => ("stopped", None),
            },
            Err(duet_pod::Error::Unknown { .. }) => ("creating", None),
            Err(error) => return Err(error.into()),
        };
        let mut state = json!({
            "ociVersion": oci_version,
            "id": self.place.id,
            "status": status,
            "bundle": bundle,
        });
        if let Some(pid) = pid {
            state["pid"] = pid.into();
        }
        if annotations.is_object() {
            state["annotations"] = annotations;
        }
        Ok(state)
    }

    /// Removes the container. The specification wants it stopped; the pod would also take one
    /// whose program never ran.
    async fn delete(&self, force: bool) -> Result<Answer, Error> {
        let (id, pod) = (self.place.id.as_str(), &self.pod);
        let phase = match pod.state(id, None).await {
            Ok(status) => status.phase,
            Err(error) => return Err(error.into()),
        };
        match phase {
            Phase::Stopped => {}
            Phase::Created | Phase::Running | Phase::Pausing | Phase::Paused if !force => {
                let why = format!("container {id:?} cannot be deleted: it has not stopped");
                return Err(Error::Refused(why));
            }
            Phase::Created => {}
            Phase::Running | Phase::Pausing | Phase::Paused => {
                // It may have ended meanwhile, which is what is wanted.
                if let Err(error) = pod.kill(id, None, 9, true).await {
                    tracing::debug!(%error, "not killed before its deletion");
                }
                pod.wait(id, None).await?;
            }
        }
        pod.delete(id, None).await?;
        Ok(Answer::Done)
    }
}

/// The stdio of a process that its caller has given.
fn given(terminal: bool, files: Vec<OwnedFd>) -> Result<Stdio, Error> {
    let wrong = || Error::Refused("the question came without its descriptors".to_owned());
    let mut files = files.into_iter();
    let given = if terminal {
        Given::Console(Arc::new(files.next().ok_or_else(wrong)?))
    } else {
        let mut next = || files.next().ok_or_else(wrong);
        Given::Streams(Arc::new([next()?, next()?, next()?]))
    };
    Ok(Stdio {
        terminal,
        given: Some(given),
        ..Stdio::default()
    })
}
