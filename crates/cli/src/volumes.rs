//! A pod's volumes on this machine: made before the sandbox, removed after it.

use crate::error::Error;
use crate::manifest::Refused;
use crate::quantity::Quantity;
use k8s_cri::v1::{Mount, MountPropagation};
use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, HostPathVolumeSource, PodSpec};
use rustix::fs::{Gid, Mode, OFlags, ResolveFlags};
use rustix::mount::MountFlags;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Where each volume of a pod lies.
#[derive(Debug)]
pub(crate) struct Volumes {
    directory: PathBuf,
    sources: BTreeMap<String, Source>,
}

/// One volume.
#[derive(Debug)]
enum Source {
    EmptyDir(PathBuf),
    HostPath(PathBuf),
}

// === impl Volumes ===

impl Volumes {
    /// Makes the volumes of `spec` below `directory`, which must not exist yet.
    ///
    /// On an error nothing is left.
    pub(crate) fn make(spec: &PodSpec, directory: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&directory).map_err(Error::at("could not create", &directory))?;
        let mut volumes = Self {
            directory,
            sources: BTreeMap::new(),
        };
        match volumes.fill(spec) {
            Ok(()) => Ok(volumes),
            Err(error) => {
                volumes.remove()?;
                Err(error)
            }
        }
    }

    fn fill(&mut self, spec: &PodSpec) -> Result<(), Error> {
        let security = spec.security_context.as_ref();
        let group = security.and_then(|security| security.fs_group);
        for volume in spec.volumes.iter().flatten() {
            let source = if let Some(empty) = &volume.empty_dir {
                let path = self.directory.join(&volume.name);
                empty_dir(empty, &path, group)?;
                Source::EmptyDir(path)
            } else if let Some(host) = &volume.host_path {
                host_path(host)?;
                Source::HostPath(PathBuf::from(&host.path))
            } else {
                continue;
            };
            self.sources.insert(volume.name.clone(), source);
        }
        Ok(())
    }

    /// What `container` mounts.
    pub(crate) fn mounts(&self, container: &Container) -> Result<Vec<Mount>, Error> {
        let mounts = container.volume_mounts.iter().flatten();
        mounts
            .map(|mount| {
                let Some(Source::EmptyDir(path) | Source::HostPath(path)) =
                    self.sources.get(&mount.name)
                else {
                    return Err(Error::Container {
                        name: container.name.clone(),
                        why: format!("no volume {:?}", mount.name),
                    });
                };
                let source = match mount.sub_path.as_deref().filter(|sub| !sub.is_empty()) {
                    Some(sub) => sub_path(path, sub)?,
                    None => path.clone(),
                };
                Ok(Mount {
                    container_path: mount.mount_path.clone(),
                    host_path: source.display().to_string(),
                    readonly: mount.read_only == Some(true),
                    propagation: i32::from(match mount.mount_propagation.as_deref() {
                        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
                        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
                        Some(_) | None => MountPropagation::PropagationPrivate,
                    }),
                    ..Mount::default()
                })
            })
            .collect()
    }

    /// Unmounts and removes the volumes; host paths stay.
    pub(crate) fn remove(self) -> Result<(), Error> {
        remove(&self.directory)
    }
}

/// Removes a directory of volumes, mounts first.
///
/// Host paths were never mounted here, so what is below belongs to the pod.
pub(crate) fn remove(directory: &Path) -> Result<(), Error> {
    crate::machine::unmount_below(directory)?;
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("could not remove", directory, error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn empty_dir(empty: &EmptyDirVolumeSource, path: &Path, group: Option<i64>) -> Result<(), Error> {
    fs::create_dir(path).map_err(Error::at("could not create", path))?;
    if empty.medium.as_deref() == Some("Memory") {
        let limit = empty.size_limit.as_ref();
        let limit = limit.and_then(|limit| Quantity::parse(&limit.0));
        let data = limit.map(|limit| format!("size={}", limit.units()));
        let data = data.map(|data| std::ffi::CString::new(data).unwrap_or_default());
        rustix::mount::mount(
            "tmpfs",
            path,
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            data.as_deref(),
        )
        .map_err(|errno| Error::io("could not mount a tmpfs on", path, errno.into()))?;
    }
    // Any user of the pod may write; a group of the pod's own owns what is made there.
    let mut mode = 0o777;
    if let Some(group) = group {
        let group = Gid::from_raw(u32::try_from(group).unwrap_or(u32::MAX));
        rustix::fs::chown(path, None, Some(group))
            .map_err(|errno| Error::io("could not change the group of", path, errno.into()))?;
        mode |= 0o2000;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(Error::at("could not change the mode of", path))
}

/// Makes a host path that is missing, if its type says so.
fn host_path(host: &HostPathVolumeSource) -> Result<(), Error> {
    let path = Path::new(&host.path);
    match host.type_.as_deref() {
        Some("DirectoryOrCreate") if !path.exists() => {
            fs::create_dir_all(path).map_err(Error::at("could not create", path))
        }
        Some("FileOrCreate") if !path.exists() => fs::File::create(path)
            .map(drop)
            .map_err(Error::at("could not create", path)),
        Some(_) | None => Ok(()),
    }
}

/// Refuses a host path that is not what its type says.
pub(crate) fn check(spec: &PodSpec) -> Result<(), Refused> {
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let Some(host) = &volume.host_path else {
            continue;
        };
        let refuse = |why: String| {
            let path = format!("spec.volumes[{index}].hostPath.path");
            Err(Refused::field(path, format!("{:?}: {why}", host.path)))
        };
        let kind = host.type_.as_deref().unwrap_or_default();
        let found = match fs::metadata(&host.path) {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if kind.ends_with("OrCreate") {
                    continue;
                }
                return refuse(error.to_string());
            }
            Err(error) => return refuse(error.to_string()),
        };
        let fits = match kind {
            "Directory" | "DirectoryOrCreate" => found.is_dir(),
            "File" | "FileOrCreate" => found.is_file(),
            "Socket" => found.file_type().is_socket(),
            "CharDevice" => found.file_type().is_char_device(),
            "BlockDevice" => found.file_type().is_block_device(),
            // The kubelet checks nothing here; a missing source fails in the runtime, with less
            // to say.
            _ => true,
        };
        if !fits {
            return refuse(format!("is not of type {kind} (hostPath.type)"));
        }
    }
    Ok(())
}

/// `sub` below the volume at `root`, made as a directory if missing.
///
/// Containers may have put links into the volume: a path with any is refused, because
/// containerd would follow it outside.
fn sub_path(root: &Path, sub: &str) -> Result<PathBuf, Error> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = root.join(sub);
    let failed =
        |errno: rustix::io::Errno| Error::io("could not use the subPath", &path, errno.into());
    let mut here = rustix::fs::open(root, directory, Mode::empty()).map_err(failed)?;
    let mut parts = sub
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .peekable();
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_some() {
            directory
        } else {
            OFlags::PATH | OFlags::CLOEXEC
        };
        let open = || rustix::fs::openat2(&here, part, flags, Mode::empty(), resolve);
        here = match open() {
            Err(rustix::io::Errno::NOENT) => {
                rustix::fs::mkdirat(&here, part, Mode::from_raw_mode(0o755)).map_err(failed)?;
                open().map_err(failed)?
            }
            other => other.map_err(failed)?,
        };
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::manifest;

    fn refusal(path: &str, kind: &str) -> Option<String> {
        let pod = manifest::parse(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{volumes: [{{name: v, \
             hostPath: {{path: {path}, type: {kind}}}}}], containers: [{{name: c, image: i}}]}}}}"
        ));
        let refused = check(&pod.unwrap().spec.unwrap()).err();
        refused.map(|refused| refused.to_string())
    }

    #[test]
    fn a_host_path_is_what_its_type_says() {
        for (path, kind) in [
            ("/proc", "Directory"),
            ("/proc", "''"),
            ("/proc/self/status", "File"),
            ("/dev/null", "CharDevice"),
            ("/proc/missing", "DirectoryOrCreate"),
        ] {
            assert_eq!(refusal(path, kind), None, "{path} {kind}");
        }
        for (path, kind, sentence) in [
            (
                "/proc",
                "File",
                "\"/proc\": is not of type File (hostPath.type)",
            ),
            (
                "/dev/null",
                "FileOrCreate",
                "\"/dev/null\": is not of type FileOrCreate (hostPath.type)",
            ),
            ("/proc/missing", "''", "\"/proc/missing\": No such file"),
            ("/proc/missing", "Socket", "\"/proc/missing\": No such file"),
        ] {
            let refused = refusal(path, kind).unwrap_or_default();
            let expected = format!("spec.volumes[0].hostPath.path: {sentence}");
            assert!(refused.starts_with(&expected), "{refused}");
        }
    }
}
