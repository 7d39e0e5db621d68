//! `linux.seccomp`, which is most of a `config.json` and the same from one container to the next.
//!
//! containerd's default profile names some 350 system calls. To make values of them, and types of the
//! values, takes longer than all the rest of the document. So the text of the last profile is kept with
//! what it was read as; where the next one is the same to the byte, it is not read again.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci_spec::runtime::LinuxSeccomp;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// Where it is.
const PATH: &[&str] = &["linux", "seccomp"];

/// The last profile that was read without an objection.
pub(crate) static LAST: Kept = Kept(Mutex::new(None));

/// A profile, and the text that it was read from.
pub(crate) struct Kept(Mutex<Option<(Box<str>, Arc<LinuxSeccomp>)>>);

/// A document without its profile, and the profile's text.
#[derive(Debug)]
pub(crate) struct Split<'a> {
    pub(crate) rest: Value,
    pub(crate) profile: Option<&'a str>,
}

/// Takes the profile out of a document, unread. `None` for what is no document with a place for one: whoever
/// reads all of it will say why.
pub(crate) fn split(json: &[u8]) -> Option<Split<'_>> {
    let mut profile = None;
    let mut reader = serde_json::Deserializer::from_slice(json);
    let level = Level {
        path: PATH,
        profile: &mut profile,
    };
    let rest = level.deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    let profile = profile.map(RawValue::get);
    Some(Split { rest, profile })
}

// === impl Kept ===

impl Kept {
    /// What this text was read as, if it was the last.
    pub(crate) fn find(&self, text: &str) -> Option<Arc<LinuxSeccomp>> {
        let kept = self.lock();
        let (_, profile) = kept.as_ref().filter(|(known, _)| **known == *text)?;
        Some(Arc::clone(profile))
    }

    /// Keeps what a text was read as, instead of the one before.
    pub(crate) fn keep(&self, text: &str, profile: &Arc<LinuxSeccomp>) {
        *self.lock() = Some((text.into(), Arc::clone(profile)));
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Box<str>, Arc<LinuxSeccomp>)>> {
        // It is replaced as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An object on the way to the profile.
struct Level<'a, 'de> {
    path: &'static [&'static str],
    profile: &'a mut Option<&'de RawValue>,
}

// === impl Level ===

impl<'de> DeserializeSeed<'de> for Level<'_, 'de> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Level<'_, 'de> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let (own, below) = self
            .path
            .split_first()
            .ok_or_else(|| A::Error::custom("no path"))?;
        let mut object = serde_json::Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if name != *own {
                object.insert(name, members.next_value()?);
                continue;
            }
            // Of two members of one name the last holds, with what it holds or lacks.
            *self.profile = None;
            if below.is_empty() {
                *self.profile = Some(members.next_value()?);
            } else {
                let level = Level {
                    path: below,
                    profile: self.profile,
                };
                object.insert(name, members.next_value_seed(level)?);
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_its_profile_and_the_rest() {
        let json =
            br#"{"a": [1], "linux": {"x": {"seccomp": 1}, "seccomp": {"b" : 2}}, "seccomp": 3}"#;
        let split = split(json).unwrap();
        assert_eq!(split.profile, Some(r#"{"b" : 2}"#));
        let rest = serde_json::json!({"a": [1], "linux": {"x": {"seccomp": 1}}, "seccomp": 3});
        assert_eq!(split.rest, rest);
    }

    #[test]
    fn the_last_of_two_members_holds() {
        let profile = |json: &'static str| split(json.as_bytes()).unwrap().profile;
        let twice = r#"{"linux": {"seccomp": {"a": 1}}, "linux": {"seccomp": {"b": 2}}}"#;
        assert_eq!(profile(twice), Some(r#"{"b": 2}"#));
        assert_eq!(profile(r#"{"linux": {"seccomp": {}}, "linux": {}}"#), None);
    }

    #[test]
    fn what_is_no_document_is_left_to_others() {
        for json in [
            "",
            "[]",
            "{}{}",
            r#"{"linux": 3}"#,
            r#"{"linux": {"seccomp": }}"#,
        ] {
            assert!(split(json.as_bytes()).is_none(), "{json}");
        }
    }

    #[test]
    fn one_profile_is_kept_and_only_for_its_own_text() {
        let kept = Kept(Mutex::default());
        let profile = Arc::new(LinuxSeccomp::default());
        kept.keep("{ }", &profile);
        assert!(Arc::ptr_eq(&kept.find("{ }").unwrap(), &profile));
        assert!(kept.find("{}").is_none());
        kept.keep("{}", &Arc::new(LinuxSeccomp::default()));
        assert!(kept.find("{ }").is_none());
    }
}
