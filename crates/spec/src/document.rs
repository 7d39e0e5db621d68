//! One JSON document on its way to types: syntax, fields, types, and the errors that
//! name it.

use crate::{Error, fields, tasks};
use oci_spec::runtime::LinuxResources;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The longest part of a value that an error repeats, in characters.
///
/// Whoever writes the bundle chooses the length; the text ends in events and logs.
const SHOWN: usize = 80;

/// A document's name and the place in it that is being read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Document<'a> {
    pub(crate) name: &'a str,
}

/// Reads the limits of an update request. What a limit of no tasks means in it is for
/// [`Container::reread`](crate::Container::reread) to say.
///
/// # Errors
///
/// [`Error`], naming the field.
pub fn resources(json: &[u8]) -> Result<LinuxResources, Error> {
    let document = Document { name: "resources" };
    let mut value = document.syntax(json)?;
    document.offered(&value, &fields::RESOURCES)?;
    tasks::lift_unset(Some(&mut value));
    document.typed(value)
}

// === impl Document ===

impl Document<'_> {
    pub(crate) fn syntax(self, json: &[u8]) -> Result<Value, Error> {
        serde_json::from_slice(json).map_err(|source| Error::Syntax {
            document: self.name.to_owned(),
            source,
        })
    }

    pub(crate) fn typed<T: DeserializeOwned>(self, value: Value) -> Result<T, Error> {
        // To keep track of where one is costs as much as the reading: only who fails needs to know.
        if let Ok(typed) = T::deserialize(&value) {
            return Ok(typed);
        }
        serde_path_to_error::deserialize(value).map_err(|error| {
            let field = error.path().to_string();
            Error::Type {
                document: self.name.to_owned(),
                field,
                source: error.into_inner(),
            }
        })
    }

    /// As [`Document::typed`], of a part that was taken out of the document.
    pub(crate) fn typed_at<T: DeserializeOwned>(
        self,
        field: &str,
        value: Value,
    ) -> Result<T, Error> {
        let mut typed = self.typed(value);
        if let Err(Error::Type { field: below, .. }) = &mut typed {
            // serde's word for the whole of it.
            *below = match below.as_str() {
                "." => field.to_owned(),
                below => format!("{field}.{below}"),
            };
        }
        typed
    }

    /// Takes a member out of an object, with a type of its own instead of `oci-spec`'s; nothing if it asks
    /// for nothing.
    pub(crate) fn lift<T: DeserializeOwned>(
        self,
        parent: &str,
        name: &str,
        object: Option<&mut Value>,
    ) -> Result<Option<T>, Error> {
        let taken = object
            .and_then(Value::as_object_mut)
            .and_then(|members| members.remove(name));
        match taken.filter(fields::asks) {
            None => Ok(None),
            Some(value) => self.typed_at(&format!("{parent}.{name}"), value).map(Some),
        }
    }

    /// Checks that the document asks only for fields of `shape`.
    pub(crate) fn offered(self, value: &Value, shape: &fields::Shape) -> Result<(), Error> {
        fields::check(value, shape).map_err(|objection| match objection {
            fields::Objection::NotOffered { field, value } => Error::NotOffered {
                document: self.name.to_owned(),
                field,
                value: shorten(&value.to_string()),
            },
            fields::Objection::Nul { field } => self.value(
                &field,
                "(hidden)",
                "holds a NUL byte, which no system call can take",
            ),
        })
    }

    pub(crate) fn missing(self, field: &str) -> Error {
        Error::Missing {
            document: self.name.to_owned(),
            field: field.to_owned(),
        }
    }

    pub(crate) fn not_offered(self, field: &str, value: &str) -> Error {
        Error::NotOffered {
            document: self.name.to_owned(),
            field: field.to_owned(),
            value: shorten(value),
        }
    }

    pub(crate) fn value(self, field: &str, value: &str, why: &'static str) -> Error {
        Error::Value {
            document: self.name.to_owned(),
            field: field.to_owned(),
            value: shorten(value),
            why,
        }
    }
}

fn shorten(value: &str) -> String {
    if value.chars().count() <= SHOWN {
        return value.to_owned();
    }
    value.chars().take(SHOWN).chain("...".chars()).collect()
}
