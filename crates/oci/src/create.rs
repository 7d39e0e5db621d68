//! `create` and `run`.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use duet_linux::program::Guarded;
use serde_json::Value;

use crate::arguments::{Create, Global, LogFormat};
use crate::error::Error;
use crate::foreground;
use crate::message::{Answer, Request, ask};
use crate::place::{About, Place};

/// Makes a container whose program does not run yet.
pub(crate) fn create(global: &Global, asked: &Create) -> Result<Place, Error> {
    let (about, console) = look(global, asked)?;
    let place = Place::make(&global.root, &asked.id)?;
    let made = place
        .write(&about)
        .and_then(|()| place.listen())
        .and_then(|listener| start_keeper(global, &place, listener));
    let mut keeper = match made {
        Ok(keeper) => keeper,
        Err(error) => {
            // The error that is on its way says more than a second one could.
            drop(place.remove());
            return Err(error);
        }
    };
    let request = Request::Create {
        bundle: about.bundle,
        terminal: console.is_some(),
    };
    match send(&place, &request, console.as_ref()) {
        Ok(Answer::Pid(pid)) => {
            if let Some(file) = &asked.pid_file
                && let Err(error) = write_pid(file, pid)
            {
                ask(&place, &Request::Delete { force: true }, &[])?;
                return Err(error);
            }
            Ok(place)
        }
        Ok(other) => Err(other.unexpected()),
        Err(error) => {
            // It has removed everything itself, unless it died.
            drop(keeper.kill().and_then(|()| keeper.wait()));
            if matches!(error, Error::Keeper { .. }) {
                place.clean()?;
            }
            Err(error)
        }
    }
}

/// `run`: creates and starts it; unless detached, waits for its end, removes it, and returns its
/// code.
pub(crate) fn run(global: &Global, asked: &Create) -> Result<u8, Error> {
    let place = create(global, asked)?;
    let signals = foreground::hold_back()?;
    let removed = || ask(&place, &Request::Delete { force: true }, &[]);
    if let Err(error) = ask(&place, &Request::Start, &[]) {
        removed()?;
        return Err(error);
    }
    if asked.detach {
        return Ok(0);
    }
    let code = foreground::wait(&place, None, signals)?;
    removed()?;
    Ok(code)
}

/// Sends a request that takes descriptors: the console's socket, or this program's own three.
pub(crate) fn send(
    place: &Place,
    request: &Request,
    console: Option<&UnixStream>,
) -> Result<Answer, Error> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    match console {
        Some(console) => ask(place, request, &[console.as_fd()]),
        None => ask(
            place,
            request,
            &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        ),
    }
}

/// Reaches the console's socket, which must be given exactly when there is a terminal.
pub(crate) fn console(terminal: bool, socket: Option<&Path>) -> Result<Option<UnixStream>, Error> {
    match (terminal, socket) {
        (false, None) => Ok(None),
        (true, Some(path)) => {
            let connected = UnixStream::connect(path);
            Ok(Some(connected.map_err(Error::file(
                "connect to the console socket",
                path,
            ))?))
        }
        (true, None) => Err(Error::Argument {
            field: "process.terminal",
            value: "true".to_owned(),
            why: "needs --console-socket",
        }),
        (false, Some(path)) => Err(Error::Argument {
            field: "--console-socket",
            value: path.display().to_string(),
            why: "the process has no terminal",
        }),
    }
}

/// Writes a process's number to a file that is whole or not there.
pub(crate) fn write_pid(path: &Path, pid: i32) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}"));
    fs::write(&new, pid.to_string())
        .and_then(|()| fs::rename(&new, path))
        .map_err(Error::file("write", path))
}

/// Reads of the bundle what the command line itself must know. The rest is for the birth to
/// judge.
fn look(global: &Global, asked: &Create) -> Result<(About, Option<UnixStream>), Error> {
    let bundle = fs::canonicalize(&asked.bundle).map_err(Error::file("open", &asked.bundle))?;
    let config = config(&bundle)?;
    let path = config["linux"]["cgroupsPath"].as_str().unwrap_or_default();
    if global.systemd_cgroup && (path.contains('/') || path.split(':').count() != 3) {
        return Err(Error::Argument {
            field: "linux.cgroupsPath",
            value: path.to_owned(),
            why: "is not slice:prefix:name, and --systemd-cgroup is given",
        });
    }
    let record = bundle.join("duet.json");
    if record.exists() {
        return Err(Error::Argument {
            field: "--bundle",
            value: bundle.display().to_string(),
            why: "is that of another container of Duet's",
        });
    }
    let terminal = config["process"]["terminal"] == true;
    let console = console(terminal, asked.console_socket.as_deref())?;
    let about = About {
        bundle,
        oci_version: config["ociVersion"].clone(),
        annotations: config["annotations"].clone(),
    };
    Ok((about, console))
}

/// A bundle's `config.json`.
pub(crate) fn config(bundle: &Path) -> Result<Value, Error> {
    let path = bundle.join("config.json");
    let text = fs::read(&path).map_err(Error::file("read", &path))?;
    serde_json::from_slice(&text).map_err(|source| Error::Json { path, source })
}

/// Starts the keeper from where no container can write to it, as the shim's server is.
fn start_keeper(global: &Global, place: &Place, listener: UnixListener) -> Result<Child, Error> {
    let program = PathBuf::from("/proc/self/exe");
    let guarded = Guarded::own().map_err(Error::file("copy the mount of", &program))?;
    let mut command = guarded.command();
    command.arg("--root").arg(&global.root);
    if let Some(log) = &global.log {
        command.arg("--log").arg(log);
    }
    if global.log_format == LogFormat::Json {
        command.args(["--log-format", "json"]);
    }
    if global.debug {
        command.arg("--debug");
    }
    command
        .args(["keep", &place.id])
        .stdin(OwnedFd::from(listener))
        // Whoever called reads our output to its end: the keeper must not hold it.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(Error::file("start", &program))
}
