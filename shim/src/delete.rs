//! `delete`: cleans up after a shim that is gone, and says how its container ended.
//!
//! containerd runs it after every shim's end, also a clean one, and at its own start for
//! bundles nobody answers for; it waits 5 s at most. Everything comes from the record on
//! disk and no FIFO is opened, so nothing can block, and a second run finds nothing to do.
//!
//! A container that shared its shim with others ends before them: as long as the shim
//! lives, only that container is cleaned, and the rest of the pod is the shim's. That it does not answer
//! proves nothing while containerd has another container that it serves.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use containerd_shim::Flags;
use containerd_shim_protos::api::DeleteResponse;
use duet_linux::channel::readable;
use duet_linux::process;
use duet_pod::clean;
use protobuf::Message as _;
use protobuf::well_known_types::timestamp::Timestamp;

use crate::error::Error;
use crate::events::unsigned;
use crate::socket::{Behind, Socket};

/// What a container's end is called when nobody saw it: the code of `SIGKILL`, which is
/// what its last process got.
const KILLED: u32 = 137;

/// How long a shim that was killed may take to be gone: 100 ms, because all of `delete` may take a second.
const KILL_LIMIT: Duration = Duration::from_millis(100);

/// Plays the role; returns containerd's `DeleteResponse`.
pub(crate) fn run(flags: &Flags) -> Result<Vec<u8>, Error> {
    let bundle = bundle(flags)?;
    let only = shim_lives(&bundle, &flags.id)?.then_some(flags.id.as_str());
    let cleaned = clean::clean(&bundle, only).map_err(|source| Error::Delete {
        id: flags.id.clone(),
        source: Box::new(source),
    })?;
    // The pod's other members went with it; the answer is about the one that was named.
    let ours = cleaned.into_iter().find(|cleaned| cleaned.id == flags.id);
    let mut response = DeleteResponse {
        exit_status: KILLED,
        exited_at: Some(Timestamp::from(SystemTime::now())).into(),
        ..DeleteResponse::default()
    };
    if let Some(cleaned) = ours {
        response.pid = unsigned(cleaned.pid);
        response.exit_status = u32::from(cleaned.exit.code);
        response.exited_at = Some(Timestamp::from(cleaned.exit.at)).into();
    }
    response
        .write_to_bytes()
        .map_err(|source| Error::Encode { source })
}

/// Whether the container's shim still lives. What is left of a dead one's socket is removed.
fn shim_lives(bundle: &Path, id: &str) -> Result<bool, Error> {
    let Some(address) = read(&bundle.join("address"))? else {
        // `start` failed before it had a socket.
        return Ok(false);
    };
    let path = PathBuf::from(address.trim_start_matches("unix://"));
    let socket = Socket::at(&path);
    let behind = socket.sweep(id).map_err(|source| Error::File {
        verb: "removing",
        path,
        source,
    })?;
    match behind {
        Behind::Shim => Ok(true),
        Behind::Nobody => Ok(false),
        // Slow, as a busy machine makes it, or hung: for whoever else lives in the pod, it is the former.
        Behind::Mute { .. } if serves_another(bundle, &address) => Ok(true),
        Behind::Mute { listener } => {
            end_mute_shim(listener, &socket);
            Ok(false)
        }
    }
}

/// Whether containerd has another container of this pod: then it has a bundle beside this one, with the same
/// address in it.
fn serves_another(bundle: &Path, address: &str) -> bool {
    let beside = bundle.parent().map(fs::read_dir);
    let Some(Ok(beside)) = beside else {
        return false;
    };
    beside.flatten().any(|other| {
        // Hidden while it is removed (containerd's `bundle.Delete`).
        let goes = other.file_name().as_bytes().starts_with(b".");
        !goes
            && other.path() != bundle
            && fs::read_to_string(other.path().join("address")).is_ok_and(|other| other == address)
    })
}

/// Kills a shim that holds its socket and does not answer: containerd has given up all that it serves, and nobody
/// would ever end it.
fn end_mute_shim(pid: i32, socket: &Socket) {
    let Ok(shim) = process::pidfd_open(pid) else {
        return;
    };
    // Read after the descriptor was opened, so it is about the process that it names: whoever
    // listens may have ended, and left the listener to a birth.
    let is_ours = fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
        line.split(|byte| *byte == 0)
            .any(|word| word == socket.path().as_os_str().as_bytes())
    });
    if is_ours {
        // It may end by itself at this moment.
        drop(process::send_signal(&shim, nix::libc::SIGKILL));
        // One that hangs in the kernel leaves its socket for the next pod's end.
        drop(readable(&shim, Instant::now() + KILL_LIMIT));
        socket.remove_dead();
    }
}

/// A small file of the bundle, if it is there.
fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File {
            verb: "reading",
            path: path.to_owned(),
            source,
        }),
    }
}

/// The bundle: named by a flag, or else the directory we were started in.
fn bundle(flags: &Flags) -> Result<PathBuf, Error> {
    if flags.bundle.is_empty() {
        env::current_dir().map_err(|source| Error::File {
            verb: "opening",
            path: PathBuf::from("."),
            source,
        })
    } else {
        Ok(PathBuf::from(&flags.bundle))
    }
}
