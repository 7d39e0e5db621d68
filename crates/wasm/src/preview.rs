//! Which of WASI's previews a component may ask for.

use serde::{Deserialize, Serialize};

/// Tells the compiler, and a runner that [writes blocks](crate::WRITE_BLOCKS), that components may use
/// preview 3. In a container the [handoff](crate::Handoff) does.
pub const PREVIEW3: &str = "DUET_PREVIEW3";

/// Which of WASI's previews a component may ask for. Core modules have preview 1, whatever this says.
///
/// Preview 3 needs wasmtime's concurrent components: other machine code for each component, and the part of
/// wasmtime with most of its recent advisories. So nobody has it who does not ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preview {
    /// Preview 2.
    #[default]
    Two,
    /// Preview 3, and 2 as well.
    Three,
}

// === impl Preview ===

impl Preview {
    /// What the environment of this process says.
    #[must_use]
    pub fn of_this_process() -> Self {
        match std::env::var(PREVIEW3).as_deref() {
            Ok("true") => Self::Three,
            _ => Self::Two,
        }
    }

    /// What to add to the environment of one that is to be the same.
    pub(crate) fn variable(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Two => None,
            Self::Three => Some((PREVIEW3, "true")),
        }
    }
}
