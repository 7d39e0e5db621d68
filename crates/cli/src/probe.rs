//! Probes: what is asked of a container, how often, and when the answers count.

use k8s_openapi::api::core::v1::{Container, Probe as Written};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::time::Duration;

/// What a probe's outcome means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Until it passes, the others wait; if it fails, the container is stopped.
    Startup,
    /// Says whether the container is ready; nothing else depends on it here.
    Readiness,
    /// If it fails, the container is stopped.
    Liveness,
}

/// What is done to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Run in the container; 0 is well.
    Exec(Vec<String>),
    /// 200 to 399 is well. Without a host the pod is asked.
    Http {
        host: Option<String>,
        port: u16,
        path: String,
        headers: Vec<(String, String)>,
    },
    /// A connection is well.
    Tcp { host: Option<String>, port: u16 },
}

/// A probe with Kubernetes' defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) kind: Kind,
    pub(crate) action: Action,
    pub(crate) delay: Duration,
    pub(crate) period: Duration,
    pub(crate) timeout: Duration,
    successes: u32,
    failures: u32,
}

/// The answers of late.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    last: Option<bool>,
    in_a_row: u32,
    verdict: Option<bool>,
}

// === impl Kind ===

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "startupProbe",
            Self::Readiness => "readinessProbe",
            Self::Liveness => "livenessProbe",
        }
    }

    pub(crate) fn written(self, container: &Container) -> Option<&Written> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

// === impl Probe ===

impl Probe {
    /// The container's probe of this kind; `None` if it has none, or one that the manifest's
    /// check refuses.
    pub(crate) fn of(kind: Kind, container: &Container) -> Option<Self> {
        let written = kind.written(container)?;
        let seconds = |value: Option<i32>, default: u64| {
            let value = value.and_then(|value| u64::try_from(value).ok());
            Duration::from_secs(value.filter(|value| *value > 0).unwrap_or(default))
        };
        let times = |value: Option<i32>, default: u32| {
            let value = value.and_then(|value| u32::try_from(value).ok());
            value.filter(|value| *value > 0).unwrap_or(default)
        };
        Some(Self {
            kind,
            action: action(written, container)?,
            delay: seconds(written.initial_delay_seconds, 0),
            period: seconds(written.period_seconds, 10),
            timeout: seconds(written.timeout_seconds, 1),
            successes: times(written.success_threshold, 1),
            failures: times(written.failure_threshold, 3),
        })
    }
}

fn action(written: &Written, container: &Container) -> Option<Action> {
    if let Some(exec) = &written.exec {
        return Some(Action::Exec(exec.command.clone().unwrap_or_default()));
    }
    if let Some(http) = &written.http_get {
        let headers = http.http_headers.iter().flatten();
        return Some(Action::Http {
            host: http.host.clone(),
            port: port(&http.port, container)?,
            path: http.path.clone().unwrap_or_else(|| "/".to_owned()),
            headers: headers
                .map(|header| (header.name.clone(), header.value.clone()))
                .collect(),
        });
    }
    let tcp = written.tcp_socket.as_ref()?;
    Some(Action::Tcp {
        host: tcp.host.clone(),
        port: port(&tcp.port, container)?,
    })
}

/// A port by number, or by the name the container gives one of its ports.
pub(crate) fn port(written: &IntOrString, container: &Container) -> Option<u16> {
    let number = match written {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            ports
                .find(|port| port.name.as_ref() == Some(name))?
                .container_port
        }
    };
    u16::try_from(number).ok().filter(|number| *number > 0)
}

// === impl Tally ===

impl Tally {
    /// Counts an answer; `Some` when enough of them in a row have changed the verdict.
    pub(crate) fn count(&mut self, probe: &Probe, well: bool) -> Option<bool> {
        if self.last != Some(well) {
            self.last = Some(well);
            self.in_a_row = 0;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        let needed = if well {
            probe.successes
        } else {
            probe.failures
        };
        if self.in_a_row < needed || self.verdict == Some(well) {
            return None;
        }
        self.verdict = Some(well);
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, Kind, Probe, Tally};
    use crate::manifest;
    use std::time::Duration;

    fn probe(text: &str) -> Probe {
        let pod = manifest::parse(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{containers: [{{name: c, \
             image: i, ports: [{{name: web, containerPort: 80}}], readinessProbe: {text}}}]}}}}"
        ));
        let spec = pod.unwrap().spec.unwrap();
        Probe::of(Kind::Readiness, &spec.containers[0]).unwrap()
    }

    #[test]
    fn defaults_are_kubernetes() {
        let probe = probe("{httpGet: {port: web}}");
        assert_eq!(
            probe.action,
            Action::Http {
                host: None,
                port: 80,
                path: "/".to_owned(),
                headers: Vec::new()
            }
        );
        assert_eq!(probe.delay, Duration::ZERO);
        assert_eq!(probe.period, Duration::from_secs(10));
        assert_eq!(probe.timeout, Duration::from_secs(1));
        assert_eq!((probe.successes, probe.failures), (1, 3));
    }

    #[test]
    fn only_answers_in_a_row_change_the_verdict() {
        let probe = probe("{tcpSocket: {port: 80}, successThreshold: 2, failureThreshold: 3}");
        let mut tally = Tally::default();
        let answers = [
            true, false, true, true, true, false, false, true, false, false, false,
        ];
        let verdicts: Vec<Option<bool>> = answers
            .into_iter()
            .map(|well| tally.count(&probe, well))
            .collect();
        let mut expected = vec![None; 11];
        expected[3] = Some(true);
        expected[10] = Some(false);
        assert_eq!(verdicts, expected);
    }
}
