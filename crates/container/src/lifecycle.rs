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
            | (Verb::Exec, Created | Starting | Running) => Ok(self),
            (Verb::Delete, Created | Stopped) => Ok(Stopped),
            (Verb::Kill | Verb::Resize, Stopped) => Err(Denied::AlreadyStopped),
            (verb, state) => Err(Denied::WrongState { verb, state }),
        }
    }

    /// As [`State::allow`], for an exec: before its start it has no process to signal, and while it
    /// starts no terminal. nerdctl sets the size before the start, as runc's shim lets it.
    ///
    /// # Errors
    ///
    /// [`Denied`], as for init.
    pub fn allow_exec(self, verb: Verb) -> Result<Self, Denied> {
        match (verb, self) {
            (Verb::Kill, State::Created | State::Starting) | (Verb::Resize, State::Starting) => {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STATES: [State; 7] = [
        State::Created,
        State::Starting,
        State::Running,
        State::Pausing,
        State::Paused,
        State::Resuming,
        State::Stopped,
    ];

    const VERBS: [Verb; 8] = [
        Verb::Start,
        Verb::Exec,
        Verb::Kill,
        Verb::Pause,
        Verb::Resume,
        Verb::Update,
        Verb::Resize,
        Verb::Delete,
    ];

    /// Rows are verbs, columns are states: the letter of the state that follows, `-` for the
    /// same one, `x` for "not now" and `g` for "gone".
    const TABLE: [(Verb, &str); 8] = [
        //             C S R p P r S
        (Verb::Start, "s x x x x x x"),
        (Verb::Exec, "- - - x x x x"),
        (Verb::Kill, "- - - - - - g"),
        (Verb::Pause, "x x p x x x x"),
        (Verb::Resume, "x x x x r x x"),
        (Verb::Update, "- - - x - x x"),
        (Verb::Resize, "- - - - - - g"),
        (Verb::Delete, "S x x x x x S"),
    ];

    fn letter(from: State, result: Result<State, Denied>) -> char {
        match result {
            Ok(State::Stopped) => 'S',
            Ok(to) if to == from => '-',
            Ok(State::Starting) => 's',
            Ok(State::Pausing) => 'p',
            Ok(State::Resuming) => 'r',
            Ok(State::Created | State::Running | State::Paused) => '?',
            Err(Denied::AlreadyStopped) => 'g',
            Err(Denied::NotStarted) => 'n',
            Err(Denied::WrongState { .. }) => 'x',
        }
    }

    #[test]
    fn init_is_allowed_what_the_table_says() {
        for (verb, row) in TABLE {
            for (state, expected) in STATES.iter().zip(row.split(' ')) {
                let got = letter(*state, state.allow(verb)).to_string();
                assert_eq!(got, expected, "{verb:?} while {state:?}");
            }
        }
    }

    #[test]
    fn an_exec_without_a_process_cannot_be_signalled() {
        let kill = State::Created.allow_exec(Verb::Kill);
        assert_eq!(kill, Err(Denied::NotStarted));
        let resize = State::Created.allow_exec(Verb::Resize);
        assert_eq!(resize, Ok(State::Created));
        for verb in [Verb::Kill, Verb::Resize] {
            assert_eq!(State::Starting.allow_exec(verb), Err(Denied::NotStarted));
            assert_eq!(State::Running.allow_exec(verb), Ok(State::Running));
            assert_eq!(State::Stopped.allow_exec(verb), Err(Denied::AlreadyStopped));
        }
        for verb in [Verb::Pause, Verb::Resume, Verb::Update, Verb::Exec] {
            assert!(State::Running.allow_exec(verb).is_err());
        }
    }

    #[test]
    fn a_refusal_says_what_and_when() {
        let why = State::Running.allow(Verb::Delete).unwrap_err();
        assert_eq!(why.to_string(), "cannot delete a running process");
        let why = State::Stopped.allow(Verb::Kill).unwrap_err();
        assert_eq!(why.to_string(), "process already finished");
    }

    fn finished(state: State) -> State {
        match state {
            State::Starting | State::Resuming => State::Running,
            State::Pausing => State::Paused,
            State::Created | State::Running | State::Paused | State::Stopped => state,
        }
    }

    proptest! {
        #[test]
        fn nothing_leaves_stopped_and_nothing_starts_twice(
            verbs in prop::collection::vec(prop::sample::select(VERBS.to_vec()), 0..40)
        ) {
            let (mut state, mut starts) = (State::Created, 0);
            for verb in verbs {
                let before = state;
                if let Ok(next) = state.allow(verb) {
                    starts += u32::from(next == State::Starting && before == State::Created);
                    prop_assert!(before != State::Stopped || next == State::Stopped);
                    state = finished(next);
                }
            }
            prop_assert!(starts <= 1);
        }
    }
}
