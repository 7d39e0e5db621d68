//! The two start protocols of containerd: what `start` is told, and how it must answer.
//!
//! | containerd | on standard input | answer |
//! | --- | --- | --- |
//! | 1.6 | options (`Any`) or nothing | the bare address |
//! | 1.7 | options (`Any`) or nothing | JSON, version 2 (it refuses version 3) |
//! | 2.0 to 2.2 | options (`Any`) or nothing | JSON, version 3 (see [`crate::daemon`]) |
//! | 2.3 and newer | `BootstrapParams` | `BootstrapResult`, version 3 |
//!
//! An `Any` also parses as `BootstrapParams` (type URL as id, value as namespace), so the
//! message is taken for the newer one only if it names the same shim as the command line.

use std::env;
use std::io::{self, IsTerminal as _, Read as _};

use containerd_shim::Flags;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, LogLevel};
use protobuf::Message as _;
use protobuf::well_known_types::any::Any;

use crate::error::Error;
use crate::options::Options;

/// The longest message read from standard input: 1 MiB.
///
/// Real ones are some hundred bytes; only `config_body`, a TOML text that an
/// administrator wrote, is open-ended.
const INPUT_LIMIT_BYTES: u64 = 1 << 20;

/// How containerd wants `start` to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Only the address, taken as version 2 over ttrpc.
    Address,
    /// A JSON object that says this version.
    Json(u8),
    /// A `BootstrapResult` that says version 3.
    Proto,
}

/// What `start` was told, whichever protocol told it.
#[derive(Debug)]
pub(crate) struct Bootstrap {
    /// How to answer.
    pub(crate) reply: Reply,
    /// Where containerd takes events.
    pub(crate) ttrpc_address: String,
    /// containerd's own socket: part of the name of the shim's.
    pub(crate) grpc_address: String,
    /// Where the socket must lie, if containerd has an opinion.
    pub(crate) socket_dir: Option<String>,
    /// Whether to log what is only of use to Duet's authors.
    pub(crate) debug: bool,
    /// The runtime options, checked.
    pub(crate) options: Options,
}

/// The environment variables that containerd sets for `start`.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    /// `TTRPC_ADDRESS`.
    pub(crate) ttrpc_address: String,
    /// `GRPC_ADDRESS`, since 1.7.
    pub(crate) grpc_address: String,
    /// `MAX_SHIM_VERSION`, since 1.7. It says 2 up to the newest release, so only its
    /// absence says something.
    pub(crate) max_version: Option<String>,
}

/// Reads what containerd wrote to standard input; nothing if that is a terminal.
pub(crate) fn read() -> Result<Vec<u8>, Error> {
    let stdin = io::stdin();
    let mut input = Vec::new();
    if stdin.is_terminal() {
        return Ok(input);
    }
    stdin
        .lock()
        .take(INPUT_LIMIT_BYTES + 1)
        .read_to_end(&mut input)
        .map_err(|source| Error::Input { source })?;
    if input.len() as u64 > INPUT_LIMIT_BYTES {
        return Err(Error::InputLength {
            limit_bytes: INPUT_LIMIT_BYTES,
        });
    }
    Ok(input)
}

// === impl Environment ===

impl Environment {
    /// What this process was given.
    pub(crate) fn ours() -> Self {
        Self {
            ttrpc_address: env::var("TTRPC_ADDRESS").unwrap_or_default(),
            grpc_address: env::var("GRPC_ADDRESS").unwrap_or_default(),
            max_version: env::var("MAX_SHIM_VERSION").ok(),
        }
    }
}

// === impl Bootstrap ===

impl Bootstrap {
    /// Finds out which protocol is spoken and what it says.
    pub(crate) fn understand(
        input: &[u8],
        flags: &Flags,
        environment: Environment,
    ) -> Result<Self, Error> {
        let told = match params(input, flags)? {
            Some(params) => Self::from_params(params, flags)?,
            None => Self::from_legacy(input, flags, environment)?,
        };
        if told.ttrpc_address.is_empty() {
            return Err(Error::NoEvents(match told.reply {
                Reply::Proto => "BootstrapParams.containerd_ttrpc_address",
                Reply::Address | Reply::Json(_) => "TTRPC_ADDRESS",
            }));
        }
        Ok(told)
    }

    fn from_params(params: BootstrapParams, flags: &Flags) -> Result<Self, Error> {
        let mut options = Options::default();
        // An extension of an unknown type is for another kind of shim: the protocol
        // invites parties to add their own.
        for any in params
            .extensions
            .iter()
            .filter_map(|extension| extension.value.as_ref())
        {
            if Options::knows(any) {
                options = Options::read(Some(any)).map_err(|source| Error::Options { source })?;
            }
        }
        Ok(Self {
            reply: Reply::Proto,
            // The level is an open enum: the smaller, the more there is to log.
            debug: flags.debug || params.log_level.value() <= LogLevel::LOG_LEVEL_DEBUG as i32,
            ttrpc_address: params.containerd_ttrpc_address,
            grpc_address: params.containerd_grpc_address,
            socket_dir: params.socket_dir.filter(|dir| !dir.is_empty()),
            options,
        })
    }

    fn from_legacy(input: &[u8], flags: &Flags, environment: Environment) -> Result<Self, Error> {
        let any = if input.is_empty() {
            None
        } else {
            let any = Any::parse_from_bytes(input)
                .ok()
                .filter(|any| !any.type_url.is_empty());
            Some(any.ok_or(Error::InputGarbage {
                len_bytes: input.len(),
            })?)
        };
        let options = Options::read(any.as_ref()).map_err(|source| Error::Options { source })?;
        Ok(Self {
            reply: match environment.max_version {
                Some(max) => Reply::Json(version(max)?),
                None => Reply::Address,
            },
            ttrpc_address: environment.ttrpc_address,
            grpc_address: if flags.address.is_empty() {
                environment.grpc_address
            } else {
                flags.address.clone()
            },
            socket_dir: None,
            debug: flags.debug,
            options,
        })
    }
}

/// The version that is surely understood under this `MAX_SHIM_VERSION`.
fn version(max: String) -> Result<u8, Error> {
    match max.parse::<u8>() {
        Ok(2) => Ok(2),
        Ok(max) if max > 2 => Ok(3),
        Ok(_) | Err(_) => Err(Error::MaxVersion(max)),
    }
}

/// The message as `BootstrapParams`, or `None` if it is of the older protocol.
fn params(input: &[u8], flags: &Flags) -> Result<Option<BootstrapParams>, Error> {
    let Ok(params) = BootstrapParams::parse_from_bytes(input) else {
        return Ok(None);
    };
    if params.instance_id == flags.id && params.namespace == flags.namespace {
        return Ok(Some(params));
    }
    // An `Any` can fill the first two fields only.
    let as_any = BootstrapParams {
        instance_id: params.instance_id.clone(),
        namespace: params.namespace.clone(),
        ..BootstrapParams::default()
    };
    if params == as_any {
        return Ok(None);
    }
    Err(Error::InputForAnother {
        namespace: params.namespace,
        id: params.instance_id,
        expected_namespace: flags.namespace.clone(),
        expected_id: flags.id.clone(),
    })
}

// === impl Reply ===

impl Reply {
    /// The answer that names `address`, in the form that containerd expects.
    pub(crate) fn encode(self, address: &str) -> Result<Vec<u8>, Error> {
        match self {
            Self::Address => Ok(address.as_bytes().to_vec()),
            Self::Json(version) => serde_json::to_vec(&serde_json::json!({
                "version": version,
                "address": address,
                "protocol": "ttrpc",
            }))
            .map_err(|source| Error::Json { source }),
            // The last byte must not be white space, which 2.3.0 to 2.3.3 cut off before
            // they parse: the protocol's name comes last.
            Self::Proto => BootstrapResult {
                version: 3,
                address: address.to_owned(),
                protocol: "ttrpc".to_owned(),
                ..BootstrapResult::default()
            }
            .write_to_bytes()
            .map_err(|source| Error::Encode { source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use containerd_shim_protos::bootstrap_api::Extension;
    use containerd_shim_protos::shim::oci;

    fn flags() -> Flags {
        Flags {
            id: "web-1".to_owned(),
            namespace: "k8s.io".to_owned(),
            address: "/run/containerd/containerd.sock".to_owned(),
            ..Flags::default()
        }
    }

    fn environment() -> Environment {
        Environment {
            ttrpc_address: "/run/containerd/containerd.sock.ttrpc".to_owned(),
            grpc_address: "/run/containerd/other.sock".to_owned(),
            max_version: Some("2".to_owned()),
        }
    }

    fn options(options: &oci::Options) -> Any {
        Any {
            type_url: "containerd.runc.v1.Options".to_owned(),
            value: options.write_to_bytes().unwrap(),
            ..Any::default()
        }
    }

    fn systemd() -> oci::Options {
        oci::Options {
            systemd_cgroup: true,
            ..oci::Options::default()
        }
    }

    fn message() -> BootstrapParams {
        BootstrapParams {
            instance_id: "web-1".to_owned(),
            namespace: "k8s.io".to_owned(),
            containerd_ttrpc_address: "/c.ttrpc".to_owned(),
            containerd_grpc_address: "/c.grpc".to_owned(),
            socket_dir: Some("/run/s".to_owned()),
            extensions: vec![Extension {
                value: Some(options(&systemd())).into(),
                ..Extension::default()
            }],
            ..BootstrapParams::default()
        }
    }

    #[test]
    fn a_version_that_is_not_spoken_is_named() {
        for (max, version) in [
            ("2", Some(2)),
            ("3", Some(3)),
            ("4", Some(3)),
            ("1", None),
            ("two", None),
        ] {
            let environment = Environment {
                max_version: Some(max.to_owned()),
                ..environment()
            };
            match (Bootstrap::understand(&[], &flags(), environment), version) {
                (Ok(told), Some(version)) => assert_eq!(told.reply, Reply::Json(version)),
                (Err(error), None) => assert_eq!(
                    error.to_string(),
                    format!("MAX_SHIM_VERSION {max:?}: Duet speaks versions 2 and 3")
                ),
                (told, _) => panic!("{max}: {told:?}"),
            }
        }
    }

    #[test]
    fn nothing_on_stdin_and_no_max_version_is_1_6() {
        let environment = Environment {
            max_version: None,
            ..environment()
        };
        let told = Bootstrap::understand(&[], &flags(), environment).unwrap();
        assert_eq!(told.reply, Reply::Address);
        assert_eq!(told.grpc_address, "/run/containerd/containerd.sock");
        assert_eq!(told.reply.encode("unix:///a").unwrap(), b"unix:///a");
    }

    #[test]
    fn nothing_on_stdin_and_a_max_version_is_1_7_and_gets_version_2() {
        let told = Bootstrap::understand(&[], &flags(), environment()).unwrap();
        assert_eq!(told.reply, Reply::Json(2));
        let reply: serde_json::Value =
            serde_json::from_slice(&told.reply.encode("unix:///a").unwrap()).unwrap();
        assert_eq!(
            reply,
            serde_json::json!({"version": 2, "address": "unix:///a", "protocol": "ttrpc"})
        );
    }

    #[test]
    fn an_any_is_not_mistaken_for_bootstrap_params() {
        for (given, systemd) in [(oci::Options::default(), false), (systemd(), true)] {
            let input = options(&given).write_to_bytes().unwrap();
            assert!(
                BootstrapParams::parse_from_bytes(&input).is_ok(),
                "the trap is real"
            );
            let told = Bootstrap::understand(&input, &flags(), environment()).unwrap();
            assert_eq!(told.reply, Reply::Json(2));
            assert_eq!(told.options.systemd_cgroup, systemd);
        }
    }

    #[test]
    fn bootstrap_params_are_answered_in_kind() {
        let input = message().write_to_bytes().unwrap();
        let told = Bootstrap::understand(&input, &flags(), Environment::default()).unwrap();
        assert_eq!(told.reply, Reply::Proto);
        assert_eq!(told.ttrpc_address, "/c.ttrpc");
        assert_eq!(told.grpc_address, "/c.grpc");
        assert_eq!(told.socket_dir.as_deref(), Some("/run/s"));
        assert!(told.options.systemd_cgroup);
        assert!(!told.debug);

        let reply = told.reply.encode("unix:///a").unwrap();
        assert!(!reply.last().unwrap().is_ascii_whitespace());
        let reply = BootstrapResult::parse_from_bytes(&reply).unwrap();
        assert_eq!((reply.version, reply.protocol.as_str()), (3, "ttrpc"));
    }

    #[test]
    fn an_extension_of_an_unknown_type_is_not_ours() {
        let mut message = message();
        message.extensions[0].value = Some(Any {
            type_url: "example.com/someone.else".to_owned(),
            ..Any::default()
        })
        .into();
        let input = message.write_to_bytes().unwrap();
        let told = Bootstrap::understand(&input, &flags(), Environment::default()).unwrap();
        assert_eq!(told.options, Options::default());
    }

    #[test]
    fn a_level_below_debug_logs_debug_too() {
        let mut message = message();
        message.log_level = protobuf::EnumOrUnknown::from_i32(-8);
        let input = message.write_to_bytes().unwrap();
        assert!(
            Bootstrap::understand(&input, &flags(), Environment::default())
                .unwrap()
                .debug
        );
    }

    #[test]
    fn what_is_refused_says_why() {
        let stranger = BootstrapParams {
            namespace: "other".to_owned(),
            ..message()
        };
        let unheard = BootstrapParams {
            containerd_ttrpc_address: String::new(),
            ..message()
        };
        let odd = Any {
            type_url: "a.b.Options".to_owned(),
            ..Any::default()
        };
        let garbage = [0xff, 0xfe, 0x01];
        let cases: [(Vec<u8>, Environment, &str); 5] = [
            (
                stranger.write_to_bytes().unwrap(),
                environment(),
                "BootstrapParams for other/web-1 do not match -namespace k8s.io -id web-1",
            ),
            (
                unheard.write_to_bytes().unwrap(),
                environment(),
                "BootstrapParams.containerd_ttrpc_address: containerd's ttrpc address is missing",
            ),
            (odd.write_to_bytes().unwrap(), environment(), "a.b.Options"),
            (garbage.to_vec(), environment(), "3 bytes that are neither"),
            (Vec::new(), Environment::default(), "TTRPC_ADDRESS"),
        ];
        for (input, environment, text) in cases {
            let error = Bootstrap::understand(&input, &flags(), environment)
                .unwrap_err()
                .chain();
            assert!(error.contains(text), "{error:?} does not say {text:?}");
        }
    }
}
