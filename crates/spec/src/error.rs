//! Why a document could not be read.

use std::{io, path::PathBuf};

/// Why a `config.json`, an exec's process or a set of limits could not be read.
///
/// `document` is the file, or for what arrives in a request its name there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is not JSON.
    #[error("{document} is not JSON")]
    Syntax {
        /// The document.
        document: String,
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// A field has the wrong type, lacks a part or names an unknown variant.
    #[error("{document}: {field}")]
    Type {
        /// The document.
        document: String,
        /// The field's full path.
        field: String,
        /// What was found and what was expected.
        source: serde_json::Error,
    },
    /// A required field is missing or empty.
    #[error("{document}: {field} is missing")]
    Missing {
        /// The document.
        document: String,
        /// The field's full path.
        field: String,
    },
    /// A field asks for something that Duet does not offer.
    #[error("{document}: {field}: {value}: not supported by Duet")]
    NotOffered {
        /// The document.
        document: String,
        /// The field's full path.
        field: String,
        /// The value, shortened.
        value: String,
    },
    /// A field has a value that makes no sense.
    #[error("{document}: {field}: {value}: {why}")]
    Value {
        /// The document.
        document: String,
        /// The field's full path.
        field: String,
        /// The value, shortened; `(hidden)` where it may be a secret.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
}
