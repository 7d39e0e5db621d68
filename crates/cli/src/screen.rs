//! What the person at the keyboard sees: steps on standard error, containers' lines on standard output.

use crate::error::Error;
use std::cell::Cell;
use std::io::{self, IsTerminal as _, Write as _};

/// Colours of containers, in turn: cyan, yellow, green, magenta, blue, and their bright ones.
const COLOURS: [u8; 10] = [36, 33, 32, 35, 34, 96, 93, 92, 95, 94];

/// The terminal, or where its output goes.
#[derive(Debug)]
pub(crate) struct Screen {
    names: Vec<String>,
    width: usize,
    colour: bool,
    gone: Cell<bool>,
}

// === impl Screen ===

impl Screen {
    /// A screen for containers of these names.
    pub(crate) fn new(names: Vec<String>) -> Self {
        let width = names.iter().map(String::len).max().unwrap_or_default();
        Self {
            names,
            width,
            colour: io::stdout().is_terminal(),
            gone: Cell::new(false),
        }
    }

    /// Shows a line of a container, its name in front.
    ///
    /// Fails once if standard output is gone; from then on lines are dropped, so that the pod
    /// can be stopped in order.
    pub(crate) fn line(&self, container: &str, line: &[u8]) -> Result<(), Error> {
        let write = || -> io::Result<()> {
            let mut out = io::stdout().lock();
            out.write_all(self.prefix(container).as_bytes())?;
            out.write_all(line)?;
            out.write_all(b"\n")?;
            out.flush()
        };
        if self.gone.get() {
            return Ok(());
        }
        write().map_err(|source| {
            self.gone.set(true);
            Error::Output { source }
        })
    }

    fn prefix(&self, container: &str) -> String {
        let width = self.width;
        let index = self.names.iter().position(|name| name == container);
        let colour = COLOURS.iter().cycle().nth(index.unwrap_or_default());
        match colour.filter(|_| self.colour) {
            Some(colour) => format!("\x1b[{colour}m{container:<width$} |\x1b[0m "),
            None => format!("{container:<width$} | "),
        }
    }
}

/// Shows a step of `what` ("pod web", "container nginx", "image a").
///
/// Steps are for the reader only: if standard error is gone, the pod runs on.
pub(crate) fn step(what: &str, happened: &str) {
    drop(writeln!(io::stderr(), "{what}: {happened}"));
}

#[cfg(test)]
mod tests {
    use super::Screen;

    #[test]
    fn names_stand_in_front_in_one_column() {
        let mut screen = Screen::new(vec!["web".to_owned(), "counter".to_owned()]);
        screen.colour = false;
        assert_eq!(screen.prefix("web"), "web     | ");
        screen.colour = true;
        assert_eq!(screen.prefix("counter"), "\x1b[33mcounter |\x1b[0m ");
    }
}
