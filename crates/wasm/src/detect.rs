//! Is this file WebAssembly, and which kind.

/// What the first eight bytes of a WebAssembly binary say it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A core module: WASI preview 1.
    Module,
    /// A component: WASI preview 2, or `wasi:http`.
    Component,
}

// === impl Format ===

impl Format {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Module => "module",
            Self::Component => "component",
        }
    }
}

/// How many bytes of a file [`detect`] looks at.
pub const HEAD: usize = 8;

const MAGIC: &[u8; 4] = b"\0asm";

/// Recognises WebAssembly by the first bytes of a file.
///
/// The version of a core module is 1 in layer 0; everything in layer 1 is a component, whatever its
/// version: whether this wasmtime can read it is for the compiler to say, with a sentence.
/// A file that begins with the magic and is then neither is taken for a module, for the same reason.
///
/// # References
///
/// [The core binary format](https://webassembly.github.io/spec/core/binary/modules.html#binary-module),
/// [components](https://github.com/WebAssembly/component-model/blob/main/design/mvp/Binary.md).
#[must_use]
pub fn detect(head: &[u8]) -> Option<Format> {
    let rest = head.strip_prefix(MAGIC)?;
    match rest {
        [_, _, 1, 0, ..] => Some(Format::Component),
        _ => Some(Format::Module),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_tells_a_component_from_a_module() {
        let table: [(&[u8], Option<Format>); 8] = [
            (b"\0asm\x01\0\0\0", Some(Format::Module)),
            (b"\0asm\x0d\0\x01\0", Some(Format::Component)),
            (b"\0asm\x0e\0\x01\0rest", Some(Format::Component)),
            (b"\0asm", Some(Format::Module)),
            (b"\0as", None),
            (b"\x7fELF\x02\x01\x01\0", None),
            (b"#!/bin/sh", None),
            (b"", None),
        ];
        for (head, expected) in table {
            assert_eq!(detect(head), expected, "{head:?}");
        }
    }
}
