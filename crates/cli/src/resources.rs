//! What a container's requests and limits become in the kernel's words, as the kubelet computes.

use crate::quantity::Quantity;
use k8s_cri::v1::LinuxContainerResources;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

/// The length of a CPU quota's period: 100 ms.
const PERIOD_US: i64 = 100_000;

/// The smallest quota the kernel takes: 1 ms.
const LEAST_QUOTA_US: i64 = 1000;

/// The smallest number of CPU shares; it also stands for "no request".
const LEAST_SHARES: i64 = 2;

/// Shares of one CPU.
const SHARES_OF_ONE: i64 = 1024;

/// How a pod's promises rank it when memory runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quality {
    Guaranteed,
    Burstable,
    BestEffort,
}

/// One container's numbers; a request that is absent is its limit, as the API server fills in.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    cpu_request: Option<Quantity>,
    cpu_limit: Option<Quantity>,
    memory_request: Option<Quantity>,
    memory_limit: Option<Quantity>,
}

// === impl Asked ===

impl Asked {
    fn of(resources: Option<&ResourceRequirements>) -> Self {
        let get = |requests: bool, name: &str| {
            let resources = resources?;
            let map = if requests {
                &resources.requests
            } else {
                &resources.limits
            };
            Quantity::parse(&map.as_ref()?.get(name)?.0)
        };
        let (cpu_limit, memory_limit) = (get(false, "cpu"), get(false, "memory"));
        Self {
            cpu_request: get(true, "cpu").or(cpu_limit),
            cpu_limit,
            memory_request: get(true, "memory").or(memory_limit),
            memory_limit,
        }
    }

    fn asks_nothing(&self) -> bool {
        let set = |quantity: Option<Quantity>| quantity.is_some_and(|q| q.thousandths() > 0);
        ![
            self.cpu_request,
            self.cpu_limit,
            self.memory_request,
            self.memory_limit,
        ]
        .into_iter()
        .any(set)
    }

    fn is_guaranteed(&self) -> bool {
        self.cpu_limit.is_some()
            && self.memory_limit.is_some()
            && self.cpu_request == self.cpu_limit
            && self.memory_request == self.memory_limit
    }
}

// === impl Quality ===

impl Quality {
    /// The quality of service class of `pod`.
    ///
    /// # References
    ///
    /// [Pod QoS classes](https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/)
    pub(crate) fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else {
            return Self::BestEffort;
        };
        let all: Vec<Asked> = spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
            .map(|container| Asked::of(container.resources.as_ref()))
            .collect();
        if all.iter().all(Asked::asks_nothing) {
            Self::BestEffort
        } else if all.iter().all(Asked::is_guaranteed) {
            Self::Guaranteed
        } else {
            Self::Burstable
        }
    }
}

/// The limits of `container` on a machine with `memory_bytes` of memory.
pub(crate) fn limits(
    container: &Container,
    quality: Quality,
    memory_bytes: i64,
) -> LinuxContainerResources {
    let asked = Asked::of(container.resources.as_ref());
    LinuxContainerResources {
        cpu_period: PERIOD_US,
        cpu_quota: asked.cpu_limit.map_or(0, quota_us),
        cpu_shares: asked.cpu_request.map_or(LEAST_SHARES, shares),
        memory_limit_in_bytes: asked.memory_limit.map_or(0, Quantity::units),
        oom_score_adj: oom_score(asked.memory_request, quality, memory_bytes),
        ..LinuxContainerResources::default()
    }
}

fn shares(cpu: Quantity) -> i64 {
    let shares = cpu.thousandths().saturating_mul(SHARES_OF_ONE) / 1000;
    // The kernel's own upper end.
    shares.clamp(LEAST_SHARES, 262_144)
}

fn quota_us(cpu: Quantity) -> i64 {
    match cpu.thousandths() {
        0 => 0,
        milli => (milli.saturating_mul(PERIOD_US) / 1000).max(LEAST_QUOTA_US),
    }
}

/// The kubelet's rule (`pkg/kubelet/qos/policy.go`): the more of the machine's memory a
/// container asked for, the later it is chosen.
fn oom_score(request: Option<Quantity>, quality: Quality, memory_bytes: i64) -> i64 {
    match quality {
        Quality::Guaranteed => -997,
        Quality::BestEffort => 1000,
        Quality::Burstable => {
            let request = request.map_or(0, Quantity::units);
            let part = i128::from(request) * 1000 / i128::from(memory_bytes.max(1));
            let score = 1000_i128.saturating_sub(part).clamp(3, 999);
            i64::try_from(score).unwrap_or(999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Quality, limits};
    use crate::manifest;

    const GIB: i64 = 1 << 30;

    fn pod(resources: &str) -> k8s_openapi::api::core::v1::Pod {
        manifest::parse(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{containers: \
             [{{name: c, image: i, resources: {resources}}}]}}}}"
        ))
        .unwrap()
    }

    #[test]
    fn numbers_are_the_kubelets() {
        for (resources, quota, shares, memory, oom) in [
            ("{}", 0, 2, 0, 1000),
            (
                "{limits: {cpu: 500m, memory: 64Mi}}",
                50_000,
                512,
                64 << 20,
                -997,
            ),
            ("{limits: {cpu: 1}}", 100_000, 1024, 0, 999),
            ("{requests: {cpu: 100m, memory: 1Gi}}", 0, 102, 0, 875),
            ("{limits: {cpu: 1m}}", 1000, 2, 0, 999),
            (
                "{requests: {cpu: 250m}, limits: {cpu: '2', memory: 8Gi}}",
                200_000,
                256,
                8 * GIB,
                3,
            ),
        ] {
            let pod = pod(resources);
            let container = &pod.spec.as_ref().unwrap().containers[0];
            let given = limits(container, Quality::of(&pod), 8 * GIB);
            assert_eq!(given.cpu_period, 100_000);
            assert_eq!(
                (
                    given.cpu_quota,
                    given.cpu_shares,
                    given.memory_limit_in_bytes,
                    given.oom_score_adj
                ),
                (quota, shares, memory, oom),
                "{resources}"
            );
        }
    }

    #[test]
    fn classes_follow_requests_and_limits() {
        assert_eq!(Quality::of(&pod("{}")), Quality::BestEffort);
        assert_eq!(
            Quality::of(&pod("{limits: {cpu: 1, memory: 1Gi}}")),
            Quality::Guaranteed
        );
        assert_eq!(
            Quality::of(&pod("{limits: {memory: 1Gi}}")),
            Quality::Burstable
        );
    }
}
