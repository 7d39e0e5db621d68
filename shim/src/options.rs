//! Runtime options: what an administrator may set per runtime, in the two forms in which
//! containerd passes them on.
//!
//! `containerd.runc.v1.Options` is a message of its own (`ctr`, the client library, CRI for
//! user namespaces). `runtimeoptions.v1.Options` carries text: CRI puts the TOML section
//! `[...runtimes.duet.options]` into `config_body`, or only the path of such a file into
//! `config_path`.

use std::fs;
use std::io;
use std::path::PathBuf;

use containerd_shim_protos::shim::oci;
use protobuf::well_known_types::any::Any;
use protobuf::{CodedInputStream, Message as _};
use serde::Deserialize;

/// runc's message, as containerd's `typeurl` names it.
const RUNC: &str = "containerd.runc.v1.Options";
/// What clients of containerd 1 send to any runtime but runc's when a container has a user
/// namespace: the options of a shim that is no more.
const LINUX: &str = "containerd.linux.runc.CreateOptions";
/// No message.
const EMPTY: &str = "google.protobuf.Empty";
/// The message for every other runtime; the same one under CRI's older package name.
const RUNTIME: [&str; 2] = ["runtimeoptions.v1.Options", "cri.runtimeoptions.v1.Options"];

/// The options that Duet knows, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Whether cgroups are systemd's to make. Taken, and not needed: the form of `cgroupsPath`,
    /// which whoever sets this writes as `slice:prefix:name`, says it for each container.
    pub(crate) systemd_cgroup: bool,
    /// Who owns the ends of the pipes that the container holds: the mapped root of a user
    /// namespace.
    pub(crate) io_uid: u32,
    /// The group that goes with [`Options::io_uid`].
    pub(crate) io_gid: u32,
    /// The cgroup the shim itself belongs in, below each hierarchy's root; the one it was
    /// started in if empty.
    pub(crate) shim_cgroup: String,
    /// Whether the processes of containers keep the shim's session keyring.
    pub(crate) no_new_keyring: bool,
    /// How many bytes the node's compiled wasm code may take, if it is said.
    pub(crate) wasm_cache: Option<u64>,
}

/// Why options are refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// None of the messages.
    #[error(
        "type {type_url:?} is neither containerd.runc.v1.Options nor runtimeoptions.v1.Options"
    )]
    Type {
        /// The type as containerd names it.
        type_url: String,
    },
    /// The message does not parse.
    #[error("{message}")]
    Message {
        /// Which message.
        message: &'static str,
        /// Where it breaks.
        source: protobuf::Error,
    },
    /// The TOML text does not parse, has an unknown key or a value of a wrong type.
    #[error("{place}")]
    Toml {
        /// `config_body`, or the file's path.
        place: String,
        /// Where and which.
        source: Box<toml::de::Error>,
    },
    /// The file of `config_path` cannot be read.
    #[error("config_path {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A number that is too large to be meant.
    #[error("{key} = {value}: too large; at most {} is possible", u64::MAX >> 20)]
    TooLarge {
        /// Its name in TOML.
        key: &'static str,
        /// What it was.
        value: u64,
    },
    /// A known option that Duet does not offer.
    #[error("{key} = true: not supported by Duet")]
    Unsupported {
        /// Its name in TOML.
        key: &'static str,
    },
}

/// As written in TOML: the keys of containerd's documentation for runc, so that a section
/// can be copied. An unknown key is an error that names it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "PascalCase")]
struct Written {
    systemd_cgroup: bool,
    io_uid: u32,
    io_gid: u32,
    shim_cgroup: String,
    no_pivot_root: bool,
    no_new_keyring: bool,
    // Duet's own: how much of the disk compiled wasm code may take, in MiB.
    #[serde(rename = "WasmCacheMiB")]
    wasm_cache_mib: Option<u64>,
    // Where runc's and CRIU's own files are. They say nothing about the container, and
    // sections that are shared with runc have them.
    binary_name: String,
    root: String,
    criu_path: String,
    criu_image_path: String,
    criu_work_path: String,
}

/// `runtimeoptions.v1.Options`: three strings, not part of the published protos crate.
#[derive(Debug, Default, PartialEq, Eq)]
struct RuntimeOptions {
    config_path: String,
    config_body: String,
}

// === impl Options ===

impl Options {
    /// Whether this is one of the messages [`Options::read`] takes.
    pub(crate) fn knows(any: &Any) -> bool {
        let name = name(any);
        name == RUNC || name == LINUX || RUNTIME.contains(&name)
    }

    /// Reads the options that came with a request; defaults if none came.
    pub(crate) fn read(any: Option<&Any>) -> Result<Self, Error> {
        // Go's client writes an empty message where there are none (`WithSandboxRuntime`).
        let Some(any) = any.filter(|any| !["", EMPTY].contains(&name(any))) else {
            return Ok(Self::default());
        };
        if name(any) == RUNC {
            let runc =
                oci::Options::parse_from_bytes(&any.value).map_err(|source| Error::Message {
                    message: RUNC,
                    source,
                })?;
            return Self::from_runc(runc);
        }
        if name(any) == LINUX {
            let linux = Written::from_linux(&any.value).map_err(|source| Error::Message {
                message: LINUX,
                source,
            })?;
            return linux.check();
        }
        if !Self::knows(any) {
            return Err(Error::Type {
                type_url: any.type_url.clone(),
            });
        }
        let runtime = RuntimeOptions::parse(&any.value).map_err(|source| Error::Message {
            message: RUNTIME[0],
            source,
        })?;
        // The body wins: containerd fills it only if no path was given.
        if !runtime.config_body.is_empty() || runtime.config_path.is_empty() {
            return Self::from_toml("config_body", &runtime.config_body);
        }
        let path = PathBuf::from(&runtime.config_path);
        let text = fs::read_to_string(&path).map_err(|source| Error::File {
            path: path.clone(),
            source,
        })?;
        Self::from_toml(&format!("config_path {}", path.display()), &text)
    }

    fn from_runc(runc: oci::Options) -> Result<Self, Error> {
        Written {
            systemd_cgroup: runc.systemd_cgroup,
            io_uid: runc.io_uid,
            io_gid: runc.io_gid,
            shim_cgroup: runc.shim_cgroup,
            no_pivot_root: runc.no_pivot_root,
            no_new_keyring: runc.no_new_keyring,
            ..Written::default()
        }
        .check()
    }

    fn from_toml(place: &str, text: &str) -> Result<Self, Error> {
        toml::from_str::<Written>(text)
            .map_err(|source| Error::Toml {
                place: place.to_owned(),
                source: Box::new(source),
            })?
            .check()
    }
}

// === impl Written ===

impl Written {
    /// Decodes `{no_pivot_root = 1, no_new_keyring = 8, shim_cgroup = 9, io_uid = 10, io_gid = 11}`;
    /// what else the message has is about checkpoints.
    fn from_linux(bytes: &[u8]) -> Result<Self, protobuf::Error> {
        let mut written = Self::default();
        let mut input = CodedInputStream::from_bytes(bytes);
        while let Some(tag) = input.read_raw_tag_or_eof()? {
            match tag {
                0x08 => written.no_pivot_root = input.read_bool()?,
                0x40 => written.no_new_keyring = input.read_bool()?,
                0x4a => written.shim_cgroup = input.read_string()?,
                0x50 => written.io_uid = input.read_uint32()?,
                0x58 => written.io_gid = input.read_uint32()?,
                tag => protobuf::rt::skip_field_for_tag(tag, &mut input)?,
            }
        }
        Ok(written)
    }

    fn check(self) -> Result<Options, Error> {
        if self.no_pivot_root {
            return Err(Error::Unsupported { key: "NoPivotRoot" });
        }
        let bytes = |value: u64| {
            value.checked_mul(1 << 20).ok_or(Error::TooLarge {
                key: "WasmCacheMiB",
                value,
            })
        };
        Ok(Options {
            systemd_cgroup: self.systemd_cgroup,
            io_uid: self.io_uid,
            io_gid: self.io_gid,
            shim_cgroup: self.shim_cgroup,
            no_new_keyring: self.no_new_keyring,
            wasm_cache: self.wasm_cache_mib.map(bytes).transpose()?,
        })
    }
}

// === impl RuntimeOptions ===

impl RuntimeOptions {
    /// Decodes `{type_url = 1, config_path = 2, config_body = 3}`.
    fn parse(bytes: &[u8]) -> Result<Self, protobuf::Error> {
        let mut options = Self::default();
        let mut input = CodedInputStream::from_bytes(bytes);
        while let Some(tag) = input.read_raw_tag_or_eof()? {
            // A tag is the field's number and its wire type; 2 is "bytes with a length".
            match tag {
                0x12 => options.config_path = input.read_string()?,
                0x1a => options.config_body = input.read_string()?,
                tag => protobuf::rt::skip_field_for_tag(tag, &mut input)?,
            }
        }
        Ok(options)
    }
}

/// The message's name without the host that some writers put before it.
fn name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime(path: &str, body: &str) -> Any {
        let mut value = Vec::new();
        for (tag, text) in [(0x0a, "x"), (0x12, path), (0x1a, body)] {
            value.push(tag);
            value.push(u8::try_from(text.len()).unwrap());
            value.extend(text.as_bytes());
        }
        Any {
            type_url: RUNTIME[0].to_owned(),
            value,
            ..Any::default()
        }
    }

    fn line(error: &Error) -> String {
        let source = std::error::Error::source(error);
        format!(
            "{error}: {}",
            source.map(ToString::to_string).unwrap_or_default()
        )
    }

    #[test]
    fn no_options_are_the_defaults() {
        assert_eq!(Options::read(None).unwrap(), Options::default());
        assert_eq!(
            Options::read(Some(&Any::default())).unwrap(),
            Options::default()
        );
        let empty = Any {
            type_url: EMPTY.to_owned(),
            ..Any::default()
        };
        assert_eq!(Options::read(Some(&empty)).unwrap(), Options::default());
        assert_eq!(
            Options::read(Some(&runtime("", ""))).unwrap(),
            Options::default()
        );
    }

    #[test]
    fn both_messages_say_the_same() {
        let runc = oci::Options {
            systemd_cgroup: true,
            io_uid: 1000,
            io_gid: 1001,
            shim_cgroup: "/shims".to_owned(),
            binary_name: "crun".to_owned(),
            no_new_keyring: true,
            ..oci::Options::default()
        };
        let runc = Any {
            type_url: format!("types.containerd.io/{RUNC}"),
            value: runc.write_to_bytes().unwrap(),
            ..Any::default()
        };
        let toml = "SystemdCgroup = true\nIoUid = 1000\nIoGid = 1001\nShimCgroup = '/shims'\n\
                    BinaryName = 'crun'\nNoNewKeyring = true";
        let expected = Options {
            systemd_cgroup: true,
            io_uid: 1000,
            io_gid: 1001,
            shim_cgroup: "/shims".to_owned(),
            no_new_keyring: true,
            wasm_cache: None,
        };
        assert_eq!(Options::read(Some(&runc)).unwrap(), expected);
        assert_eq!(Options::read(Some(&runtime("", toml))).unwrap(), expected);

        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), toml).unwrap();
        let by_path = runtime(file.path().to_str().unwrap(), "");
        assert_eq!(Options::read(Some(&by_path)).unwrap(), expected);
    }

    #[test]
    fn duets_own_options_are_read() {
        let options = Options::read(Some(&runtime("", "WasmCacheMiB = 64"))).unwrap();
        assert_eq!(options.wasm_cache, Some(64 << 20));
    }

    #[test]
    fn the_message_of_containerd_1_for_user_namespaces_is_read() {
        let linux = |value: &[u8]| Any {
            type_url: format!("types.containerd.io/{LINUX}"),
            value: value.to_owned(),
            ..Any::default()
        };
        // terminal, no_new_keyring, io_uid 200000, io_gid 7
        let value = [0x20, 1, 0x40, 1, 0x50, 0xc0, 0x9a, 0x0c, 0x58, 7];
        let options = Options::read(Some(&linux(&value))).unwrap();
        assert_eq!((options.io_uid, options.io_gid), (200_000, 7));
        assert!(options.no_new_keyring);
        let pivot = Options::read(Some(&linux(&[0x08, 1]))).unwrap_err();
        assert!(line(&pivot).contains("NoPivotRoot"), "{pivot}");
        assert!(Options::read(Some(&linux(&[0x50]))).is_err());
    }

    #[test]
    fn what_is_refused_is_named() {
        let pivot = oci::Options {
            no_pivot_root: true,
            ..oci::Options::default()
        };
        let pivot = Any {
            type_url: RUNC.to_owned(),
            value: pivot.write_to_bytes().unwrap(),
            ..Any::default()
        };
        let broken = Any {
            type_url: RUNC.to_owned(),
            value: vec![0xff],
            ..Any::default()
        };
        let stranger = Any {
            type_url: "x.y.Options".to_owned(),
            ..Any::default()
        };
        for (any, text) in [
            (runtime("", "Foo = 'bar'"), "unknown field `Foo`"),
            (runtime("", "SystemdCgroup = 'yes'"), "SystemdCgroup"),
            (runtime("", "= ="), "config_body"),
            (runtime("", "WasmCacheMiB = -1"), "WasmCacheMiB"),
            (
                runtime("", "WasmCacheMiB = 9223372036854775807"),
                "WasmCacheMiB = 9223372036854775807",
            ),
            (
                runtime("/nonexistent/duet.toml", ""),
                "config_path /nonexistent/duet.toml",
            ),
            (pivot, "NoPivotRoot"),
            (broken, RUNC),
            (stranger, "x.y.Options"),
        ] {
            let error = line(&Options::read(Some(&any)).unwrap_err());
            assert!(error.contains(text), "{error:?} does not say {text:?}");
        }
    }
}
