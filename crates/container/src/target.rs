//! What a field of the stdio names: a FIFO, a file, a logger.

use std::borrow::Cow;

use form_urlencoded::parse;
use percent_encoding::percent_decode_str;

use crate::error::Error;

/// What a stdio field names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A FIFO, usually.
    Path(String),
    /// A file to append to, made if it is missing.
    File(String),
    /// A program that reads the output.
    Logger(Program),
}

/// A logger as its URI has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// Absolute.
    pub(crate) path: String,
    /// After its own name.
    pub(crate) args: Vec<String>,
    /// Beyond what every logger is told.
    pub(crate) env: Vec<(String, String)>,
    /// How it says that it is ready.
    pub(crate) ready: Ready,
}

/// How a logger says that it is ready to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    /// It closes descriptor 5, or writes to it (`binary://`).
    Closes,
    /// It writes a byte to descriptor 5: one that dies has not said so (`binary-v2://`).
    Writes,
}

// === impl Target ===

impl Target {
    /// Reads `value` of `field`; `None` if it is empty.
    pub(crate) fn read(field: &'static str, value: &str) -> Result<Option<Self>, Error> {
        let invalid = |why| Error::Invalid {
            field,
            value: value.to_owned(),
            why,
        };
        let decode = |path: &str| {
            let decoded = percent_decode_str(path).decode_utf8();
            decoded
                .map(Cow::into_owned)
                .map_err(|_| invalid("is not UTF-8"))
        };
        let target = match value.split_once("://") {
            None if value.is_empty() => return Ok(None),
            None => Target::Path(value.to_owned()),
            Some(("fifo", path)) => Target::Path(decode(path)?),
            Some(("file", path)) => Target::File(decode(without_query(path))?),
            Some(("binary", rest)) => Target::Logger(Program::read(
                decode(without_query(rest))?,
                rest,
                Ready::Closes,
            )),
            Some(("binary-v2", rest)) => Target::Logger(Program::read(
                decode(without_query(rest))?,
                rest,
                Ready::Writes,
            )),
            Some(_) => {
                return Err(Error::Unsupported {
                    field,
                    value: value.to_owned(),
                });
            }
        };
        let path = target.path();
        if !path.starts_with('/') {
            return Err(invalid("is not an absolute path"));
        }
        if path.contains('\0') {
            return Err(invalid("holds a NUL byte"));
        }
        Ok(Some(target))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &str {
        match self {
            Target::Path(path) | Target::File(path) => path,
            Target::Logger(program) => &program.path,
        }
    }
}

/// Whether the value of a field is a URI that means both outputs when it stands for one, as
/// under runc's shim.
pub(crate) fn means_both(stdout: &str) -> bool {
    ["file://", "binary://", "binary-v2://"]
        .iter()
        .any(|scheme| stdout.starts_with(scheme))
}

fn without_query(rest: &str) -> &str {
    rest.split(['?', '#']).next().unwrap_or_default()
}

// === impl Program ===

impl Program {
    /// The query's keys and values are the arguments; those that begin with `env.` are the
    /// environment. Of a key that is given twice the first value counts, all as in containerd's
    /// `NewBinaryCmd`, which however gives them in any order.
    fn read(path: String, rest: &str, ready: Ready) -> Self {
        let query = rest.split('#').next().unwrap_or_default();
        let query = query.split_once('?').map_or("", |(_, query)| query);
        let mut program = Program {
            path,
            args: Vec::new(),
            env: Vec::new(),
            ready,
        };
        let mut seen = std::collections::HashSet::new();
        for (key, value) in parse(query.as_bytes()) {
            if !seen.insert(key.clone()) {
                continue;
            }
            match key.strip_prefix("env.") {
                Some(name) => program.env.push((name.to_owned(), value.into_owned())),
                None => program.args.extend([key.into_owned(), value.into_owned()]),
            }
        }
        program
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Option<Target> {
        Target::read("stdout", value).unwrap()
    }

    #[test]
    fn a_path_is_a_path_and_a_uri_is_decoded() {
        assert_eq!(read(""), None);
        assert_eq!(read("/a%20b"), Some(Target::Path("/a%20b".to_owned())));
        assert_eq!(read("fifo:///a%20b"), Some(Target::Path("/a b".to_owned())));
        assert_eq!(
            read("file:///a%20b?x"),
            Some(Target::File("/a b".to_owned()))
        );
    }

    #[test]
    fn a_logger_has_arguments_and_an_environment() {
        let read = read("binary:///bin/log%3f?--to=%2Fvar%2Flog&flag&env.A=1+2&--to=again#end");
        let program = Program {
            path: "/bin/log?".to_owned(),
            args: ["--to", "/var/log", "flag", ""].map(str::to_owned).to_vec(),
            env: vec![("A".to_owned(), "1 2".to_owned())],
            ready: Ready::Closes,
        };
        assert_eq!(read, Some(Target::Logger(program)));
    }

    #[test]
    fn what_is_no_place_is_refused_by_name() {
        for (value, why) in [
            ("relative", "stdout \"relative\": is not an absolute path"),
            (
                "binary://host/x",
                "stdout \"binary://host/x\": is not an absolute path",
            ),
            ("file:///a%00", "stdout \"file:///a%00\": holds a NUL byte"),
            ("file:///%ff", "stdout \"file:///%ff\": is not UTF-8"),
            ("npipe://x", "stdout \"npipe://x\" is not supported"),
        ] {
            let error = Target::read("stdout", value).unwrap_err();
            assert_eq!(error.to_string(), why);
        }
    }
}
