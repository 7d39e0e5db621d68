//! Image names as containerd stores them.

/// The full form of a name: `busybox` is `docker.io/library/busybox:latest`.
///
/// # References
///
/// [Image names](https://kubernetes.io/docs/concepts/containers/images/#image-names)
pub(crate) fn full(name: &str) -> String {
    let (registry, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains('.') || first.contains(':') || first == "localhost" =>
        {
            (first, rest.to_owned())
        }
        Some(_) => ("docker.io", name.to_owned()),
        None => ("docker.io", format!("library/{name}")),
    };
    let tag = if path.contains(':') || path.contains('@') {
        ""
    } else {
        ":latest"
    };
    format!("{registry}/{path}{tag}")
}

#[cfg(test)]
mod tests {
    use super::full;

    #[test]
    fn short_names_are_completed() {
        for (name, expected) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1", "docker.io/library/busybox:1"),
            ("me/app", "docker.io/me/app:latest"),
            ("localhost/app:2", "localhost/app:2"),
            ("host:5000/app", "host:5000/app:latest"),
            ("quay.io/a/b@sha256:0", "quay.io/a/b@sha256:0"),
        ] {
            assert_eq!(full(name), expected);
        }
    }
}
