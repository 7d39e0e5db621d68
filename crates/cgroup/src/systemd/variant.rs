//! Values of properties as annotations write them: a part of GVariant's text form.
//!
//! | Text | Type |
//! | --- | --- |
//! | `true`, `false` | `b` |
//! | `'text'`, `"text"` | `s` |
//! | `5`, `-5`, `0x5`, `05` | `i`, unless a type is before it: `uint64 5`, `@t 5` |
//! | `[1, 2]`, `['a']`, `[uint32 1, 2]`, `@as []` | an array of one of those |
//! | `2.5` | seconds alone, which become microseconds |
//!
//! Variants, dictionaries, paths of objects and signatures are no type of a property that a scope has.
//!
//! # References
//!
//! [GVariant text format](https://docs.gtk.org/glib/gvariant-text-format.html), as godbus, which runc
//! has for it, understands it (`variant_parser.go`).

use super::message::Value;

/// What is wrong with a text, as the end of a sentence.
type Wrong = &'static str;

const NO_VALUE: Wrong = "it is not in GVariant's text format";
const NO_SUCH_TYPE: Wrong = "no property of a scope has this type";
const NOT_THIS_TYPE: Wrong = "it is not of the type that is written before it";
const MIXED: Wrong = "its elements have different types";
const TOO_LARGE: Wrong = "the number does not fit its type";

/// A type that an array may be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Byte,
    Int16,
    Uint16,
    Int32,
    Uint32,
    Int64,
    Uint64,
    Double,
    Text,
    Flag,
}

/// What was read, before its type is settled.
#[derive(Debug, Clone, PartialEq)]
struct Written<'a> {
    /// The type that is written before it; of an array that of its elements.
    kind: Option<Kind>,
    literal: Literal<'a>,
}

#[derive(Debug, Clone, PartialEq)]
enum Literal<'a> {
    Flag(bool),
    Number(&'a str),
    Text(String),
    Array(Vec<Written<'a>>),
}

/// Reads a text from its beginning.
struct Reader<'a> {
    rest: &'a str,
}

/// The value that `text` writes.
pub(super) fn parse(text: &str) -> Result<Value, Wrong> {
    read(text)?.value()
}

/// The microseconds of the seconds that `text` writes.
pub(super) fn microseconds(text: &str) -> Result<Value, Wrong> {
    const SECOND: i128 = 1_000_000;
    const NO_NUMBER: Wrong = "it is not a number of seconds";
    let written = read(text)?;
    let Literal::Number(number) = written.literal else {
        return Err(NO_NUMBER);
    };
    let micros = match written.kind {
        Some(Kind::Text | Kind::Flag) => return Err(NO_NUMBER),
        Some(Kind::Double) => fraction(number)?,
        None if number.contains(['.', 'e']) => fraction(number)?,
        kind => kind.unwrap_or(Kind::Int32).whole(number)? * SECOND,
    };
    u64::try_from(micros)
        .map(Value::Number)
        .map_err(|_| TOO_LARGE)
}

fn read(text: &str) -> Result<Written<'_>, Wrong> {
    let mut reader = Reader { rest: text };
    let written = reader.written()?;
    match reader.peek() {
        None => Ok(written),
        Some(_) => Err(NO_VALUE),
    }
}

/// `2.5` seconds in microseconds.
fn fraction(number: &str) -> Result<i128, Wrong> {
    let seconds: f64 = number.parse().map_err(|_| NO_VALUE)?;
    let micros = (seconds * 1e6).trunc();
    // 2 to the 64th: what is below fits, and is written without a fraction.
    if (0.0..18_446_744_073_709_551_616.0).contains(&micros) {
        format!("{micros}").parse().map_err(|_| TOO_LARGE)
    } else {
        Err(TOO_LARGE)
    }
}

// === impl Kind ===

impl Kind {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "byte" => Kind::Byte,
            "int16" => Kind::Int16,
            "uint16" => Kind::Uint16,
            "int32" => Kind::Int32,
            "uint32" => Kind::Uint32,
            "int64" => Kind::Int64,
            "uint64" => Kind::Uint64,
            "double" => Kind::Double,
            "string" => Kind::Text,
            "boolean" => Kind::Flag,
            _ => return None,
        })
    }

    /// The type of this signature, or of an array's elements.
    fn signed(signature: &str) -> Option<Self> {
        Some(match signature.strip_prefix('a').unwrap_or(signature) {
            "y" => Kind::Byte,
            "n" => Kind::Int16,
            "q" => Kind::Uint16,
            "i" => Kind::Int32,
            "u" => Kind::Uint32,
            "x" => Kind::Int64,
            "t" => Kind::Uint64,
            "d" => Kind::Double,
            "s" => Kind::Text,
            "b" => Kind::Flag,
            _ => return None,
        })
    }

    /// The whole number that is written so.
    fn whole(self, text: &str) -> Result<i128, Wrong> {
        let (sign, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let (digits, base) = match unsigned.strip_prefix("0x") {
            Some(digits) => (digits, 16),
            None => match unsigned
                .strip_prefix('0')
                .filter(|digits| !digits.is_empty())
            {
                Some(digits) => (digits, 8),
                None => (unsigned, 10),
            },
        };
        let number = sign * digits_of(digits, base)?;
        let (least, most) = match self {
            Kind::Byte => (0, u8::MAX.into()),
            Kind::Int16 => (i16::MIN.into(), i16::MAX.into()),
            Kind::Uint16 => (0, u16::MAX.into()),
            Kind::Int32 => (i32::MIN.into(), i32::MAX.into()),
            Kind::Uint32 => (0, u32::MAX.into()),
            Kind::Int64 => (i64::MIN.into(), i64::MAX.into()),
            Kind::Uint64 => (0, u64::MAX.into()),
            Kind::Double => return Err(NO_SUCH_TYPE),
            Kind::Text | Kind::Flag => return Err(NOT_THIS_TYPE),
        };
        if (least..=most).contains(&number) {
            Ok(number)
        } else {
            Err(TOO_LARGE)
        }
    }

    fn number(self, text: &str) -> Result<Value, Wrong> {
        fn fit<T: TryFrom<i128>>(number: i128) -> Result<T, Wrong> {
            T::try_from(number).map_err(|_| TOO_LARGE)
        }
        let number = self.whole(text)?;
        Ok(match self {
            Kind::Byte => Value::Byte(fit(number)?),
            Kind::Int16 => Value::Int16(fit(number)?),
            Kind::Uint16 => Value::Uint16(fit(number)?),
            Kind::Int32 => Value::Int32(fit(number)?),
            Kind::Uint32 => Value::Uint32(fit(number)?),
            Kind::Int64 => Value::Int64(fit(number)?),
            Kind::Uint64 => Value::Number(fit(number)?),
            Kind::Double | Kind::Text | Kind::Flag => return Err(NO_SUCH_TYPE),
        })
    }

    /// A value of this type, by which the types of all in an array are told.
    fn sample(self) -> Option<Value> {
        Some(match self {
            Kind::Byte => Value::Byte(0),
            Kind::Int16 => Value::Int16(0),
            Kind::Uint16 => Value::Uint16(0),
            Kind::Int32 => Value::Int32(0),
            Kind::Uint32 => Value::Uint32(0),
            Kind::Int64 => Value::Int64(0),
            Kind::Uint64 => Value::Number(0),
            Kind::Text => Value::Text(String::new()),
            Kind::Flag => Value::Flag(false),
            Kind::Double => return None,
        })
    }
}

// === impl Written ===

impl Written<'_> {
    fn value(self) -> Result<Value, Wrong> {
        match (self.literal, self.kind) {
            (Literal::Flag(flag), None | Some(Kind::Flag)) => Ok(Value::Flag(flag)),
            (Literal::Text(text), None | Some(Kind::Text)) => Ok(Value::Text(text)),
            (Literal::Number(number), None) if number.contains('.') => Err(NO_SUCH_TYPE),
            (Literal::Number(number), kind) => kind.unwrap_or(Kind::Int32).number(number),
            (Literal::Array(elements), kind) => array(elements, kind),
            (Literal::Flag(_) | Literal::Text(_), Some(_)) => Err(NOT_THIS_TYPE),
        }
    }

    /// The type that it must have, if that is certain.
    fn certain(&self) -> Option<Kind> {
        let own = match self.literal {
            Literal::Flag(_) => Some(Kind::Flag),
            Literal::Text(_) => Some(Kind::Text),
            Literal::Number(_) | Literal::Array(_) => None,
        };
        self.kind.or(own)
    }
}

/// An array is of the type that one of its elements has, as `[uint32 1, 2]` is.
fn array(mut elements: Vec<Written<'_>>, kind: Option<Kind>) -> Result<Value, Wrong> {
    let certain = elements.iter().find_map(Written::certain);
    let kind = match (kind.or(certain), elements.as_slice()) {
        (Some(kind), _) => kind,
        (None, []) => return Err("of an empty array the type is to be written: @as []"),
        (None, _) => Kind::Int32,
    };
    let sample = kind.sample().ok_or(NO_SUCH_TYPE)?;
    for element in &mut elements {
        if matches!(element.literal, Literal::Array(_)) {
            return Err(NO_SUCH_TYPE);
        }
        let number = matches!(element.literal, Literal::Number(_));
        let mixed = number && matches!(kind, Kind::Text | Kind::Flag);
        if mixed || *element.kind.get_or_insert(kind) != kind {
            return Err(MIXED);
        }
    }
    let values = elements.into_iter().map(Written::value);
    Ok(Value::List(
        Box::new(sample),
        values.collect::<Result<_, _>>()?,
    ))
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn written(&mut self) -> Result<Written<'a>, Wrong> {
        let mut kind = None;
        if self.peek() == Some('@') {
            self.rest = &self.rest[1..];
            let signature = self.word();
            kind = Some((Kind::signed(signature).ok_or(NO_SUCH_TYPE)?, signature));
        }
        match self.peek().ok_or(NO_VALUE)? {
            '[' => {
                if kind.is_some_and(|(_, signature)| !signature.starts_with('a')) {
                    return Err(NOT_THIS_TYPE);
                }
                self.rest = &self.rest[1..];
                let literal = Literal::Array(self.elements()?);
                let kind = kind.map(|(kind, _)| kind);
                return Ok(Written { kind, literal });
            }
            _ if kind.is_some_and(|(_, signature)| signature.starts_with('a')) => {
                return Err(NOT_THIS_TYPE);
            }
            '<' | '{' | '(' => return Err(NO_SUCH_TYPE),
            _ => {}
        }
        let mut kind = kind.map(|(kind, _)| kind);
        if let Some(quote @ ('\'' | '"')) = self.peek() {
            let literal = Literal::Text(self.quoted(quote)?);
            return Ok(Written { kind, literal });
        }
        let mut word = self.word();
        if let Some(named) = Kind::named(word) {
            if kind.replace(named).is_some() {
                return Err(NO_VALUE);
            }
            if let Some(quote @ ('\'' | '"')) = self.peek() {
                let literal = Literal::Text(self.quoted(quote)?);
                return Ok(Written { kind, literal });
            }
            word = self.word();
        } else if matches!(word, "objectpath" | "signature" | "handle" | "b") {
            return Err(NO_SUCH_TYPE);
        }
        let literal = match word {
            "true" => Literal::Flag(true),
            "false" => Literal::Flag(false),
            number if number.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => {
                Literal::Number(number)
            }
            _ => return Err(NO_VALUE),
        };
        Ok(Written { kind, literal })
    }

    /// What is between `[` and `]`.
    fn elements(&mut self) -> Result<Vec<Written<'a>>, Wrong> {
        let mut elements = Vec::new();
        if self.skipped(']') {
            return Ok(elements);
        }
        loop {
            if self.peek() == Some('[') {
                return Err(NO_SUCH_TYPE);
            }
            elements.push(self.written()?);
            if self.skipped(']') {
                return Ok(elements);
            }
            if !self.skipped(',') {
                return Err(NO_VALUE);
            }
        }
    }

    /// A text between quotes.
    fn quoted(&mut self, quote: char) -> Result<String, Wrong> {
        let mut text = String::new();
        let mut letters = self.rest.chars();
        letters.next();
        loop {
            let letter = match letters.next().ok_or(NO_VALUE)? {
                letter if letter == quote => break,
                '\\' => match letters.next().ok_or(NO_VALUE)? {
                    'a' => '\x07',
                    'b' => '\x08',
                    'f' => '\x0c',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    '\n' => continue,
                    long @ ('u' | 'U') => {
                        let digits = if long == 'u' { 4 } else { 8 };
                        let code: String = letters.by_ref().take(digits).collect();
                        let code = u32::try_from(digits_of(&code, 16)?).map_err(|_| NO_VALUE)?;
                        char::from_u32(code).ok_or(NO_VALUE)?
                    }
                    letter => letter,
                },
                letter => letter,
            };
            // D-Bus ends a text there.
            if letter == '\0' {
                return Err(NO_VALUE);
            }
            text.push(letter);
        }
        self.rest = letters.as_str();
        Ok(text)
    }

    /// Letters and digits, signs and points.
    fn word(&mut self) -> &'a str {
        self.peek();
        let part = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        let end = self.rest.find(|c| !part(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn skipped(&mut self, letter: char) -> bool {
        let there = self.peek() == Some(letter);
        if there {
            self.rest = &self.rest[letter.len_utf8()..];
        }
        there
    }

    /// The next letter that is no space.
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.chars().next()
    }
}

/// A number of nothing but digits: `from_str_radix` would take a sign as well.
fn digits_of(text: &str, base: u32) -> Result<i128, Wrong> {
    if !text.chars().all(|letter| letter.is_digit(base)) {
        return Err(NO_VALUE);
    }
    i128::from_str_radix(text, base).map_err(|_| NO_VALUE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn values_have_the_type_that_is_written_or_the_usual_one() {
        let list = |values: Vec<Value>| Value::List(Box::new(Value::Uint32(0)), values);
        for (written, value) in [
            ("true", Value::Flag(true)),
            ("boolean false", Value::Flag(false)),
            ("'inactive-or-failed'", text("inactive-or-failed")),
            (r#" "a\"b\n\u00e9" "#, text("a\"b\né")),
            ("@s 'a'", text("a")),
            ("5", Value::Int32(5)),
            ("0x10", Value::Int32(16)),
            ("-0x10", Value::Int32(-16)),
            ("-10", Value::Int32(-10)),
            ("017", Value::Int32(15)),
            ("byte 255", Value::Byte(255)),
            ("int16 -1", Value::Int16(-1)),
            ("uint16 1", Value::Uint16(1)),
            ("@n 1", Value::Int16(1)),
            ("int64 -9223372036854775808", Value::Int64(i64::MIN)),
            ("uint64 18446744073709551615", Value::Number(u64::MAX)),
            ("@t 7", Value::Number(7)),
            (
                "[uint32 1, 2]",
                list(vec![Value::Uint32(1), Value::Uint32(2)]),
            ),
            ("@au []", list(Vec::new())),
            ("@au [1]", list(vec![Value::Uint32(1)])),
            (
                "['a', 'b']",
                Value::List(Box::new(text("")), vec![text("a"), text("b")]),
            ),
            (
                "[1,2]",
                Value::List(
                    Box::new(Value::Int32(0)),
                    vec![Value::Int32(1), Value::Int32(2)],
                ),
            ),
        ] {
            assert_eq!(parse(written), Ok(value), "{written}");
        }
    }

    #[test]
    fn what_is_no_value_is_said_to_be_none() {
        for (written, why) in [
            ("", NO_VALUE),
            ("invalid-value", NO_VALUE),
            ("5 6", NO_VALUE),
            ("'a", NO_VALUE),
            ("'\\", NO_VALUE),
            ("'\\ud800'", NO_VALUE),
            ("'\\u0000'", NO_VALUE),
            ("[1", NO_VALUE),
            ("[1;2]", NO_VALUE),
            ("[1,", NO_VALUE),
            ("1x", NO_VALUE),
            ("09", NO_VALUE),
            ("uint64 uint64 1", NO_VALUE),
            ("@t uint64 1", NO_VALUE),
            ("byte 256", TOO_LARGE),
            ("uint64 -1", TOO_LARGE),
            ("4294967296", TOO_LARGE),
            ("1.5", NO_SUCH_TYPE),
            ("double 1", NO_SUCH_TYPE),
            ("<1>", NO_SUCH_TYPE),
            ("{'a': 1}", NO_SUCH_TYPE),
            ("('a', 'b')", NO_SUCH_TYPE),
            ("[('a', 'b')]", NO_SUCH_TYPE),
            ("[[1]]", NO_SUCH_TYPE),
            ("@aas [['a']]", NO_SUCH_TYPE),
            ("objectpath '/a'", NO_SUCH_TYPE),
            ("b'bytes'", NO_SUCH_TYPE),
            ("string 5", NOT_THIS_TYPE),
            ("0x-10", NO_VALUE),
            ("0x+10", NO_VALUE),
            ("uint64 'a'", NOT_THIS_TYPE),
            ("@as 'a'", NOT_THIS_TYPE),
            ("@s ['a']", NOT_THIS_TYPE),
            ("[1, 'a']", MIXED),
            ("[uint32 1, int32 2]", MIXED),
            ("[]", "of an empty array the type is to be written: @as []"),
        ] {
            assert_eq!(parse(written), Err(why), "{written}");
        }
    }

    #[test]
    fn seconds_become_microseconds() {
        for (written, micros) in [
            ("456", 456_000_000),
            ("byte 234", 234_000_000),
            ("uint64 5", 5_000_000),
            ("234.789", 234_789_000),
            ("1e3", 1_000_000_000),
            ("double 2", 2_000_000),
        ] {
            let value = Value::Number(micros);
            assert_eq!(microseconds(written), Ok(value), "{written}");
        }
        for wrong in [
            "false",
            "'covfefe'",
            "-1",
            "-0.5",
            "uint64 18446744073709551615",
            "1e30",
            "[1]",
            "double nan",
            "",
        ] {
            assert!(microseconds(wrong).is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in r#"[@a-z0-9'"\\\[\],<({ .\-é]{0,12}"#) {
            std::hint::black_box((parse(&text).is_ok(), microseconds(&text).is_ok()));
        }
    }
}
