//! The pod's images: imported from files, or asked of containerd.

use crate::cri::Cri;
use crate::error::Error;
use crate::image::archive;
use crate::manifest::Refused;
use crate::program;
use crate::screen::step;
use k8s_cri::v1::Image;
use k8s_openapi::api::core::v1::PodSpec;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long CRI may take to hear of an image that was imported: 10 s.
///
/// It learns of it through an event, usually within milliseconds.
const HEARD: Duration = Duration::from_secs(10);

/// The image files of the command line, checked to exist.
pub(super) fn given(files: &[PathBuf], directories: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut images = files.to_vec();
    for directory in directories {
        let entries =
            std::fs::read_dir(directory).map_err(Error::at("could not read", directory))?;
        let mut found = Vec::new();
        for entry in entries {
            let path = entry
                .map_err(Error::at("could not read", directory))?
                .path();
            if path.extension().is_some_and(|extension| extension == "tar") {
                found.push(path);
            }
        }
        if found.is_empty() {
            let directory = directory.display();
            return Err(Error::Argument(format!(
                "--images-dir {directory}: holds no *.tar"
            )));
        }
        found.sort();
        images.extend(found);
    }
    for image in &images {
        std::fs::File::open(image).map_err(Error::at("could not open the image", image))?;
    }
    Ok(images)
}

/// Imports an image file, unless containerd has the very same images already.
pub(crate) async fn import(
    cri: &mut Cri,
    socket: &Path,
    snapshotter: Option<&str>,
    file: &Path,
) -> Result<(), Error> {
    let named = archive::images(file)?;
    let mut missing = named.is_empty();
    for image in &named {
        missing |= !is_there(cri, image).await?;
    }
    let what = format!("image {}", file.display());
    if !missing {
        step(&what, "already imported");
        return Ok(());
    }
    let mut arguments = vec![
        "--address".to_owned(),
        socket.display().to_string(),
        "--namespace".to_owned(),
        "k8s.io".to_owned(),
        "images".to_owned(),
        "import".to_owned(),
    ];
    if let Some(snapshotter) = snapshotter {
        arguments.push("--snapshotter".to_owned());
        arguments.push(snapshotter.to_owned());
    }
    arguments.push(file.display().to_string());
    program::run("ctr", arguments).await?;
    let deadline = Instant::now() + HEARD;
    for image in &named {
        while !is_there(cri, image).await? {
            if Instant::now() >= deadline {
                return Err(Error::Missing(format!(
                    "{what}: {} is imported, but containerd's CRI does not see it",
                    image.name
                )));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
    let names: Vec<&str> = named.iter().map(|image| image.name.as_str()).collect();
    step(&what, &format!("imported {}", names.join(", ")));
    Ok(())
}

/// Whether CRI knows the image under its name, with the same content.
async fn is_there(cri: &mut Cri, image: &archive::Named) -> Result<bool, Error> {
    let found = cri.image(&image.name).await?;
    Ok(found.is_some_and(|found| image.id.as_ref().is_none_or(|id| *id == found.id)))
}

/// Finds each image of the pod, by the name in the manifest; pulls as `imagePullPolicy` says.
///
/// An absent policy means `IfNotPresent` whatever the tag: what was imported is what shall run.
pub(super) async fn present(
    cri: &mut Cri,
    spec: &PodSpec,
    manifest: &Path,
) -> Result<BTreeMap<String, Image>, Error> {
    let mut images = BTreeMap::new();
    let init = spec.init_containers.iter().flatten().enumerate();
    let init = init.map(|(index, container)| (format!("spec.initContainers[{index}]"), container));
    let main = spec.containers.iter().enumerate();
    let main = main.map(|(index, container)| (format!("spec.containers[{index}]"), container));
    for (path, container) in init.chain(main) {
        let name = container.image.clone().unwrap_or_default();
        let policy = container.image_pull_policy.as_deref();
        let mut image = cri.image(&name).await?;
        if policy == Some("Always") || image.is_none() {
            if policy == Some("Never") {
                let why = format!(
                    "{name:?} is not present and imagePullPolicy is Never; \
                     import it with --image FILE.tar"
                );
                return Err(Error::Manifest {
                    file: manifest.to_owned(),
                    source: Refused::field(format!("{path}.image"), why),
                });
            }
            step(&format!("image {name}"), "is being pulled");
            cri.pull(&name).await?;
            image = cri.image(&name).await?;
        }
        let image = image.ok_or_else(|| Error::Container {
            name: container.name.clone(),
            why: format!("image {name} is not present after it was pulled"),
        })?;
        images.insert(name, image);
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::given;
    use std::path::PathBuf;

    #[test]
    fn a_folder_without_images_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.tar.gz"), "").unwrap();
        let folders = [folder.path().to_owned()];
        let error = given(&[], &folders).unwrap_err().to_string();
        let expected = format!("--images-dir {}: holds no *.tar", folder.path().display());
        assert_eq!(error, expected);

        let (a, b) = (folder.path().join("a.tar"), folder.path().join("b.tar"));
        std::fs::write(&b, "").unwrap();
        std::fs::write(&a, "").unwrap();
        let first = vec![PathBuf::from("/dev/null")];
        let images = given(&first, &folders).unwrap();
        assert_eq!(images, [first[0].clone(), a, b]);
    }
}
