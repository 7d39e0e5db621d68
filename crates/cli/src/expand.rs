//! `$(NAME)` in commands, arguments and values, as Kubernetes expands it.

/// Replaces every `$(NAME)` for which `value` knows a value.
///
/// An unknown name stays as it is written, `$$` becomes `$`, and a `$` that opens nothing
/// is a plain character.
///
/// # References
///
/// [Define an environment variable](https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/)
pub(crate) fn expand<'v>(text: &str, value: impl Fn(&str) -> Option<&'v str>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        if let Some(escaped) = after.strip_prefix('$') {
            result.push('$');
            rest = escaped;
        } else if let Some((name, behind)) = after
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match value(name) {
                Some(value) => result.push_str(value),
                None => {
                    result.push_str("$(");
                    result.push_str(name);
                    result.push(')');
                }
            }
            rest = behind;
        } else {
            result.push('$');
            rest = after;
        }
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn names_are_replaced_as_kubernetes_replaces_them() {
        let value = |name: &str| match name {
            "A" => Some("1"),
            "EMPTY" => Some(""),
            "REF" => Some("$(A)"),
            _ => None,
        };
        for (text, expected) in [
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(NOPE)", "$(NOPE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$", "$$"),
            ("$(EMPTY)-", "-"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("100$", "100$"),
            ("$()", "$()"),
            ("$(REF)", "$(A)"),
            ("$(A$(A)", "$(A$(A)"),
            ("naïve$(A)…", "naïve1…"),
        ] {
            assert_eq!(expand(text, value), expected, "{text}");
        }
    }
}
