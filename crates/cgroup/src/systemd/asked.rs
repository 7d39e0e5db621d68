//! A property that somebody wants a container's scope to have besides those that make it one.

use super::message::Value;
use super::variant;
use crate::Error;

/// Begins the names of annotations that are properties: `org.systemd.property.TimeoutStopUSec`.
const ANNOTATION: &str = "org.systemd.property.";

/// What makes a unit the container's.
const OURS: [&str; 3] = ["Delegate", "PIDs", "Slice"];

/// A property of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    pub(super) name: String,
    pub(super) value: Value,
}

// === impl Property ===

impl Property {
    /// The property that an annotation asks for; `None` if it is about something else.
    ///
    /// Its value is in GVariant's text form. What systemd documents as `...Sec` has the name `...USec` on
    /// D-Bus, and is counted in microseconds there.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`], naming the annotation and its value.
    pub fn annotated(annotation: &str, text: &str) -> Result<Option<Self>, Error> {
        let Some(name) = annotation.strip_prefix(ANNOTATION) else {
            return Ok(None);
        };
        let refuse = |why| Error::unsupported(format!("annotations.{annotation}"), text, why);
        if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(refuse(
                "the name of a property has at least three letters and nothing else",
            ));
        }
        if OURS.contains(&name) {
            return Err(refuse("it is Duet's to set"));
        }
        let (name, value) = match name.strip_suffix("Sec") {
            Some(stem) if stem.ends_with(|last: char| last.is_ascii_lowercase()) => {
                (format!("{stem}USec"), variant::microseconds(text))
            }
            Some(_) | None => (name.to_owned(), variant::parse(text)),
        };
        let value = value.map_err(refuse)?;
        Ok(Some(Property { name, value }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_is_a_property_with_the_name_that_it_has_on_the_bus() {
        for (name, text, property, value) in [
            (
                "TimeoutStopUSec",
                "uint64 5",
                "TimeoutStopUSec",
                Value::Number(5),
            ),
            (
                "TimeoutStopSec",
                "5",
                "TimeoutStopUSec",
                Value::Number(5_000_000),
            ),
            ("FOOSec", "123", "FOOSec", Value::Int32(123)),
            ("Sec", "123", "Sec", Value::Int32(123)),
            (
                "MemoryAccounting",
                "false",
                "MemoryAccounting",
                Value::Flag(false),
            ),
        ] {
            let asked = Property::annotated(&format!("{ANNOTATION}{name}"), text);
            let name = property.to_owned();
            assert_eq!(asked.unwrap(), Some(Property { name, value }));
        }
        assert_eq!(Property::annotated("org.systemd.other", "0").unwrap(), None);
    }

    #[test]
    fn what_is_no_property_is_refused_by_its_name() {
        for (name, text, why) in [
            (
                "Xo",
                "1",
                "the name of a property has at least three letters and nothing else",
            ),
            (
                "Number1",
                "1",
                "the name of a property has at least three letters and nothing else",
            ),
            (
                "ValidName",
                "invalid-value",
                "it is not in GVariant's text format",
            ),
            ("TimeoutStopSec", "'a'", "it is not a number of seconds"),
            ("Slice", "'system.slice'", "it is Duet's to set"),
        ] {
            let error = Property::annotated(&format!("{ANNOTATION}{name}"), text).unwrap_err();
            let expected = format!("annotations.{ANNOTATION}{name} = {text}: {why}");
            assert_eq!(error.to_string(), expected);
        }
    }
}
