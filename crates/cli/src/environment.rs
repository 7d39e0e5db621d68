//! A container's environment: values, fields of the pod, `$(NAME)`.

use crate::expand::expand;
use k8s_openapi::api::core::v1::{Container, Pod};
use std::collections::BTreeMap;

/// A field of the pod that a variable may take its value from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Field {
    Name,
    Namespace,
    Uid,
    Label(String),
    Annotation(String),
    PodIp,
    HostIp,
    NodeName,
}

/// What is known of the pod only once it runs.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) uid: String,
    pub(crate) pod_ip: String,
    pub(crate) host_ip: String,
    pub(crate) node_name: String,
}

/// Variables in the order in which they were defined; a later one replaces an earlier.
#[derive(Debug, Default)]
pub(crate) struct Environment(Vec<(String, String)>);

// === impl Field ===

impl Field {
    /// For messages: what [`Field::parse`] knows.
    pub(crate) const OFFERED: &str = "metadata.name, metadata.namespace, metadata.uid, \
        metadata.labels['KEY'], metadata.annotations['KEY'], spec.nodeName, status.podIP, \
        status.podIPs, status.hostIP or status.hostIPs";

    /// Reads a `fieldPath`.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let key = |prefix: &str| {
            let key = path.strip_prefix(prefix)?.strip_suffix("']")?;
            (!key.is_empty()).then(|| key.to_owned())
        };
        Some(match path {
            "metadata.name" => Self::Name,
            "metadata.namespace" => Self::Namespace,
            "metadata.uid" => Self::Uid,
            "status.podIP" | "status.podIPs" => Self::PodIp,
            "status.hostIP" | "status.hostIPs" => Self::HostIp,
            "spec.nodeName" => Self::NodeName,
            _ => {
                return key("metadata.labels['")
                    .map(Self::Label)
                    .or_else(|| key("metadata.annotations['").map(Self::Annotation));
            }
        })
    }

    fn value(&self, pod: &Pod, place: &Place) -> String {
        let entry = |map: &Option<BTreeMap<String, String>>, key: &str| {
            let value = map.as_ref().and_then(|map| map.get(key));
            value.cloned().unwrap_or_default()
        };
        match self {
            Self::Name => pod.metadata.name.clone().unwrap_or_default(),
            Self::Namespace => namespace(pod).to_owned(),
            Self::Uid => place.uid.clone(),
            Self::Label(key) => entry(&pod.metadata.labels, key),
            Self::Annotation(key) => entry(&pod.metadata.annotations, key),
            Self::PodIp => place.pod_ip.clone(),
            Self::HostIp => place.host_ip.clone(),
            Self::NodeName => place.node_name.clone(),
        }
    }
}

/// The pod's namespace; Kubernetes' default is `default`.
pub(crate) fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

// === impl Environment ===

impl Environment {
    /// The variables of `container`.
    ///
    /// A value may refer to variables that stand above it.
    pub(crate) fn of(container: &Container, pod: &Pod, place: &Place) -> Self {
        let mut environment = Self::default();
        for variable in container.env.iter().flatten() {
            let field = variable
                .value_from
                .as_ref()
                .and_then(|source| source.field_ref.as_ref())
                .and_then(|field| Field::parse(&field.field_path));
            let value = match field {
                Some(field) => field.value(pod, place),
                None => environment.expand(variable.value.as_deref().unwrap_or_default()),
            };
            environment.set(&variable.name, value);
        }
        environment
    }

    fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// `text` with this environment's `$(NAME)`s replaced.
    pub(crate) fn expand(&self, text: &str) -> String {
        expand(text, |name| {
            let variable = self.0.iter().find(|(known, _)| known == name);
            variable.map(|(_, value)| value.as_str())
        })
    }

    /// Names and values, in order.
    pub(crate) fn into_pairs(self) -> impl Iterator<Item = (String, String)> {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::{Environment, Field, Place};
    use crate::manifest;

    #[test]
    fn variables_refer_to_those_above_them_and_to_the_pod() {
        let pod = manifest::parse(
            r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {"app.kubernetes.io/name": shop}}
spec:
  containers:
  - name: main
    image: x
    env:
    - {name: LATER, value: "$(PORT)"}
    - {name: PORT, value: "80"}
    - {name: URL, value: "http://$(IP):$(PORT)/$$(PORT)"}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: SELF, value: "$(IP):$(PORT)"}
    - {name: NS, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: APP, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app.kubernetes.io/name']"}}}
    - {name: PORT, value: "$(PORT)81"}
"#,
        )
        .unwrap();
        let place = Place {
            uid: "u".to_owned(),
            pod_ip: "10.88.0.5".to_owned(),
            host_ip: "192.0.2.1".to_owned(),
            node_name: "node".to_owned(),
        };
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let pairs: Vec<_> = Environment::of(container, &pod, &place)
            .into_pairs()
            .collect();
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(
            pairs,
            [
                "LATER=$(PORT)",
                "PORT=8081",
                "URL=http://$(IP):80/$(PORT)",
                "IP=10.88.0.5",
                "SELF=10.88.0.5:80",
                "NS=default",
                "APP=shop",
            ]
        );
    }

    #[test]
    fn an_unknown_field_is_none() {
        assert_eq!(Field::parse("metadata.labels"), None);
        assert_eq!(Field::parse("metadata.labels['']"), None);
        assert_eq!(Field::parse("spec.serviceAccountName"), None);
    }
}
