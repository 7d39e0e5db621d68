//! Image archives: OCI layout in a tar. One is written, that and Docker's form are read.

use super::layer::header;
use super::name;
use crate::error::Error;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use tar::{Archive, Builder, EntryType};

/// The platform of programs of this machine, in OCI's words.
#[cfg(target_arch = "x86_64")]
pub(crate) const PLATFORM: &str = "linux/amd64";
/// The platform of programs of this machine, in OCI's words.
#[cfg(target_arch = "aarch64")]
pub(crate) const PLATFORM: &str = "linux/arm64";

/// JSON files of an archive are at most this long: 4 MiB, as registries have it.
const LONGEST_JSON: u64 = 4 << 20;

/// What an image says about the process it is for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    pub(crate) os: String,
    pub(crate) architecture: String,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) user: String,
    pub(crate) workdir: String,
}

/// An image in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) name: String,
    /// The digest of its configuration, which CRI uses as id; `None` for several platforms.
    pub(crate) id: Option<String>,
}

/// The archive of one image with one uncompressed layer.
///
/// # References
///
/// [OCI image layout](https://github.com/opencontainers/image-spec/blob/main/image-layout.md)
pub(crate) fn bytes(name: &str, config: &Config, layer: Vec<u8>) -> Result<Vec<u8>, Error> {
    let layer_digest = digest(&layer);
    let mut process = serde_json::Map::new();
    let lists = [
        ("Entrypoint", &config.entrypoint),
        ("Cmd", &config.cmd),
        ("Env", &config.env),
    ];
    for (field, words) in lists {
        if !words.is_empty() {
            process.insert(field.to_owned(), json!(words));
        }
    }
    for (field, word) in [("User", &config.user), ("WorkingDir", &config.workdir)] {
        if !word.is_empty() {
            process.insert(field.to_owned(), json!(word));
        }
    }
    let image = json!({
        "architecture": config.architecture,
        "os": config.os,
        "created": "1970-01-01T00:00:00Z",
        "config": process,
        "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
    })
    .to_string()
    .into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(&image),
            "size": image.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer_digest,
            "size": layer.len(),
        }],
    })
    .to_string()
    .into_bytes();
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&manifest),
            "size": manifest.len(),
            "platform": { "architecture": config.architecture, "os": config.os },
            "annotations": {
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": tag,
            },
        }],
    })
    .to_string()
    .into_bytes();
    let layout = json!({ "imageLayoutVersion": "1.0.0" })
        .to_string()
        .into_bytes();

    let mut tar = Builder::new(Vec::new());
    let files = [
        ("oci-layout".to_owned(), &layout),
        ("index.json".to_owned(), &index),
        (blob(&digest(&manifest)), &manifest),
        (blob(&digest(&image)), &image),
        (blob(&layer_digest), &layer),
    ];
    for (path, bytes) in files {
        let mut header = header(EntryType::Regular, 0o644);
        header.set_size(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        tar.append_data(&mut header, path, bytes.as_slice())
            .map_err(unfinished)?;
    }
    tar.into_inner().map_err(unfinished)
}

fn unfinished(source: std::io::Error) -> Error {
    Error::System {
        action: "could not write the archive",
        source,
    }
}

/// `sha256:…` of some bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        let written = write!(text, "{byte:02x}");
        debug_assert!(written.is_ok());
    }
    text
}

/// Where a blob lies in the layout.
fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

/// The images in an archive.
pub(crate) fn images(file: &Path) -> Result<Vec<Named>, Error> {
    let no_image = |why: String| Error::Argument(format!("image {}: {why}", file.display()));
    let documents = documents(file)?;
    if let Some(index) = documents.get("index.json") {
        let manifests = index.get("manifests").and_then(Value::as_array);
        let mut images = Vec::new();
        for manifest in manifests.into_iter().flatten() {
            let annotation = |key: &str| manifest.get("annotations")?.get(key)?.as_str();
            let name = annotation("io.containerd.image.name")
                .or_else(|| annotation("org.opencontainers.image.ref.name"));
            let name = name.ok_or_else(|| {
                no_image("index.json gives the image no name (io.containerd.image.name)".to_owned())
            })?;
            let id = manifest
                .get("digest")
                .and_then(Value::as_str)
                .and_then(|digest| documents.get(&blob(digest)))
                .and_then(|manifest| manifest.pointer("/config/digest")?.as_str());
            images.push(Named {
                name: name::full(name),
                id: id.map(str::to_owned),
            });
        }
        return Ok(images);
    }
    let docker = documents
        .get("manifest.json")
        .and_then(Value::as_array)
        .ok_or_else(|| {
            no_image("no image archive: neither index.json nor manifest.json".to_owned())
        })?;
    // Docker's older form names the configuration by its digest, "….json".
    let named = docker.iter().flat_map(|image| {
        let id = image
            .get("Config")
            .and_then(Value::as_str)
            .and_then(|file| file.strip_suffix(".json"))
            .filter(|id| id.len() == 64)
            .map(|id| format!("sha256:{id}"));
        let tags = image.get("RepoTags").and_then(Value::as_array);
        tags.into_iter().flatten().filter_map(move |tag| {
            Some(Named {
                name: name::full(tag.as_str()?),
                id: id.clone(),
            })
        })
    });
    Ok(named.collect())
}

/// The JSON documents of an archive, by path.
fn documents(file: &Path) -> Result<BTreeMap<String, Value>, Error> {
    let open = File::open(file).map_err(Error::at("could not open the image", file))?;
    let mut archive = Archive::new(open);
    let no_tar = |error: std::io::Error| {
        Error::Argument(format!("image {}: no tar archive: {error}", file.display()))
    };
    let mut documents = BTreeMap::new();
    // Blobs are skipped, not read.
    for entry in archive.entries_with_seek().map_err(no_tar)? {
        let mut entry = entry.map_err(no_tar)?;
        let path = entry.path().map_err(no_tar)?;
        let path = path.strip_prefix("./").unwrap_or(&path);
        let path = path.display().to_string();
        if entry.size() > LONGEST_JSON || !entry.header().entry_type().is_file() {
            continue;
        }
        let mut text = Vec::new();
        entry.read_to_end(&mut text).map_err(no_tar)?;
        if let Ok(document) = serde_json::from_slice(&text) {
            documents.insert(path, document);
        }
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use super::{Config, bytes, images};
    use crate::image::layer::Layer;
    use std::path::Path;

    fn archive() -> Vec<u8> {
        let mut layer = Layer::new();
        layer
            .bytes(Path::new("/bin/a"), 0o755, 2, b"hi".as_slice())
            .unwrap();
        layer.directory(Path::new("/tmp"), 0o1777).unwrap();
        layer.link(Path::new("/bin/b"), Path::new("a")).unwrap();
        let config = Config {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            entrypoint: vec!["/bin/a".to_owned()],
            ..Config::default()
        };
        bytes("docker.io/library/a:1", &config, layer.finish().unwrap()).unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_always_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.tar");
        std::fs::write(&file, archive()).unwrap();
        assert_eq!(archive(), std::fs::read(&file).unwrap());
        let found = images(&file).unwrap();
        let [image] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(image.name, "docker.io/library/a:1");
        let id = image.id.as_deref().unwrap();
        assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    }

    #[test]
    fn what_is_no_archive_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.tar");
        std::fs::write(&file, "kind: Pod\n").unwrap();
        let error = images(&file).unwrap_err().to_string();
        let expected = format!("image {}: no tar archive: ", file.display());
        assert!(error.starts_with(&expected), "{error}");
        let file = directory.path().join("b.tar");
        std::fs::write(&file, tar::Builder::new(Vec::new()).into_inner().unwrap()).unwrap();
        let error = images(&file).unwrap_err().to_string();
        assert!(
            error.ends_with("neither index.json nor manifest.json"),
            "{error}"
        );
    }
}
