//! The manifest as written: its types and its field names.

use super::Refused;
use serde_json::{Map, Number, Value};

/// Turns YAML into plain JSON values, as kubectl does before it looks at fields.
pub(super) fn plain(value: serde_norway::Value, path: &str) -> Result<Value, Refused> {
    use serde_norway::Value as Yaml;
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(value),
        Yaml::String(value) => Value::String(value),
        Yaml::Number(value) => {
            let number = value.as_i64().map(Number::from);
            let number = number.or_else(|| value.as_u64().map(Number::from));
            let number = number.or_else(|| value.as_f64().and_then(Number::from_f64));
            Value::Number(
                number.ok_or_else(|| Refused::field(path, format!("{value} is not a number")))?,
            )
        }
        Yaml::Sequence(values) => {
            let values = values.into_iter().enumerate();
            let values = values.map(|(index, value)| plain(value, &item(path, index)));
            Value::Array(values.collect::<Result<_, _>>()?)
        }
        Yaml::Mapping(fields) => {
            let mut object = Map::new();
            for (name, value) in fields {
                let Yaml::String(name) = name else {
                    let name = plain(name, path)?;
                    return Err(Refused::field(
                        path,
                        format!("expected a field name, found {}", found(&name)),
                    ));
                };
                let value = plain(value, &field(path, &name))?;
                object.insert(name, value);
            }
            Value::Object(object)
        }
        Yaml::Tagged(tagged) => {
            return Err(Refused::field(
                path,
                format!("the YAML tag {} is not understood", tagged.tag),
            ));
        }
    })
}

/// Writes quantities that stand there as numbers (`cpu: 1`) as text: Kubernetes takes both,
/// the types of `k8s-openapi` only text.
pub(super) fn quantities_as_text(pod: &mut Value) {
    fn every(value: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
        value.and_then(Value::as_array_mut).into_iter().flatten()
    }
    fn as_text(value: &mut Value) {
        if value.is_number() {
            *value = Value::String(value.to_string());
        }
    }
    let Some(spec) = pod.get_mut("spec") else {
        return;
    };
    for list in ["initContainers", "containers"] {
        for container in every(spec.get_mut(list)) {
            for kind in ["limits", "requests"] {
                let quantities = container
                    .pointer_mut(&format!("/resources/{kind}"))
                    .and_then(Value::as_object_mut);
                quantities
                    .into_iter()
                    .flat_map(Map::values_mut)
                    .for_each(as_text);
            }
        }
    }
    for volume in every(spec.get_mut("volumes")) {
        volume
            .pointer_mut("/emptyDir/sizeLimit")
            .into_iter()
            .for_each(as_text);
    }
}

/// The refusal of a value whose type is wrong.
pub(super) fn mistyped(
    error: &serde_path_to_error::Error<serde_json::Error>,
    written: &Value,
) -> Refused {
    let mut path = String::new();
    let mut value = Some(written);
    for segment in error.path() {
        use serde_path_to_error::Segment;
        match segment {
            Segment::Seq { index } => {
                path = item(&path, *index);
                value = value.and_then(|value| value.get(index));
            }
            Segment::Map { key } => {
                path = field(&path, key);
                value = value.and_then(|value| value.get(key));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    // serde says what it expected only in its text; this is about wording, not about control.
    let text = error.inner().to_string();
    let why = match (text.split_once("expected "), value) {
        (Some((_, expected)), Some(value)) if text.starts_with("invalid type") => {
            format!("expected {}, found {}", wording(expected), found(value))
        }
        (Some(_) | None, _) => text,
    };
    Refused::field(path, why)
}

/// serde's names of types in the words of YAML.
fn wording(expected: &str) -> &str {
    match expected {
        "a sequence" | "Vec" => "a list",
        "a map" => "a mapping",
        "i32" | "i64" | "u32" | "u64" => "a whole number",
        "f64" => "a number",
        "bool" => "true or false",
        // Names of Kubernetes types (`PodSpec`), and serde's own sentences.
        name if name.starts_with(|first: char| first.is_ascii_uppercase())
            && !name.contains(' ') =>
        {
            "a mapping"
        }
        other => other,
    }
}

/// What stands there, for a message.
pub(super) fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("{value}"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(value) => format!("the string {value:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

/// Refuses the first field of `written` that is not in `understood`.
pub(super) fn nothing_dropped(
    written: &Value,
    understood: &Value,
    path: &str,
) -> Result<(), Refused> {
    match (written, understood) {
        (Value::Object(fields), understood) => {
            for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                let path = field(path, name);
                let understood = understood.get(name).ok_or_else(|| {
                    let why = format!("unknown field, found {}", found(value));
                    Refused::field(path.as_str(), why)
                })?;
                nothing_dropped(value, understood, &path)?;
            }
        }
        (Value::Array(values), understood) => {
            for (index, value) in values.iter().enumerate() {
                let understood = understood.get(index).unwrap_or(&Value::Null);
                nothing_dropped(value, understood, &item(path, index))?;
            }
        }
        (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_), _) => {}
    }
    Ok(())
}

/// The path of a field of `path`.
pub(super) fn field(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// The path of an item of the list `path`.
pub(super) fn item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}
