//! Images made on the spot: an OCI archive with one layer, from files of this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::guests;
use crate::machine::{self, Sandboxer};

/// The image of pause containers.
pub const PAUSE: &str = "duet.test/pause:1";
/// The image of native containers: Debian's static busybox under all its names.
pub const BUSYBOX: &str = "duet.test/busybox:1";
/// The same, to be run by user and group 1000.
pub const BUSYBOX_AS_USER: &str = "duet.test/busybox-as-user:1";
/// The image of wasm containers: the guests of `tests/guests`, each in the root folder.
pub const GUESTS: &str = "duet.test/guests:1";

/// A guest, `/probe.wasm`, to be run by user and group 1000.
pub const GUESTS_AS_USER: &str = "duet.test/guests-as-user:1";

/// Who is known there: user 1000, who is in group 2000 besides.
const PASSWD: &[u8] = b"root:x:0:0::/root:/bin/sh\nduet:x:1000:1000::/tmp:/bin/sh\n";
const GROUP: &[u8] = b"root:x:0:\nduet:x:1000:\nsecond:x:2000:duet\n";

/// What an image holds.
#[derive(Debug, Default)]
pub struct Image {
    name: String,
    entries: BTreeMap<PathBuf, Entry>,
    config: serde_json::Map<String, Value>,
    /// Layers that are no file system, each with its media type. With one of them there is no other.
    artifacts: Vec<(String, Vec<u8>)>,
    /// Whether its config is of the CNCF's type for wasm, which has no command.
    is_of_the_cncf: bool,
}

#[derive(Debug)]
enum Entry {
    Directory { mode: u32 },
    File { content: Vec<u8>, mode: u32 },
    Link { target: PathBuf },
}

/// The archive of the images every scenario may use, for the containerd whose folder `dir` is.
///
/// Where `DUET_TEST_IMAGES` names a folder it is there, as [`write_all`] has made it: an emulated machine
/// needs a minute and more to make it.
///
/// # Panics
///
/// When it cannot be written.
#[must_use]
pub fn archive(dir: &Path, sandboxer: Sandboxer) -> PathBuf {
    if let Some(made) = std::env::var_os("DUET_TEST_IMAGES") {
        return archive_in(Path::new(&made), sandboxer);
    }
    write_all(dir, sandboxer)
}

/// Writes that archive into `dir`. Who makes pods without a pause container needs none.
///
/// # Panics
///
/// When it cannot be written.
pub fn write_all(dir: &Path, sandboxer: Sandboxer) -> PathBuf {
    let mut images = all();
    images.retain(|image| sandboxer == Sandboxer::Podsandbox || image.name() != PAUSE);
    let file = archive_in(dir, sandboxer);
    write(&images, &file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    file
}

fn archive_in(dir: &Path, sandboxer: Sandboxer) -> PathBuf {
    dir.join(match sandboxer {
        Sandboxer::Podsandbox => "images.tar",
        Sandboxer::Shim => "images-without-pause.tar",
    })
}

/// The images every scenario may use.
///
/// # Panics
///
/// When busybox is missing.
#[must_use]
pub fn all() -> Vec<Image> {
    let mut wasm = Image::new(GUESTS)
        .directory("/tmp", 0o1777)
        .directory("/data", 0o777);
    for guest in guests::ALL {
        wasm = wasm.file(&format!("/{}", guest.name), guest.bytes.to_vec(), 0o755);
    }
    wasm = wasm
        .file("/ambassador.wasm", guests::AMBASSADOR.bytes.to_vec(), 0o755)
        .file("/server.wasm", guests::SERVER.bytes.to_vec(), 0o755)
        .file("/probe-p2.wasm", guests::PROBE_P2.bytes.to_vec(), 0o755)
        .file("/probe-p3.wasm", guests::PROBE_P3.bytes.to_vec(), 0o755)
        .file("/server-p3.wasm", guests::SERVER_P3.bytes.to_vec(), 0o755)
        .file("/random.wasm", guests::random_bytes(), 0o755)
        .file("/truncated.wasm", guests::truncated(), 0o755)
        .file("/motd", b"a file of the image\n".to_vec(), 0o644)
        .link("/relative", "motd")
        .link("/etc/up", "../motd")
        .link("/absolute", "/motd")
        // As in images of nginx.
        .link("/access.log", "/dev/stdout")
        // As on Debian.
        .directory("/run", 0o755)
        .link("/var/run", "/run")
        .entrypoint(&["/probe.wasm"]);
    let busybox = || fs::read(busybox()).expect("busybox is readable");
    let pause = Image::new(PAUSE)
        .file("/bin/sleep", busybox(), 0o755)
        .entrypoint(&["/bin/sleep", "2147483647"]);
    let user = native(BUSYBOX_AS_USER, busybox()).user("1000:1000");
    // In the order in which they are imported: the pause image is the last.
    let guest = Image::new(GUESTS_AS_USER)
        .file("/probe.wasm", guests::PROBE.bytes.to_vec(), 0o755)
        .file("/etc/passwd", PASSWD.to_vec(), 0o644)
        .file("/etc/group", GROUP.to_vec(), 0o644)
        .entrypoint(&["/probe.wasm"])
        .user("1000:1000");
    vec![native(BUSYBOX, busybox()), user, guest, wasm, pause]
}

fn native(name: &str, busybox: Vec<u8>) -> Image {
    let applets = Command::new(self::busybox())
        .arg("--list")
        .output()
        .expect("busybox runs");
    let applets = String::from_utf8_lossy(&applets.stdout).into_owned();
    let mut image = Image::new(name)
        .directory("/tmp", 0o1777)
        .directory("/root", 0o700)
        .file("/etc/passwd", PASSWD.to_vec(), 0o644)
        .file("/etc/group", GROUP.to_vec(), 0o644)
        .file("/not-executable", b"just text\n".to_vec(), 0o644)
        .file("/bin/busybox", busybox, 0o755)
        .entrypoint(&["/bin/sh"]);
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        image = image.link(&format!("/bin/{applet}"), "busybox");
    }
    image
}

/// Debian's static busybox.
///
/// # Panics
///
/// When it is not installed.
#[must_use]
pub fn busybox() -> PathBuf {
    machine::program("busybox").expect("no busybox: apt-get install busybox-static")
}

// === impl Image ===

impl Image {
    /// An empty image called `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut image = Self {
            name: name.to_owned(),
            ..Self::default()
        };
        image
            .config
            .insert("Env".to_owned(), json!(["PATH=/bin:/usr/bin"]));
        image.config.insert("WorkingDir".to_owned(), json!("/"));
        image.directory("/", 0o755)
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds a folder, and those above it.
    #[must_use]
    pub fn directory(mut self, path: &str, mode: u32) -> Self {
        self.parents(path);
        self.entries
            .insert(PathBuf::from(path), Entry::Directory { mode });
        self
    }

    /// Adds a file, and the folders above it.
    #[must_use]
    pub fn file(mut self, path: &str, content: Vec<u8>, mode: u32) -> Self {
        self.parents(path);
        self.entries
            .insert(PathBuf::from(path), Entry::File { content, mode });
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.parents(path);
        self.entries.insert(
            PathBuf::from(path),
            Entry::Link {
                target: PathBuf::from(target),
            },
        );
        self
    }

    /// Adds a layer that is no file system. An image with one has no files.
    #[must_use]
    pub fn artifact(mut self, kind: &str, content: Vec<u8>) -> Self {
        self.artifacts.push((kind.to_owned(), content));
        self
    }

    /// Makes it the CNCF's artifact for wasm.
    #[must_use]
    pub fn of_the_cncf(mut self) -> Self {
        self.is_of_the_cncf = true;
        self
    }

    /// Sets the program that containers of this image run.
    #[must_use]
    pub fn entrypoint(mut self, args: &[&str]) -> Self {
        self.config.insert("Entrypoint".to_owned(), json!(args));
        self
    }

    /// Sets the user that containers of this image run as.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.config.insert("User".to_owned(), json!(user));
        self
    }

    /// Writes the image's files below `root`, as a snapshotter would.
    ///
    /// # Errors
    ///
    /// When one cannot be written.
    pub fn unpack(&self, root: &Path) -> io::Result<()> {
        tar::Archive::new(self.layer()?.as_slice()).unpack(root)
    }

    fn parents(&mut self, path: &str) {
        for dir in Path::new(path).ancestors().skip(1) {
            let missing = || Entry::Directory { mode: 0o755 };
            self.entries.entry(dir.to_owned()).or_insert_with(missing);
        }
    }

    fn layer(&self) -> io::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            let Ok(path) = path.strip_prefix("/") else {
                continue;
            };
            if path.as_os_str().is_empty() {
                continue;
            }
            let mut header = tar::Header::new_gnu();
            match entry {
                Entry::Directory { mode } => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_size(0);
                    tar.append_data(&mut header, path, io::empty())?;
                }
                Entry::File { content, mode } => {
                    header.set_mode(*mode);
                    header.set_size(content.len() as u64);
                    tar.append_data(&mut header, path, content.as_slice())?;
                }
                Entry::Link { target } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        tar.into_inner()
    }
}

/// Writes `images` as one OCI archive: a client that imports is started once, not once an image.
///
/// # Errors
///
/// When `file` cannot be written.
pub fn write(images: &[Image], file: &Path) -> io::Result<()> {
    let mut archive = Archive {
        tar: tar::Builder::new(File::create(file)?),
        blobs: BTreeSet::new(),
    };
    let manifests: Vec<_> = images
        .iter()
        .map(|image| archive.image(image))
        .collect::<io::Result<_>>()?;
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    archive.file("index.json", index.to_string().as_bytes())?;
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.tar.into_inner()?.sync_all()
}

/// An OCI archive that is being written.
struct Archive {
    tar: tar::Builder<File>,
    /// The digests of what is in it.
    blobs: BTreeSet<String>,
}

impl Archive {
    /// Adds an image and returns the descriptor of its manifest.
    fn image(&mut self, image: &Image) -> io::Result<Value> {
        let (layers, diffs) = self.layers(image)?;
        let (kind, config) = if image.is_of_the_cncf {
            let digests: Vec<_> = layers.iter().map(|layer| &layer["digest"]).collect();
            let config = json!({
                "created": "1970-01-01T00:00:00Z",
                "architecture": "wasm",
                "os": "wasip1",
                "layerDigests": digests,
            });
            ("application/vnd.wasm.config.v0+json", config)
        } else {
            let config = json!({
                "architecture": architecture(),
                "os": "linux",
                "config": image.config,
                "rootfs": { "type": "layers", "diff_ids": diffs },
            });
            ("application/vnd.oci.image.config.v1+json", config)
        };
        let config = self.blob(kind, config.to_string().as_bytes())?;
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers,
        });
        let mut manifest = self.blob(kind, manifest.to_string().as_bytes())?;
        manifest["annotations"] = json!({ "io.containerd.image.name": image.name });
        manifest["platform"] = json!({ "architecture": architecture(), "os": "linux" });
        Ok(manifest)
    }

    /// Adds the layers of an image; returns their descriptors, and the digests of those that are unpacked.
    fn layers(&mut self, image: &Image) -> io::Result<(Vec<Value>, Vec<String>)> {
        if image.artifacts.is_empty() {
            let layer = image.layer()?;
            let kind = "application/vnd.oci.image.layer.v1.tar";
            let blob = self.blob(kind, &layer)?;
            // It is not compressed: as it lies there it is unpacked.
            let digest = blob["digest"].as_str().unwrap_or_default().to_owned();
            return Ok((vec![blob], vec![digest]));
        }
        let artifacts = image.artifacts.iter();
        let layers = artifacts.map(|(kind, content)| self.blob(kind, content));
        Ok((layers.collect::<io::Result<_>>()?, Vec::new()))
    }

    /// Adds a blob, unless it is there, and returns its descriptor.
    fn blob(&mut self, kind: &str, content: &[u8]) -> io::Result<Value> {
        let digest = digest(content);
        if self.blobs.insert(digest.clone()) {
            let path = format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"));
            self.file(&path, content)?;
        }
        Ok(json!({ "mediaType": kind, "digest": digest, "size": content.len() }))
    }

    fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        self.tar.append_data(&mut header, path, content)
    }
}

fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// This machine's architecture, in the words of OCI.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_folder_stands_before_what_lies_in_it() {
        let image = Image::new("a:1").file("/b/c/d", Vec::new(), 0o644);
        let layer = image.layer().unwrap();
        let mut layer = tar::Archive::new(layer.as_slice());
        let paths: Vec<_> = layer
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().into_owned())
            .collect();
        assert_eq!(paths, ["b", "b/c", "b/c/d"].map(PathBuf::from));
    }

    #[test]
    fn a_digest_is_written_as_oci_wants_it() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(b""), empty);
    }
}
