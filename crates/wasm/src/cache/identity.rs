//! What besides the module decides what its machine code looks like.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};

/// The compiler's build and this CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    build: Vec<u8>,
    cpu: String,
}

// === impl Identity ===

impl Identity {
    /// The identity of `compiler` on this CPU.
    ///
    /// The linker's build id covers everything that went into the binary: the version of wasmtime to
    /// the last digit, its features, our settings. A binary without one is hashed whole.
    pub(super) fn of(compiler: &File) -> io::Result<Self> {
        let build = match build_id(compiler) {
            Some(id) => id,
            None => {
                let length = compiler.metadata()?.len();
                let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
                compiler.read_exact_at(&mut bytes, 0)?;
                Sha256::digest(&bytes).to_vec()
            }
        };
        Ok(Self { build, cpu: cpu() })
    }

    /// The key of a module whose content has this hash.
    pub(super) fn with(&self, content: &[u8]) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [
            b"duet 1".as_slice(),
            &self.build,
            self.cpu.as_bytes(),
            content,
        ] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

/// The features for which wasmtime would choose other instructions.
#[cfg(target_arch = "x86_64")]
fn cpu() -> String {
    macro_rules! present {
        ($($name:tt)*) => {
            [$(($name, std::is_x86_feature_detected!($name))),*]
        };
    }
    join(
        "x86_64",
        &present![
            "cmpxchg16b" "sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "avx" "avx2" "fma" "avxvnni"
            "avx512vnni" "bmi1" "bmi2" "avx512bitalg" "avx512dq" "avx512f" "avx512vl" "avx512vbmi" "lzcnt"
        ],
    )
}

/// The features for which wasmtime would choose other instructions.
#[cfg(target_arch = "aarch64")]
fn cpu() -> String {
    macro_rules! present {
        ($($name:tt)*) => {
            [$(($name, std::arch::is_aarch64_feature_detected!($name))),*]
        };
    }
    join("aarch64", &present!["lse" "paca" "fp16" "dotprod" "i8mm"])
}

fn join(arch: &str, features: &[(&str, bool)]) -> String {
    let present = features.iter().filter(|(_, present)| *present);
    present.fold(arch.to_owned(), |all, (name, _)| format!("{all} {name}"))
}

/// The build id of a 64-bit little-endian ELF file.
///
/// # References
///
/// [elf(5)](https://man7.org/linux/man-pages/man5/elf.5.html), `NT_GNU_BUILD_ID`.
fn build_id(file: &File) -> Option<Vec<u8>> {
    const PT_NOTE: u64 = 4;
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = number(&header, 32, 8)?;
    let (size, count) = (number(&header, 54, 2)?, number(&header, 56, 2)?);
    for index in 0..count {
        let mut segment = [0; 56];
        file.read_exact_at(&mut segment, table.checked_add(index * size)?)
            .ok()?;
        if number(&segment, 0, 4)? == PT_NOTE {
            let length = number(&segment, 32, 8)?.min(64 << 10);
            let mut notes = vec![0; usize::try_from(length).ok()?];
            file.read_exact_at(&mut notes, number(&segment, 8, 8)?)
                .ok()?;
            if let Some(id) = find_note(&notes) {
                return Some(id.to_vec());
            }
        }
    }
    None
}

/// The description of the note `GNU`, type 3.
fn find_note(mut notes: &[u8]) -> Option<&[u8]> {
    loop {
        let field = |at| number(notes, at, 4).and_then(|n| usize::try_from(n).ok());
        let (name, description, kind) = (field(0)?, field(4)?, field(8)?);
        let begin = 12 + name.checked_next_multiple_of(4)?;
        let end = begin.checked_add(description)?;
        if kind == 3 && notes.get(12..16) == Some(b"GNU\0") {
            return notes.get(begin..end).filter(|id| !id.is_empty());
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
}

/// A little-endian number of `length` bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |n, byte| n << 8 | u64::from(*byte)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_binaries_have_a_build_id() {
        let id = build_id(&File::open("/proc/self/exe").unwrap()).unwrap();
        assert_eq!(
            id.len(),
            20,
            "sha1, as .cargo/config.toml asks the linker for"
        );
    }

    #[test]
    fn nonsense_has_no_build_id_and_is_hashed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("compiler");
        for content in [
            b"".as_slice(),
            b"\x7fELF\x02\x01",
            &[b"\x7fELF\x02\x01".as_slice(), &[0xff; 100]].concat(),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(build_id(&File::open(&path).unwrap()), None);
            assert_eq!(
                Identity::of(&File::open(&path).unwrap())
                    .unwrap()
                    .build
                    .len(),
                32
            );
        }
    }

    #[test]
    fn every_part_changes_the_key() {
        let one = Identity {
            build: vec![1, 2],
            cpu: "x".into(),
        };
        let two = Identity {
            build: vec![1],
            cpu: "x".into(),
        };
        let three = Identity {
            build: vec![1, 2],
            cpu: "x avx".into(),
        };
        let keys = [
            one.with(b"a"),
            one.with(b"b"),
            two.with(b"a"),
            three.with(b"a"),
        ];
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(keys.iter().position(|k| k == key), Some(n));
        }
    }
}
