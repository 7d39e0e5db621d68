//! Security settings of pod and container in CRI's words.

use k8s_cri::v1::{
    Capability, Image, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext,
    NamespaceMode, NamespaceOption, SecurityProfile, security_profile::ProfileType,
};
use k8s_openapi::api::core::v1::{
    Container, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
};
use std::path::Path;

/// The sandbox's own settings.
pub(super) fn sandbox(spec: &PodSpec, profiles: &Path) -> LinuxSandboxSecurityContext {
    let none = PodSecurityContext::default();
    let security = spec.security_context.as_ref().unwrap_or(&none);
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(spec)),
        run_as_user: security.run_as_user.map(int),
        // CRI refuses a group without a user.
        run_as_group: security
            .run_as_group
            .filter(|_| security.run_as_user.is_some())
            .map(int),
        readonly_rootfs: true,
        supplemental_groups: groups(security),
        privileged: privileged_pod(spec),
        seccomp: Some(seccomp(security.seccomp_profile.as_ref(), profiles)),
        ..LinuxSandboxSecurityContext::default()
    }
}

/// The settings of one container, or the sentence that refuses it.
pub(super) fn container(
    spec: &PodSpec,
    container: &Container,
    image: &Image,
    profiles: &Path,
) -> Result<LinuxContainerSecurityContext, String> {
    let none = PodSecurityContext::default();
    let pod = spec.security_context.as_ref().unwrap_or(&none);
    let none = SecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&none);

    let asked = own.run_as_user.or(pod.run_as_user);
    // As the kubelet does: the image's own user is passed explicitly, so that a group fits.
    let user = asked.or(image.uid.as_ref().map(|uid| uid.value));
    let username = if user.is_none() {
        image.username.clone()
    } else {
        String::new()
    };
    if own.run_as_non_root.or(pod.run_as_non_root) == Some(true) {
        let image = container.image.as_deref().unwrap_or_default();
        match user {
            Some(0) if asked.is_some() => {
                return Err("runAsNonRoot is true and runAsUser is 0".to_owned());
            }
            Some(uid) if uid != 0 => {}
            Some(_) => {
                return Err(format!(
                    "runAsNonRoot is true and image {image} runs as root"
                ));
            }
            None if username.is_empty() => {
                return Err(format!(
                    "runAsNonRoot is true and image {image} runs as root"
                ));
            }
            None => {
                return Err(format!(
                    "runAsNonRoot is true and image {image} names its user {username:?}, \
                     which may be root; set runAsUser"
                ));
            }
        }
    }
    let privileged = own.privileged == Some(true);
    let profile = own
        .seccomp_profile
        .as_ref()
        .or(pod.seccomp_profile.as_ref());
    Ok(LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|asked| Capability {
            add_capabilities: asked.add.clone().unwrap_or_default(),
            drop_capabilities: asked.drop.clone().unwrap_or_default(),
            ..Capability::default()
        }),
        privileged,
        namespace_options: Some(namespaces(spec)),
        run_as_user: user.map(int),
        run_as_username: username,
        run_as_group: own.run_as_group.or(pod.run_as_group).map(int),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        seccomp: Some(if privileged {
            unconfined()
        } else {
            seccomp(profile, profiles)
        }),
        ..LinuxContainerSecurityContext::default()
    })
}

/// CRI wants to know of privileged containers when it makes the sandbox.
fn privileged_pod(spec: &PodSpec) -> bool {
    spec.init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .filter_map(|container| container.security_context.as_ref())
        .any(|security| security.privileged == Some(true))
}

fn namespaces(spec: &PodSpec) -> NamespaceOption {
    let node = |asked: Option<bool>, otherwise: NamespaceMode| {
        i32::from(if asked == Some(true) {
            NamespaceMode::Node
        } else {
            otherwise
        })
    };
    let processes = if spec.share_process_namespace == Some(true) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    NamespaceOption {
        network: node(spec.host_network, NamespaceMode::Pod),
        pid: node(spec.host_pid, processes),
        ipc: node(spec.host_ipc, NamespaceMode::Pod),
        ..NamespaceOption::default()
    }
}

fn groups(security: &PodSecurityContext) -> Vec<i64> {
    let supplemental = security.supplemental_groups.iter().flatten().copied();
    supplemental.chain(security.fs_group).collect()
}

/// A pod that names no profile is unconfined, as with a kubelet without `seccompDefault`.
fn seccomp(profile: Option<&SeccompProfile>, profiles: &Path) -> SecurityProfile {
    let Some(profile) = profile else {
        return unconfined();
    };
    let (kind, file) = match (profile.type_.as_str(), &profile.localhost_profile) {
        ("RuntimeDefault", _) => (ProfileType::RuntimeDefault, String::new()),
        ("Localhost", Some(file)) => (
            ProfileType::Localhost,
            profiles.join(file).display().to_string(),
        ),
        (_, _) => return unconfined(),
    };
    SecurityProfile {
        profile_type: i32::from(kind),
        localhost_ref: file,
    }
}

fn unconfined() -> SecurityProfile {
    SecurityProfile {
        profile_type: i32::from(ProfileType::Unconfined),
        localhost_ref: String::new(),
    }
}

fn int(value: i64) -> Int64Value {
    Int64Value { value }
}
