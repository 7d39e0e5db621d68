//! What a process may be asked to do in each state: the policy, without the doing.
//!
//! ```text
//!   Created -> Starting -> Running <-> Pausing/Paused/Resuming
//!      |          |           |               |
//!      +----------+-----------+---------------+--> Stopped
//! ```
//!
//! The intermediate states last while a blocking thread works; they keep the container
//! answering questions meanwhile.

use std::fmt;

/// Where a process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Init stands at the gate; an exec has no process yet.
    Created,
    /// The gate is opening; an exec is being born.
    Starting,
    /// The program runs.
    Running,
    /// The freezer is closing.
    Pausing,
    /// Frozen.
    Paused,
    /// The freezer is opening.
    Resuming,
    /// Ended, and published as such.
    Stopped,
}

/// What a caller may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Open the gate.
    Start,
    /// Add an exec to the container.
    Exec,
    /// Send a signal.
    Kill,
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// Change limits.
    Update,
    /// Change the size of the terminal.
    Resize,
    /// Remove what is left of it.
    Delete,
}

/// Why the lifecycle forbids something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It ended: callers of containerd take this for "gone", which is true.
    #[error("process already finished")]
    AlreadyStopped,
    /// It never had a process.
    #[error("process not started")]
    NotStarted,
    /// Not in this state.
    #[error("cannot {verb} a {state} process")]
    WrongState {
        /// What was asked.
        verb: Verb,
        /// Where it stands.
        state: State,
    },
}

// === impl State ===

impl State {
    /// Returns the state that an init process enters when `verb` is asked for, or why it is
    /// refused.
    ///
    /// # Errors
    ///
    /// [`Denied`], which says whether the process is gone or merely elsewhere.
    pub fn allow(self, verb: Verb) -> Result<Self, Denied> {
        use State::{Created, Paused, Pausing, Resuming, Running, Starting, Stopped};
        match (verb, self) {
            (Verb::Start, Created) => Ok(Starting),
            (Verb::Pause, Running) => Ok(Pausing),
            (Verb::Resume, Paused) => Ok(Resuming),
            (Verb::Kill, Created | Starting | Running | Pausing | Paused | Resuming)
            | (Verb::Resize, Created | Starting | Running | Pausing | Paused | Resuming)
            | (Verb::Update, Created | Starting | Running | Paused)
            | (Verb::Exec, Running) => Ok(self),
            (Verb::Delete, Created | Stopped) => Ok(Stopped),
            (Verb::Kill | Verb::Resize, Stopped) => Err(Denied::AlreadyStopped),
            (verb, state) => Err(Denied::WrongState { verb, state }),
        }
    }

    /// As [`State::allow`], for an exec: before its start it has no process to signal.
    ///
    /// # Errors
    ///
    /// [`Denied`], as for init.
    pub fn allow_exec(self, verb: Verb) -> Result<Self, Denied> {
        match (verb, self) {
            (Verb::Kill | Verb::Resize, State::Created | State::Starting) => {
                Err(Denied::NotStarted)
            }
            (Verb::Pause | Verb::Resume | Verb::Update | Verb::Exec, state) => {
                Err(Denied::WrongState { verb, state })
            }
            (
                Verb::Start | Verb::Kill | Verb::Resize | Verb::Delete,
                State::Created
                | State::Starting
                | State::Running
                | State::Pausing
                | State::Paused
                | State::Resuming
                | State::Stopped,
            ) => self.allow(verb),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Created => "created",
            State::Starting => "starting",
            State::Running => "running",
            State::Pausing => "pausing",
            State::Paused => "paused",
            State::Resuming => "resuming",
            State::Stopped => "stopped",
        })
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Start => "start",
            Verb::Exec => "exec in",
            Verb::Kill => "kill",
            Verb::Pause => "pause",
            Verb::Resume => "resume",
            Verb::Update => "update",
            Verb::Resize => "resize",
            Verb::Delete => "delete",
        })
    }
}
