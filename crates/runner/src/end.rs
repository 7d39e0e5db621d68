//! How a guest can end, in exit codes and words.
//!
//! | Code | When |
//! | --- | --- |
//! | 0–255 | the guest said so (`proc_exit`, `exit-with-code`); 1 if all it said was "not well" |
//! | 0 | a server that was told to stop, when its last request is answered |
//! | 125 | the runner itself could not work; never the guest's fault |
//! | 126 | the module could not be started: wrong kind, an import that nothing provides, no room for it |
//! | 130, 131, 143 | ended by INT, QUIT or TERM; of a server: before its requests were done |
//! | 134 | it trapped or threw what it did not catch, as a native program that aborts |

use std::io::Write as _;
use std::process::ExitCode;

use wasmtime::{ThrownException, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::{outputs, room, tally};

/// How a guest ended.
#[derive(Debug)]
pub(crate) enum End {
    /// With a code of its own.
    Exit(u8),
    /// By a trap: what it was, and the backtrace.
    Trap(String),
    /// Before it began, by its own fault.
    Unstarted(String),
    /// Before it began, by ours.
    Unfit(String),
}

// === impl End ===

impl End {
    /// The exit code when it is our fault.
    pub(crate) const UNFIT: u8 = 125;

    /// What an error that came out of a running guest means.
    pub(crate) fn of(error: &wasmtime::Error) -> Self {
        match error.downcast_ref::<I32Exit>() {
            Some(I32Exit(code)) => Self::Exit(low_byte(*code)),
            None => match room::wanting(error) {
                // Its stack, which is made when it is called: nothing of it has run.
                Some(words) if !error.is::<WasmBacktrace>() => Self::Unstarted(words),
                Some(_) | None => {
                    let words = words(error);
                    tally::trap(&words);
                    Self::Trap(words)
                }
            },
        }
    }

    /// What an error while the guest was being made means.
    ///
    /// A module's start function runs then, and may trap or leave like any other.
    pub(crate) fn of_instantiation(error: &wasmtime::Error) -> Self {
        if is_trap(error) || error.is::<I32Exit>() {
            Self::of(error)
        } else {
            Self::Unstarted(room::wanting(error).unwrap_or_else(|| format!("{error:#}")))
        }
    }

    /// Says what is to be said on stderr, after `name`, and gives the exit code.
    pub(crate) fn report(&self, name: &str) -> ExitCode {
        match self {
            Self::Exit(code) => ExitCode::from(*code),
            Self::Trap(words) => {
                say(&format!("{name}: {words}"));
                ExitCode::from(134)
            }
            Self::Unstarted(words) => {
                say(&format!("{name}: {words}"));
                ExitCode::from(126)
            }
            Self::Unfit(words) => {
                say(&format!("{name}: {words}"));
                ExitCode::from(Self::UNFIT)
            }
        }
    }
}

/// Did the guest break down? What it throws and does not catch ends it like a trap.
pub(crate) fn is_trap(error: &wasmtime::Error) -> bool {
    error.is::<Trap>() || error.is::<ThrownException>()
}

/// A trap or another error of a running guest, with its wasm backtrace.
pub(crate) fn words(error: &wasmtime::Error) -> String {
    let mut text = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None if error.is::<ThrownException>() => "uncaught exception".to_owned(),
        None => room::wanting(error).unwrap_or_else(|| error.root_cause().to_string()),
    };
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        text.push('\n');
        text.push_str(backtrace.to_string().trim_end());
    }
    text
}

/// One line, or a few, on the container's stderr; if that is closed, nowhere.
pub(crate) fn say(line: &str) {
    match outputs::opened() {
        Some(outputs) => outputs
            .stderr
            .put_if_possible(format!("{line}\n").as_bytes()),
        None => drop(writeln!(std::io::stderr(), "{line}")),
    }
}

/// What the kernel keeps of a code given to `exit`.
fn low_byte(code: i32) -> u8 {
    let [low, ..] = code.to_le_bytes();
    low
}
