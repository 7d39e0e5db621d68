//! Reads a Pod manifest and refuses what `duet run` would not honour.

mod offered;
mod shape;
mod values;

use crate::error::Error;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize as _;
use serde_json::Value;
use std::path::Path;

pub(crate) use values::{is_sidecar, timeout_seconds};

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// It is no YAML.
    #[error("not YAML")]
    Yaml { source: serde_norway::Error },
    /// The file holds something else than one Pod.
    #[error("{0}")]
    Documents(String),
    /// A field has a wrong name, type or value, or is not offered.
    #[error("{path}: {why}")]
    Field { path: String, why: String },
}

// === impl Refused ===

impl Refused {
    /// Refuses one field.
    pub(crate) fn field(path: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Field {
            path: path.into(),
            why: why.into(),
        }
    }
}

/// Reads the Pod in `file`, or in standard input if `file` is `-`.
pub(crate) fn load(file: &Path) -> Result<Pod, Error> {
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.map_err(|source| Error::io("could not read", file, source))?;
    parse(&text).map_err(|source| Error::Manifest {
        file: file.to_owned(),
        source,
    })
}

/// Reads the Pod in `text`.
pub(crate) fn parse(text: &str) -> Result<Pod, Refused> {
    let mut written = single(text)?;
    let apiversion = written.get("apiVersion").unwrap_or(&Value::Null);
    if apiversion != "v1" {
        return Err(Refused::field(
            "apiVersion",
            format!("expected \"v1\", found {apiversion}"),
        ));
    }
    shape::quantities_as_text(&mut written);
    let pod: Pod = serde_path_to_error::deserialize(&written)
        .map_err(|error| shape::mistyped(&error, &written))?;
    // The types drop fields they do not know: what does not come back was not understood.
    let understood = serde_json::to_value(&pod)
        .map_err(|error| Refused::field("(whole manifest)", error.to_string()))?;
    shape::nothing_dropped(&written, &understood, "")?;
    offered::only(&written, "")?;
    values::check(&pod)?;
    Ok(pod)
}

/// The one document of `text`, which has to be a Pod.
fn single(text: &str) -> Result<Value, Refused> {
    let mut documents = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        let mut document = serde_norway::Value::deserialize(document)
            .and_then(|mut value| value.apply_merge().map(|()| value))
            .map_err(|source| Refused::Yaml { source })?;
        if !document.is_null() {
            documents.push(shape::plain(std::mem::take(&mut document), "")?);
        }
    }
    let kinds: Vec<String> = documents
        .iter()
        .map(|document| match document.get("kind") {
            Some(Value::String(kind)) => kind.clone(),
            Some(other) => other.to_string(),
            None => "a document without kind".to_owned(),
        })
        .collect();
    match (documents.pop(), kinds.as_slice()) {
        (Some(document), [kind]) if kind == "Pod" => Ok(document),
        (None, _) => Err(Refused::Documents(
            "the file is empty; one Pod is expected".to_owned(),
        )),
        (Some(_), kinds) => Err(Refused::Documents(format!(
            "expected exactly one document of kind Pod, found {}",
            kinds.join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests;
