//! What manifests are taken, and the sentences for the others.

use super::parse;

const GOOD: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {a.b/c: d}}
spec:
  restartPolicy: Never
  volumes:
  - {name: data, emptyDir: {}}
  - {name: fast, emptyDir: {medium: Memory, sizeLimit: 16Mi}}
  initContainers:
  - {name: prepare, image: busybox, command: [sh, -c, 'true']}
  - {name: proxy, image: busybox, restartPolicy: Always}
  containers:
  - name: main
    image: busybox
    ports: [{containerPort: 80}]
    resources: {limits: {cpu: 1, memory: 64Mi}}
    volumeMounts: [{name: data, mountPath: /data, subPath: a/b}]
";

/// The sentence that refuses `GOOD` with `old` replaced by `new`.
fn refusal(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    let error = parse(&GOOD.replace(old, new)).expect_err(new);
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        text = format!("{text}: {source}");
    }
    text
}

#[test]
fn a_good_manifest_is_taken() {
    parse(GOOD).unwrap();
    parse(&format!("---\n{GOOD}\n---\n")).unwrap();
}

#[test]
fn wrong_names_types_and_values_are_refused_with_path_and_value() {
    for (old, new, sentence) in [
        (
            "image: busybox\n    ports",
            "imagee: busybox\n    ports",
            "spec.containers[0].imagee: unknown field, found the string \"busybox\"",
        ),
        (
            "ports: [{containerPort: 80}]",
            "ports: http",
            "spec.containers[0].ports: expected a list, found the string \"http\"",
        ),
        (
            "containerPort: 80",
            "containerPort: http",
            "spec.containers[0].ports[0].containerPort: expected a whole number, found the string \"http\"",
        ),
        (
            "containerPort: 80",
            "containerPort: 99999",
            "spec.containers[0].ports[0].containerPort: 99999 is not between 1 and 65535",
        ),
        (
            "containerPort: 80",
            "containerPort: 80, port: 1",
            "spec.containers[0].ports[0].port: unknown field",
        ),
        (
            "  restartPolicy: Never",
            "  restartPolicy: never",
            "spec.restartPolicy: \"never\" is not supported, only \"Always\" or \"OnFailure\" or \"Never\" is",
        ),
        (
            "  restartPolicy: Never",
            "  nodeSelector: {a: b}",
            "spec.nodeSelector: not supported by `duet run`, see docs/run.md; found a mapping",
        ),
        (
            "ports: [{containerPort: 80}]",
            "lifecycle: {preStop: {exec: {command: [a]}}}",
            "spec.containers[0].lifecycle: not supported by `duet run`",
        ),
        (
            "ports: [{containerPort: 80}]",
            "livenessProbe: {grpc: {port: 1}}",
            "spec.containers[0].livenessProbe.grpc: not supported by `duet run`",
        ),
        (
            "ports: [{containerPort: 80}]",
            "livenessProbe: {httpGet: {port: web}}",
            "spec.containers[0].livenessProbe.httpGet.port: \"web\" is neither a port nor the name of one of the container's ports",
        ),
        (
            "ports: [{containerPort: 80}]",
            "startupProbe: {periodSeconds: 0, tcpSocket: {port: 1}}",
            "spec.containers[0].startupProbe.periodSeconds: 0 is not between 1 and 2147483647",
        ),
        (
            "command: [sh, -c, 'true']",
            "readinessProbe: {tcpSocket: {port: 1}}",
            "spec.initContainers[0].readinessProbe: only an init container with restartPolicy: Always may have it",
        ),
        (
            "ports: [{containerPort: 80}]",
            "restartPolicy: Always",
            "spec.containers[0].restartPolicy: not supported by `duet run`",
        ),
        (
            "emptyDir: {}",
            "configMap: {name: x}",
            "spec.volumes[0].configMap: not supported by `duet run`",
        ),
        (
            "medium: Memory",
            "medium: ''",
            "spec.volumes[1].emptyDir.sizeLimit: `duet run` enforces it only with medium: Memory",
        ),
        (
            "{name: data, mountPath",
            "{name: date, mountPath",
            "spec.containers[0].volumeMounts[0].name: no volume is named \"date\"",
        ),
        (
            "subPath: a/b",
            "subPath: ../b",
            "spec.containers[0].volumeMounts[0].subPath: \"../b\" is not a relative path without `..`",
        ),
        (
            "ports: [{containerPort: 80}]",
            "securityContext: {capabilities: {drop: [all], add: [CAP_NET_ADMIN]}}",
            "spec.containers[0].securityContext.capabilities.add[0]: \"CAP_NET_ADMIN\" is not a capability; Kubernetes writes \"NET_ADMIN\"",
        ),
        (
            "ports: [{containerPort: 80}]",
            "securityContext: {capabilities: {drop: [NONE]}}",
            "spec.containers[0].securityContext.capabilities.drop[0]: \"NONE\" is not a capability",
        ),
        (
            "memory: 64Mi",
            "memory: 64MB",
            "spec.containers[0].resources.limits.memory: \"64MB\" is not a quantity, such as 64Mi or 250m",
        ),
        (
            "name: main",
            "name: proxy",
            "spec.containers[0].name: \"proxy\" is used twice",
        ),
        (
            "metadata: {name: web, ",
            "metadata: {",
            "metadata.name: this field is required",
        ),
        (
            "name: web,",
            "name: Web,",
            "metadata.name: \"Web\" is not a valid name: at most 253 of a-z, 0-9, `-`, `.`, with a letter or digit at both ends",
        ),
        (
            "apiVersion: v1",
            "apiVersion: v2",
            "apiVersion: expected \"v1\", found \"v2\"",
        ),
        (
            "kind: Pod",
            "kind: Deployment",
            "expected exactly one document of kind Pod, found Deployment",
        ),
        (
            "kind: Pod",
            "kind: Pod\nspec: {}",
            "not YAML: duplicate entry with key \"spec\"",
        ),
        (
            "metadata: {name: web",
            "metadata: {name: [web]",
            "metadata.name: expected a string, found a list",
        ),
        (
            "spec:\n",
            "spec: []\nspecs:\n",
            "spec: expected a mapping, found a list",
        ),
    ] {
        let refused = refusal(old, new);
        assert!(
            refused.starts_with(sentence),
            "{refused}\nexpected: {sentence}"
        );
    }
}

#[test]
fn exactly_one_pod_is_expected() {
    let two = format!("{GOOD}\n---\n{GOOD}");
    assert_eq!(
        parse(&two).unwrap_err().to_string(),
        "expected exactly one document of kind Pod, found Pod, Pod"
    );
    assert_eq!(
        parse("\n").unwrap_err().to_string(),
        "the file is empty; one Pod is expected"
    );
}
