//! One process of a container as the actor knows it: init, or an exec.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::body::Gate;
use crate::children::Child;
use crate::error::Error;
use crate::lifecycle::State;
use crate::plumbing::Io;
use crate::words::{Exit, Phase, Stdio};

/// How a caller hears the answer. It may have left; then nobody needs to know.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// One process.
pub(crate) struct Process {
    /// Where it stands, as far as callers may know.
    pub(crate) state: State,
    /// Its stdio as asked for.
    pub(crate) stdio: Stdio,
    /// What an exec runs; init's is in the bundle.
    pub(crate) asked: Option<Box<duet_spec::Process>>,
    /// Its number; 0 before it has one.
    pub(crate) pid: i32,
    /// The process; none before the birth of an exec.
    pub(crate) pidfd: Option<Arc<Child>>,
    /// Lets init go.
    pub(crate) gate: Option<Gate>,
    /// The shim's side of its stdio.
    pub(crate) io: Io,
    /// CloseIO came before there was anything to close.
    pub(crate) input: Input,
    /// It ended. Callers may know when `state` says so too.
    pub(crate) ended: Option<Exit>,
    /// Who waits for that.
    pub(crate) waiters: Vec<Reply<Exit>>,
}

/// Whether a process's input may still be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// Nobody closed it.
    Open,
    /// CloseIO was called.
    Closed,
}

// === impl Process ===

impl Process {
    /// An exec that has no process yet.
    pub(crate) fn added(asked: Box<duet_spec::Process>, stdio: Stdio) -> Self {
        Process {
            state: State::Created,
            stdio,
            asked: Some(asked),
            pid: 0,
            pidfd: None,
            gate: None,
            io: Io::default(),
            input: Input::Open,
            ended: None,
            waiters: Vec::new(),
        }
    }

    /// Whether it has a process, or is about to, that has not been published as ended.
    pub(crate) fn is_active(&self) -> bool {
        match self.state {
            State::Created | State::Stopped => false,
            State::Starting | State::Running | State::Pausing | State::Paused | State::Resuming => {
                true
            }
        }
    }

    /// Closes its input, now or as soon as it has one.
    pub(crate) fn close_input(&mut self) {
        self.input = Input::Closed;
        self.io.close_input();
    }

    /// Takes over the shim's side of its stdio.
    pub(crate) fn connect(&mut self, mut io: Io) {
        if self.input == Input::Closed {
            io.close_input();
        }
        self.io = io;
    }

    /// Makes its end known: everyone who waits is told.
    pub(crate) fn stop(&mut self, exit: Exit) {
        self.state = State::Stopped;
        self.ended = Some(exit);
        self.pidfd = None;
        for waiter in self.waiters.drain(..) {
            answer(waiter, Ok(exit));
        }
    }

    /// How it ended, if callers may know.
    pub(crate) fn exit(&self) -> Option<Exit> {
        self.ended.filter(|_| self.state == State::Stopped)
    }

    /// Where it stands in containerd's words.
    pub(crate) fn phase(&self) -> Phase {
        match self.state {
            State::Created | State::Starting => Phase::Created,
            State::Running => Phase::Running,
            State::Pausing => Phase::Pausing,
            State::Paused | State::Resuming => Phase::Paused,
            State::Stopped => Phase::Stopped,
        }
    }
}

/// Answers a caller who may have left meanwhile.
pub(crate) fn answer<T>(reply: Reply<T>, with: Result<T, Error>) {
    drop(reply.send(with));
}
