//! Image names as containerd stores them.

/// Why containerd would refuse the name, if it would.
///
/// # References
///
/// [The grammar](https://pkg.go.dev/github.com/distribution/reference)
pub(crate) fn check(name: &str) -> Result<(), String> {
    let full = full(name);
    let (registry, rest) = full.split_once('/').unwrap_or(("", &full));
    let rest = rest.split_once('@').map_or(rest, |(rest, _digest)| rest);
    let (path, tag) = rest.split_once(':').unwrap_or((rest, "latest"));
    let part = |part: &str| {
        let inner =
            |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-');
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        part.bytes().all(inner) && edge(part.chars().next()) && edge(part.chars().next_back())
    };
    let host = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b':' | b'-' | b'[' | b']');
    let word = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    let fits = !registry.is_empty()
        && registry.bytes().all(host)
        && path.split('/').all(part)
        && (1..=128).contains(&tag.len())
        && tag.bytes().all(word)
        && !tag.starts_with(['.', '-']);
    if fits {
        return Ok(());
    }
    Err(format!(
        "{name:?} is not an image name; REGISTRY/PATH:TAG is expected, its path of a-z, 0-9, `.`, \
         `_`, `-` and `/`"
    ))
}

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
    use super::{check, full};

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
    #[test]
    fn names_that_containerd_would_refuse_are_refused() {
        for name in [
            "busybox",
            "localhost/app:V2.x",
            "host:5000/a/b_c-d:1",
            "quay.io/a/b@sha256:0",
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for name in [
            "",
            "BAD NAME",
            "Upper",
            "localhost/",
            "a//b",
            "a:",
            "a:b c",
            "a:-b",
            "-a",
            "a/../b",
        ] {
            assert!(check(name).is_err(), "{name}");
        }
    }
}
