//! The values of one container's probes.

use super::{in_range, one_of};
use crate::manifest::Refused;
use crate::manifest::is_sidecar;
use crate::probe::{Kind, port};
use k8s_openapi::api::core::v1::{Container, Probe};

/// Checks the probes of the container at `path`; those of an init container that ends make
/// no sense.
pub(super) fn check(path: &str, container: &Container) -> Result<(), Refused> {
    for kind in [Kind::Startup, Kind::Readiness, Kind::Liveness] {
        let Some(probe) = kind.written(container) else {
            continue;
        };
        let path_of_probe = format!("{path}.{}", kind.name());
        if path.starts_with("spec.initContainers") && !is_sidecar(container) {
            return Err(Refused::field(
                path_of_probe,
                "only an init container with restartPolicy: Always may have it",
            ));
        }
        one(&path_of_probe, kind, probe, container)?;
    }
    Ok(())
}

fn one(path: &str, kind: Kind, probe: &Probe, container: &Container) -> Result<(), Refused> {
    let at = |field: &str| format!("{path}.{field}");
    let most = i32::MAX;
    in_range(
        &at("initialDelaySeconds"),
        probe.initial_delay_seconds,
        0,
        most,
    )?;
    in_range(&at("periodSeconds"), probe.period_seconds, 1, most)?;
    in_range(&at("timeoutSeconds"), probe.timeout_seconds, 1, most)?;
    in_range(&at("failureThreshold"), probe.failure_threshold, 1, most)?;
    let successes = match kind {
        Kind::Readiness => most,
        Kind::Startup | Kind::Liveness => 1,
    };
    in_range(
        &at("successThreshold"),
        probe.success_threshold,
        1,
        successes,
    )?;
    let (action, written) = match (&probe.exec, &probe.http_get, &probe.tcp_socket) {
        (Some(exec), None, None) => {
            if exec.command.as_deref().unwrap_or_default().is_empty() {
                return Err(Refused::field(at("exec.command"), "this field is required"));
            }
            return Ok(());
        }
        (None, Some(http), None) => {
            one_of(&at("httpGet.scheme"), http.scheme.as_deref(), &["HTTP"])?;
            let headers = http.http_headers.iter().flatten();
            let texts = headers.flat_map(|header| [&header.name, &header.value]);
            for text in texts.chain(&http.path).chain(&http.host) {
                if text.contains(|c: char| c.is_ascii_control()) {
                    let why = format!("{text:?} holds a control character");
                    return Err(Refused::field(at("httpGet"), why));
                }
            }
            ("httpGet", &http.port)
        }
        (None, None, Some(tcp)) => ("tcpSocket", &tcp.port),
        (_, _, _) => {
            return Err(Refused::field(
                path,
                "exactly one of exec, httpGet and tcpSocket is expected",
            ));
        }
    };
    if port(written, container).is_none() {
        let written = serde_json::to_string(written).unwrap_or_default();
        return Err(Refused::field(
            at(&format!("{action}.port")),
            format!("{written} is neither a port nor the name of one of the container's ports"),
        ));
    }
    Ok(())
}
