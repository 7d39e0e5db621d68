//! D-Bus messages: calls are written, answers and signals are read.
//!
//! Only the types that systemd's manager is spoken to in. What is read comes from PID 1 or from the
//! bus, and still nothing in it is trusted to be well-formed.
//!
//! # References
//!
//! [D-Bus specification, "Type System" and "Message Protocol"](https://dbus.freedesktop.org/doc/dbus-specification.html).

use std::borrow::Cow;

/// The longest message that is read: 1 MiB. The answers that are waited for have some 100 bytes.
const LONGEST: usize = 1 << 20;

/// The part of a message that tells how long it is.
pub(super) const HEAD: usize = 16;

/// `METHOD_RETURN`, `ERROR` and `SIGNAL`.
pub(super) const RETURN: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const SIGNAL: u8 = 4;

/// `l` or `B`: the order of bytes in a message is its sender's.
const ORDER: u8 = if cfg!(target_endian = "little") {
    b'l'
} else {
    b'B'
};

/// Whom a call is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object {
    /// The peer's name on the bus.
    pub(super) destination: &'static str,
    /// The object.
    pub(super) path: &'static str,
    /// The interface that the method belongs to.
    pub(super) interface: &'static str,
}

/// A value of a unit's property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// `s`
    Text(String),
    /// `b`
    Flag(bool),
    /// `t`
    Number(u64),
    /// `au`
    Numbers(Vec<u32>),
    /// `ay`
    Bytes(Vec<u8>),
    /// `a(ss)`
    Pairs(Vec<(String, String)>),
    /// `y`
    Byte(u8),
    /// `n`
    Int16(i16),
    /// `q`
    Uint16(u16),
    /// `i`
    Int32(i32),
    /// `u`
    Uint32(u32),
    /// `x`
    Int64(i64),
    /// An array of values that are of the first one's type: none of those that have `a` above.
    List(Box<Value>, Vec<Value>),
}

/// The text of a message, or a part of it, each value at its alignment.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

/// A message that was received.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Message {
    /// [`RETURN`], [`ERROR`], [`SIGNAL`] or another.
    pub(super) kind: u8,
    /// The call it answers.
    pub(super) answers: u32,
    /// The signal.
    pub(super) member: String,
    /// The error.
    pub(super) error: String,
    /// The types of the body.
    pub(super) signature: String,
    body: Vec<u8>,
}

/// Reads values off a message; `None` where it is not what it says it is.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Writes a call.
pub(super) fn call(
    serial: u32,
    object: Object,
    member: &str,
    signature: &str,
    body: &Writer,
) -> Vec<u8> {
    let mut message = Writer::default();
    // METHOD_CALL, no flags, version 1.
    message.bytes.extend([ORDER, 1, 0, 1]);
    message.number(length(body.bytes.len()));
    message.number(serial);
    message.array(8, |fields| {
        let mut field = |code: u8, kind: &str, text: &str| {
            fields.align(8);
            fields.bytes.push(code);
            fields.signature(kind);
            if kind == "g" {
                fields.signature(text);
            } else {
                fields.text(text);
            }
        };
        field(1, "o", object.path);
        field(2, "s", object.interface);
        field(3, "s", member);
        field(6, "s", object.destination);
        if !signature.is_empty() {
            field(8, "g", signature);
        }
    });
    message.align(8);
    message.bytes.extend(&body.bytes);
    message.bytes
}

/// How long the message that begins with `head` is; `None` for one that nobody should send.
pub(super) fn whole(head: &[u8; HEAD]) -> Option<usize> {
    let mut reader = Reader { bytes: head, at: 4 };
    let body = usize::try_from(reader.number()?).ok()?;
    reader.number()?;
    let fields = usize::try_from(reader.number()?).ok()?;
    let whole = (HEAD.checked_add(fields)?)
        .checked_next_multiple_of(8)?
        .checked_add(body)?;
    (head[0] == ORDER && whole <= LONGEST).then_some(whole)
}

// === impl Value ===

impl Value {
    fn signature(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Value::Text(_) => "s",
            Value::Flag(_) => "b",
            Value::Number(_) => "t",
            Value::Numbers(_) => "au",
            Value::Bytes(_) => "ay",
            Value::Pairs(_) => "a(ss)",
            Value::Byte(_) => "y",
            Value::Int16(_) => "n",
            Value::Uint16(_) => "q",
            Value::Int32(_) => "i",
            Value::Uint32(_) => "u",
            Value::Int64(_) => "x",
            Value::List(sample, _) => return Cow::Owned(format!("a{}", sample.signature())),
        })
    }

    fn alignment(&self) -> usize {
        match self {
            Value::Byte(_) => 1,
            Value::Int16(_) | Value::Uint16(_) => 2,
            Value::Text(_)
            | Value::Flag(_)
            | Value::Numbers(_)
            | Value::Bytes(_)
            | Value::Pairs(_)
            | Value::Int32(_)
            | Value::Uint32(_)
            | Value::List(..) => 4,
            Value::Number(_) | Value::Int64(_) => 8,
        }
    }
}

// === impl Writer ===

impl Writer {
    /// A `u`.
    pub(super) fn number(&mut self, number: u32) {
        self.align(4);
        self.bytes.extend(number.to_ne_bytes());
    }

    /// An `s` or an `o`.
    pub(super) fn text(&mut self, text: &str) {
        self.number(length(text.len()));
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    /// An `a(sv)`.
    pub(super) fn properties<'a>(
        &mut self,
        properties: impl IntoIterator<Item = (&'a str, &'a Value)>,
    ) {
        self.array(8, |array| {
            for (name, value) in properties {
                array.align(8);
                array.text(name);
                array.variant(value);
            }
        });
    }

    /// An array whose elements are aligned to `alignment`.
    pub(super) fn array(&mut self, alignment: usize, elements: impl FnOnce(&mut Self)) {
        self.number(0);
        let at = self.bytes.len();
        self.align(alignment);
        let first = self.bytes.len();
        elements(self);
        // The padding before the first element does not count.
        let long = length(self.bytes.len() - first);
        self.bytes[at - 4..at].copy_from_slice(&long.to_ne_bytes());
    }

    fn signature(&mut self, text: &str) {
        // The only ones that are written are this file's.
        self.bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    fn variant(&mut self, value: &Value) {
        self.signature(&value.signature());
        self.value(value);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Text(text) => self.text(text),
            Value::Flag(flag) => self.number(u32::from(*flag)),
            Value::Number(number) => self.fixed(number.to_ne_bytes()),
            Value::Numbers(numbers) => self.array(4, |array| {
                for number in numbers {
                    array.number(*number);
                }
            }),
            Value::Bytes(bytes) => self.array(1, |array| array.bytes.extend(bytes)),
            Value::Pairs(pairs) => self.array(8, |array| {
                for (first, second) in pairs {
                    array.align(8);
                    array.text(first);
                    array.text(second);
                }
            }),
            Value::Byte(byte) => self.bytes.push(*byte),
            Value::Int16(number) => self.fixed(number.to_ne_bytes()),
            Value::Uint16(number) => self.fixed(number.to_ne_bytes()),
            Value::Int32(number) => self.fixed(number.to_ne_bytes()),
            Value::Uint32(number) => self.fixed(number.to_ne_bytes()),
            Value::Int64(number) => self.fixed(number.to_ne_bytes()),
            Value::List(sample, values) => self.array(sample.alignment(), |array| {
                for value in values {
                    array.value(value);
                }
            }),
        }
    }

    /// A number, which is aligned to its own length.
    fn fixed<const N: usize>(&mut self, bytes: [u8; N]) {
        self.align(N);
        self.bytes.extend(bytes);
    }

    fn align(&mut self, alignment: usize) {
        let aligned = self.bytes.len().next_multiple_of(alignment);
        self.bytes.resize(aligned, 0);
    }
}

/// Nothing that is written here comes near 4 GiB.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

// === impl Message ===

impl Message {
    /// Reads a whole message; `None` if it is not one.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let head: &[u8; HEAD] = bytes.first_chunk()?;
        if whole(head)? != bytes.len() {
            return None;
        }
        let mut message = Message {
            kind: head[1],
            ..Message::default()
        };
        let mut reader = Reader { bytes, at: 12 };
        let fields = usize::try_from(reader.number()?).ok()?;
        let end = HEAD.checked_add(fields)?;
        while reader.at < end {
            reader.align(8)?;
            let code = reader.byte()?;
            let kind = reader.signature()?;
            match (code, kind) {
                (3, "s") => message.member = reader.text()?.to_owned(),
                (4, "s") => message.error = reader.text()?.to_owned(),
                (5, "u") => message.answers = reader.number()?,
                (8, "g") => message.signature = reader.signature()?.to_owned(),
                (_, "s" | "o") => drop(reader.text()?),
                (_, "g") => drop(reader.signature()?),
                (_, "u") => drop(reader.number()?),
                (_, _) => return None,
            }
        }
        reader.align(8)?;
        message.body = bytes.get(reader.at..)?.to_owned();
        Some(message)
    }

    /// The first value of the body, if it is a text or a path.
    pub(super) fn text(&self) -> Option<&str> {
        let reader = &mut self.body();
        self.signature.starts_with(['s', 'o']).then_some(())?;
        reader.text()
    }

    /// Job and result of a signal `JobRemoved(uoss)`.
    pub(super) fn removed(&self) -> Option<(&str, &str)> {
        if self.kind != SIGNAL || self.member != "JobRemoved" || self.signature != "uoss" {
            return None;
        }
        let mut reader = self.body();
        reader.number()?;
        let job = reader.text()?;
        let _unit = reader.text()?;
        Some((job, reader.text()?))
    }

    fn body(&self) -> Reader<'_> {
        Reader {
            bytes: &self.body,
            at: 0,
        }
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4)?;
        let bytes = self.take(4)?.first_chunk()?;
        Some(u32::from_ne_bytes(*bytes))
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.number()?).ok()?;
        let text = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(text).ok()
    }

    fn signature(&mut self) -> Option<&'a str> {
        let length = usize::from(self.byte()?);
        let text = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(text).ok()
    }

    fn align(&mut self, alignment: usize) -> Option<()> {
        let aligned = self.at.checked_next_multiple_of(alignment)?;
        self.take(aligned - self.at).map(drop)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }
}

/// Writes what systemd would: an answer to the call of that number.
#[cfg(test)]
pub(super) fn answer(
    kind: u8,
    answers: u32,
    error: &str,
    signature: &str,
    body: &Writer,
) -> Vec<u8> {
    let mut message = Writer::default();
    message.bytes.extend([ORDER, kind, 1, 1]);
    message.number(length(body.bytes.len()));
    message.number(77);
    message.array(8, |fields| {
        fields.bytes.push(5);
        fields.signature("u");
        fields.number(answers);
        if !error.is_empty() {
            fields.align(8);
            fields.bytes.push(4);
            fields.signature("s");
            fields.text(error);
        }
        fields.align(8);
        fields.bytes.push(8);
        fields.signature("g");
        fields.signature(signature);
    });
    message.align(8);
    message.bytes.extend(&body.bytes);
    message.bytes
}

/// Writes a signal `JobRemoved`.
#[cfg(test)]
pub(super) fn removed(job: &str, result: &str) -> Vec<u8> {
    let mut body = Writer::default();
    body.number(3);
    for text in [job, "a.scope", result] {
        body.text(text);
    }
    let mut bytes = call(1, OBJECT, "JobRemoved", "uoss", &body);
    bytes[1] = SIGNAL;
    bytes
}

#[cfg(test)]
const OBJECT: Object = Object {
    destination: "a.b",
    path: "/a",
    interface: "c.d",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_laid_out_as_the_specification_says() {
        let mut body = Writer::default();
        body.text("u");
        body.properties([("P", &Value::Numbers(vec![7])), ("N", &Value::Number(5))]);
        let bytes = call(9, OBJECT, "M", "sa(sv)", &body);
        #[rustfmt::skip]
        let expected: &[u8] = &[
            // little-endian call, version 1; lengths of body and fields around the serial
            b'l', 1, 0, 1, 64, 0, 0, 0, 9, 0, 0, 0, 76, 0, 0, 0,
            1, 1, b'o', 0, 2, 0, 0, 0, b'/', b'a', 0, 0, 0, 0, 0, 0,
            2, 1, b's', 0, 3, 0, 0, 0, b'c', b'.', b'd', 0, 0, 0, 0, 0,
            3, 1, b's', 0, 1, 0, 0, 0, b'M', 0, 0, 0, 0, 0, 0, 0,
            6, 1, b's', 0, 3, 0, 0, 0, b'a', b'.', b'b', 0, 0, 0, 0, 0,
            8, 1, b'g', 0, 6, b's', b'a', b'(', b's', b'v', b')', 0, 0, 0, 0, 0,
            // "u"; an array of 48 bytes, padded to 8
            1, 0, 0, 0, b'u', 0, 0, 0, 48, 0, 0, 0, 0, 0, 0, 0,
            // "P", au, an array of 4 bytes
            1, 0, 0, 0, b'P', 0, 2, b'a', b'u', 0, 0, 0, 4, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0,
            // "N", t, padded to 8
            1, 0, 0, 0, b'N', 0, 1, b't', 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(bytes, expected);
        assert_eq!(whole(bytes.first_chunk().unwrap()), Some(bytes.len()));
    }

    #[test]
    fn each_value_is_at_the_alignment_of_its_type() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (value, expected) in [
            (Value::Byte(7), &[1, b'y', 0, 7][..]),
            (Value::Int16(-1), &[1, b'n', 0, 0, 255, 255]),
            (Value::Uint16(1), &[1, b'q', 0, 0, 1, 0]),
            (Value::Int32(-1), &[1, b'i', 0, 0, 255, 255, 255, 255]),
            (Value::Uint32(1), &[1, b'u', 0, 0, 1, 0, 0, 0]),
            (
                Value::Int64(1),
                &[1, b'x', 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
            ),
            (
                Value::List(Box::new(text("")), vec![text("a"), text("b")]),
                &[
                    2, b'a', b's', 0, 14, 0, 0, 0, 1, 0, 0, 0, b'a', 0, 0, 0, 1, 0, 0, 0, b'b', 0,
                ],
            ),
            (
                Value::List(Box::new(Value::Number(0)), vec![Value::Number(1)]),
                &[2, b'a', b't', 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
            ),
        ] {
            let mut writer = Writer::default();
            writer.variant(&value);
            if cfg!(target_endian = "little") {
                assert_eq!(writer.bytes, expected, "{value:?}");
            }
        }
    }

    #[test]
    fn what_was_written_is_read_again() {
        let bytes = removed("/job/3", "done");
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.removed(), Some(("/job/3", "done")));
        for cut in 0..bytes.len() {
            assert_eq!(Message::parse(&bytes[..cut]), None, "{cut}");
        }
        let mut body = Writer::default();
        body.text("Unit a.scope already exists.");
        let message = Message::parse(&answer(ERROR, 5, "org.E", "s", &body)).unwrap();
        assert_eq!((message.kind, message.answers), (ERROR, 5));
        assert_eq!(message.error, "org.E");
        assert_eq!(message.text(), Some("Unit a.scope already exists."));
        assert_eq!(message.removed(), None);
    }

    #[test]
    fn no_byte_that_is_wrong_makes_the_reader_panic() {
        let mut body = Writer::default();
        body.text("/job/3");
        for bytes in [removed("/job/3", "done"), answer(RETURN, 1, "", "o", &body)] {
            for at in 0..bytes.len() {
                for wrong in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut bytes = bytes.clone();
                    bytes[at] = wrong;
                    if let Some(message) = Message::parse(&bytes) {
                        std::hint::black_box((message.text(), message.removed()));
                    }
                }
            }
        }
    }
}
