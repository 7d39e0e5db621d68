//! `duet layer`: the WebAssembly that a container's image has for a layer, where nothing of it is in a
//! root file system. The shim asks, with its own address of containerd; it is not for people.
//!
//! containerd says nothing of layers to a shim, and unpacks those of WebAssembly to nothing. So this goes
//! from the container's record over the image's to the manifest, and reads the layer. It is a program of
//! its own because the shim, of which there is one for each pod, has no use for a gRPC client otherwise.

mod content;

use std::io::{self, Write as _};
use std::path::PathBuf;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::screen;
use content::{Containerd, Descriptor};

/// The exit status when there is no such layer.
const NONE: u8 = 3;

/// The largest layer that is read: 256 MiB, the largest module that is compiled.
const LIMIT: u64 = 256 << 20;

/// The largest manifest or index: 4 MiB, as in containerd.
const MANIFEST: u64 = 4 << 20;

/// How far an index may lead to another.
const DEPTH: usize = 4;

/// The media types of a layer that is a wasm module or component.
const LAYERS: [&str; 3] = [
    // The CNCF's artifact.
    "application/wasm",
    // wasm-to-oci, Spin.
    "application/vnd.wasm.content.layer.v1+wasm",
    // runwasi.
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
];

/// Write the WebAssembly layer of a container's image to standard output; 3 if it has none
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The socket of containerd
    #[arg(long)]
    address: PathBuf,
    /// Its namespace
    #[arg(long)]
    namespace: String,
    /// The container
    #[arg(long)]
    container: String,
}

/// A manifest, or an index of manifests.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Document {
    layers: Vec<Blob>,
    manifests: Vec<Blob>,
}

/// A descriptor, as documents write it.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Blob {
    media_type: String,
    digest: String,
    size: u64,
    platform: Platform,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
struct Platform {
    architecture: String,
    os: String,
}

/// Writes the layer, if there is one.
pub(crate) async fn run(args: Args) -> Result<u8, Error> {
    let mut containerd = match Containerd::connect(&args.address, args.namespace).await {
        Ok(containerd) => containerd,
        // A shim without a containerd, in a test: its containers have no images.
        Err(error) => {
            screen::step("duet", &error.chain());
            return Ok(NONE);
        }
    };
    let Some(image) = containerd.image_of(&args.container).await? else {
        return Ok(NONE);
    };
    let Some(target) = containerd.target_of(&image).await? else {
        return Ok(NONE);
    };
    let Some(layer) = find(&mut containerd, &image, target).await? else {
        return Ok(NONE);
    };
    if layer.size > LIMIT {
        return Err(wrong(
            &image,
            format!(
                "layer {}: {} bytes of WebAssembly; modules of at most {LIMIT} bytes are compiled",
                layer.digest, layer.size
            ),
        ));
    }
    let mut stdout = io::stdout().lock();
    let written = containerd.read(&layer.digest, layer.size, |data| {
        stdout
            .write_all(data)
            .map_err(|source| Error::Output { source })
    });
    written.await?;
    Ok(0)
}

/// Goes from an index over a manifest to its layer.
async fn find(
    containerd: &mut Containerd,
    image: &str,
    target: Descriptor,
) -> Result<Option<Blob>, Error> {
    let mut next = (target.digest, u64::try_from(target.size).unwrap_or(0));
    for _ in 0..DEPTH {
        let (digest, size) = next;
        if size > MANIFEST {
            return Err(wrong(image, format!("manifest {digest}: {size} bytes")));
        }
        let mut text = Vec::new();
        let kept = |data: &[u8]| {
            text.extend_from_slice(data);
            Ok(())
        };
        containerd.read(&digest, size, kept).await?;
        let document: Document = serde_json::from_slice(&text)
            .map_err(|error| wrong(image, format!("manifest {digest}: {error}")))?;
        if document.manifests.is_empty() {
            return document.layer().map_err(|why| wrong(image, why));
        }
        let mut there = None;
        for manifest in document.candidates() {
            if containerd.has(&manifest.digest).await? {
                there = Some(manifest);
                break;
            }
        }
        let Some(manifest) = there else {
            return Ok(None);
        };
        next = (manifest.digest.clone(), manifest.size);
    }
    Err(wrong(image, format!("more than {DEPTH} indexes deep")))
}

// === impl Document ===

impl Document {
    /// The manifests of an index, in the order in which they are tried: WebAssembly's own, this machine's,
    /// all. containerd need not have the first: CRI pulls this machine's and no other.
    fn candidates(&self) -> impl Iterator<Item = &Blob> {
        let native = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let wasm = |blob: &&Blob| blob.platform.architecture.starts_with("wasm");
        let ours =
            move |blob: &&Blob| blob.platform.os == "linux" && blob.platform.architecture == native;
        let manifests = || self.manifests.iter();
        manifests()
            .filter(wasm)
            .chain(manifests().filter(ours))
            .chain(manifests())
    }

    /// If it is a manifest, its only WebAssembly layer.
    fn layer(&self) -> Result<Option<Blob>, String> {
        let wasm = |blob: &&Blob| LAYERS.contains(&blob.media_type.as_str());
        let mut layers = self.layers.iter().filter(wasm);
        let first = layers.next();
        match layers.count() {
            0 => Ok(first.cloned()),
            more => Err(format!(
                "{} layers of WebAssembly, and a container runs one",
                more + 1
            )),
        }
    }
}

/// Checks what was read against its digest.
fn check(digest: &str, hash: Sha256) -> Result<(), Error> {
    let found = hash
        .finalize()
        .iter()
        .fold("sha256:".to_owned(), |text, byte| {
            format!("{text}{byte:02x}")
        });
    if found == digest {
        return Ok(());
    }
    Err(Error::Missing(format!(
        "content {digest}: its hash is {found}"
    )))
}

fn wrong(image: &str, why: String) -> Error {
    Error::Missing(format!("image {image}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn every_type_of_a_wasm_layer_is_one() {
        for layer in LAYERS {
            let other = r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"a"}"#;
            let text = format!(r#"{{"layers":[{other},{{"mediaType":"{layer}","digest":"b"}}]}}"#);
            let found = document(&text).layer().unwrap().unwrap();
            assert_eq!(found.digest, "b", "{layer}");
        }
        let tar = r#"{"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip"}]}"#;
        assert!(document(tar).layer().unwrap().is_none());
        let two =
            r#"{"layers":[{"mediaType":"application/wasm"},{"mediaType":"application/wasm"}]}"#;
        assert_eq!(
            document(two).layer().unwrap_err(),
            "2 layers of WebAssembly, and a container runs one"
        );
    }

    #[test]
    fn of_an_index_the_wasm_manifest_is_tried_first_and_then_this_machines() {
        let entry = |os: &str, arch: &str| {
            format!(r#"{{"digest":"{arch}","platform":{{"os":"{os}","architecture":"{arch}"}}}}"#)
        };
        let index = |entries: &[String]| {
            let text = format!(r#"{{"manifests":[{}]}}"#, entries.join(","));
            let document = document(&text);
            let digests = document.candidates().map(|blob| blob.digest.as_str());
            digests.collect::<Vec<_>>().join(" ")
        };
        let native = if cfg!(target_arch = "x86_64") {
            "amd64"
        } else {
            "arm64"
        };
        let (other, ours) = (entry("linux", "s390x"), entry("linux", native));
        let wasm = entry("wasip1", "wasm");
        assert_eq!(
            index(&[other.clone(), ours.clone(), wasm]),
            format!("wasm {native} s390x {native} wasm")
        );
        assert_eq!(
            index(&[other.clone(), ours]),
            format!("{native} s390x {native}")
        );
        assert_eq!(index(&[other]), "s390x");
        assert!(document(r#"{"layers":[]}"#).manifests.is_empty());
    }

    #[test]
    fn content_is_what_its_digest_says() {
        let digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert!(check(digest, Sha256::new().chain_update("hello")).is_ok());
        let error = check(digest, Sha256::new().chain_update("hullo")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("content {digest}: "))
        );
    }
}
