//! What the commands and the keeper say to each other: one question and one answer a
//! connection, in JSON, descriptors with the question.

use std::io::{self, Read as _};
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use duet_linux::channel;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;
use crate::place::Place;

/// The longest question: 16 MiB, far more than the arguments and variables that the kernel takes.
const LONGEST: usize = 16 * 1024 * 1024;

/// What a command asks. With `Create` and `Exec` come three descriptors, or the console's socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Make the container.
    Create {
        /// Absolute.
        bundle: PathBuf,
        /// Whether the descriptor is a console's socket.
        terminal: bool,
    },
    /// Let its program run.
    Start,
    /// How it stands.
    State,
    /// Send a signal.
    Kill {
        /// To this exec instead of the first process.
        exec: Option<String>,
        signal: u32,
        all: bool,
    },
    /// Remove it.
    Delete {
        /// Kill it before.
        force: bool,
    },
    /// Make a further process and let its program run.
    Exec {
        /// `process` of the specification.
        process: Value,
        terminal: bool,
    },
    /// Wait for an end, and forget the exec that has ended.
    Wait {
        /// None is the first process.
        exec: Option<String>,
    },
}

/// What the keeper answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Done.
    Done,
    /// It exists, with this first process.
    Pid(i32),
    /// The state of the specification.
    State(Value),
    /// A further process runs.
    Running {
        /// What it is called here.
        exec: String,
        pid: i32,
    },
    /// How a process ended.
    Ended(u8),
    /// Why not.
    Failed(String),
}

// === impl Answer ===

impl Answer {
    /// The error of an answer to another question.
    pub(crate) fn unexpected(&self) -> Error {
        Error::Refused(format!("the keeper answers something else: {self:?}"))
    }
}

/// Asks the keeper, and waits for the answer; for that to `Delete` until the keeper is gone.
pub(crate) fn ask(
    place: &Place,
    request: &Request,
    files: &[BorrowedFd<'_>],
) -> Result<Answer, Error> {
    let mut socket = place.connect()?;
    let asked = serde_json::to_vec(request).map_err(io::Error::from);
    let answered = asked.and_then(|text| {
        channel::pass(&socket, &text, files)?;
        socket.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer)?;
        Ok(serde_json::from_slice(&answer)?)
    });
    match answered {
        Ok(Answer::Failed(why)) => Err(Error::Refused(why)),
        Ok(answer) => Ok(answer),
        Err(source) => Err(place.silent(source)),
    }
}

/// Reads a question.
pub(crate) fn hear(socket: &UnixStream) -> io::Result<(Request, Vec<OwnedFd>)> {
    let (text, files) = channel::take(socket, LONGEST)?;
    Ok((serde_json::from_slice(&text)?, files))
}

/// Answers it.
pub(crate) fn say(socket: &UnixStream, answer: &Answer) -> io::Result<()> {
    channel::pass(socket, &serde_json::to_vec(answer)?, &[])
}
