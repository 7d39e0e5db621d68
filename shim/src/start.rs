//! `start`: finds the pod's shim or starts one, and answers with its address.
//!
//! The socket is bound here and handed to the server as its standard input, so there is
//! no moment at which the answer is out and nobody listens, and nothing to wait for. No
//! async runtime is made: this is over in a few milliseconds.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use containerd_shim::Flags;
use duet_cgroup::{Cgroup, Host};
use duet_linux::process;
use duet_linux::program::Guarded;
use serde::Deserialize;

use crate::bootstrap::{self, Bootstrap, Environment, Reply};
use crate::daemon;
use crate::error::Error;
use crate::options::Options;
use crate::socket::{Claim, Socket};

/// The part of `config.json` that names the pod.
#[derive(Debug, Default, Deserialize)]
struct Annotated {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// Plays the role; returns the answer in the form that containerd expects.
pub(crate) fn run(flags: &Flags) -> Result<Vec<u8>, Error> {
    let told = Bootstrap::understand(&bootstrap::read()?, flags, Environment::ours())?;
    duet_linux::kernel::check()?;

    // containerd starts every role in the bundle.
    let bundle = env::current_dir().map_err(|source| Error::File {
        verb: "opening",
        path: PathBuf::from("."),
        source,
    })?;
    let key = pod_key(&bundle, &flags.id)?;
    let socket = Socket::of(&told, &flags.namespace, &key)?;

    match socket.claim(&flags.id)? {
        Claim::Ours(listener) => hand_over(listener, flags, &key, &told, &socket, &bundle)?,
        Claim::Served => tell_address(&bundle, &socket)?,
    }
    let reply = match told.reply {
        Reply::Json(_) if daemon::is_containerd_2() => Reply::Json(3),
        reply @ (Reply::Address | Reply::Json(_) | Reply::Proto) => reply,
    };
    reply.encode(&socket.address())
}

/// The name of the pod that the bundle's container belongs to: the first grouping
/// annotation that it has, else its own id.
fn pod_key(bundle: &Path, id: &str) -> Result<String, Error> {
    let path = bundle.join("config.json");
    let json = match fs::read(&path) {
        Ok(json) => json,
        // The Sandbox API's bundles have none; for a Task, Create will say so.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(id.to_owned()),
        Err(source) => {
            return Err(Error::File {
                verb: "reading",
                path,
                source,
            });
        }
    };
    let annotated: Annotated =
        serde_json::from_slice(&json).map_err(|source| Error::Config { path, source })?;
    let annotations = annotated.annotations.unwrap_or_default();
    Ok(duet_spec::annotations::pod_key(&annotations)
        .unwrap_or(id)
        .to_owned())
}

/// Starts the server with the listener; on failure nothing of it is left.
fn hand_over(
    listener: UnixListener,
    flags: &Flags,
    key: &str,
    told: &Bootstrap,
    socket: &Socket,
    bundle: &Path,
) -> Result<(), Error> {
    let mut server = match spawn(listener, flags, key, told, socket) {
        Ok(server) => server,
        Err(error) => {
            socket.remove_dead();
            return Err(error);
        }
    };
    let settled = settle(&server, &told.options, bundle)
        // Last, and part of it: without this file nobody would ever find the server again.
        .and_then(|()| tell_address(bundle, socket));
    if settled.is_err() {
        drop(server.kill().and_then(|()| server.wait()));
        socket.remove_dead();
    }
    settled
}

/// containerd 1.6 and 1.7 find the shim by this file after a restart of their own, and `delete`
/// always does.
fn tell_address(bundle: &Path, socket: &Socket) -> Result<(), Error> {
    write(&bundle.join("address"), &socket.address())
}

/// Puts the server where the options want it, and its number where people look for it.
fn settle(server: &Child, options: &Options, bundle: &Path) -> Result<(), Error> {
    let pid = server.id().to_string();
    if !options.shim_cgroup.is_empty() {
        let cgroup = Host::detect()
            .and_then(|host| shared(&host, Path::new(&options.shim_cgroup)))
            .map_err(|source| Error::ShimCgroup {
                path: options.shim_cgroup.clone(),
                source,
            })?;
        for dir in cgroup.own_dirs() {
            let path = dir.path.join("cgroup.procs");
            fs::write(&path, &pid).map_err(|source| Error::File {
                verb: "writing",
                path,
                source,
            })?;
        }
    }
    write(&bundle.join("shim.pid"), &pid)
}

fn spawn(
    listener: UnixListener,
    flags: &Flags,
    key: &str,
    told: &Bootstrap,
    socket: &Socket,
) -> Result<Child, Error> {
    // Inherited by the server and by all that is born of it, as under containerd's own shim: the cores
    // are the pod's.
    if let Some(value) = env::var_os("SCHED_CORE").filter(|value| !value.is_empty()) {
        process::share_cores_with_nobody().map_err(|source| Error::SchedCore { value, source })?;
    }
    let program = PathBuf::from("/proc/self/exe");
    // What is born of the server is a copy of it until its exec: `/proc/self/exe` as the interpreter
    // of a script must not lead to the file on the node (CVE-2019-5736).
    let guarded = match Guarded::own() {
        Ok(guarded) => guarded,
        Err(source) => return Err(Error::Server { program, source }),
    };
    let mut command = guarded.command();
    command
        .args(["-namespace", &flags.namespace])
        .args(["-id", &flags.id])
        .args(["-address", &told.grpc_address])
        .arg("-socket")
        .arg(socket.path());
    if told.debug {
        command.arg("-debug");
    }
    command
        .args(["serve", key])
        .env("TTRPC_ADDRESS", &told.ttrpc_address)
        .stdin(OwnedFd::from(listener))
        // containerd reads `start`'s output to its end: the server must not hold it.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|source| Error::Server { program, source })
}

/// The cgroup at `path`, made if it is missing. Several shims may live in one.
fn shared(host: &Host, path: &Path) -> Result<Cgroup, duet_cgroup::Error> {
    match Cgroup::open(host, path) {
        Err(duet_cgroup::Error::Gone { .. }) => Cgroup::create(host, path),
        opened => opened,
    }
}

/// Writes a file that others read at any time: it is whole or not there.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let new = path.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, path))
        .map_err(|source| Error::File {
            verb: "writing",
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_is_whole_and_alone() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("address"), "unix:///a").unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join("address")).unwrap(),
            "unix:///a"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_pod_is_named_by_its_annotation_or_its_only_container() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(pod_key(dir.path(), "a").unwrap(), "a");
        for (json, key) in [
            (r#"{"ociVersion":"1.0.2"}"#, "a"),
            (r#"{"annotations":null}"#, "a"),
            (
                r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"s"}}"#,
                "s",
            ),
            (
                r#"{"annotations":{"io.containerd.runc.v2.group":"g"}}"#,
                "g",
            ),
        ] {
            fs::write(dir.path().join("config.json"), json).unwrap();
            assert_eq!(pod_key(dir.path(), "a").unwrap(), key, "{json}");
        }
        fs::write(dir.path().join("config.json"), "{").unwrap();
        let error = pod_key(dir.path(), "a").unwrap_err().chain();
        assert!(error.contains("config.json"), "{error}");
    }
}
