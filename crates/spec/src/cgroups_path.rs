//! `linux.cgroupsPath` in its two forms.

use crate::{Error, document::Document, mount::clean};
use std::path::{Path, PathBuf};

/// Where the container's cgroup is. The form says which driver the caller means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupsPath {
    /// An absolute path below the root of each hierarchy, without `..`.
    Cgroupfs(PathBuf),
    /// `slice:prefix:name`: the unit `prefix-name.scope` in a slice of systemd.
    Systemd {
        /// The slice; empty for systemd's default.
        slice: String,
        /// The first part of the unit's name.
        prefix: String,
        /// The second part of the unit's name.
        name: String,
    },
}

// === impl CgroupsPath ===

impl CgroupsPath {
    pub(crate) fn read(document: Document<'_>, path: &Path) -> Result<Option<Self>, Error> {
        const FIELD: &str = "linux.cgroupsPath";
        let Some(text) = path.to_str() else {
            return Err(document.value(FIELD, &path.display().to_string(), "is not UTF-8"));
        };
        if text.is_empty() {
            return Ok(None);
        }
        // As runc tells them apart: a path may hold a colon, a systemd name no slash.
        let parts: Vec<&str> = text.split(':').collect();
        if let [slice, prefix, name] = parts.as_slice()
            && !text.contains('/')
        {
            if name.is_empty() {
                return Err(document.value(FIELD, text, "has no unit name"));
            }
            return Ok(Some(Self::Systemd {
                slice: (*slice).to_owned(),
                prefix: (*prefix).to_owned(),
                name: (*name).to_owned(),
            }));
        }
        let clean = clean(text);
        if clean == "/" {
            // The root cgroup takes no limits and cannot be removed.
            return Err(document.value(FIELD, text, "is the root cgroup"));
        }
        Ok(Some(Self::Cgroupfs(PathBuf::from(clean))))
    }
}
