//! `serve`: is the pod's shim, from the first `start` to the last container's end.
//!
//! `start` hands over the listening socket as standard input. The server leaves
//! containerd's process group and session, answers requests on one thread (one shim per
//! pod makes threads a cost per pod), and ends when it was told to and nobody lives in
//! the pod any more.

use std::collections::HashMap;
use std::env;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use containerd_shim::Flags;
use containerd_shim_protos::sandbox_async::create_sandbox;
use containerd_shim_protos::shim_async::create_task;
use duet_linux::{heap, process};
use duet_pod::{Config, Pod, Programs};
use nix::unistd;
use tokio::sync::mpsc;
use tokio::{runtime, task, time};
use tracing::{info, warn};
use ttrpc::asynchronous::{Server, Service};

use crate::connections::Connections;
use crate::error::Error;
use crate::events::Publisher;
use crate::sandbox::Sandboxes;
use crate::socket::{Socket, listen_as_ourselves};
use crate::task::Tasks;
use crate::{COMMIT, forgotten, logging};

/// How long the last answers and events may take to leave: 2 s. containerd waits 3 s for
/// a shim's end before it kills it.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// How long a caller of the Sandbox service, or of a last Delete, may take to hang up after its answer: 1 s.
const HANG_UP_LIMIT: Duration = Duration::from_secs(1);

/// Plays the role; returns when the pod is over.
pub(crate) fn run(flags: &Flags, pod: String) -> Result<(), Error> {
    // Every birth is a copy of this process.
    heap::gather();
    let bundle = env::current_dir();
    if let Ok(bundle) = &bundle {
        logging::start(bundle, flags.debug);
    }
    let result = prepare().and_then(|listener| {
        // containerd may have been killed and come back, and removed it already.
        let bundle = bundle.map_err(failed("finding the bundle"))?;
        serve(listener, flags, config(flags, pod, &bundle)?)
    });
    if let Err(error) = &result {
        // Nobody listens any more: it goes as that of any dead shim, unless another has it by now.
        drop(Socket::at(&flags.socket).sweep_neighbours());
        // Standard error is /dev/null: this line is all that anybody will see, if there is a bundle.
        tracing::error!(id = flags.id, error = error.chain(), "the shim ends");
    }
    result
}

/// Turns the process that `start` left into a server of its own.
fn prepare() -> Result<UnixListener, Error> {
    let stdin = io::stdin();
    let listener = stdin
        .as_fd()
        .try_clone_to_owned()
        .map_err(failed("taking the socket"))?;
    let null = File::open("/dev/null").map_err(failed("opening /dev/null"))?;
    unistd::dup2_stdin(&null).map_err(|errno| failed("closing standard input")(errno.into()))?;
    let listener = UnixListener::from(listener);
    // A `delete` that finds us mute must know whom to end.
    listen_as_ourselves(&listener).map_err(failed("listening"))?;
    unistd::setsid().map_err(|errno| failed("leaving the session")(errno.into()))?;
    // Orphans of the pod are ours to reap, not the machine's.
    process::subreaper().map_err(failed("becoming the subreaper"))?;
    // A container's process is a copy of this one until it runs its program: nobody in the
    // pod may look into it before that.
    process::hide().map_err(failed("hiding from tracers"))?;
    // The bundle is containerd's to remove while we still run.
    env::set_current_dir("/").map_err(failed("leaving the bundle"))?;
    if let Err(error) = offer_to_oom_killer(Path::new("/proc/self/oom_score_adj")) {
        warn!(%error, "oom_score_adj is containerd's own: the two are killed alike");
    }
    Ok(listener)
}

/// Makes the kernel prefer this process over containerd, which gave us its own score, when
/// memory runs out: losing a pod is better than losing the node's containerd.
fn offer_to_oom_killer(file: &Path) -> io::Result<()> {
    let score: i32 = fs::read_to_string(file)?
        .trim()
        .parse()
        .map_err(io::Error::other)?;
    // Only ever raised: lowering it takes CAP_SYS_RESOURCE.
    if score < 1000 {
        fs::write(file, (score + 1).to_string())?;
    }
    Ok(())
}

/// How long a thread for calls that block is kept when nobody needs it: for ever.
///
/// tokio panics if it cannot make one and has none, and a node that has no process left to give would lose every
/// pod that is asked something then. While there is one, what cannot have its own waits for it.
const THREAD_KEPT: Duration = Duration::MAX;

fn serve(listener: UnixListener, flags: &Flags, config: Config) -> Result<(), Error> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(THREAD_KEPT)
        .build()
        .map_err(failed("starting the runtime"))?;
    // The first, while a start can still fail for it.
    drop(runtime.spawn_blocking(|| ()));
    runtime.block_on(attend(listener, flags, config))
}

/// Answers until the pod is over.
async fn attend(listener: UnixListener, flags: &Flags, config: Config) -> Result<(), Error> {
    let socket = Socket::at(&flags.socket);
    let own = socket.identity();
    let (facts, told) = mpsc::unbounded_channel();
    let ttrpc_address = env::var("TTRPC_ADDRESS").unwrap_or_default();
    let publisher = tokio::spawn(Publisher::new(&ttrpc_address, &flags.namespace).run(told));

    info!(
        pod = config.id,
        namespace = config.namespace,
        version = env!("CARGO_PKG_VERSION"),
        commit = COMMIT,
        "the shim serves"
    );
    let (id, bundle) = (config.id.clone(), config.bundle.clone());
    let pod = Pod::new(config, facts).map_err(|source| Error::Pod {
        id: flags.id.clone(),
        source: Box::new(source),
    })?;
    // Let go of last: whoever still compiles takes as long to end as there is memory to give back, and the last
    // answers and events must not wait for that.
    let ground = pod.ground();
    let tasks = Arc::new(Tasks::new(pod.clone()));
    let sandboxes = Arc::new(Sandboxes::new(pod.clone(), Arc::clone(tasks.end())));
    let connections = Connections::none();
    let mut server = Server::new()
        .add_listener(connections.accept(listener).map_err(failed("listening"))?)
        .register_service(both_versions(&tasks))
        .register_service(create_sandbox(sandboxes));
    server
        .start()
        .await
        .map_err(|source| Error::Ttrpc { source })?;

    let end = Arc::clone(tasks.end());
    let watch = forgotten::watch(pod, id, bundle, connections.clone(), end);
    let watch = tokio::spawn(watch);
    tasks.over().await;
    watch.abort();

    // No new request may find the address from here on. Somebody may have removed it by hand, and made
    // room for another.
    if let Err(error) = socket.remove_own(own) {
        warn!(path = %socket.path().display(), %error, "socket left behind");
    }
    // It may have to wait for other pods; the last answers need not.
    let swept = task::spawn_blocking(move || {
        if let Err(error) = socket.sweep_neighbours() {
            warn!(path = %socket.path().display(), %error, "sockets beside this one not looked at");
        }
    });
    // One that keeps its connection has had the answer by then.
    let left = tasks.end().callers_leave(&connections);
    drop(time::timeout(HANG_UP_LIMIT, left).await);
    let farewell = async {
        // Waits for the answers that are under way.
        drop(server.shutdown().await);
        // The pod's end is the end of the facts, and that is the publisher's.
        drop(server);
        drop(tasks);
        drop(publisher.await);
    };
    if time::timeout(FAREWELL_LIMIT, farewell).await.is_err() {
        warn!("answers or events are lost: nobody took them in time");
    }
    drop(swept.await);
    drop(ground);
    info!("the shim ends");
    Ok(())
}

/// The Task service under both its names: v2 and v3 differ in nothing else.
fn both_versions(tasks: &Arc<Tasks>) -> HashMap<String, Service> {
    let mut services = create_task(Arc::<Tasks>::clone(tasks) as _);
    let older = create_task(Arc::<Tasks>::clone(tasks) as _);
    services.extend(
        older
            .into_iter()
            .map(|(name, service)| (name.replace(".v3.", ".v2."), service)),
    );
    services
}

fn config(flags: &Flags, pod: String, bundle: &Path) -> Result<Config, Error> {
    // Not `current_exe`: `start` runs the server from a guarded copy, whose path has lost its directory.
    let program = env::args_os().next().map(PathBuf::from).unwrap_or_default();
    Ok(Config {
        id: pod,
        namespace: flags.namespace.clone(),
        bundle: bundle.to_owned(),
        holder: program.with_file_name("duet-holder"),
        programs: Programs::beside(&program, flags.address.clone()),
    })
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Serve { step, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oom_score_is_raised_by_one_and_never_past_the_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (before, after) in [("-999\n", "-998"), ("0\n", "1"), ("1000\n", "1000\n")] {
            fs::write(file.path(), before).unwrap();
            offer_to_oom_killer(file.path()).unwrap();
            assert_eq!(fs::read_to_string(file.path()).unwrap(), after);
        }
    }
}
