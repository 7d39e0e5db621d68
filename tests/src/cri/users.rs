//! Pods with users of their own.

use k8s_cri::v1 as api;

use super::{Cri, Pod};

impl Cri<'_> {
    /// Starts a pod called `name` as for `hostUsers: false`: its root is `host_id` outside, and
    /// so are the 65535 ids after it.
    ///
    /// # Errors
    ///
    /// What CRI says.
    pub fn pod_of_its_own_users(&self, name: &str, host_id: u32) -> Result<Pod<'_>, tonic::Status> {
        let ids = api::IdMapping {
            host_id,
            container_id: 0,
            length: 1 << 16,
        };
        self.try_pod(name, |config| {
            let linux = config.linux.get_or_insert_default();
            let security = linux.security_context.get_or_insert_default();
            let options = security.namespace_options.get_or_insert_default();
            options.userns_options = Some(api::UserNamespace {
                mode: api::NamespaceMode::Pod.into(),
                uids: vec![ids],
                gids: vec![ids],
            });
        })
    }
}

/// Whose users a pod has, for its members.
pub(super) fn of(pod: &api::PodSandboxConfig) -> Option<api::UserNamespace> {
    let security = pod.linux.as_ref()?.security_context.as_ref()?;
    security.namespace_options.as_ref()?.userns_options.clone()
}
