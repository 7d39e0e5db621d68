//! `runtime.v1.PodSandboxConfig`: the part of CRI's message that makes a pod.
//!
//! The messages are written out here, as far as a pod's maker needs them. `k8s-cri` has them all,
//! and with them a gRPC client and server that every pod's shim would carry.

use std::path::PathBuf;

use containerd_shim_protos::sandbox_api::CreateSandboxRequest;
use duet_pod::{Dns, IdMappings, IdRange, Sandbox, Scope, SelinuxLabel};
use prost::Message;
use protobuf::well_known_types::any::Any;

use crate::status::Refusal;

/// The message's type, as containerd's `typeurl` names it.
const TYPE: &str = "runtime.v1.PodSandboxConfig";

#[derive(Clone, PartialEq, Message)]
struct PodSandboxConfig {
    #[prost(string, tag = "2")]
    hostname: String,
    #[prost(message, optional, tag = "4")]
    dns_config: Option<DnsConfig>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxPodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct DnsConfig {
    #[prost(string, repeated, tag = "1")]
    servers: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    searches: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    options: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxPodSandboxConfig {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security_context: Option<LinuxSandboxSecurityContext>,
    #[prost(btree_map = "string, string", tag = "3")]
    sysctls: std::collections::BTreeMap<String, String>,
}

/// Of the security context only what is about the pod. User, groups, seccomp and AppArmor
/// profiles are about the process of a pause container: the holder has no privilege to take
/// away, and each container has a context of its own.
#[derive(Clone, PartialEq, Message)]
struct LinuxSandboxSecurityContext {
    #[prost(message, optional, tag = "1")]
    namespace_options: Option<NamespaceOption>,
    #[prost(message, optional, tag = "2")]
    selinux_options: Option<SelinuxOption>,
}

#[derive(Clone, PartialEq, Message)]
struct NamespaceOption {
    #[prost(enumeration = "NamespaceMode", tag = "1")]
    network: i32,
    #[prost(enumeration = "NamespaceMode", tag = "2")]
    pid: i32,
    #[prost(enumeration = "NamespaceMode", tag = "3")]
    ipc: i32,
    #[prost(message, optional, tag = "5")]
    userns_options: Option<UserNamespace>,
}

#[derive(Clone, PartialEq, Message)]
struct UserNamespace {
    #[prost(enumeration = "NamespaceMode", tag = "1")]
    mode: i32,
    #[prost(message, repeated, tag = "2")]
    uids: Vec<IdMapping>,
    #[prost(message, repeated, tag = "3")]
    gids: Vec<IdMapping>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct IdMapping {
    #[prost(uint32, tag = "1")]
    host_id: u32,
    #[prost(uint32, tag = "2")]
    container_id: u32,
    #[prost(uint32, tag = "3")]
    length: u32,
}

#[derive(Clone, PartialEq, Message)]
struct SelinuxOption {
    #[prost(string, tag = "1")]
    user: String,
    #[prost(string, tag = "2")]
    role: String,
    #[prost(string, tag = "3")]
    r#type: String,
    #[prost(string, tag = "4")]
    level: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum NamespaceMode {
    Pod = 0,
    Container = 1,
    Node = 2,
    Target = 3,
}

// === impl NamespaceMode ===

impl NamespaceMode {
    /// Its name in CRI.
    fn name(self) -> &'static str {
        match self {
            Self::Pod => "POD",
            Self::Container => "CONTAINER",
            Self::Node => "NODE",
            Self::Target => "TARGET",
        }
    }
}

/// The pod that a request asks for.
pub(crate) fn sandbox(request: CreateSandboxRequest) -> Result<Sandbox, Refusal> {
    let config = config(request.options.as_ref())?;
    let linux = config.linux.ok_or(Refusal::Missing {
        field: "PodSandboxConfig.linux",
    })?;
    let security = linux.security_context.unwrap_or_default();
    let label = security.selinux_options.unwrap_or_default();
    let namespaces = security.namespace_options.unwrap_or_default();
    let users = namespaces.userns_options.map(users).transpose()?.flatten();
    if let Some(mount) = request.rootfs.first() {
        return Err(Refusal::NotOffered {
            field: "rootfs[0].source",
            value: mount.source.clone(),
            why: "a pod of Duet's has no root file system of an image",
        });
    }
    let dns = config.dns_config.unwrap_or_default();
    Ok(Sandbox {
        id: request.sandbox_id,
        bundle: PathBuf::from(request.bundle_path),
        netns: PathBuf::from(request.netns_path),
        hostname: config.hostname,
        dns: Dns {
            servers: dns.servers,
            searches: dns.searches,
            options: dns.options,
        },
        cgroup_parent: linux.cgroup_parent,
        sysctls: linux.sysctls,
        network: scope("network", namespaces.network)?,
        pid: match NamespaceMode::try_from(namespaces.pid) {
            // Each container has its own; so has the holder.
            Ok(NamespaceMode::Container) => Scope::Pod,
            Ok(NamespaceMode::Pod | NamespaceMode::Node | NamespaceMode::Target) | Err(_) => {
                scope("pid", namespaces.pid)?
            }
        },
        ipc: scope("ipc", namespaces.ipc)?,
        users,
        label: SelinuxLabel {
            user: label.user,
            role: label.role,
            r#type: label.r#type,
            level: label.level,
        },
    })
}

fn config(options: Option<&Any>) -> Result<PodSandboxConfig, Refusal> {
    let any = options
        .filter(|any| !any.type_url.is_empty())
        .ok_or(Refusal::Missing { field: "options" })?;
    if any.type_url.rsplit('/').next() != Some(TYPE) {
        return Err(Refusal::Type {
            field: "options",
            found: any.type_url.clone(),
            expected: TYPE,
        });
    }
    PodSandboxConfig::decode(any.value.as_slice()).map_err(Refusal::PodSandboxConfig)
}

/// What a pod's network, System V objects and users may be.
const MODES: &str = "not a mode for a pod; expected POD or NODE";

fn scope(field: &'static str, mode: i32) -> Result<Scope, Refusal> {
    let refuse = |value: String| {
        let (field, why) = match field {
            "network" => (
                "PodSandboxConfig.linux.security_context.namespace_options.network",
                MODES,
            ),
            "ipc" => (
                "PodSandboxConfig.linux.security_context.namespace_options.ipc",
                MODES,
            ),
            _ => (
                "PodSandboxConfig.linux.security_context.namespace_options.pid",
                "not a mode for a pod; expected POD, CONTAINER or NODE",
            ),
        };
        Err(Refusal::NotOffered { field, value, why })
    };
    match NamespaceMode::try_from(mode) {
        Ok(NamespaceMode::Pod) => Ok(Scope::Pod),
        Ok(NamespaceMode::Node) => Ok(Scope::Node),
        Ok(mode @ (NamespaceMode::Container | NamespaceMode::Target)) => {
            refuse(mode.name().to_owned())
        }
        Err(_) => refuse(mode.to_string()),
    }
}

/// The ids of `hostUsers: false`, which asks for a user namespace of the pod.
fn users(wanted: UserNamespace) -> Result<Option<IdMappings>, Refusal> {
    let read = |field, list: Vec<IdMapping>| {
        let range = |id: IdMapping| IdRange {
            container: id.container_id,
            host: id.host_id,
            size: id.length,
        };
        match list.is_empty() {
            true => Err(Refusal::Missing { field }),
            false => Ok(list.into_iter().map(range).collect()),
        }
    };
    match NamespaceMode::try_from(wanted.mode) {
        Ok(NamespaceMode::Node) => Ok(None),
        Ok(NamespaceMode::Pod) => Ok(Some(IdMappings {
            uids: read(
                "PodSandboxConfig.linux.security_context.namespace_options.userns_options.uids",
                wanted.uids,
            )?,
            gids: read(
                "PodSandboxConfig.linux.security_context.namespace_options.userns_options.gids",
                wanted.gids,
            )?,
        })),
        mode @ (Ok(NamespaceMode::Container | NamespaceMode::Target) | Err(_)) => {
            Err(Refusal::NotOffered {
                field: "PodSandboxConfig.linux.security_context.namespace_options.userns_options.mode",
                value: mode.map_or(wanted.mode.to_string(), |mode| mode.name().to_owned()),
                why: MODES,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(config: &PodSandboxConfig) -> CreateSandboxRequest {
        let any = Any {
            type_url: TYPE.to_owned(),
            value: config.encode_to_vec(),
            ..Any::default()
        };
        CreateSandboxRequest {
            sandbox_id: "web".to_owned(),
            bundle_path: "/run/b".to_owned(),
            netns_path: "/run/netns/n".to_owned(),
            options: Some(any).into(),
            ..CreateSandboxRequest::default()
        }
    }

    fn config(namespaces: NamespaceOption) -> PodSandboxConfig {
        PodSandboxConfig {
            hostname: "shop".to_owned(),
            dns_config: Some(DnsConfig {
                servers: vec!["10.0.0.1".to_owned()],
                ..DnsConfig::default()
            }),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: "/pods/one".to_owned(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces),
                    selinux_options: None,
                }),
                sysctls: [("net.core.somaxconn".to_owned(), "1024".to_owned())].into(),
            }),
        }
    }

    fn modes(network: NamespaceMode, pid: NamespaceMode, ipc: NamespaceMode) -> NamespaceOption {
        NamespaceOption {
            network: network.into(),
            pid: pid.into(),
            ipc: ipc.into(),
            userns_options: None,
        }
    }

    #[test]
    fn a_pods_wishes_are_read() {
        use NamespaceMode::{Container, Node, Pod};
        let sandbox = sandbox(request(&config(modes(Pod, Container, Node)))).unwrap();
        assert_eq!(
            (sandbox.id.as_str(), sandbox.hostname.as_str()),
            ("web", "shop")
        );
        assert_eq!(sandbox.dns.servers, ["10.0.0.1"]);
        assert_eq!(sandbox.cgroup_parent, "/pods/one");
        assert_eq!(sandbox.sysctls["net.core.somaxconn"], "1024");
        assert_eq!(
            (sandbox.network, sandbox.pid, sandbox.ipc),
            (Scope::Pod, Scope::Pod, Scope::Node)
        );
    }

    #[test]
    fn a_pods_users_are_read() {
        use NamespaceMode::{Node, Pod};
        let users = |mode: NamespaceMode| {
            let id = IdMapping {
                host_id: 300_000,
                container_id: 0,
                length: 65_536,
            };
            let options = NamespaceOption {
                userns_options: Some(UserNamespace {
                    mode: mode.into(),
                    uids: vec![id],
                    gids: vec![id],
                }),
                ..NamespaceOption::default()
            };
            sandbox(request(&config(options))).unwrap().users
        };
        assert_eq!(users(Node), None);
        let ids = users(Pod).unwrap();
        assert_eq!(
            (ids.host_uid(0), ids.host_gid(9)),
            (Some(300_000), Some(300_009))
        );
    }

    /// What a kubelet sends besides must not be in the way.
    #[test]
    fn fields_that_are_not_about_the_pods_maker_are_passed_over() {
        let mut value = config(NamespaceOption::default()).encode_to_vec();
        // `log_directory = 3` and a field of a later CRI.
        value.extend([0x1a, 1, b'/']);
        value.extend([0xa2, 0x06, 1, b'x']);
        let mut request = request(&PodSandboxConfig::default());
        request.options.as_mut().unwrap().value = value;
        assert_eq!(sandbox(request).unwrap().hostname, "shop");
    }

    #[test]
    fn what_is_refused_is_named() {
        use NamespaceMode::{Container, Pod, Target};
        let with = |change: &dyn Fn(&mut LinuxSandboxSecurityContext)| {
            let mut config = config(NamespaceOption::default());
            let linux = config.linux.as_mut().unwrap();
            change(linux.security_context.as_mut().unwrap());
            request(&config)
        };
        let mut garbage = request(&PodSandboxConfig::default());
        garbage.options.as_mut().unwrap().value = vec![0x42, 0x7f];
        let mut stranger = request(&PodSandboxConfig::default());
        stranger.options.as_mut().unwrap().type_url = "a.b.Config".to_owned();
        for (request, text) in [
            (CreateSandboxRequest::default(), "options is missing"),
            (
                stranger,
                "options is of type \"a.b.Config\", not runtime.v1.PodSandboxConfig",
            ),
            (garbage, "PodSandboxConfig: failed to decode"),
            (
                request(&PodSandboxConfig::default()),
                "PodSandboxConfig.linux is missing",
            ),
            (
                with(&|context| {
                    context.namespace_options = Some(NamespaceOption {
                        userns_options: Some(UserNamespace {
                            mode: Target.into(),
                            ..UserNamespace::default()
                        }),
                        ..NamespaceOption::default()
                    });
                }),
                "userns_options.mode \"TARGET\"",
            ),
            (
                with(&|context| {
                    context.namespace_options = Some(NamespaceOption {
                        userns_options: Some(UserNamespace::default()),
                        ..NamespaceOption::default()
                    });
                }),
                "userns_options.uids is missing",
            ),
            (
                with(&|context| context.namespace_options = Some(modes(Container, Pod, Pod))),
                "namespace_options.network \"CONTAINER\"",
            ),
            (
                with(&|context| context.namespace_options = Some(modes(Pod, Target, Pod))),
                "namespace_options.pid \"TARGET\"",
            ),
            (
                with(&|context| {
                    context.namespace_options = Some(NamespaceOption {
                        ipc: 9,
                        ..NamespaceOption::default()
                    });
                }),
                "namespace_options.ipc \"9\"",
            ),
        ] {
            let error = sandbox(request).unwrap_err().text();
            assert!(error.contains(text), "{error:?} does not say {text:?}");
        }
    }
}
