//! The names of the fields that a type of `oci-spec` has, without a value of it.
//!
//! The code that serde derives tells whoever deserialises a struct all of its fields. So a
//! deserialiser that has no document, and answers each question with the least that will do,
//! walks a type to its leaves, and no new field can pass it by.

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor,
    value::Error,
};
use serde::forward_to_deserialize_any;
use std::collections::BTreeSet;

/// A place in a document that is made up on the way.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) path: String,
    /// Where the leaves below it are noted.
    pub(super) leaves: &'a mut BTreeSet<String>,
}

/// The path of a member.
pub(super) fn member(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// The field that a leaf belongs to: a list or map of plain values is one field.
pub(super) fn field(mut path: &str) -> String {
    while let Some(shorter) = path.strip_suffix("[]").or(path.strip_suffix(".*")) {
        path = shorter;
    }
    path.to_owned()
}

// === impl Place ===

impl Place<'_> {
    fn leaf(&mut self) {
        self.leaves.insert(field(&self.path));
    }

    /// A word that any type takes which has an opinion on words.
    fn word(&self) -> &'static str {
        if self.path.starts_with("process.capabilities.") {
            "CAP_KILL"
        } else {
            "0"
        }
    }
}

macro_rules! leaves {
    ($($method:ident: $visit:ident($value:expr),)*) => {$(
        fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
            self.leaf();
            visitor.$visit($value)
        }
    )*};
}

impl<'de> Deserializer<'de> for Place<'_> {
    type Error = Error;

    leaves! {
        deserialize_bool: visit_bool(true),
        deserialize_i32: visit_u8(1),
        deserialize_i64: visit_u8(1),
        deserialize_u16: visit_u8(1),
        deserialize_u32: visit_u8(1),
        deserialize_u64: visit_u8(1),
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u128 f32 f64 char bytes byte_buf unit unit_struct newtype_struct tuple
        tuple_struct ignored_any
    }

    /// Of a field that may hold anything.
    fn deserialize_any<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        self.leaf();
        visitor.visit_unit()
    }

    fn deserialize_str<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        self.leaf();
        visitor.visit_str(self.word())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.leaf();
        visitor.visit_enum(variants[0].into_deserializer())
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let path = format!("{}[]", self.path);
        visitor.visit_seq(One(Some(Place { path, ..self })))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Members {
            place: self,
            names: &["*"],
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(Members { place: self, names })
    }
}

/// A list of one.
struct One<'a>(Option<Place<'a>>);

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let place = self.0.take();
        place.map(|place| seed.deserialize(place)).transpose()
    }
}

/// An object with all of its members.
struct Members<'a> {
    place: Place<'a>,
    /// Those that are still to come.
    names: &'static [&'static str],
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let name = self.names.first();
        name.map(|name| seed.deserialize((*name).into_deserializer()))
            .transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some((name, rest)) = self.names.split_first() else {
            return Err(Error::custom("a value without a name is asked for"));
        };
        self.names = rest;
        seed.deserialize(Place {
            path: member(&self.place.path, name),
            leaves: self.place.leaves,
        })
    }
}
