//! `-info`: what this shim can do, so that containerd offers no more and no less.
//!
//! CRI reads two things out of it: recursive read-only mounts (`rro` in `mountOptions`)
//! and user namespaces (`user` in `namespaces` together with `idmap`). A thing is listed
//! only once a container can have it.

use std::fs;

use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use duet_spec::{MemoryPolicy, annotations};
use protobuf::Message as _;
use protobuf::well_known_types::any::Any;
use serde_json::{Value, json};

use crate::error::Error;
use crate::options::Options;
use crate::{COMMIT, NAME, bootstrap};

/// The type containerd looks for: the OCI runtime-spec's `Features`, in JSON.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// What a mount's `options` may say beyond what its file system understands itself.
const MOUNT_OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "lazytime",
    "loud",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// Plays the role; returns containerd's `RuntimeInfo`.
pub(crate) fn run() -> Result<Vec<u8>, Error> {
    let input = bootstrap::read()?;
    let options = if input.is_empty() {
        None
    } else {
        Some(Any::parse_from_bytes(&input).map_err(|source| Error::Encode { source })?)
    };
    // An administrator's mistake shows up here first, before any pod.
    Options::read(options.as_ref()).map_err(|source| Error::Options { source })?;
    info(options)
        .write_to_bytes()
        .map_err(|source| Error::Encode { source })
}

fn info(options: Option<Any>) -> RuntimeInfo {
    RuntimeInfo {
        name: NAME.to_owned(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: COMMIT.to_owned(),
            ..RuntimeVersion::default()
        })
        .into(),
        options: options.into(),
        features: Some(Any {
            type_url: FEATURES.to_owned(),
            value: features().to_string().into_bytes(),
            ..Any::default()
        })
        .into(),
        ..RuntimeInfo::default()
    }
}

/// The OCI `Features` of this build on this kernel.
fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.3.0",
        "hooks": [
            "prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop",
        ],
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities(),
            "cgroup": {
                "v1": true,
                "v2": true,
                "systemd": true,
                "systemdUser": false,
                "rdma": true,
            },
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW",
                    "SCMP_ACT_ERRNO",
                    "SCMP_ACT_KILL",
                    "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD",
                    "SCMP_ACT_LOG",
                    "SCMP_ACT_NOTIFY",
                    "SCMP_ACT_TRACE",
                    "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_EQ",
                    "SCMP_CMP_GE",
                    "SCMP_CMP_GT",
                    "SCMP_CMP_LE",
                    "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ",
                    "SCMP_CMP_NE",
                ],
                "archs": [
                    "SCMP_ARCH_AARCH64",
                    "SCMP_ARCH_ARM",
                    "SCMP_ARCH_X32",
                    "SCMP_ARCH_X86",
                    "SCMP_ARCH_X86_64",
                ],
                "knownFlags": [
                    "SECCOMP_FILTER_FLAG_LOG",
                    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                    "SECCOMP_FILTER_FLAG_TSYNC",
                    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
                ],
                "supportedFlags": [
                    "SECCOMP_FILTER_FLAG_LOG",
                    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                    "SECCOMP_FILTER_FLAG_TSYNC",
                    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
                ],
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": true, "schemata": true, "monitoring": true },
            "memoryPolicy": {
                "modes": MemoryPolicy::modes().collect::<Vec<_>>(),
                "flags": MemoryPolicy::flags().collect::<Vec<_>>(),
            },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": true },
        },
        "annotations": {
            "io.containerd.duet.v1.version": env!("CARGO_PKG_VERSION"),
            "io.containerd.duet.v1.commit": COMMIT,
        },
        // A name that ends with a dot stands for all that begin with it.
        "potentiallyUnsafeConfigAnnotations": [
            "io.containerd.duet.v1.",
            annotations::SANDBOX_ID,
            annotations::RUNC_GROUP,
            annotations::CRUN_HANDLER,
            annotations::IMAGE_VARIANT,
        ],
    })
}

/// The capabilities that the running kernel knows, in its own order.
fn capabilities() -> Vec<&'static str> {
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap")
        .ok()
        .and_then(|text| text.trim().parse::<usize>().ok())
        .unwrap_or(CAPABILITIES.len() - 1);
    CAPABILITIES.iter().copied().take(last + 1).collect()
}

/// `linux/capability.h`, in order of their numbers.
const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;

    use oci_spec::runtime::Features;

    #[test]
    fn the_features_are_what_the_runtime_spec_calls_features() {
        let features: Features = serde_json::from_value(features()).unwrap();
        let linux = features.linux().as_ref().unwrap();
        assert_eq!(linux.namespaces().as_ref().unwrap().len(), 8);
        assert_eq!(
            linux
                .seccomp()
                .as_ref()
                .unwrap()
                .actions()
                .as_ref()
                .unwrap()
                .len(),
            9
        );
        let rdt = linux.intel_rdt().as_ref().unwrap();
        let said = [rdt.enabled(), rdt.schemata(), rdt.monitoring()];
        assert_eq!(said, [Some(true); 3].each_ref());
        let devices = linux.net_devices().as_ref().unwrap();
        assert_eq!(devices.enabled(), &Some(true));
        let policy = linux.memory_policy().as_ref().unwrap();
        assert_eq!(policy.modes().as_ref().unwrap().len(), 7);
        assert_eq!(policy.flags().as_ref().unwrap().len(), 3);
        assert_eq!(features.hooks().as_ref().unwrap().len(), 6);
        assert!(
            features
                .mount_options()
                .as_ref()
                .unwrap()
                .contains(&"rro".to_owned())
        );
    }

    #[test]
    fn containerd_finds_them_by_their_type() {
        let any = Any {
            type_url: "x".to_owned(),
            ..Any::default()
        };
        let bytes = info(Some(any)).write_to_bytes().unwrap();
        let info = RuntimeInfo::parse_from_bytes(&bytes).unwrap();
        assert_eq!(info.name, "io.containerd.duet.v1");
        assert_eq!(info.version.version, env!("CARGO_PKG_VERSION"));
        assert_eq!(info.features.type_url, FEATURES);
        assert_eq!(
            info.options.type_url, "x",
            "the options come back as they were sent"
        );
    }

    /// Whether a bundle may ask for a mount of this type with this option.
    fn is_taken(kind: &str, option: &str) -> Result<(), String> {
        let id = json!({ "containerID": 0, "hostID": 1, "size": 1 });
        let ids: Vec<_> = option
            .ends_with("idmap")
            .then_some(id)
            .into_iter()
            .collect();
        let config = json!({
            "ociVersion": "1.0.2",
            "root": { "path": "rootfs" },
            "process": { "user": { "uid": 0, "gid": 0 }, "args": ["/x"], "cwd": "/" },
            "mounts": [{
                "destination": "/x",
                "uidMappings": ids,
                "gidMappings": ids,
                "type": kind,
                "source": "/tmp",
                "options": [option],
            }],
            "linux": { "namespaces": [{ "type": "mount" }] },
        });
        duet_spec::Container::parse(Path::new("/bundle"), config.to_string().as_bytes())
            .map(drop)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_listed_is_taken_and_what_is_refused_is_not_listed() {
        for option in MOUNT_OPTIONS {
            // Some options are about a file system and mean nothing on a bind mount.
            let about_a_bind = option.ends_with("bind") || option.ends_with("idmap");
            let kind = if about_a_bind { "bind" } else { "tmpfs" };
            assert_eq!(is_taken(kind, option), Ok(()), "{option}");
        }
        for option in ["remount", "mand", "iversion"] {
            assert!(!MOUNT_OPTIONS.contains(&option));
            assert!(is_taken("tmpfs", option).unwrap_err().contains(option));
        }
    }

    #[test]
    fn the_mount_options_are_sorted_and_listed_once() {
        assert!(MOUNT_OPTIONS.is_sorted_by(|a, b| a < b));
    }
}
